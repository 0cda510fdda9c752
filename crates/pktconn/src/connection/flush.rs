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
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::timer::Timer;
use crate::connection::yielding;

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

/// A connection, as its flusher sees it.
pub(crate) trait FlushTarget: Send + Sync + 'static {
    /// A turn of the flusher. `is_first` unless it is one [again](Next::Again).
    fn run_flusher(self: &Arc<Self>, is_first: bool, cx: &mut Context<'_>) -> Next;

    /// The flusher is dropped before its end: the runtime is gone.
    fn flusher_gone(self: &Arc<Self>);
}

/// Ends the connection when its flusher is dropped before its end, because its runtime was shut down. Nothing that was
/// accepted would be written any more, and callers that wait for it would wait for ever.
struct EndWithFlusher<T: FlushTarget>(Option<Arc<T>>);

impl<T: FlushTarget> Drop for EndWithFlusher<T> {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            conn.flusher_gone();
        }
    }
}

/// The task of a connection that writes what no one else writes.
pub(crate) fn flusher<T: FlushTarget>(conn: Arc<T>) -> impl Future<Output = ()> + Send + 'static {
    // Made before the first turn, which a runtime that is shut down does not grant.
    let mut guard = EndWithFlusher(Some(conn));
    // A turn of it is bounded by the queue: and what it finds to take no more is to be no limit of tokio's.
    tokio::task::unconstrained(async move {
        let mut timer = Timer::default();
        let mut is_first = true;
        poll_fn(|cx| {
            let Some(conn) = &guard.0 else { return Poll::Ready(()) };
            loop {
                let next = conn.run_flusher(is_first, cx);
                is_first = true;
                match next {
                    Next::Wake => return Poll::Pending,
                    Next::At(due) => ready!(timer.poll_until(due, cx)),
                    Next::Again => {
                        is_first = false;
                        yielding::yield_turn(cx);
                        return Poll::Pending;
                    }
                    Next::End => {
                        // It has retired: another one may be there by now.
                        guard.0 = None;
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    })
}
