//! The task of a connection that sees to what has to wait, and when what was sent is written.
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
//!   both:         a write's worth in the queue is written by the `send` that made it so
//! ```
//!
//! Each thread of a runtime has one [sweeper](super::sweep) for the connections of that runtime. A connection has one flusher,
//! a small task that is spawned when something has to wait: for the transport, for a time, or for the end. It is the only
//! task that the transport wakes when it can be written again, and the only one that keeps the time, also that of a receiver:
//! no future of the application holds any progress, so each can be dropped at any time and polled in any runtime. When
//! nothing is left to wait for, it ends.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::time::Instant;

use super::shared::Shared;
use super::timer::Timer;
use crate::turn;

/// What the flusher is to do when it has done what it could.
pub(crate) enum Next {
    /// Nothing, until it is woken.
    Wake,
    /// Come back at this time, or when it is woken.
    At(Instant),
    /// Come back after a turn of tokio's driver, as a deadline has passed.
    Again,
    /// Nothing any more.
    End,
}

/// Ends the connection when its flusher is dropped before its end, because its runtime was shut down. Nothing that was
/// accepted would be written any more, and callers that wait for it would wait for ever.
struct EndWithFlusher(Option<Arc<Shared>>);

impl Drop for EndWithFlusher {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.flusher_gone();
        }
    }
}

/// The task of a connection that writes what no one else writes.
pub(crate) fn flusher(shared: Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    // Made before the first turn, which a runtime that is shut down does not grant.
    let mut shared = EndWithFlusher(Some(shared));
    // A turn of it is bounded by the queue: and what it finds to take no more is to be no limit of tokio's.
    tokio::task::unconstrained(async move {
        let mut timer = Timer::default();
        let mut is_first = true;
        poll_fn(|cx| {
            let Some(conn) = &shared.0 else { return Poll::Ready(()) };
            loop {
                let next = conn.run_flusher(is_first, cx);
                is_first = true;
                match next {
                    Next::Wake => return Poll::Pending,
                    Next::At(due) => ready!(timer.poll_until(due, cx)),
                    Next::Again => {
                        is_first = false;
                        turn::end(cx);
                        return Poll::Pending;
                    }
                    Next::End => {
                        // It has retired: another one may be there by now.
                        shared.0 = None;
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    })
}
