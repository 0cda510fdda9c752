//! Heartbeats: when to send an empty packet because nothing else was sent.

use std::time::Duration;

use tokio::time::Instant;

/// Looks at the count of sent packets from time to time, so that a packet costs nothing.
///
/// A look finds either that nothing was sent since the last one, or that something was, at an unknown time between
/// both. Looks are half an interval apart, so that the peer never waits for longer than the interval.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    next_check: Instant,
    /// The packets sent at the last look.
    sent: u64,
    /// When the last packet was sent, if that is known: it was a heartbeat.
    sent_at: Option<Instant>,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        let mut heartbeat = Self { interval, next_check: now, sent: 0, sent_at: Some(now) };
        heartbeat.check_after(interval / 2, now);
        heartbeat
    }

    /// When to look next.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Looks, with `sent` packets sent so far. Whether a heartbeat is due; the caller sends it now.
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

    /// Looks, while packets wait to be written. None is due.
    pub(super) fn skip(&mut self, now: Instant) -> bool {
        if now >= self.next_check {
            self.sent_at = None;
            self.check_after(self.interval / 2, now);
        }
        false
    }

    fn check_after(&mut self, pause: Duration, now: Instant) {
        // An interval beyond what the clock can say is as good as 30 years.
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
    fn in_silence_there_is_one_for_each_interval() {
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
    fn an_interval_beyond_the_clock_is_no_panic() {
        let start = start();
        let mut heartbeat = Heartbeat::new(Duration::MAX, start);
        assert!(!heartbeat.check(0, start));
        assert!(!heartbeat.check(0, heartbeat.next_check()));
    }

    proptest! {
        /// Whatever is sent when: the peer never waits for longer than the interval, and there is no heartbeat within
        /// half of it.
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
