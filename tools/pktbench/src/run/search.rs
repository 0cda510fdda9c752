//! Finds the highest rate at which a condition holds (`--search-max`), by runs of an open loop at different rates.
//!
//! ```text
//!   1k holds -> 2k holds -> 4k holds -> 8k fails -> 5.7k holds -> 6.7k fails -> 6.2k holds -> ...
//!                    doubled                halfway (geometric mean) between the highest that holds
//!                                           and the lowest that fails
//! ```

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::time::Duration;

use pktconn_tools::printable;
use tokio::runtime::{Builder, Runtime};

use crate::judge::abort::AbortWatch;
use crate::judge::threshold::{Budget, Condition};
use crate::plan::{MAX_RATE, Pace, Plan};
use crate::report::output::Output;
use crate::report::search::{limit, row};
use crate::report::sink::Sink;
use crate::result::document::{Document, Limit, Search, SearchEnd, Step};
use crate::result::verdict::Verdict;
use crate::run::interrupt::Interrupts;
use crate::run::{conductor, recovery, to_document};
use crate::traffic::verify::Integrity;

/// The search ends when the lowest rate that fails is at most this factor above the highest that holds. Two runs at the
/// same rate differ by about as much.
const CLOSE_ENOUGH: f64 = 1.05;

/// How much of a rate must be achieved, in percent: answers in the window, of the packets that were due. With less, the
/// rate is not one that the server can keep up.
const MIN_ACHIEVED_PCT: f64 = 99.0;

/// A load generator that sends packets later than this share of the bound of a latency condition may be the reason why the
/// condition does not hold.
const MAX_LAG_SHARE: f64 = 0.1;

/// The rates found so far, in packets per second, and which one to try next.
#[derive(Clone, Copy, Debug)]
struct Rates {
    first: f64,
    /// The highest that holds.
    highest_ok: Option<f64>,
    /// The lowest that fails.
    lowest_failed: Option<f64>,
}

impl Rates {
    fn next(&self) -> Option<f64> {
        let rate = match (self.highest_ok, self.lowest_failed) {
            (None, None) => self.first,
            (Some(ok), None) if ok < MAX_RATE => (ok * 2.0).min(MAX_RATE),
            // Below one packet per second there is no load to measure.
            (None, Some(failed)) if failed >= 2.0 => failed / 2.0,
            (Some(ok), Some(failed)) if failed / ok > CLOSE_ENOUGH => (ok * failed).sqrt(),
            _ => return None,
        };
        let rate = round_to_three_digits(rate);
        let is_new = self.highest_ok.is_none_or(|ok| rate > ok)
            && self.lowest_failed.is_none_or(|failed| rate < failed);
        is_new.then_some(rate)
    }

    fn add(&mut self, rate: f64, holds: bool) {
        let bound = if holds { &mut self.highest_ok } else { &mut self.lowest_failed };
        *bound = Some(rate);
    }
}

/// Further digits would be noise. By way of the decimal text, so that the number prints with three digits.
fn round_to_three_digits(rate: f64) -> f64 {
    format!("{rate:.2e}").parse().unwrap_or(rate)
}

/// Searches and writes the result. Prints each step as it ends, if standard output gets the text report.
pub(crate) fn find(plan: &Plan, output: Output, condition: &Condition) -> anyhow::Result<ExitCode> {
    let steps = RefCell::new(if output.prints_text() { Sink::stdout() } else { Sink::nowhere() });
    let mut sinks = output.open()?;
    let show = |line: &str| steps.borrow_mut().line(&printable::line(line));
    show(&format!("search      for the highest rate at which {condition}"));
    let listener = InterruptListener::start()?;
    let interrupted = || listener.was_interrupted() || steps.borrow().has_no_reader();
    let (mut has_backlog, mut fastest_ns) = (false, u64::MAX);
    let run = |plan: Plan| {
        if has_backlog {
            recovery::wait(&plan, Duration::from_nanos(fastest_ns), interrupted)?;
            if interrupted() {
                return Ok(None);
            }
        }
        let outcome = conductor::run(plan, Output::default().open()?, AbortWatch::default())?.0;
        let document = to_document::document(&outcome);
        has_backlog = document.integrity.unanswered > 0 || achieved_pct(&document) < MIN_ACHIEVED_PCT;
        let fastest = document.latency_ns.service.min.into_iter().chain(outcome.tally.fastest_ns);
        fastest_ns = fastest.fold(fastest_ns, u64::min);
        Ok(Some(document))
    };
    let document = search(plan, condition, run, interrupted, |step| show(&row(step)))?;
    show("");
    sinks.reader_left = steps.borrow().has_no_reader();
    Ok(sinks.exit(&document))
}

