//! Heartbeats: decides when to send an empty packet because nothing else was sent.

use std::time::Duration;

use tokio::time::Instant;

/// Compares the number of sent packets at regular checks, so that heartbeats add no cost to `send`.
///
/// A check only sees whether packets were sent since the previous check, not when. Checks are half an interval apart,
/// so that the peer never waits for longer than the interval.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    next_check: Instant,
    /// The number of sent packets at the last check.
    sent: u64,
    /// When the last packet was sent. Known only if that was a heartbeat.
    sent_at: Option<Instant>,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        let mut heartbeat = Self { interval, next_check: now, sent: 0, sent_at: Some(now) };
        heartbeat.check_after(interval / 2, now);
        heartbeat
    }

    /// The time of the next check.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Checks with `sent` packets sent so far. Returns whether a heartbeat is due. The caller must then send it now.
    pub(super) fn check(&mut self, sent: u64, now: Instant) -> bool {
        if now < self.next_check {
            return false;
        }
        let was_silent = sent == self.sent;
        self.sent = sent;
        if !was_silent {
            self.sent_at = None;
            self.check_after(self.interval / 2, now);
            return false;
        }
        let since_sent = self.sent_at.map_or(self.interval, |at| now - at);
        if since_sent < self.interval {
            self.check_after(self.interval - since_sent, now);
            return false;
        }
        self.sent += 1;
        self.sent_at = Some(now);
        self.check_after(self.interval / 2, now);
        true
    }

    /// Schedules the next check while packets are queued. No heartbeat is due then.
    pub(super) fn skip(&mut self, now: Instant) -> bool {
        if now >= self.next_check {
            self.sent_at = None;
            self.check_after(self.interval / 2, now);
        }
        false
    }

    fn check_after(&mut self, pause: Duration, now: Instant) {
        // Replaces an interval that would overflow the clock.
        const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        self.next_check = now + pause.min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    #[test]
    fn an_idle_connection_sends_one_heartbeat_per_interval() {
        let start = start();
        let mut heartbeat = Heartbeat::new(10 * SECOND, start);
        let mut beats = Vec::new();
        while heartbeat.next_check() <= start + 35 * SECOND {
            let now = heartbeat.next_check();
            if heartbeat.check(beats.len() as u64, now) {
                beats.push((now - start).as_secs());
            }
        }
        assert_eq!(beats, [10, 20, 30]);
    }

    #[test]
    fn an_interval_that_overflows_the_clock_does_not_panic() {
        let start = start();
        let mut heartbeat = Heartbeat::new(Duration::MAX, start);
        assert!(!heartbeat.check(0, start));
        assert!(!heartbeat.check(0, heartbeat.next_check()));
    }

    proptest! {
        /// For any send times: the peer never waits for longer than the interval, and no heartbeat follows a packet
        /// within half of it.
        #[test]
        fn the_silence_is_bounded(pauses_ms in prop::collection::vec(0..25_000_u64, 0..50)) {
            let interval = 10 * SECOND;
            let mut now = start();
            let mut heartbeat = Heartbeat::new(interval, now);
            let (mut sent, mut last_sent) = (0, now);
            for pause in pauses_ms {
                let until = now + Duration::from_millis(pause);
                while heartbeat.next_check() <= until {
                    now = heartbeat.next_check();
                    if heartbeat.check(sent, now) {
                        prop_assert!(now - last_sent >= interval / 2, "{:?}", now - last_sent);
                        (sent, last_sent) = (sent + 1, now);
                    }
                    prop_assert!(now - last_sent <= interval, "{:?}", now - last_sent);
                }
                now = until;
                (sent, last_sent) = (sent + 1, now);
            }
        }
    }
}
