//! The maximum age of a connection: when it stops receiving, and when it ends.

use std::time::Duration;

use tokio::time::Instant;

/// The jitter is up to one part in this many, in both directions: a tenth, as gRPC has it.
const JITTER_PARTS: u32 = 10;

/// `max_connection_age` and its grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) age: Duration,
    pub(crate) grace: Duration,
}

impl MaxAge {
    /// The age of one connection: up to a tenth more or less. A function of `seed` alone, so that it needs no source of
    /// randomness.
    fn with_jitter(self, seed: u64) -> Duration {
        let fraction = (mix(seed) >> 32) as u32;
        // Between 0 and 2 / JITTER_PARTS of the age.
        let jitter = (self.age / JITTER_PARTS * 2).mul_f64(f64::from(fraction) / f64::from(u32::MAX));
        (self.age - self.age / JITTER_PARTS).saturating_add(jitter)
    }
}

/// The last step of `SplitMix64`, which spreads seeds that follow each other.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the age of a connection requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgeEvent {
    /// Receive what has arrived, and then nothing more.
    Drain,
    /// End the connection: the grace, of this length, is over.
    End(Duration),
}

/// The two times of one connection. `None` if a time overflows the clock: it never comes.
#[derive(Debug)]
pub(super) struct Age {
    drains_at: Option<Instant>,
    ends_at: Option<Instant>,
    grace: Duration,
    is_draining: bool,
}

impl Age {
    pub(super) fn new(max: MaxAge, seed: u64, now: Instant) -> Self {
        let drains_at = now.checked_add(max.with_jitter(seed));
        let ends_at = drains_at.and_then(|at| at.checked_add(max.grace));
        Self { drains_at, ends_at, grace: max.grace, is_draining: false }
    }

    /// What is due now. Returns each event once, and `Drain` before `End`.
    pub(super) fn check(&mut self, now: Instant) -> Option<AgeEvent> {
        if self.next_check()? > now {
            return None;
        }
        if self.is_draining {
            self.ends_at = None;
            return Some(AgeEvent::End(self.grace));
        }
        self.is_draining = true;
        Some(AgeEvent::Drain)
    }

    /// The grace, if the connection is draining or has ended.
    pub(super) fn reached(&self) -> Option<Duration> {
        self.is_draining.then_some(self.grace)
    }

    pub(super) fn next_check(&self) -> Option<Instant> {
        if self.is_draining { self.ends_at } else { self.drains_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_jitter_is_at_most_a_tenth_and_spreads_connections_that_began_together() {
        let max = MaxAge { age: 1000 * SECOND, grace: SECOND };
        let mut tenths = [0; 10];
        for seed in 0..10_000 {
            let age = max.with_jitter(seed);
            assert!(age >= 900 * SECOND && age <= 1100 * SECOND, "{age:?}");
            assert_eq!(age, max.with_jitter(seed));
            tenths[(((age - 900 * SECOND).as_secs_f64() / 20.0) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_connection_drains_at_its_age_and_ends_after_the_grace() {
        let start = Instant::now();
        let mut age = Age::new(MaxAge { age: 100 * SECOND, grace: 5 * SECOND }, 7, start);
        let drains_at = age.next_check().unwrap();
        assert_eq!(age.check(drains_at - SECOND), None);
        assert_eq!(age.check(drains_at), Some(AgeEvent::Drain));
        assert_eq!((age.check(drains_at), age.next_check()), (None, Some(drains_at + 5 * SECOND)));
        assert_eq!(age.check(drains_at + 5 * SECOND), Some(AgeEvent::End(5 * SECOND)));
        assert_eq!((age.check(drains_at + 9 * SECOND), age.next_check()), (None, None));
    }

    #[test]
    fn times_that_overflow_the_clock_never_come() {
        let start = Instant::now();
        for (age, grace) in [(Duration::MAX, SECOND), (SECOND, Duration::MAX)] {
            let mut age = Age::new(MaxAge { age, grace }, 7, start);
            let drains_at = age.next_check();
            assert_eq!(drains_at.and_then(|at| age.check(at)), drains_at.map(|_| AgeEvent::Drain));
            assert_eq!((age.check(start + SECOND), age.next_check()), (None, None));
        }
    }
}
