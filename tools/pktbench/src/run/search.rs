//! The highest rate at which a condition holds: runs of an open loop, each at another rate.
//!
//! ```text
//!   1k holds -> 2k holds -> 4k holds -> 8k does not -> 5.7k holds -> 6.7k does not -> 6.2k holds -> ...
//!                    doubled                 halfway between the last that holds and the first that does not
//! ```

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::judge::threshold::Condition;
use crate::plan::{MAX_RATE, Pace, Plan};
use crate::report::output::Output;
use crate::report::search::{SATURATED, is_saturated, limit, row};
use crate::report::sink::Sink;
use crate::result::document::{Document, Search, Step};
use crate::result::verdict::Verdict;
use crate::run::interrupt::Interrupts;
use crate::run::{conductor, to_document};
use crate::traffic::verify::Integrity;

/// How close the highest rate that holds and the lowest that does not come to each other. Runs of one rate differ by as
/// much.
const CLOSE: f64 = 1.05;

/// Of one in a hundred packets that the server is too slow for, the figures say nothing.
const MAX_NOT_SENT: f64 = 0.01;

/// Which rate to try next.
#[derive(Clone, Copy, Debug)]
struct Rates {
    first: f64,
    holds: Option<f64>,
    fails: Option<f64>,
}

impl Rates {
    fn next(&self) -> Option<f64> {
        let rate = match (self.holds, self.fails) {
            (None, None) => self.first,
            (Some(holds), None) if holds < MAX_RATE => (holds * 2.0).min(MAX_RATE),
            // A packet a second is no load.
            (None, Some(fails)) if fails >= 2.0 => fails / 2.0,
            (Some(holds), Some(fails)) if fails / holds > CLOSE => (holds * fails).sqrt(),
            _ => return None,
        };
        let rate = three_digits(rate);
        let is_new =
            self.holds.is_none_or(|holds| rate > holds) && self.fails.is_none_or(|fails| rate < fails);
        is_new.then_some(rate)
    }

    fn add(&mut self, rate: f64, holds: bool) {
        let end = if holds { &mut self.holds } else { &mut self.fails };
        *end = Some(rate);
    }
}

/// More of them mean nothing.
fn three_digits(rate: f64) -> f64 {
    let unit = 10_f64.powf(rate.log10().floor() - 2.0);
    (rate / unit).round() * unit
}

/// Searches, shows each step where standard output is for people, and writes the result.
pub(crate) fn find(plan: &Plan, output: Output, condition: &Condition) -> anyhow::Result<ExitCode> {
    let mut steps = output.prints_text().then(Sink::stdout);
    let sinks = output.open()?;
    let mut show = |line: &str| {
        if let Some(steps) = &mut steps {
            steps.line(line);
        }
    };
    show(&format!("search      the highest rate at which {condition}"));
    let run = |plan| Ok(to_document::document(&conductor::run(plan, Output::default().open()?)?.0));
    let listener = Listener::start()?;
    let document = search(plan, condition, run, || listener.heard_any(), |step| show(&row(step)))?;
    show("");
    Ok(sinks.exit(&document))
}

/// Interrupts of a search: those that end a run, and those between two of them.
struct Listener {
    runtime: Runtime,
    interrupts: RefCell<Interrupts>,
}

impl Listener {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let interrupts = RefCell::new(runtime.block_on(async { Interrupts::listen() }));
        Ok(Self { runtime, interrupts })
    }

    /// Whether there was one since it was asked last.
    fn heard_any(&self) -> bool {
        let mut interrupts = self.interrupts.borrow_mut();
        let heard = async { tokio::time::timeout(Duration::from_millis(1), interrupts.next()).await };
        self.runtime.block_on(heard).is_ok()
    }
}