/// Notices the signals that interrupt a search, during its runs and between them.
struct InterruptListener {
    runtime: Runtime,
    was_interrupted: Cell<bool>,
    interrupts: RefCell<Interrupts>,
}

impl InterruptListener {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let interrupts = RefCell::new(runtime.block_on(async { Interrupts::listen() }));
        Ok(Self { runtime, was_interrupted: Cell::new(false), interrupts })
    }

    /// Whether a signal has arrived.
    fn was_interrupted(&self) -> bool {
        let mut interrupts = self.interrupts.borrow_mut();
        let next = async { tokio::time::timeout(Duration::from_millis(1), interrupts.next()).await };
        if self.runtime.block_on(next).is_ok() {
            self.was_interrupted.set(true);
        }
        self.was_interrupted.get()
    }
}

/// Tries rates with `run`, which returns nothing if it was interrupted before it began, and reports each step to `show`. Returns the document of the highest rate that holds, or of
/// the last run if no rate holds.
fn search(
    plan: &Plan,
    condition: &Condition,
    mut run: impl FnMut(Plan) -> anyhow::Result<Option<Document>>,
    interrupted: impl Fn() -> bool,
    mut show: impl FnMut(&Step),
) -> anyhow::Result<Document> {
    let Pace::Open { rate: first, arrival, max_outstanding } = plan.pace else {
        anyhow::bail!("--search-max needs an open loop");
    };
    let mut rates = Rates { first, highest_ok: None, lowest_failed: None };
    let mut steps = Vec::new();
    let mut best = None;
    let (mut verdict, mut last) = (Verdict::Pass, None);
    while let Some(rate) = rates.next() {
        let pace = Pace::Open { rate, arrival, max_outstanding };
        let mut tried = None;
        // A rate that fails is tried once more, as it may have failed by chance.
        for _ in 0..2 {
            // A rate that is not offered fails its step, not the search.
            let Some(document) = run(Plan { pace, min_offered_pct: 0.0, ..plan.clone() })? else {
                verdict = Verdict::Interrupted;
                break;
            };
            if interrupted() {
                verdict = Verdict::Interrupted;
                last = Some(document);
                break;
            }
            let step = judge(&document, rate, condition);
            show(&step);
            // These end the search, because no lower rate would help: damaged packets, and a server that is gone.
            let Integrity { corrupted, reordered, duplicated, .. } = document.integrity;
            if corrupted.max(reordered).max(duplicated) > 0 {
                verdict = Verdict::Integrity;
            } else if document.errors.connect > 0 && document.window.seconds == 0.0 {
                verdict = Verdict::Failed;
            }
            let is_decided = step.ok || verdict != Verdict::Pass;
            tried = Some((step, document));
            if is_decided {
                break;
            }
        }
        if let Some((step, document)) = tried {
            rates.add(rate, step.ok);
            *(if step.ok { &mut best } else { &mut last }) = Some(document);
            steps.push(step);
        }
        if verdict != Verdict::Pass {
            break;
        }
    }
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let mut document = best.or(last).expect("the first rate has been run");
    let mut search =
        Search { condition: condition.to_string(), max_rate: rates.highest_ok, ended_by: None, steps };
    let end = match limit(&search).and_then(|step| step.limit) {
        _ if verdict != Verdict::Pass => SearchEnd::Incomplete,
        None => SearchEnd::MaxRate,
        Some(Limit::Server) => SearchEnd::Server,
        Some(Limit::Window) => SearchEnd::Window,
        Some(Limit::LoadGenerator) => SearchEnd::LoadGenerator,
    };
    search.ended_by = Some(end);
    if search.max_rate.is_none() {
        verdict = verdict.worse(Verdict::Threshold);
    }
    if plan.strict_client && end == SearchEnd::LoadGenerator {
        verdict = verdict.worse(Verdict::Saturated);
    }
    document.search = Some(search);
    if verdict != Verdict::Pass && !document.problems.contains(&verdict) {
        document.problems.push(verdict);
        document.problems.sort_by_key(|verdict| verdict.rank());
    }
    document.verdict = document.verdict.worse(verdict);
    document.exit_code = document.verdict.exit_code();
    Ok(document)
}

