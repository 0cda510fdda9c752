//! When to stop waiting for packets that do not come back.
//!
//! ```text
//!   for a time:             start ---- sends ----> stop_at ---- timeout ----> give up
//!   a number of packets:    start ---- sends ---- last packet, last answer ----- timeout ----> give up
//! ```
//!
//! Nobody asks this more than a few times a second, and no packet has a timer.

use std::time::{Duration, Instant};

pub(crate) struct Patience {
    timeout: Duration,
    stop_at: Option<Instant>,
    answers: u64,
    /// When a change of these was last seen, or nothing to wait for.
    changed_at: Instant,
}

impl Patience {
    pub(crate) fn new(timeout: Duration, stop_at: Option<Instant>, now: Instant) -> Self {
        Self { timeout, stop_at, answers: 0, changed_at: now }
    }

    /// Whether it is time to give up at `now`, when so many packets have been answered, and something is owed or not.
    pub(crate) fn is_over(&mut self, answers: u64, is_owed: bool, now: Instant) -> bool {
        if answers != self.answers || !is_owed {
            self.answers = answers;
            self.changed_at = now;
        }
        now >= self.stop_at.unwrap_or(self.changed_at) + self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_run_for_a_time_waits_for_so_long_after_it_and_no_longer() {
        let start = Instant::now();
        let mut patience = Patience::new(2 * SECOND, Some(start + 10 * SECOND), start);
        assert!(!patience.is_over(0, true, start + 11 * SECOND), "a server that has not answered yet");
        assert!(patience.is_over(100, true, start + 12 * SECOND), "a server that answers slowly");
    }

    #[test]
    fn a_number_of_packets_may_take_any_time_as_long_as_some_come_back() {
        let start = Instant::now();
        let mut patience = Patience::new(2 * SECOND, None, start);
        for second in 1..100 {
            assert!(!patience.is_over(u64::from(second), true, start + second * SECOND));
        }
        assert!(!patience.is_over(99, true, start + 100 * SECOND));
        assert!(patience.is_over(99, true, start + 101 * SECOND));
    }

    #[test]
    fn a_slow_schedule_is_not_given_up_while_nothing_is_outstanding() {
        let start = Instant::now();
        let mut patience = Patience::new(2 * SECOND, None, start);
        assert!(!patience.is_over(5, false, start + 100 * SECOND));
        assert!(!patience.is_over(5, true, start + 101 * SECOND), "sent just now");
        assert!(!patience.is_over(5, false, start + 103 * SECOND));
        assert!(!patience.is_over(5, true, start + 104 * SECOND));
        assert!(patience.is_over(5, true, start + 105 * SECOND));
    }
}
