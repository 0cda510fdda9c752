//! A metric as the intervals of a run have it, and the one number that stands for them.
//!
//! ```text
//!   intervals of the run   |  1 s  |  1 s  |  1 s  | .2 |
//!   series of a metric     |  what each of them has |      without a rest at the end, which is not like the others
//! ```

use crate::result::comparison::Metric;
use crate::result::document::{Document, Interval};

/// A rest at the end that is shorter than so much of an interval does not count: little more than what is still
/// outstanding comes back in it.
const MIN_LAST_SHARE: f64 = 0.5;

/// What stands in for no packet at all, so that a logarithm is finite.
const MIN_PACKETS: f64 = 1e-9;

/// Of each interval, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Series {
    /// Packets received, and seconds: intervals need not be of one length.
    Rates(Vec<(f64, f64)>),
    /// Logarithms of latencies in ns.
    Logs(Vec<f64>),
}

impl Series {
    pub(crate) fn of(document: &Document, metric: Metric) -> Self {
        let intervals = complete(&document.intervals);
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

    /// What an interval adds to the sum of several.
    pub(crate) fn part(&self, index: usize) -> Sum {
        match self {
            Self::Rates(rates) => Sum(rates[index].0, rates[index].1),
            Self::Logs(logs) => Sum(logs[index], 1.0),
        }
    }

    /// The logarithm of the metric over the intervals of the sum: of all packets in all the time for a rate, and the mean
    /// of the logarithms for a latency, so that one interval with a stall does not stand for all of them.
    pub(crate) fn log_of(&self, Sum(sum, weight): Sum) -> f64 {
        match self {
            Self::Rates(_) => (sum.max(MIN_PACKETS) / weight).ln(),
            Self::Logs(_) => sum / weight,
        }
    }

    /// The logarithm of the metric. There is at least one interval.
    pub(crate) fn log(&self) -> f64 {
        self.log_of((0..self.len()).map(|index| self.part(index)).sum())
    }
}

/// Packets and seconds, or logarithms and their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(f64, f64);

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self(0.0, 0.0), |sum, other| Self(sum.0 + other.0, sum.1 + other.1))
    }
}

/// The intervals with their length in seconds.
fn complete(intervals: &[Interval]) -> Vec<(&Interval, f64)> {
    let begins = std::iter::once(0.0).chain(intervals.iter().map(|interval| interval.t_s));
    let mut complete: Vec<_> = intervals
        .iter()
        .zip(begins)
        .map(|(interval, begin)| (interval, interval.t_s - begin))
        // A file may say what it likes.
        .filter(|(_, seconds)| *seconds > 0.0)
        .collect();
    if let [.., (_, before), (_, last)] = complete[..] {
        if last < MIN_LAST_SHARE * before {
            complete.pop();
        }
    }
    complete
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
    fn a_rate_is_all_packets_in_all_the_time() {
        let rate = series(&[(1.0, 100, None), (3.0, 50, None)], Metric::Rate);
        assert_eq!(rate, Series::Rates(vec![(100.0, 1.0), (50.0, 2.0)]));
        assert!((rate.log().exp() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_rest_at_the_end_does_not_count_unless_it_is_about_an_interval() {
        assert_eq!(series(&[(1.0, 9, None), (2.0, 9, None), (2.4, 1, None)], Metric::Rate).len(), 2);
        assert_eq!(series(&[(1.0, 9, None), (2.0, 9, None), (2.8, 8, None)], Metric::Rate).len(), 3);
    }

    #[test]
    fn an_interval_without_a_sample_counts_for_the_rate_alone() {
        let stalled = [(1.0, 9, Some(100)), (2.0, 0, None), (3.0, 9, Some(10_000))];
        assert_eq!(series(&stalled, Metric::Rate).len(), 3);
        let p99 = series(&stalled, Metric::P99);
        assert_eq!(p99.len(), 2);
        assert!((p99.log().exp() - 1000.0).abs() < 1e-9, "the geometric mean");
        assert_eq!(series(&stalled, Metric::P50).len(), 0);
    }

    #[test]
    fn what_no_clock_says_and_what_received_nothing_is_still_a_number() {
        let backwards = series(&[(3.0, 9, None), (1.0, 9, None), (1.0, 9, None)], Metric::Rate);
        assert_eq!(backwards.len(), 1);
        assert!(series(&[(1.0, 0, Some(0))], Metric::Rate).log().is_finite());
        assert!(series(&[(1.0, 0, Some(0))], Metric::P99).log().is_finite());
    }
}
