//! Turns the intervals of a run into points of a line chart. Neighbouring intervals of a long run share a point.

use crate::result::document::Interval;

/// The area between the axes of a chart is about this many pixels wide: more points would not be visible.
const MAX_POINTS: usize = 400;

/// One interval, or several in a row: the mean rate, and the largest of each percentile.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TimelinePoint {
    /// Where the point is drawn, in seconds from the start of the window.
    pub(super) middle_s: f64,
    /// The end of its intervals.
    pub(super) end_s: f64,
    pub(super) packets_per_s: f64,
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) p999_ns: Option<u64>,
}

/// How many intervals each point stands for.
pub(super) fn intervals_per_point(intervals: &[Interval]) -> usize {
    intervals.len().div_ceil(MAX_POINTS).max(1)
}

/// An interval has only its end, `t_s`. It begins where the one before it ends.
pub(super) fn timeline(intervals: &[Interval]) -> Vec<TimelinePoint> {
    let mut from_s = 0.0;
    let mut timeline = Vec::new();
    for intervals in intervals.chunks(intervals_per_point(intervals)) {
        let end_s = intervals.iter().map(|interval| interval.t_s).fold(from_s, f64::max);
        // Intervals from a file may be empty or out of order. Without a length there is no rate.
        if end_s > from_s {
            timeline.push(point(intervals, from_s, end_s));
        }
        from_s = end_s;
    }
    timeline
}

fn point(intervals: &[Interval], from_s: f64, end_s: f64) -> TimelinePoint {
    let received: f64 = intervals.iter().map(|interval| interval.received as f64).sum();
    // The percentile of several intervals cannot be computed from their percentiles. It is at most the largest of them.
    let worst = |figure: fn(&Interval) -> Option<u64>| intervals.iter().filter_map(figure).max();
    TimelinePoint {
        middle_s: from_s + (end_s - from_s) / 2.0,
        end_s,
        packets_per_s: received / (end_s - from_s),
        p50_ns: worst(|interval| interval.p50_ns),
        p99_ns: worst(|interval| interval.p99_ns),
        p999_ns: worst(|interval| interval.p999_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(t_s: f64, received: u64, p99_ns: Option<u64>) -> Interval {
        Interval { t_s, received, p99_ns, ..Interval::default() }
    }

    #[test]
    fn the_rate_of_a_short_last_interval_uses_its_own_length() {
        let timeline = timeline(&[interval(1.0, 100, Some(7)), interval(1.5, 40, None)]);
        let rates: Vec<_> = timeline.iter().map(|point| (point.middle_s, point.packets_per_s)).collect();
        assert_eq!(rates, [(0.5, 100.0), (1.25, 80.0)]);
        assert_eq!((timeline[0].p99_ns, timeline[1].p99_ns), (Some(7), None));
    }

    #[test]
    fn a_long_run_keeps_its_packets_and_its_worst_intervals() {
        let stall = |second| if second == 1234 { 9_000 } else { 5 };
        let second = |second: u64| interval(second as f64 + 1.0, 10, Some(stall(second)));
        let timeline = timeline(&(0..3600).map(second).collect::<Vec<_>>());
        assert_eq!(timeline.len(), MAX_POINTS);
        assert!(timeline.iter().all(|point| point.packets_per_s == 10.0));
        assert_eq!(timeline.iter().filter(|point| point.p99_ns == Some(9_000)).count(), 1);
    }

    #[test]
    fn an_interval_that_ends_before_it_begins_is_ignored() {
        let timeline = timeline(&[interval(1.0, 1, None), interval(1.0, 1, None), interval(-3.0, 1, None)]);
        assert_eq!(timeline.len(), 1);
    }
}
