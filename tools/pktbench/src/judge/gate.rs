//! What a run must pass in a CI pipeline, in addition to its own checks: `--threshold` conditions and a `--baseline`.
//!
//! ```text
//!   run --> document --judge--> the document with thresholds, comparison, and a verdict that may be worse
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pktconn_tools::printable::print_warning;

use crate::judge::abort::{AbortCondition, AbortWatch};
use crate::judge::compare::{Limits, check_configs, check_result};
use crate::judge::threshold::{Budget, Condition};
use crate::result::comparison::Comparison;
use crate::result::document::{Config, Document};
use crate::result::verdict::Verdict;

/// The options of a gate, as they are given on the command line.
#[derive(Debug, Args)]
pub(crate) struct GateOptions {
    /// Condition on the result, such as 'p99<2ms'; may be repeated
    ///
    /// A condition is a metric, one of < <= > >=, and a bound. The metrics are p50, p99.9 or any percentile, mean, max,
    /// rate, throughput, errors, lost, connects, and those of connecting, such as `connect_p99` and `handshake_max`. The
    /// prefix service: or response: selects the latency, such as 'service:max<1s'. errors and lost also have bounds in
    /// percent of the packets; what such a condition allows, like 'errors<0.1%', does not fail the run. Exit code 99 if a
    /// condition does not hold.
    #[arg(help_heading = "Verdict", long, value_name = "CONDITION")]
    threshold: Vec<Condition>,

    /// Condition that ends the run early, such as 'p99>1s for 5s' or 'errors>5% for 3s'; may be repeated
    ///
    /// It must hold in every interval over that time (one interval if no time is given). It is a latency or errors, as
    /// an upper bound. errors are failed connections; in percent, failed connections and packets without an answer, of
    /// the packets sent. Outstanding packets count with their age. The results so far are printed. Exit code 99.
    #[arg(help_heading = "Verdict", long, value_name = "CONDITION")]
    abort_on: Vec<AbortCondition>,

    /// Earlier result (the output of --json) to compare this run with
    ///
    /// Exit code 98 if this run is worse by more than --max-regress allows, 97 if it may be, and the results are too
    /// noisy to tell.
    #[arg(help_heading = "Verdict", long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// How much worse than --baseline each metric may be [default: rate:7%,p50:7%,p99:15%]
    ///
    /// The metrics are rate, p50, p99 and p99.9. Metrics that are not listed are shown and never fail.
    #[arg(help_heading = "Verdict", long, value_name = "LIST", requires = "baseline")]
    max_regress: Option<Limits>,

    /// Compare with a --baseline that failed, or that was measured with other load options
    #[arg(help_heading = "Verdict", long, requires = "baseline")]
    force: bool,
}

/// What a run must pass.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    conditions: Vec<Condition>,
    abort_on: Vec<AbortCondition>,
    /// Boxed: it holds a whole document.
    baseline: Option<Box<Baseline>>,
}

#[derive(Debug)]
struct Baseline {
    path: PathBuf,
    document: Document,
    limits: Limits,
}

impl GateOptions {
    /// The file of `--baseline`.
    pub(crate) fn baseline(&self) -> Option<&Path> {
        self.baseline.as_deref()
    }

    /// Checks the conditions, and reads and checks the baseline of a run with `config`, so that a bad file is an error
    /// before the run.
    pub(crate) fn into_gate(self, config: &Config) -> Result<Gate, String> {
        self.threshold.iter().try_for_each(|condition| condition.check(config.mode))?;
        let interval = Duration::from_secs_f64(config.interval_s);
        self.abort_on.iter().try_for_each(|condition| condition.check(interval, config.mode))?;
        let limits = self.max_regress.unwrap_or_default();
        let read = |path: PathBuf| {
            let document = Document::read(&path).map_err(|error| format!("{error:#}"))?;
            if !self.force {
                check_result(&document, &path)?;
                check_configs(&document.config, &path, config)?;
            }
            Ok::<_, String>(Box::new(Baseline { path, document, limits }))
        };
        let read = |path| read(path).map_err(|problem| format!("--baseline: {problem}"));
        let baseline = self.baseline.map(read).transpose()?;
        Ok(Gate { conditions: self.threshold, abort_on: self.abort_on, baseline })
    }

