//! One result beside another, as a document has it.

use serde::{Deserialize, Serialize};

use super::verdict::Verdict;

/// NEW beside BASE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// The file that it was compared with.
    pub(crate) base: String,
    /// Of the intervals, in percent.
    pub(crate) confidence_pct: f64,
    #[serde(rename = "figures")]
    pub(crate) metrics: Vec<Difference>,
    /// What of the load was not the same, which may be what the metrics show.
    pub(crate) differs: Vec<String>,
    /// `Pass`, `Regression` or `Undecided`.
    pub(crate) verdict: Verdict,
}

/// Of one metric. What there are too few intervals for is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Difference {
    #[serde(rename = "figure")]
    pub(crate) metric: Metric,
    /// Packets/s or ns, over the intervals.
    pub(crate) base: Option<f64>,
    pub(crate) new: Option<f64>,
    /// NEW/BASE - 1, in percent, as the three that follow.
    pub(crate) difference_pct: Option<f64>,
    pub(crate) low_pct: Option<f64>,
    pub(crate) high_pct: Option<f64>,
    /// How much worse it may be, if there is a limit.
    pub(crate) limit_pct: Option<f64>,
    pub(crate) finding: Finding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finding {
    NoDifference,
    Faster,
    /// By no more than the limit.
    Allowed,
    /// There is no limit.
    Slower,
    Regression,
    TooFewIntervals,
}

/// A metric that each interval has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Metric {
    /// Packets received a second.
    #[serde(rename = "rate")]
    Rate,
    #[serde(rename = "p50")]
    P50,
    #[serde(rename = "p99")]
    P99,
    #[serde(rename = "p99.9")]
    P999,
}

impl Metric {
    pub(crate) const ALL: [Self; 4] = [Self::Rate, Self::P50, Self::P99, Self::P999];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
        }
    }

    /// Whether a relative difference is one for the worse.
    pub(crate) fn is_worse(self, difference: f64) -> bool {
        if self == Self::Rate { difference < 0.0 } else { difference > 0.0 }
    }
}
