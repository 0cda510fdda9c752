//! When what was sent is written, and the task that sees to it.
//!
//! ```text
//!                 adaptive                                timed
//!   send:         list the connection, to be swept        wake the flusher, once
//!   recv:         writes before it waits                  -
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
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::shared::Shared;

/// How long packets may gather in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushPolicy {
    /// Until the sender yields, or the receiver waits.
    Adaptive,
    /// Until none has followed for `delay`, and for `max_delay` at most.
    Timed { delay: Duration, max_delay: Duration },
}

/// When the packets that stand in the outbox were accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

impl FlushPolicy {
    /// When packets queued at these times are to be written; `None` for at once.
    pub(crate) fn due(self, queued: Queued) -> Option<Instant> {
        match self {
            Self::Adaptive => None,
            Self::Timed { delay, max_delay } => {
                Some(later(queued.last, delay).min(later(queued.first, max_delay)))
            }
        }
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
    async move {
        // Made by the first wait: adaptive flushing, the default, never does.
        let mut sleep: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            loop {
                match shared.0.run_flusher(cx) {
                    Next::Wake => return Poll::Pending,
                    Next::At(due) => ready!(poll_sleep(&mut sleep, due, cx)),
                    Next::End => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

fn poll_sleep(sleep: &mut Option<Pin<Box<Sleep>>>, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
    if sleep.deadline() != until {
        sleep.as_mut().reset(until);
    }
    sleep.as_mut().poll(cx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_follows_puts_the_write_off_but_not_beyond_the_longest_delay() {
        let ms = Duration::from_millis;
        let policy = FlushPolicy::Timed { delay: ms(1), max_delay: ms(10) };
        let first = Instant::from_std(std::time::Instant::now());
        for (last_ms, due_ms) in [(0, 1), (4, 5), (9, 10), (30, 10)] {
            let queued = Queued { first, last: first + ms(last_ms) };
            assert_eq!(policy.due(queued), Some(first + ms(due_ms)), "the last after {last_ms} ms");
        }
    }

    #[test]
    fn a_delay_beyond_the_clock_is_no_panic() {
        let policy = FlushPolicy::Timed { delay: Duration::from_millis(1), max_delay: Duration::MAX };
        let now = Instant::from_std(std::time::Instant::now());
        assert_eq!(policy.due(Queued { first: now, last: now }), Some(now + Duration::from_millis(1)));
    }

    #[test]
    fn adaptive_flushing_knows_no_time() {
        let now = Instant::from_std(std::time::Instant::now());
        assert_eq!(FlushPolicy::Adaptive.due(Queued { first: now, last: now }), None);
    }
}
