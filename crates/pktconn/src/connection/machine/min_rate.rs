//! A minimum rate, and the windows in which it is measured.
//!
//! ```text
//!   time in which the peer has something to move:   |---- window ----|---- window ----|---- ...
//!   bytes that it must move in a window:             a quota, or all that was due at its start if that is less
//! ```
//!
//! Bytes beyond the quota are credit for the next window, up to one quota. So a peer at exactly the rate passes
//! whatever the size of its chunks, up to one quota each, and a burst buys no more than one window of silence.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Reason, Timeout};

/// A number of bytes per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MinRate {
    quota: u64,
    pub(super) window: Duration,
}

impl MinRate {
    pub(crate) fn new(bytes_per_second: u64, window: Duration) -> Self {
        let nanos = u128::from(bytes_per_second).saturating_mul(window.as_nanos());
        Self { quota: u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX), window }
    }

    /// Whether the rate or the window is zero.
    pub(crate) fn is_zero(self) -> bool {
        self.quota == 0
    }
}

/// The current window, and what the peer has moved in it.
#[derive(Debug)]
pub(super) struct RateWindow {
    moved: u64,
    credit: u64,
    /// The quota, or what was due at the start of the window if that was less.
    expected: u64,
    /// How much of the window has passed. Only the caller knows which time counts.
    passed: Duration,
}

impl RateWindow {
    /// The first window. `due`: how many bytes the peer has to move.
    pub(super) fn new(rate: MinRate, due: u64) -> Self {
        Self { moved: 0, credit: 0, expected: rate.quota.min(due), passed: Duration::ZERO }
    }

    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes);
    }

    pub(super) fn add_time(&mut self, time: Duration) {
        self.passed = self.passed.saturating_add(time);
    }

    pub(super) fn time_left(&self, rate: MinRate) -> Duration {
        rate.window.saturating_sub(self.passed)
    }

    /// Starts the next window if this one is over and the peer has moved enough. `due`: how many bytes the peer still
    /// has to move.
    ///
    /// A window that is over and stays has failed. A window whose end is noticed late, by more than a quarter, does not
    /// fail: while this side was busy, the peer may have been unable to move more.
    pub(super) fn roll(&mut self, rate: MinRate, due: u64) {
        let is_late = self.passed > rate.window.saturating_add(rate.window / 4);
        let total = self.moved.saturating_add(self.credit);
        if self.time_left(rate).is_zero() && (total >= self.expected || is_late) {
            let credit = total.saturating_sub(rate.quota).min(rate.quota);
            *self = Self { credit, ..Self::new(rate, due) };
        }
    }

    /// Why the connection ends if this window fails.
    pub(super) fn reason(&self, which: Timeout, rate: MinRate) -> Reason {
        Reason::TooSlow { which, moved: self.moved, expected: self.expected, window: rate.window }
    }
}

/// How fast the peer of a blocked transport takes bytes.
#[derive(Debug)]
pub(super) struct SendRate {
    pub(super) window: RateWindow,
    /// Until when the time of the window is counted.
    counted_to: Instant,
    /// How many bytes the peer had taken when it was last asked.
    pub(super) taken: u64,
}

impl SendRate {
    /// The peer has taken the first `taken` bytes, and `due` more are queued for it.
    pub(super) fn new(rate: MinRate, due: u64, taken: u64, now: Instant) -> Self {
        Self { window: RateWindow::new(rate, due), counted_to: now, taken }
    }

    /// The peer has taken the first `taken` bytes.
    ///
    /// The number can go down under TLS, when encrypted bytes move from its buffer to the kernel.
    pub(super) fn note_taken(&mut self, taken: u64) {
        self.window.add_bytes(taken.saturating_sub(self.taken));
        self.taken = taken;
    }

