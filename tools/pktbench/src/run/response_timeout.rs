//! Decides when to stop waiting for packets that do not come back.
//!
//! ```text
//!   --duration:   start ---- sends ----> stop_at ---- timeout ----> give up
//!   --packets:    start ---- sends ---- last response ---- timeout ----> give up, if packets are outstanding
//! ```
//!
//! The conductor asks about ten times per second. No packet has a timer of its own, which keeps the hot loop fast.

use std::time::{Duration, Instant};

pub(crate) struct ResponseTimeout {
    timeout: Duration,
    /// When sending ends; `None` if a number of packets ends the run.
    stop_at: Option<Instant>,
    answers: u64,
    /// When `answers` last grew, or when nothing was outstanding.
    progress_at: Instant,
}

impl ResponseTimeout {
    pub(crate) fn new(timeout: Duration, stop_at: Option<Instant>, now: Instant) -> Self {
        Self { timeout, stop_at, answers: 0, progress_at: now }
    }

    /// Whether to give up at `now`. `answers` have come back so far. `is_awaiting_peer` tells whether packets are
    /// outstanding or unsent.
    pub(crate) fn has_expired(&mut self, answers: u64, is_awaiting_peer: bool, now: Instant) -> bool {
        if answers != self.answers || !is_awaiting_peer {
            self.answers = answers;
            self.progress_at = now;
        }
        now >= self.stop_at.unwrap_or(self.progress_at) + self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_run_of_a_duration_waits_for_the_timeout_after_its_end() {
        let start = Instant::now();
        let mut timeout = ResponseTimeout::new(2 * SECOND, Some(start + 10 * SECOND), start);
        assert!(!timeout.has_expired(0, true, start + 11 * SECOND), "a server that has not answered yet");
        assert!(timeout.has_expired(100, true, start + 12 * SECOND), "a server that answers slowly");
    }

    #[test]
    fn a_run_of_a_number_of_packets_goes_on_as_long_as_some_come_back() {
        let start = Instant::now();
        let mut timeout = ResponseTimeout::new(2 * SECOND, None, start);
        for second in 1..100 {
            assert!(!timeout.has_expired(u64::from(second), true, start + second * SECOND));
        }
        assert!(!timeout.has_expired(99, true, start + 100 * SECOND));
        assert!(timeout.has_expired(99, true, start + 101 * SECOND));
    }

    #[test]
    fn a_slow_schedule_is_not_given_up_while_nothing_is_outstanding() {
        let start = Instant::now();
        let mut timeout = ResponseTimeout::new(2 * SECOND, None, start);
        assert!(!timeout.has_expired(5, false, start + 100 * SECOND));
        assert!(!timeout.has_expired(5, true, start + 101 * SECOND), "sent just now");
        assert!(!timeout.has_expired(5, false, start + 103 * SECOND));
        assert!(!timeout.has_expired(5, true, start + 104 * SECOND));
        assert!(timeout.has_expired(5, true, start + 105 * SECOND));
    }
}
