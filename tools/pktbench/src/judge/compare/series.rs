//! The values of a metric, one for each interval of a run, and the value for all of them.
//!
//! ```text
//!   intervals of the run   |  1 s  |  1 s  |  1 s  | .2 |
//!   series of a metric     | value | value | value |        a short last interval is left out
//! ```

use crate::result::comparison::Metric;
use crate::result::document::{Document, Interval};

/// A last interval shorter than this share of the one before is ignored: it receives hardly more than the outstanding
/// packets.
const MIN_LAST_SHARE: f64 = 0.5;

/// Used instead of 0 packets, so that the logarithm is finite.
const MIN_PACKETS: f64 = 1e-9;

/// The values of the intervals, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Series {
    /// Packets received, and seconds: intervals may have different lengths.
    Rates(Vec<(f64, f64)>),
    /// Logarithms of latencies in ns.
    Logs(Vec<f64>),
}

impl Series {
    pub(crate) fn of(document: &Document, metric: Metric) -> Self {
        let intervals = counted_intervals(&document.intervals);
        let logs = |ns: fn(&Interval) -> Option<u64>| {
            let some = intervals.iter().filter_map(|(interval, _)| ns(interval));
            Self::Logs(some.map(|ns| (ns.max(1) as f64).ln()).collect())
        };
        match metric {
            Metric::Rate => {
                Self::Rates(intervals.iter().map(|(interval, s)| (interval.received as f64, *s)).collect())
            }
            Metric::P50 => logs(|interval| interval.p50_ns),
            Metric::P99 => logs(|interval| interval.p99_ns),
            Metric::P999 => logs(|interval| interval.p999_ns),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Rates(rates) => rates.len(),
            Self::Logs(logs) => logs.len(),
        }
    }

    /// What interval `index` adds to a sum.
    pub(crate) fn part(&self, index: usize) -> Sum {
        match self {
            Self::Rates(rates) => Sum(rates[index].0, rates[index].1),
            Self::Logs(logs) => Sum(logs[index], 1.0),
        }
    }

    /// The logarithm of the metric for a sum of intervals. For a rate it is all packets over all the time. For a
    /// latency it is the mean of the logarithms (the geometric mean), so that a single interval with a stall does not
    /// dominate.
    pub(crate) fn log_of(&self, Sum(sum, weight): Sum) -> f64 {
        match self {
            Self::Rates(_) => (sum.max(MIN_PACKETS) / weight).ln(),
            Self::Logs(_) => sum / weight,
        }
    }

    /// The logarithm of the metric over all intervals. The series must not be empty.
    pub(crate) fn log(&self) -> f64 {
        self.log_of((0..self.len()).map(|index| self.part(index)).sum())
    }
}

/// The sum of packets and of seconds, or the sum of logarithms and their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(f64, f64);

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self(0.0, 0.0), |sum, other| Self(sum.0 + other.0, sum.1 + other.1))
    }
}

/// The intervals that count, with their length in seconds.
fn counted_intervals(intervals: &[Interval]) -> Vec<(&Interval, f64)> {
    let begins = std::iter::once(0.0).chain(intervals.iter().map(|interval| interval.t_s));
    let mut counted: Vec<_> = intervals
        .iter()
        .zip(begins)
        .map(|(interval, begin)| (interval, interval.t_s - begin))
        // A file may contain anything.
        .filter(|(_, seconds)| *seconds > 0.0)
        .collect();
    if let [.., (_, before), (_, last)] = counted[..]
        && last < MIN_LAST_SHARE * before
    {
        counted.pop();
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::{document, interval};

    fn series(intervals: &[(f64, u64, Option<u64>)], metric: Metric) -> Series {
        let of = |&(t_s, received, p99_ns)| Interval { p99_ns, ..interval(t_s, received) };
        Series::of(&Document { intervals: intervals.iter().map(of).collect(), ..document() }, metric)
    }

    #[test]
    fn a_rate_is_all_packets_over_all_the_time() {
        let rate = series(&[(1.0, 100, None), (3.0, 50, None)], Metric::Rate);
        assert_eq!(rate, Series::Rates(vec![(100.0, 1.0), (50.0, 2.0)]));
        assert!((rate.log().exp() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_short_last_interval_is_ignored() {
        assert_eq!(series(&[(1.0, 9, None), (2.0, 9, None), (2.4, 1, None)], Metric::Rate).len(), 2);
        assert_eq!(series(&[(1.0, 9, None), (2.0, 9, None), (2.8, 8, None)], Metric::Rate).len(), 3);
    }

    #[test]
    fn an_interval_without_a_sample_counts_only_for_the_rate() {
        let stalled = [(1.0, 9, Some(100)), (2.0, 0, None), (3.0, 9, Some(10_000))];
        assert_eq!(series(&stalled, Metric::Rate).len(), 3);
        let p99 = series(&stalled, Metric::P99);
        assert_eq!(p99.len(), 2);
        assert!((p99.log().exp() - 1000.0).abs() < 1e-9, "the geometric mean");
        assert_eq!(series(&stalled, Metric::P50).len(), 0);
    }

    #[test]
    fn times_that_go_backwards_and_empty_intervals_still_give_finite_numbers() {
        let backwards = series(&[(3.0, 9, None), (1.0, 9, None), (1.0, 9, None)], Metric::Rate);
        assert_eq!(backwards.len(), 1);
        assert!(series(&[(1.0, 0, Some(0))], Metric::Rate).log().is_finite());
        assert!(series(&[(1.0, 0, Some(0))], Metric::P99).log().is_finite());
    }
}
