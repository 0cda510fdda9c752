//! What a run comes to, as a word and as an exit code.

use serde::{Deserialize, Serialize};

/// The sum of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    /// A connection failed, or could not be made.
    Failed,
    /// Nothing came back that counts.
    NoSamples,
    /// A packet was lost, altered, reordered or doubled.
    Integrity,
    /// `--strict-client`, and the figures are those of this program.
    ClientSaturated,
    /// Worse than `--baseline` allows.
    Regression,
    /// A `--threshold` does not hold.
    Threshold,
    /// Too few intervals to tell whether it is worse than `--baseline` allows.
    Undecided,
    Interrupted,
}

impl Verdict {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Failed | Self::NoSamples | Self::Undecided => 1,
            Self::Integrity => 3,
            Self::ClientSaturated => 4,
            Self::Regression => 98,
            Self::Threshold => 99,
            // What a shell gives a program that SIGINT ends.
            Self::Interrupted => 130,
        }
    }
}

/// What a run is told for, if several of them are so.
pub(crate) const WORST_FIRST: [Verdict; 9] = [
    Verdict::Integrity,
    Verdict::Interrupted,
    Verdict::Failed,
    Verdict::NoSamples,
    Verdict::ClientSaturated,
    Verdict::Threshold,
    Verdict::Regression,
    Verdict::Undecided,
    Verdict::Pass,
];

impl Verdict {
    pub(crate) fn worse(self, other: Self) -> Self {
        WORST_FIRST.into_iter().find(|verdict| [self, other].contains(verdict)).unwrap_or(self)
    }
}
