//! The flusher: the task of a connection that waits for the transport, for deadlines and for the end. The table shows
//! who writes sent packets, and when.
//!
//! ```text
//!                 adaptive                                timed
//!   send:         lists the connection for the sweeper    wakes the flusher, once
//!   recv:         writes the queue before it waits        -
//!   send_many:    writes the batch at its end             like send
//!   sweeper:      writes the rest of the queue            -
//!                 when the sender has yielded
//!   flusher:      continues when a blocked transport      sleeps until the packets are due,
//!                 has room again                          then writes
//!   both:         the `send` that fills the queue to a full write (64 KiB) writes it
//! ```
//!
//! Each thread of a runtime has one [sweeper](super::sweep) for the connections of that runtime. A connection has at
//! most one flusher, a small task that is spawned when something has to wait, and ends when nothing is left to wait
//! for.
//!
//! Only the flusher is woken when the transport has room again, and only the flusher runs timers, including those of
//! the receiver. The futures of the application hold no progress. So each of them can be dropped at any time and polled
//! in any runtime.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::timer::Timer;
use crate::connection::yielding;

/// What the flusher does after a run.
pub(crate) enum Next {
    /// Wait until it is woken.
    Wake,
    /// Run again at this time, or earlier when it is woken.
    At(Instant),
    /// Run again after a turn of tokio's driver, to confirm a deadline that has passed.
    Again,
    /// End the task.
    End,
}

/// The interface of a connection to its flusher.
pub(crate) trait FlushTarget: Send + Sync + 'static {
    /// Runs the flusher once. `is_first` is false if the previous run returned [`Next::Again`].
    fn run_flusher(self: &Arc<Self>, is_first: bool, cx: &mut Context<'_>) -> Next;

    /// The flusher was dropped before it ended, because the runtime was shut down.
    fn flusher_gone(self: &Arc<Self>);
}

/// Ends the connection if its flusher is dropped before it ends, because its runtime was shut down. Otherwise queued
/// packets would never be written, and callers waiting for them would never return.
struct EndWithFlusher<T: FlushTarget>(Option<Arc<T>>);

impl<T: FlushTarget> Drop for EndWithFlusher<T> {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            conn.flusher_gone();
        }
    }
}

/// Returns the flusher task of a connection.
pub(crate) fn flusher<T: FlushTarget>(conn: Arc<T>) -> impl Future<Output = ()> + Send + 'static {
    // Created before the first poll, because a runtime that was shut down drops the task without polling it.
    let mut guard = EndWithFlusher(Some(conn));
    // Unconstrained: the queue already bounds the work of a run, and tokio's cooperative budget would make the
    // transport look blocked.
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
                        // This flusher is already deregistered, and a new one may exist by now.
                        guard.0 = None;
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    })
}
