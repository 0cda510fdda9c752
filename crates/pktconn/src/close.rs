//! How a connection comes to its end.
//!
//! ```text
//!   Open ----------> Closing ----------> Finished ----------> Ended
//!        close(), or         all written,          the peer
//!        a bad frame         FIN sent              closed too
//!     \________________________________________________^
//!        the transport failed, the deadline passed, or the last handle was dropped
//! ```
//!
//! The handles begin it and wait for it; the flusher takes it from one phase to the next.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::error::{Reason, Timeout};
use crate::state::{Phase, State};
use crate::transport::Reader;
use crate::turn;

impl State {
    /// Fails with the reason when nothing is sent any more.
    pub(crate) fn check_open(&self) -> Result<(), Reason> {
        if self.phase == Phase::Open { Ok(()) } else { Err(self.stop_reason()) }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.rare.as_ref().and_then(|rare| rare.reason.clone())
    }

    pub(crate) fn stop_reason(&self) -> Reason {
        let stopped = self.rare.as_ref().and_then(|rare| rare.stopped.clone());
        stopped.unwrap_or(Reason::LocalClose)
    }

    /// Notes what went wrong, and that nothing is sent any more for that.
    pub(crate) fn fail(&mut self, reason: Reason) {
        self.rare().failure.get_or_insert_with(|| reason.clone());
        self.stop(reason);
    }

    /// Notes why nothing is sent any more, where nothing was noted before.
    pub(crate) fn stop(&mut self, reason: Reason) {
        let rare = self.rare();
        rare.reason.get_or_insert_with(|| reason.clone());
        rare.stopped.get_or_insert(reason);
    }

    /// Accepts nothing more, and has the flusher write the rest.
    pub(crate) fn begin_close(&mut self, timeout: Duration) {
        if self.phase > Phase::Open {
            return;
        }
        self.phase = Phase::Closing;
        // A timeout beyond what the clock can say is none.
        self.rare().deadline = Instant::now().checked_add(timeout);
        self.wake_all();
        self.want_flusher();
    }

    /// Sends FIN when all is written, and discards what the peer sends until it closes or the deadline passes.
    pub(crate) fn go_on_closing(&mut self, timeouts: &Timeouts, cx: &mut Context<'_>) {
        if let Err(error) = self.poll_close(cx) {
            // The peer is gone, and nobody can tell whether it got everything.
            self.fail(error.into());
            return self.end();
        }
        let late = self.rare().deadline.is_some_and(|deadline| deadline <= Instant::now());
        if late && self.phase == Phase::Closing {
            self.fail(Reason::Timeout(Timeout::Close, timeouts.close));
        }
        if late || (self.phase == Phase::Finished && self.remote_closed) {
            self.end();
        }
    }

    /// Takes both directions of a closing connection as far as they go.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let written = self.phase == Phase::Closing && !self.has_output();
        if let Some(writer) = self.writer.as_mut().filter(|_| written) {
            if Pin::new(writer).poll_shutdown(cx)?.is_ready() {
                self.phase = Phase::Finished;
            }
        }
        let rare = self.rare.get_or_insert_default();
        if let Some(reader) = &mut rare.reader {
            if poll_discard(reader, cx)?.is_ready() {
                self.later.drop(rare.reader.take());
                self.remote_closed = true;
            }
        }
        Ok(())
    }

    /// What the transport takes without waiting, of a connection that ends with it.
    pub(crate) fn write_last(&mut self) {
        if self.phase >= Phase::Finished {
            return;
        }
        // Whether it was blocked says nothing: the flusher may not have run since. Nor does it matter how much the task
        // has done in this turn, for which tokio's own transports would put it off: there is no later turn.
        let write = tokio::task::unconstrained(poll_fn(|cx| self.poll_write_out(cx)));
        let mut cx = Context::from_waker(Waker::noop());
        // Nobody is left to be told of an error, nor of a panic: it may be the second one, which would abort the process.
        let _ = catch_unwind(AssertUnwindSafe(|| pin!(write).poll(&mut cx).is_ready()));
    }

    /// Ends a connection that nobody takes to its end: the runtime was shut down, or the transport panicked.
    pub(crate) fn lost(&mut self) {
        if self.phase < Phase::Ended {
            let lost = "the runtime of the connection was shut down, or its transport panicked";
            self.fail(io::Error::other(lost).into());
            self.end();
        }
    }

    /// Lets go of the transport, and tells everyone who waits.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        let reader = self.rare().reader.take();
        self.later.drop((self.writer.take(), reader));
        self.blocked = false;
        self.wake_all();
        self.wake_flusher();
    }

    fn wake_all(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.later.wake(receiver);
        }
        if let Some(rare) = &mut self.rare {
            rare.progress.wake(&mut self.later);
            rare.ended.wake(&mut self.later);
        }
    }
}

/// Reads and discards until the peer closes.
fn poll_discard(reader: &mut Reader, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    /// A peer that floods is not worth more at a time; others on the same thread want their turn.
    const READS_A_TURN: usize = 16;
    let mut scratch = [0; 8 * 1024];
    for _ in 0..READS_A_TURN {
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
    turn::end(cx);
    Poll::Pending
}
