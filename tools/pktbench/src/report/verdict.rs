//! The verdict on a run, as a sentence.

use std::borrow::Cow;

use pktconn_tools::printable;

use crate::result::document::{Aborted, Document};
use crate::result::units;
use crate::result::verdict::Verdict;
use crate::traffic::verify::Verify;

/// Whether there were failures that a threshold allows.
fn has_allowed_faults(document: &Document) -> bool {
    document.errors.count() > 0 || document.integrity.unanswered > 0 || document.integrity.lost > 0
}

/// The verdict, a colon, its meaning, and the exit code. The HTML report splits it at the colon.
pub(crate) fn text(document: &Document) -> String {
    let verdict: Cow<'_, str> = match (document.verdict, &document.aborted) {
        (Verdict::Threshold, Some(aborted)) => self::aborted(aborted).into(),
        (Verdict::Pass, None) if has_allowed_faults(document) => {
            let (failed, lost) = (document.errors.count(), document.integrity.lost);
            let unanswered = document.integrity.unanswered;
            format!(
                "pass: within the thresholds, with {} connections failed, {} packets unanswered and {} lost",
                units::count(failed),
                units::count(unanswered),
                units::count(lost)
            )
            .into()
        }
        (verdict, _) => meaning(verdict, document.config.verify).into(),
    };
    format!("{verdict} (exit code {})", document.exit_code)
}

pub(super) fn aborted(Aborted { condition, at_s }: &Aborted) -> String {
    format!("aborted: {} at {at_s:.1} s", printable::name(condition))
}

fn meaning(verdict: Verdict, verify: Verify) -> &'static str {
    match verdict {
        Verdict::Pass => match verify {
            Verify::Full => "pass: every packet came back intact, in order and exactly once",
            Verify::Len => "pass: every packet came back with its length, in order and exactly once",
            Verify::Off => "pass: as many packets came back as were sent (contents not verified)",
        },
        Verdict::PassSaturated => {
            "pass, but the load generator was saturated: the figures may be those of the load generator, not of the \
             server"
        }
        Verdict::Failed => "failed: at least one connection failed",
        Verdict::NoAnswer => "no answer: packets were not answered in time",
        Verdict::NotOffered => "not offered: less of the load was offered than --min-offered requires",
        Verdict::NoSamples => "failed: none of the measured packets came back",
        Verdict::Integrity => "integrity violated: packets were lost, corrupted, reordered or duplicated",
        Verdict::Saturated => {
            "saturated: the load generator reached its limit, so the figures say little about the server"
        }
        Verdict::Regression => "regression: worse than the baseline by more than --max-regress allows",
        Verdict::Inconclusive => {
            "inconclusive: it may be worse than --baseline by more than --max-regress allows; run longer"
        }
        Verdict::Undecided => "undecided: too few intervals to compare with the baseline; run longer",
        Verdict::Threshold => "threshold: at least one condition does not hold",
        Verdict::Interrupted => "interrupted: the results cover the run until the interrupt",
    }
}
