//! The types of a comparison of two results, as they are in a document. The comparing is in `judge::compare`.

use serde::{Deserialize, Serialize};

use super::verdict::Verdict;

/// The comparison of the result NEW with the result BASE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// The file of BASE.
    pub(crate) base: String,
    /// The confidence of the intervals `low_pct` to `high_pct`, in percent.
    pub(crate) confidence_pct: f64,
    #[serde(alias = "figures")]
    pub(crate) metrics: Vec<Difference>,
    /// The intervals of BASE and of NEW. `None` in old documents.
    #[serde(default)]
    pub(crate) intervals: Option<[usize; 2]>,
    /// Load options that differ, such as `conns 64 and 128`. They may explain the differences.
    pub(crate) differs: Vec<String>,
    /// The results whose load generator was saturated: `base`, `new`.
    #[serde(default)]
    pub(crate) saturated: Vec<String>,
    /// `Pass`, `Regression`, `Undecided` or `Inconclusive`.
    pub(crate) verdict: Verdict,
}

/// The difference of one metric. Fields are `None` if there are too few intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Difference {
    #[serde(alias = "figure")]
    pub(crate) metric: Metric,
    /// The value over all intervals: packets/s or ns.
    pub(crate) base: Option<f64>,
    pub(crate) new: Option<f64>,
    /// NEW/BASE - 1, in percent.
    pub(crate) difference_pct: Option<f64>,
    /// The confidence interval of `difference_pct`.
    pub(crate) low_pct: Option<f64>,
    pub(crate) high_pct: Option<f64>,
    /// How much worse NEW may be, in percent, if there is a limit.
    pub(crate) limit_pct: Option<f64>,
    pub(crate) finding: Finding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finding {
    NoDifference,
    Faster,
    /// Slower, within the limit.
    Allowed,
    /// Slower, and there is no limit.
    Slower,
    /// Slower by more than the limit.
    Regression,
    /// A regression beyond the limit is possible: the confidence interval contains it, and is too wide to tell.
    Inconclusive,
    TooFewIntervals,
}

/// A metric that is compared interval by interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Metric {
    /// Packets received per second.
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

    /// Whether a relative difference is a change for the worse.
    pub(crate) fn is_worse(self, difference: f64) -> bool {
        if self == Self::Rate { difference < 0.0 } else { difference > 0.0 }
    }
}
