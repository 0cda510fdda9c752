//! The verdict on a run, and its exit code.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    /// Everything else passed, but the load generator was saturated: the figures may be its own.
    PassSaturated,
    /// A connection failed or could not be made, or a file could not be written.
    Failed,
    /// No measured packet came back.
    NoSamples,
    /// Packets were not answered within `--timeout`, on a connection that was open.
    NoAnswer,
    /// Less than `--min-offered` of the load of an open loop was sent.
    NotOffered,
    /// A packet was lost, corrupted, reordered or duplicated.
    Integrity,
    /// The load generator was saturated, with `--strict-client`.
    #[serde(alias = "client_saturated")]
    Saturated,
    /// Worse than `--baseline` by more than `--max-regress` allows.
    Regression,
    /// A `--threshold` does not hold.
    Threshold,
    /// Too few intervals to compare with `--baseline`.
    Undecided,
    /// The difference from `--baseline` may be beyond `--max-regress`, and is too uncertain to tell.
    Inconclusive,
    /// Ended by a signal or a key.
    Interrupted,
}

/// The exit code instead of that of [`Verdict::Interrupted`], if the reader of standard output went away during the run:
/// the code of a shell for a program that SIGPIPE ended.
pub(crate) const OUTPUT_CLOSED: u8 = 141;

impl Verdict {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Pass | Self::PassSaturated => 0,
            Self::Failed | Self::NoSamples | Self::Undecided => 1,
            Self::Integrity => 3,
            Self::Saturated => 4,
            Self::NoAnswer => 5,
            Self::NotOffered => 6,
            Self::Inconclusive => 97,
            Self::Regression => 98,
            Self::Threshold => 99,
            // The code of a shell for a program that SIGINT ended.
            Self::Interrupted => 130,
        }
    }
}

/// The order of precedence if several verdicts apply.
pub(crate) const WORST_FIRST: [Verdict; 13] = [
    Verdict::Integrity,
    Verdict::Interrupted,
    Verdict::Failed,
    Verdict::NoAnswer,
    Verdict::NotOffered,
    Verdict::NoSamples,
    Verdict::Saturated,
    Verdict::Threshold,
    Verdict::Regression,
    Verdict::Undecided,
    Verdict::Inconclusive,
    Verdict::PassSaturated,
    Verdict::Pass,
];

impl Verdict {
    /// The place in [`WORST_FIRST`].
    pub(crate) fn rank(self) -> usize {
        WORST_FIRST.into_iter().position(|verdict| verdict == self).unwrap_or(WORST_FIRST.len())
    }

    /// The worst of all that went wrong.
    pub(crate) fn worst(problems: &[Self]) -> Self {
        problems.iter().copied().fold(Self::Pass, Self::worse)
    }

    /// The one of the two that comes first in [`WORST_FIRST`].
    pub(crate) fn worse(self, other: Self) -> Self {
        WORST_FIRST.into_iter().find(|verdict| [self, other].contains(verdict)).unwrap_or(self)
    }
}
