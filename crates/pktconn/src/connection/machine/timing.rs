//! Timed flushing: decides when the queued packets must be written.

use std::time::Duration;

use tokio::time::Instant;

/// When the queue is written if nothing writes it earlier (a full write, a flush, a close): when no packet has joined it
/// for `delay`, and at the latest `max_delay` after the first packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    delay: Duration,
    max_delay: Duration,
    /// When the first packet joined the queue after it was empty, and when the last one did.
    queued: Option<(Instant, Instant)>,
}

impl Timing {
    pub(crate) fn new(delay: Duration, max_delay: Duration) -> Self {
        Self { delay, max_delay, queued: None }
    }

    /// A packet joined the queue, or waits behind it under a key.
    pub(crate) fn packet_queued(&mut self, now: Instant) {
        self.queued = Some((self.queued.map_or(now, |(first, _)| first), now));
    }

    /// A write has emptied the queue.
    pub(crate) fn all_written(&mut self) {
        self.queued = None;
    }

    /// When the queue must be written. `None` if it is empty.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (first, last) = self.queued?;
        Some(later(last, self.delay).min(later(first, self.max_delay)))
    }
}

/// `from + by`, or 30 years after `from` if that overflows the clock.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or_else(|| from + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    #[test]
    fn each_packet_postpones_the_write_up_to_the_maximum_delay() {
        let ms = Duration::from_millis;
        let first = now();
        for (last_ms, due_ms) in [(0, 1), (4, 5), (9, 10), (30, 10)] {
            let mut timing = Timing::new(ms(1), ms(10));
            timing.packet_queued(first);
            timing.packet_queued(first + ms(last_ms));
            assert_eq!(timing.due(), Some(first + ms(due_ms)), "the last after {last_ms} ms");
        }
    }

    #[test]
    fn an_empty_queue_is_never_due_and_starts_again() {
        let ms = Duration::from_millis;
        let (mut timing, first) = (Timing::new(ms(1), ms(10)), now());
        assert_eq!(timing.due(), None);
        timing.packet_queued(first);
        timing.all_written();
        assert_eq!(timing.due(), None);
        timing.packet_queued(first + ms(30));
        assert_eq!(timing.due(), Some(first + ms(31)));
    }

    #[test]
    fn a_delay_that_overflows_the_clock_does_not_panic() {
        let mut timing = Timing::new(Duration::from_millis(1), Duration::MAX);
        let now = now();
        timing.packet_queued(now);
        assert_eq!(timing.due(), Some(now + Duration::from_millis(1)));
    }
}