    /// Whether a condition of `--abort-on` needs the ages of the outstanding packets.
    pub(crate) fn watches_outstanding(&self) -> bool {
        self.abort_on.iter().any(AbortCondition::needs_outstanding)
    }
}

impl Gate {
    /// A gate with conditions and without a baseline.
    pub(crate) fn of(conditions: &[Condition]) -> Self {
        Self { conditions: conditions.to_vec(), ..Self::default() }
    }

    /// What may end the run early.
    pub(crate) fn abort_watch(&self, timeout: Duration) -> AbortWatch {
        AbortWatch::new(&self.abort_on, timeout.as_nanos() as u64)
    }

    /// Judges the document, and adds the thresholds and the comparison to it.
    pub(crate) fn judge(&self, document: &mut Document) {
        document.thresholds = self.conditions.iter().map(|condition| condition.judge(document)).collect();
        if let Some(baseline) = &self.baseline {
            let Baseline { path, document: base, limits } = &**baseline;
            let comparison = Comparison::of(base, path, document, limits);
            warn(&comparison);
            document.baseline = Some(comparison);
        }
        self.forgive(document);
        if !document.thresholds.iter().all(|threshold| threshold.ok) {
            document.problems.push(Verdict::Threshold);
        }
        if let Some(comparison) = document.baseline.as_ref().filter(|it| it.verdict != Verdict::Pass) {
            document.problems.push(comparison.verdict);
        }
        document.problems.sort_by_key(|verdict| verdict.rank());
        document.verdict = Verdict::worst(&document.problems);
        document.exit_code = document.verdict.exit_code();
    }

    /// A condition such as `errors<0.1%` is a budget: if it holds, the errors that it allows do not fail the run.
    fn forgive(&self, document: &mut Document) {
        let is_within = |budget| {
            let judged = self.conditions.iter().zip(&document.thresholds);
            let mut of_budget = judged.filter(|(condition, _)| condition.budget() == Some(budget)).peekable();
            of_budget.peek().is_some() && of_budget.all(|(_, threshold)| threshold.ok)
        };
        let (errors, lost) = (is_within(Budget::Errors), is_within(Budget::Lost));
        let only_lost = document.integrity.violations() == document.integrity.lost;
        document.problems.retain(|problem| match problem {
            Verdict::Failed | Verdict::NoAnswer => !errors,
            Verdict::Integrity => !(lost && only_lost),
            _ => true,
        });
    }
}