    pub(super) fn count_time(&mut self, now: Instant) {
        self.window.add_time(now.saturating_duration_since(self.counted_to));
        self.counted_to = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const WINDOW_MS: u64 = 1000;
    const QUOTA: u64 = 5000;

    fn rate() -> MinRate {
        MinRate::new(QUOTA, WINDOW_MS as u32 * MS)
    }

    /// Runs a peer that has moved `total_at(ms)` bytes after each millisecond, of `due` bytes. Returns when it failed.
    fn failed_at(due: u64, until_ms: u64, total_at: impl Fn(u64) -> u64) -> Option<u64> {
        let mut window = RateWindow::new(rate(), due);
        let mut total = 0;
        for ms in 0..=until_ms {
            let now_total = total_at(ms).min(due);
            window.add_bytes(now_total - total);
            total = now_total;
            if total == due {
                return None;
            }
            window.roll(rate(), due - total);
            if window.time_left(rate()).is_zero() {
                return Some(ms);
            }
            window.add_time(MS);
        }
        None
    }

    #[test]
    fn the_quota_is_rounded_up_and_overflows_nothing() {
        assert_eq!(MinRate::new(1, MS).quota, 1);
        assert_eq!(MinRate::new(1500, 2 * MS).quota, 3);
        assert_eq!(MinRate::new(u64::MAX, Duration::MAX).quota, u64::MAX);
        assert!(MinRate::new(0, MS).is_zero() && MinRate::new(1, Duration::ZERO).is_zero());
    }

    #[test]
    fn a_silent_peer_fails_after_one_window_and_after_a_burst_after_two() {
        let first = WINDOW_MS;
        assert_eq!(failed_at(u64::MAX, 10_000, |_| 1), Some(first));
        assert_eq!(failed_at(u64::MAX, 10_000, |_| QUOTA), Some(2 * first));
        assert_eq!(failed_at(u64::MAX, 10_000, |_| 1000 * QUOTA), Some(3 * first));
    }

    #[test]
    fn a_small_remainder_is_expected_within_a_window_and_nothing_more() {
        assert_eq!(failed_at(10, 10_000, |ms| ms / 99), None);
        assert_eq!(failed_at(10, 10_000, |ms| ms / 101), Some(WINDOW_MS));
        let mut window = RateWindow::new(rate(), 10);
        window.add_bytes(9);
        let reason = window.reason(Timeout::MinRecvRate, rate()).into();
        let expected = "the peer sent 9 bytes in 1s while a frame was incomplete; at least 10 were expected \
                        (min_recv_rate)";
        assert_eq!(crate::Error::to_string(&reason), expected);
        assert_eq!(reason.timeout(), Some(Timeout::MinRecvRate));
    }

    #[test]
    fn a_window_that_is_noticed_late_does_not_fail() {
        let mut window = RateWindow::new(rate(), u64::MAX);
        window.add_time(1251 * MS);
        window.roll(rate(), u64::MAX);
        assert_eq!(window.time_left(rate()), 1000 * MS);
        window.add_time(1250 * MS);
        window.roll(rate(), u64::MAX);
        assert!(window.time_left(rate()).is_zero(), "a quarter is not late");
    }

    proptest! {
        /// A chunk of `chunk` bytes comes as soon as those before it are used up at the rate.
        #[test]
        fn a_peer_at_exactly_the_rate_never_fails_whatever_its_chunks(
            chunks in prop::collection::vec(1..=QUOTA, 1..100),
            due in 1..200_000_u64,
        ) {
            let total_at = |ms: u64| {
                let needed = ms * QUOTA / WINDOW_MS;
                let mut total = 0;
                for chunk in chunks.iter().cycle() {
                    if total > needed {
                        return total;
                    }
                    total += chunk;
                }
                total
            };
            prop_assert_eq!(failed_at(due, 50_000, total_at), None);
        }

        /// The chunks are smaller than what the peer is behind after two windows.
        #[test]
        fn a_peer_below_the_rate_fails_within_two_windows(percent in 0..95_u64, chunk in 1..QUOTA / 20) {
            let total_at = |ms: u64| {
                let bytes = ms * QUOTA * percent / 100 / WINDOW_MS;
                chunk + bytes - bytes % chunk
            };
            let failed_at = failed_at(u64::MAX, 10_000, total_at);
            prop_assert!(failed_at.is_some_and(|ms| ms <= 2 * WINDOW_MS), "{:?}", failed_at);
        }

        /// However a peer moves bytes, and whatever its credit is.
        #[test]
        fn a_peer_that_does_not_fail_moves_a_quota_in_any_three_windows(
            steps in prop::collection::vec((0..1500_u64, 0..2 * QUOTA), 1..60),
        ) {
            let moved_by = |until: u64| {
                let mut at = 0;
                let moved = steps.iter().take_while(|(pause, _)| { at += pause; at <= until });
                moved.map(|(_, bytes)| bytes).sum::<u64>()
            };
            let end = failed_at(u64::MAX, 30_000, moved_by).unwrap_or(30_000);
            for start in (0..end.saturating_sub(3 * WINDOW_MS)).step_by(97) {
                let moved = moved_by(start + 3 * WINDOW_MS) - moved_by(start);
                prop_assert!(moved >= QUOTA, "{} bytes from {} ms", moved, start);
            }
        }
    }
}