/// Judges the run at one rate. If the condition holds at the rate that was asked for, it holds, however busy the load
/// generator was: response times include its own delays.
fn judge(document: &Document, rate: f64, condition: &Condition) -> Step {
    let judged = condition.judge(document);
    let achieved_pct = achieved_pct(document);
    // A budget such as errors<1% allows failures.
    let is_allowed = judged.ok && condition.budget() == Some(Budget::Errors);
    let (problem, is_load) = match document.verdict {
        Verdict::Failed | Verdict::NoAnswer if is_allowed && achieved_pct >= MIN_ACHIEVED_PCT => {
            (None, false)
        }
        Verdict::Failed => (Some(document.errors.first.clone().unwrap_or_default()), false),
        Verdict::NoAnswer => (Some("packets were not answered within --timeout".to_owned()), false),
        Verdict::NoSamples => (Some("no measured packet came back".to_owned()), false),
        Verdict::Integrity => {
            (Some("packets were lost, corrupted, reordered or duplicated".to_owned()), false)
        }
        _ if achieved_pct < MIN_ACHIEVED_PCT => {
            (Some(format!("only {achieved_pct:.1} % of the rate was achieved")), true)
        }
        _ if !judged.ok => (Some(condition.to_string()), true),
        _ => (None, false),
    };
    let limit = problem.as_ref().map(|_| match document.offered.and_then(|offered| offered.limit) {
        _ if is_load && is_load_generator_the_limit(document, condition) => Limit::LoadGenerator,
        Some(Limit::Window) if achieved_pct < MIN_ACHIEVED_PCT => Limit::Window,
        _ => Limit::Server,
    });
    let problem = problem.map(|problem| match limit {
        Some(Limit::LoadGenerator) => format!("{problem}; the load generator may be the limit"),
        _ => problem,
    });
    let percentile = |percent| document.latency_ns.primary().percentile(percent).map(|value| value.ns as u64);
    Step {
        rate,
        packets_per_s: document.totals.packets_per_s,
        p50_ns: percentile(50.0),
        p99_ns: percentile(99.0),
        value: judged.value,
        ok: problem.is_none(),
        problem,
        limit,
    }
}

/// The answers that arrived in the window, as a percentage of the packets that were due in it. Packets that were sent just
/// before its end have no time to be answered: as many are allowed for as are on their way at a server without a queue.
fn achieved_pct(document: &Document) -> f64 {
    let Document { totals, offered, latency_ns, window, .. } = document;
    let due = totals.sent.saturating_add(offered.map_or(0, |offered| offered.missed));
    if due == 0 {
        return 100.0;
    }
    let fastest_s = latency_ns.service.min.unwrap_or(0) as f64 / 1e9;
    let on_their_way = 1.0 + fastest_s * window.per_second(due);
    ((totals.received as f64 + on_their_way) / due as f64 * 100.0).min(100.0)
}

