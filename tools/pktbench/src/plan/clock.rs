//! The clock of a run: nanoseconds since its start, in a `u64`. Every outstanding packet stores two such times, which
//! need half the memory of an `Instant`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    pub(crate) fn now_ns(self) -> u64 {
        self.ns_of(Instant::now())
    }

    /// 0 for a time before the start.
    pub(crate) fn ns_of(self, instant: Instant) -> u64 {
        whole_ns(instant.saturating_duration_since(self.start))
    }

    pub(crate) fn instant(self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }
}

/// A time in ns since 1970 (UTC). 0 for an earlier one.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    whole_ns(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// In how many parts the time is divided for the ages of what is overdue: an error of 2 % of the time.
const AGE_PARTS: u64 = 64;

/// The ages at `end_ns` of what was due from `from_ns` on, as lower bounds, and how many have each age. `count_until` tells how
/// many are due until a time. Computed without a loop over them, because there may be very many.
pub(crate) fn overdue_ages(
    from_ns: u64,
    end_ns: u64,
    count_until: impl Fn(u64) -> u64,
) -> impl Iterator<Item = (u64, u64)> {
    let length_ns = u128::from(end_ns.saturating_sub(from_ns));
    let time = move |part: u64| from_ns + (length_ns * u128::from(part) / u128::from(AGE_PARTS)) as u64;
    (0..AGE_PARTS).filter_map(move |part| {
        let (start_ns, until_ns) = (time(part), time(part + 1));
        let count = count_until(until_ns).saturating_sub(count_until(start_ns));
        (count > 0).then_some((end_ns - until_ns, count))
    })
}

/// A time in ns. A `u64` has room for 584 years, more than any run.
pub(crate) fn whole_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ages_of_what_is_overdue_are_lower_bounds_within_2_percent() {
        // One per ms from 1 s on, until 5 s.
        let count_until = |ns: u64| (ns / 1_000_000).saturating_sub(1000);
        let ages: Vec<_> = overdue_ages(1_000_000_000, 5_000_000_000, count_until).collect();
        assert_eq!(ages.iter().map(|(_, count)| count).sum::<u64>(), 4000);
        let mean_ms = ages.iter().map(|(age_ns, count)| age_ns / 1000 * count).sum::<u64>() / 4000 / 1000;
        assert!((1960..=2000).contains(&mean_ms), "{mean_ms} ms");
        assert!(ages[0].0 >= 3_900_000_000, "{ages:?}");
        assert_eq!(overdue_ages(5, 5, |_| 7).count(), 0);
    }
}
