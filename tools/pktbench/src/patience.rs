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
    sent: u64,
    answers: u64,
    /// When a change of these was last seen, or nothing outstanding.
    changed_at: Instant,
}

impl Patience {
    pub(crate) fn new(timeout: Duration, stop_at: Option<Instant>, now: Instant) -> Self {
        Self { timeout, stop_at, sent: 0, answers: 0, changed_at: now }
    }

    /// Whether it is time to give up at `now`, when so many packets have been sent and answered.
    pub(crate) fn is_over(&mut self, sent: u64, answers: u64, now: Instant) -> bool {
        if (sent, answers) != (self.sent, self.answers) || sent == answers {
            (self.sent, self.answers) = (sent, answers);
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
        assert!(!patience.is_over(9, 0, start + 11 * SECOND), "a server that has not answered yet");
        assert!(patience.is_over(109, 100, start + 12 * SECOND), "a server that answers slowly");
    }

    #[test]
    fn a_number_of_packets_may_take_any_time_as_long_as_some_come_back() {
        let start = Instant::now();
        let mut patience = Patience::new(2 * SECOND, None, start);
        for second in 1..100 {
            assert!(!patience.is_over(200, u64::from(second), start + second * SECOND));
        }
        assert!(!patience.is_over(200, 99, start + 100 * SECOND));
        assert!(patience.is_over(200, 99, start + 101 * SECOND));
    }

    #[test]
    fn a_slow_schedule_is_not_given_up_while_nothing_is_outstanding() {
        let start = Instant::now();
        let mut patience = Patience::new(2 * SECOND, None, start);
        assert!(!patience.is_over(5, 5, start + 100 * SECOND));
        assert!(!patience.is_over(6, 5, start + 200 * SECOND), "sent just now");
        assert!(patience.is_over(6, 5, start + 203 * SECOND));
    }
}