/// Whether the load generator may be the reason why a rate fails. How late it may be depends on the condition.
fn is_load_generator_the_limit(document: &Document, condition: &Condition) -> bool {
    let lag_ns = document.load_generator.schedule_lag_p99_ns.unwrap_or(0) as f64;
    match condition.latency_bound() {
        Some(bound_ns) => {
            lag_ns > MAX_LAG_SHARE * bound_ns || document.load_generator.is_saturated_otherwise()
        }
        None => document.load_generator.saturated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::record::histogram::new_histogram;
    use crate::report::search::curve;
    use crate::result::document::Offered;
    use crate::result::document::tests::document;
    use crate::result::latency::Latency;

    /// The result of a run in which 1,000 packets were due, and so many came back in time.
    fn received(document: &mut Document, packets: u64) {
        document.totals.sent = 1000;
        document.totals.received = packets;
        document.offered = Some(Offered::of(1000, 0, None));
    }

    /// Searches against a server that handles up to `capacity` packets/s. Returns the rates that were tried, and the
    /// result.
    fn searched(first: f64, capacity: f64) -> (Vec<f64>, Document) {
        let pace = Pace::Open {
            rate: first,
            arrival: crate::traffic::arrivals::Arrival::Constant,
            max_outstanding: 1,
        };
        let plan = Plan { pace, ..plan() };
        let mut tried = Vec::new();
        let run = |plan: Plan| {
            let Pace::Open { rate, .. } = plan.pace else { panic!("the search ran a closed loop") };
            tried.push(rate);
            let mut document = document();
            document.totals.packets_per_s = rate.min(capacity);
            received(&mut document, if rate > capacity { 980 } else { 990 });
            Ok(Some(document))
        };
        let mut shown = 0;
        let condition = "rate>=0.001".parse().unwrap();
        let found = search(&plan, &condition, run, || false, |_| shown += 1).unwrap();
        assert_eq!(shown, tried.len());
        (tried, found)
    }

    #[test]
    fn the_highest_rate_is_found_within_5_percent() {
        for (first, capacity) in [
            (1000.0, 123_456.0),
            (1000.0, 1000.0),
            (50_000.0, 70.0),
            (1.0, 3.0),
            (1000.0, 1.99),
            (0.04, 0.055),
        ] {
            let (tried, found) = searched(first, capacity);
            let search = found.search.unwrap();
            let max_rate = search.max_rate.unwrap();
            assert!(
                max_rate <= capacity && max_rate * CLOSE_ENOUGH >= capacity * 0.98,
                "{capacity}: {max_rate}"
            );
            assert!(tried.len() < 40, "{tried:?}");
            assert!(search.steps.is_sorted_by(|a, b| a.rate < b.rate), "{:?}", search.steps);
            assert_eq!((found.verdict, search.ended_by), (Verdict::Pass, Some(SearchEnd::Server)));
        }
    }

    #[test]
    fn the_curve_is_sorted_by_rate_and_fits_80_columns() {
        let step = |rate: f64, p99_ns: u64| Step {
            rate,
            packets_per_s: rate,
            p50_ns: Some(1000),
            p99_ns: Some(p99_ns),
            value: None,
            ok: p99_ns < 1_000_000,
            problem: (p99_ns >= 1_000_000).then(|| "p99<1ms".to_owned()),
            limit: (p99_ns >= 1_000_000).then_some(Limit::Server),
        };
        let steps = vec![step(1000.0, 100_000), step(2000.0, 1_000_000), step(4000.0, 10_000_000)];
        let rows: Vec<_> = steps.iter().map(row).collect();
        assert_eq!(rows[0], "        1,000/s  p50 1.00 µs  p99  100 µs  holds");
        assert_eq!(rows[1], "        2,000/s  p50 1.00 µs  p99 1.00 ms  no: p99<1ms");
        let ended_by = Some(SearchEnd::Server);
        let search = Search { condition: "p99<1ms".to_owned(), max_rate: Some(1000.0), ended_by, steps };
        let curve = curve(&search);
        assert_eq!(curve[0], "        1,000/s  p99  100 µs  holds  #");
        assert_eq!(curve[1].matches('#').count(), 15);
        assert!(curve.iter().chain(&rows).all(|line| line.chars().count() <= 80), "{curve:?}");
    }

    #[test]
    fn a_search_without_a_rate_that_holds_fails_with_the_verdict_threshold() {
        let (tried, found) = searched(1000.0, 0.0001);
        assert!(tried.last() < Some(&2.0) && tried.len() < 30, "{tried:?}");
        assert_eq!((found.verdict, found.exit_code), (Verdict::Threshold, 99));
        assert_eq!(found.search.unwrap().max_rate, None);
    }

    #[test]
    fn the_search_ends_at_the_maximum_rate() {
        let (tried, found) = searched(1e6, 1e30);
        assert_eq!(tried.last(), Some(&MAX_RATE));
        let search = found.search.unwrap();
        assert_eq!((search.max_rate, search.ended_by), (Some(MAX_RATE), Some(SearchEnd::MaxRate)));
    }

    #[test]
    fn a_rate_has_three_digits_in_print() {
        for (rate, text) in [(1414.2135, "1410"), (4.567, "4.57"), (0.0123456, "0.0123"), (1e9, "1000000000")]
        {
            assert_eq!(round_to_three_digits(rate).to_string(), text);
        }
    }

    /// The result of a search whose third step gets this change.
    fn search_with_third_step(change: fn(&mut Document), interrupt: bool) -> Document {
        let pace = Pace::Open {
            rate: 10.0,
            arrival: crate::traffic::arrivals::Arrival::Constant,
            max_outstanding: 1,
        };
        let steps = std::cell::Cell::new(0);
        let run = |_| {
            steps.set(steps.get() + 1);
            let mut document = document();
            if steps.get() == 3 {
                change(&mut document);
            }
            assert!(steps.get() <= 3, "the search did not end after step 3");
            Ok(Some(document))
        };
        let interrupted = || interrupt && steps.get() == 3;
        let condition = "rate>=0.001".parse().unwrap();
        search(&Plan { pace, ..plan() }, &condition, run, interrupted, |_| {}).unwrap()
    }

    #[test]
    fn damaged_packets_a_lost_server_and_an_interrupt_end_the_search() {
        let corrupted = |document: &mut Document| {
            document.integrity.corrupted = 1;
            document.verdict = Verdict::Integrity;
        };
        let gone = |document: &mut Document| {
            document.errors.connect = 1;
            document.window.seconds = 0.0;
            document.verdict = Verdict::Failed;
        };
        for (change, interrupt, verdict) in [
            (corrupted as fn(&mut Document), false, Verdict::Integrity),
            (gone, false, Verdict::Failed),
            (corrupted, true, Verdict::Interrupted),
        ] {
            let found = search_with_third_step(change, interrupt);
            assert_eq!((found.verdict, found.exit_code), (verdict, verdict.exit_code()));
            let search = found.search.unwrap();
            assert_eq!((search.max_rate, search.ended_by), (Some(20.0), Some(SearchEnd::Incomplete)));
            assert_eq!(search.steps.len(), if interrupt { 2 } else { 3 });
        }
    }

    #[test]
    fn a_rate_that_fails_once_is_tried_again_and_a_saturated_load_generator_is_reported_as_the_limit() {
        let pace = Pace::Open {
            rate: 10.0,
            arrival: crate::traffic::arrivals::Arrival::Constant,
            max_outstanding: 1,
        };
        let mut tried = Vec::new();
        let run = |plan: Plan| {
            let Pace::Open { rate, .. } = plan.pace else { panic!("the search ran a closed loop") };
            let fails_once = rate == 20.0 && !tried.contains(&rate);
            tried.push(rate);
            let mut document = document();
            document.load_generator.saturated = rate > 50.0;
            received(&mut document, if fails_once || rate > 50.0 { 900 } else { 1000 });
            Ok(Some(document))
        };
        let condition = "rate>=0.001".parse().unwrap();
        let plan = Plan { pace, strict_client: true, ..plan() };
        let found = search(&plan, &condition, run, || false, |_| {}).unwrap();
        let search = found.search.unwrap();
        assert!(search.max_rate > Some(45.0), "{tried:?}");
        assert_eq!(search.ended_by, Some(SearchEnd::LoadGenerator));
        assert_eq!(found.verdict, Verdict::Saturated);
    }

    #[test]
    fn a_step_that_failed_does_not_hold_even_if_the_condition_does() {
        let condition: Condition = "rate>=1".parse().unwrap();
        let mut run = document();
        assert!(judge(&run, 1.0, &condition).ok);
        run.verdict = Verdict::Failed;
        assert!(!judge(&run, 1.0, &condition).ok);
        let budget = |text: &str| judge(&run, 1.0, &text.parse().unwrap()).ok;
        assert!(budget("errors<1%") && !budget("lost<1%"), "a budget for errors allows them");
    }

    #[test]
    fn a_rate_that_was_not_achieved_within_1_percent_does_not_hold() {
        let condition: Condition = "max<10s".parse().unwrap();
        let step = |packets| {
            let mut run = document();
            // One packet more than the answers may be on its way.
            received(&mut run, packets);
            judge(&run, 500.0, &condition)
        };
        assert!(step(989).ok);
        let missed = step(988);
        assert_eq!(missed.problem.as_deref(), Some("only 98.9 % of the rate was achieved"));
        assert_eq!((missed.ok, missed.limit), (false, Some(Limit::Server)));
    }

    #[test]
    fn how_late_the_load_generator_may_be_depends_on_the_condition() {
        let step = |condition: &str, lag_ms: u64| {
            let mut run = document();
            run.latency_ns.service = latency(40);
            run.load_generator.saturated = lag_ms > 1;
            run.load_generator.schedule_lag_p99_ns = Some(lag_ms * 1_000_000);
            let step = judge(&run, 1.0, &condition.parse().unwrap());
            (step.ok, step.limit)
        };
        assert_eq!(step("p99<50ms", 30), (true, None), "response times include the lag");
        assert_eq!(step("p99<30ms", 2), (false, Some(Limit::Server)), "a lag of 2 ms does not matter");
        assert_eq!(step("p99<30ms", 4), (false, Some(Limit::LoadGenerator)));
    }

    fn latency(ms: u64) -> Latency {
        let mut times = new_histogram();
        times.record_n(ms * 1_000_000, 100).unwrap();
        Latency::of(&times, None)
    }
}