/// Prints the warnings of a comparison on standard error.
pub(crate) fn warn(comparison: &Comparison) {
    comparison.warnings().iter().for_each(print_warning);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::{document, interval};
    use crate::result::json;
    use crate::traffic::verify::Integrity;

    fn gate(conditions: &[&str], baseline: Option<Document>) -> Gate {
        let limits = "rate:5%".parse().unwrap();
        let baseline = baseline
            .map(|document| Box::new(Baseline { path: PathBuf::from("base.json"), document, limits }));
        let conditions = conditions.iter().map(|text| text.parse().unwrap()).collect();
        Gate { conditions, abort_on: Vec::new(), baseline }
    }

    fn at_rate(received: u64) -> Document {
        let intervals = (1..=20).map(|t_s| interval(f64::from(t_s), received)).collect();
        Document { intervals, ..document() }
    }

    fn judged(gate: &Gate, mut document: Document) -> Document {
        gate.judge(&mut document);
        document
    }

    #[test]
    fn a_condition_that_does_not_hold_is_the_verdict_of_a_run_without_other_problems() {
        let document = judged(&gate(&["lost<1", "max<1us"], None), document());
        let holds: Vec<_> = document.thresholds.iter().map(|it| (it.expr.as_str(), it.ok)).collect();
        assert_eq!(holds, [("lost<1", true), ("max<1us", false)]);
        assert_eq!((document.verdict, document.exit_code), (Verdict::Threshold, 99));
        assert_eq!(judged(&gate(&["lost<1"], None), self::document()).verdict, Verdict::Pass);
    }

    #[test]
    fn a_worse_verdict_is_kept() {
        let mut lossy = Document { problems: vec![Verdict::Integrity], ..at_rate(50) };
        lossy.integrity.lost = 1;
        let document = judged(&gate(&["max<1us"], Some(at_rate(100))), lossy);
        assert_eq!((document.verdict, document.exit_code), (Verdict::Integrity, 3));
        assert!(!document.thresholds[0].ok);
        assert_eq!(document.baseline.unwrap().verdict, Verdict::Regression);
    }

    #[test]
    fn errors_within_their_budget_do_not_fail_the_run() {
        let mut run = document();
        run.integrity = Integrity { verified: 990, unanswered: 10, ..Integrity::default() };
        run.errors.reset = 3;
        run.problems = vec![Verdict::Failed];
        let cases = [
            (&["errors<=3"][..], Verdict::Pass),
            (&["errors<5%"], Verdict::Pass),
            (&["errors<3"], Verdict::Failed),
            (&["errors<0.1%"], Verdict::Failed),
            (&["errors<5%", "errors<3"], Verdict::Failed),
            (&["errors>=0"], Verdict::Failed),
            (&["lost<5"], Verdict::Failed),
            (&["errors<5%", "max<1us"], Verdict::Threshold),
        ];
        for (conditions, verdict) in cases {
            assert_eq!(judged(&gate(conditions, None), run.clone()).verdict, verdict, "{conditions:?}");
        }
        let both = judged(&gate(&["errors<3"], None), run);
        assert_eq!(both.problems, [Verdict::Failed, Verdict::Threshold]);
    }

    #[test]
    fn lost_packets_within_their_budget_are_no_violation_but_corrupted_ones_are() {
        let mut run = document();
        run.integrity = Integrity { verified: 98, lost: 2, ..Integrity::default() };
        run.problems = vec![Verdict::Integrity];
        let verdict = |run: &Document, condition| judged(&gate(&[condition], None), run.clone()).verdict;
        assert_eq!(verdict(&run, "lost<=2"), Verdict::Pass);
        assert_eq!(verdict(&run, "lost<=2%"), Verdict::Pass);
        assert_eq!(verdict(&run, "lost<2"), Verdict::Integrity);
        run.integrity.corrupted = 1;
        assert_eq!(verdict(&run, "lost<=2"), Verdict::Integrity);
    }

    #[test]
    fn a_failed_condition_takes_precedence_over_a_regression() {
        let baseline = Some(at_rate(100));
        let of = |conditions: &[&str], new| judged(&gate(conditions, baseline.clone()), new).verdict;
        assert_eq!(of(&[], at_rate(100)), Verdict::Pass);
        assert_eq!(of(&[], at_rate(50)), Verdict::Regression);
        assert_eq!(of(&["max<1us"], at_rate(50)), Verdict::Threshold);
        assert_eq!(of(&[], document()), Verdict::Undecided, "no intervals");
    }

    #[test]
    fn the_comparison_is_in_the_document_and_in_the_report() {
        let document = judged(&gate(&["lost<1"], Some(at_rate(100))), at_rate(50));
        let again: Document = serde_json::from_str(&json::to_line(&document)).unwrap();
        assert_eq!(again.baseline.unwrap().metrics.len(), 3);
        let text = crate::report::text::text(&document);
        assert!(text.contains("\nthreshold   lost<1 holds: measured 0\n"), "{text}");
        assert!(text.contains("\ncompared with base.json\nmetric "), "{text}");
        assert!(text.ends_with("code 98)"), "{text}");
        assert!(!json::to_line(&self::document()).contains("baseline"), "no --baseline was given");
    }
}
