//! When what was sent is written, and the task that sees to it.
//!
//! ```text
//!                 adaptive                                timed
//!   send:         list the connection, to be swept        wake the flusher, once
//!   recv:         writes before it waits                  -
//!   send_many:    writes the batch at its end             as send
//!   sweeper:      writes what is still there              -
//!                 when the sender has yielded
//!   flusher:      goes on where the transport             sleeps until the packets are due,
//!                 took no more                            then writes
//!   both:         a write's worth in the outbox is written by the `send` that made it so
//! ```
//!
//! Each thread has one [sweeper](crate::sweep). Each connection has one flusher, a small task that is spawned when the
//! connection first has to wait, for the transport, for a time, or for its end. It is the only task that the transport
//! wakes when it can be written again: no future of the application holds the progress of a write, so any of them can be
//! dropped at any time.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::shared::Shared;
use crate::timer::Timer;

/// Timed flushing: packets gather in the outbox until none has followed for `delay`, and for `max_delay` at most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    delay: Duration,
    max_delay: Duration,
    /// When the first and the last of the packets that stand in the outbox were accepted.
    queued: Option<(Instant, Instant)>,
}

impl Timing {
    pub(crate) fn new(delay: Duration, max_delay: Duration) -> Self {
        Self { delay, max_delay, queued: None }
    }

    /// A packet was accepted.
    pub(crate) fn packet_queued(&mut self, now: Instant) {
        self.queued = Some((self.queued.map_or(now, |(first, _)| first), now));
    }

    /// The outbox is empty.
    pub(crate) fn all_written(&mut self) {
        self.queued = None;
    }

    /// When what stands in the outbox is to be written.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (first, last) = self.queued?;
        Some(later(last, self.delay).min(later(first, self.max_delay)))
    }
}

/// A delay beyond what the clock can say is as good as 30 years, which it can.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or_else(|| from + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

/// What the flusher is to do when it has done what it could.
pub(crate) enum Next {
    /// Nothing, until it is woken.
    Wake,
    /// Come back at this time, or when it is woken.
    At(Instant),
    /// Nothing any more: the connection is gone.
    End,
}

/// Ends the connection when its flusher is dropped before the end: its runtime was shut down, or its transport panicked.
/// Nothing that was accepted would be written any more, and whoever waits for that would wait for ever.
struct EndWithFlusher(Arc<Shared>);

impl Drop for EndWithFlusher {
    fn drop(&mut self) {
        self.0.flusher_gone();
    }
}

/// The task of a connection that writes what no one else writes. It ends with the connection.
pub(crate) fn flusher(shared: Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    // Made before the first turn, which a runtime that is shut down does not grant.
    let shared = EndWithFlusher(shared);
    // A turn of it is bounded by the outbox: and what it finds to take no more is to be no limit of tokio's.
    tokio::task::unconstrained(async move {
        let mut timer = Timer::default();
        poll_fn(|cx| {
            loop {
                match shared.0.run_flusher(cx) {
                    Next::Wake => return Poll::Pending,
                    Next::At(due) => ready!(timer.poll_until(due, &shared.0.settings.runtime, cx)),
                    Next::End => return Poll::Ready(()),
                }
            }
        })
        .await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    #[test]
    fn a_packet_that_follows_puts_the_write_off_but_not_beyond_the_longest_delay() {
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
    fn an_empty_outbox_is_never_due_and_begins_anew() {
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
    fn a_delay_beyond_the_clock_is_no_panic() {
        let mut timing = Timing::new(Duration::from_millis(1), Duration::MAX);
        let now = now();
        timing.packet_queued(now);
        assert_eq!(timing.due(), Some(now + Duration::from_millis(1)));
    }
}
