//! Adds up the intervals of several results.
//!
//! ```text
//!   A    |   1   |   2   |   3   |
//!   B        |   1   |   2   |.|        began later: each interval is added to the one with the nearest end
//!   sum  |   1   |   2   |   3   |
//! ```

use std::collections::BTreeMap;

use crate::result::document::{Document, Interval, Window};

/// By how much the interval lengths of the parts may differ, as a share: the clocks of the machines are not exact.
const MAX_LENGTH_DIFFERENCE: f64 = 0.1;

/// Returns no intervals if the parts have intervals of different lengths: what came back in a part of an interval is
/// not known.
pub(crate) fn sum(parts: &[Document], window: Window) -> Vec<Interval> {
    let lengths: Vec<f64> = parts.iter().filter_map(|part| usual_length(&part.intervals)).collect();
    let (shortest, longest) = lengths
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), length| (low.min(*length), high.max(*length)));
    if lengths.is_empty() || longest > shortest * (1.0 + MAX_LENGTH_DIFFERENCE) {
        return Vec::new();
    }
    let mut slots: BTreeMap<i64, Interval> = BTreeMap::new();
    for part in parts {
        let late_s = part.window.start_unix_ns.saturating_sub(window.start_unix_ns) as f64 / 1e9;
        let mut last = i64::MIN;
        for interval in &part.intervals {
            let end = Interval { t_s: late_s + interval.t_s, ..interval.clone() };
            // A short interval at the end gets its own slot, not that of the full interval before it.
            let slot = ((end.t_s / shortest).round() as i64).max(last.saturating_add(1));
            last = slot;
            slots.entry(slot).and_modify(|sum| add(sum, &end)).or_insert(end);
        }
    }
    // If any slot is a sum, no slot keeps its percentiles: `compare` would otherwise take the few slots of a single
    // part for the whole run.
    let is_mixed = parts.iter().map(|part| part.intervals.len()).sum::<usize>() > slots.len();
    let mut until_s = 0.0_f64;
    let in_order = slots.into_values().map(|mut interval| {
        until_s = until_s.max(interval.t_s);
        interval.t_s = until_s;
        interval.unix_ns = window.start_unix_ns.saturating_add((until_s * 1e9) as u64);
        if is_mixed {
            (interval.p50_ns, interval.p99_ns, interval.p999_ns) = (None, None, None);
        }
        interval
    });
    in_order.collect()
}

/// The median length, as the last interval may be short.
fn usual_length(intervals: &[Interval]) -> Option<f64> {
    let begins = std::iter::once(0.0).chain(intervals.iter().map(|interval| interval.t_s));
    let mut lengths: Vec<f64> =
        intervals.iter().zip(begins).map(|(interval, begin)| interval.t_s - begin).collect();
    lengths.sort_unstable_by(f64::total_cmp);
    lengths.get(lengths.len() / 2).copied().filter(|length| *length > 0.0)
}

/// Adds counts and takes the larger maximum. Percentiles cannot be added; the caller removes them.
fn add(sum: &mut Interval, other: &Interval) {
    sum.t_s = sum.t_s.max(other.t_s);
    let counts = [
        (&mut sum.received, other.received),
        (&mut sum.sent, other.sent),
        (&mut sum.bytes_sent, other.bytes_sent),
        (&mut sum.bytes_received, other.bytes_received),
        (&mut sum.errors, other.errors),
    ];
    for (count, other) in counts {
        *count = count.saturating_add(other);
    }
    sum.max_ns = sum.max_ns.max(other.max_ns);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::{document, interval};

    /// A result that began `late_ms` after second 10. `intervals` are pairs of end time in s and packets received.
    fn part(late_ms: u64, intervals: &[(f64, u64)]) -> Document {
        let mut document = document();
        document.window.start_unix_ns += late_ms * 1_000_000;
        let figures = |&(t_s, received)| Interval {
            p99_ns: Some(received),
            max_ns: Some(received),
            ..interval(t_s, received)
        };
        document.intervals = intervals.iter().map(figures).collect();
        document
    }

    fn received(parts: &[Document]) -> Vec<(f64, u64)> {
        let sum = sum(parts, document().window);
        sum.iter().map(|interval| (interval.t_s, interval.received)).collect()
    }

    #[test]
    fn intervals_of_the_same_time_are_added() {
        let (a, b) = (part(0, &[(1.0, 10), (2.0, 20)]), part(100, &[(1.0, 1), (2.0, 2), (3.0, 3)]));
        assert_eq!(received(&[a.clone(), b.clone()]), [(1.1, 11), (2.1, 22), (3.1, 3)]);
        let end_ns = |sum: &[Interval]| sum.iter().map(|interval| interval.unix_ns).collect::<Vec<_>>();
        let summed = super::sum(&[a.clone(), b.clone()], document().window);
        assert_eq!(end_ns(&summed), [11_100_000_000, 12_100_000_000, 13_100_000_000]);
        let late = part(2000, &[(1.0, 1), (2.0, 2)]);
        assert_eq!(received(&[a.clone(), late]), [(1.0, 10), (2.0, 20), (3.0, 1), (4.0, 2)]);
        let sum = sum(&[a, b], document().window);
        assert_eq!((sum[0].p99_ns, sum[0].max_ns), (None, Some(10)), "percentiles do not add up");
        assert_eq!(
            (sum[2].p99_ns, sum[2].max_ns),
            (None, Some(3)),
            "a slot of a single part keeps no percentiles either"
        );
        let alone = super::sum(&[part(0, &[(1.0, 10)])], document().window);
        assert_eq!(alone[0].p99_ns, Some(10));
    }

    #[test]
    fn a_short_interval_at_the_end_is_not_added_to_a_full_one() {
        let parts = [part(0, &[(1.0, 10), (2.0, 20), (2.2, 1)]), part(0, &[(1.0, 10), (2.0, 20), (2.4, 2)])];
        assert_eq!(received(&parts), [(1.0, 20), (2.0, 40), (2.4, 3)]);
    }

    #[test]
    fn intervals_of_different_lengths_have_no_sum() {
        let parts = [part(0, &[(1.0, 10), (2.0, 20)]), part(0, &[(0.5, 10), (1.0, 20)])];
        assert_eq!(received(&parts), []);
        assert_eq!(received(&[part(0, &[]), part(0, &[])]), []);
    }

    #[test]
    fn absurd_times_do_not_panic() {
        let parts =
            [part(0, &[(1e300, 10), (-5.0, u64::MAX)]), part(u64::MAX / 4_000_000, &[(1.0, 1), (1.0, 1)])];
        assert!(received(&parts).is_sorted_by(|a, b| a.0 <= b.0));
    }
}