/// Tries rates by `run`, shows each by `show`, and gives the result of the highest one that holds; without one, that of the
/// last.
fn search(
    plan: &Plan,
    condition: &Condition,
    mut run: impl FnMut(Plan) -> anyhow::Result<Document>,
    interrupted: impl Fn() -> bool,
    mut show: impl FnMut(&Step),
) -> anyhow::Result<Document> {
    let Pace::Open { rate: first, arrival, max_outstanding } = plan.pace else {
        anyhow::bail!("a closed loop has no rate to search");
    };
    let mut rates = Rates { first, holds: None, fails: None };
    let mut steps = Vec::new();
    let mut best = None;
    let (mut verdict, mut last) = (Verdict::Pass, None);
    while let Some(rate) = rates.next() {
        let pace = Pace::Open { rate, arrival, max_outstanding };
        let mut tried = None;
        // One that fails may have done so by chance.
        for _ in 0..2 {
            let document = run(Plan { pace, ..plan.clone() })?;
            if interrupted() {
                verdict = Verdict::Interrupted;
                last = Some(document);
                break;
            }
            let step = judge(&document, rate, condition);
            show(&step);
            // What no rate explains: bytes that are not those that were sent, and a server that is gone.
            let Integrity { corrupted, reordered, duplicated, .. } = document.integrity;
            if corrupted.max(reordered).max(duplicated) > 0 {
                verdict = Verdict::Integrity;
            } else if document.errors.connect > 0 {
                verdict = Verdict::Failed;
            }
            let is_settled = step.ok || verdict != Verdict::Pass;
            tried = Some((step, document));
            if is_settled {
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
    if best.is_none() {
        verdict = verdict.worse(Verdict::Threshold);
    }
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let mut document = best.or(last).expect("there is a first step");
    document.search = Some(Search { condition: condition.to_string(), max_rate: rates.holds, steps });
    let limit = document.search.as_ref().and_then(limit);
    if plan.strict_client && limit.is_some_and(is_saturated) {
        verdict = verdict.worse(Verdict::ClientSaturated);
    }
    document.verdict = document.verdict.worse(verdict);
    document.exit_code = document.verdict.exit_code();
    Ok(document)
}

fn judge(document: &Document, rate: f64, condition: &Condition) -> Step {
    let judged = condition.judge(document);
    let due = document.totals.sent + document.client.not_sent;
    let not_sent = document.client.not_sent as f64 / (due as f64).max(1.0);
    let problem = match document.verdict {
        Verdict::Failed => Some(document.errors.first.clone().unwrap_or_default()),
        Verdict::NoSamples => Some("no packet came back".to_owned()),
        Verdict::Integrity => Some("packets were lost or altered".to_owned()),
        _ if document.client.saturated => Some(SATURATED.to_owned()),
        _ if !judged.ok => Some(condition.to_string()),
        _ if not_sent > MAX_NOT_SENT => {
            Some(format!("{:.0} % of what was due was not sent in time", not_sent * 100.0))
        }
        _ => None,
    };
    let latency = document.latency_ns.primary();
    Step {
        rate,
        packets_per_s: document.totals.packets_per_s,
        p50_ns: latency.listed(50.0),
        p99_ns: latency.listed(99.0),
        value: judged.value,
        ok: problem.is_none(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::report::search::curve;
    use crate::result::document::tests::document;

    /// The rates that are tried at a server that holds up to `capacity`, and what comes of it.
    fn searched(first: f64, capacity: f64) -> (Vec<f64>, Document) {
        let pace = Pace::Open {
            rate: first,
            arrival: crate::traffic::arrivals::Arrival::Constant,
            max_outstanding: 1,
        };
        let plan = Plan { pace, ..plan() };
        let mut tried = Vec::new();
        let run = |plan: Plan| {
            let Pace::Open { rate, .. } = plan.pace else { panic!("no open loop") };
            tried.push(rate);
            let mut document = document();
            document.totals.packets_per_s = rate.min(capacity);
            document.totals.received = 1000;
            document.client.not_sent = if rate > capacity { 1_000_000 } else { 0 };
            Ok(document)
        };
        let mut shown = 0;
        let condition = "rate>=0.001".parse().unwrap();
        let found = search(&plan, &condition, run, || false, |_| shown += 1).unwrap();
        assert_eq!(shown, tried.len());
        (tried, found)
    }

    #[test]
    fn the_highest_rate_is_found_within_a_twentieth() {
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
            assert!(max_rate <= capacity && max_rate * CLOSE >= capacity * 0.98, "{capacity}: {max_rate}");
            assert!(tried.len() < 40, "{tried:?}");
            assert!(search.steps.is_sorted_by(|a, b| a.rate < b.rate), "{:?}", search.steps);
            assert_eq!(found.verdict, Verdict::Pass);
        }
    }

    #[test]
    fn the_curve_is_by_rate_and_fits_80_columns() {
        let step = |rate: f64, p99_ns: u64| Step {
            rate,
            packets_per_s: rate,
            p50_ns: Some(1000),
            p99_ns: Some(p99_ns),
            value: None,
            ok: p99_ns < 1_000_000,
            problem: (p99_ns >= 1_000_000).then(|| "p99<1ms".to_owned()),
        };
        let steps = vec![step(1000.0, 100_000), step(2000.0, 1_000_000), step(4000.0, 10_000_000)];
        let rows: Vec<_> = steps.iter().map(row).collect();
        assert_eq!(rows[0], "        1,000/s  p50 1.00 µs  p99  100 µs  holds");
        assert_eq!(rows[1], "        2,000/s  p50 1.00 µs  p99 1.00 ms  no: p99<1ms");
        let search = Search { condition: "p99<1ms".to_owned(), max_rate: Some(1000.0), steps };
        let curve = curve(&search);
        assert_eq!(curve[0], "        1,000/s  p99  100 µs  holds  #");
        assert_eq!(curve[1].matches('#').count(), 15);
        assert!(curve.iter().chain(&rows).all(|line| line.chars().count() <= 80), "{curve:?}");
    }

    #[test]
    fn where_no_rate_holds_the_threshold_does_not() {
        let (tried, found) = searched(1000.0, 0.0001);
        assert!(tried.last() < Some(&2.0) && tried.len() < 30, "{tried:?}");
        assert_eq!((found.verdict, found.exit_code), (Verdict::Threshold, 99));
        assert_eq!(found.search.unwrap().max_rate, None);
    }

    #[test]
    fn a_server_that_holds_any_rate_ends_the_search_too() {
        let (tried, found) = searched(1e6, 1e30);
        assert_eq!(tried.last(), Some(&MAX_RATE));
        assert_eq!(found.search.unwrap().max_rate, Some(MAX_RATE));
    }

    /// What a search comes to whose third step is changed so.
    fn ended(change: fn(&mut Document), interrupt: bool) -> Document {
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
            assert!(steps.get() <= 3, "the search went on");
            Ok(document)
        };
        let interrupted = || interrupt && steps.get() == 3;
        let condition = "rate>=0.001".parse().unwrap();
        search(&Plan { pace, ..plan() }, &condition, run, interrupted, |_| {}).unwrap()
    }

    #[test]
    fn a_search_ends_with_what_no_rate_explains_and_says_so() {
        let altered = |document: &mut Document| {
            document.integrity.corrupted = 1;
            document.verdict = Verdict::Integrity;
        };
        let gone = |document: &mut Document| {
            document.errors.connect = 1;
            document.verdict = Verdict::Failed;
        };
        for (change, interrupt, verdict) in [
            (altered as fn(&mut Document), false, Verdict::Integrity),
            (gone, false, Verdict::Failed),
            (altered, true, Verdict::Interrupted),
        ] {
            let found = ended(change, interrupt);
            assert_eq!((found.verdict, found.exit_code), (verdict, verdict.exit_code()));
            let search = found.search.unwrap();
            assert_eq!(search.max_rate, Some(20.0));
            assert_eq!(search.steps.len(), if interrupt { 2 } else { 3 });
        }
    }

    #[test]
    fn a_rate_that_fails_once_is_tried_again_and_the_load_itself_is_told_as_the_limit() {
        let pace = Pace::Open {
            rate: 10.0,
            arrival: crate::traffic::arrivals::Arrival::Constant,
            max_outstanding: 1,
        };
        let mut tried = Vec::new();
        let run = |plan: Plan| {
            let Pace::Open { rate, .. } = plan.pace else { panic!("no open loop") };
            let fails_once = rate == 20.0 && !tried.contains(&rate);
            tried.push(rate);
            let mut document = document();
            document.client.saturated = fails_once || rate > 50.0;
            Ok(document)
        };
        let condition = "rate>=0.001".parse().unwrap();
        let plan = Plan { pace, strict_client: true, ..plan() };
        let found = search(&plan, &condition, run, || false, |_| {}).unwrap();
        let search = found.search.unwrap();
        assert!(search.max_rate > Some(45.0), "{tried:?}");
        assert!(limit(&search).is_some_and(is_saturated));
        assert_eq!(found.verdict, Verdict::ClientSaturated);
    }

    #[test]
    fn a_step_that_fails_is_not_held_whatever_the_figure() {
        let condition: Condition = "rate>=1".parse().unwrap();
        let fine = document();
        assert!(judge(&fine, 1.0, &condition).ok);
        let mut saturated = document();
        saturated.client.saturated = true;
        let mut failed = document();
        failed.verdict = Verdict::Failed;
        for document in [saturated, failed] {
            assert!(!judge(&document, 1.0, &condition).ok);
        }
    }
}
