//! What the lock of a connection guards: the outbox, the writing half of the transport, and how far the connection is on
//! its way to the end.
//!
//! ```text
//!   Open ----------> Closing ----------> Finished ----------> Ended
//!        close(), or         all written,          the peer
//!        a bad frame         FIN sent              closed too
//!     \________________________________________________^
//!        the transport failed, the deadline passed, or the last handle was dropped
//! ```
//!
//! Nothing here waits: the transport is polled on behalf of the flusher, which it wakes when it can go on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::error::Reason;
use crate::flush::{FlushPolicy, Next, Queued};
use crate::outbox::{MAX_SLICES, Outbox};

pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub(crate) struct State {
    pub(crate) outbox: Outbox,
    pub(crate) phase: Phase,
    /// The writing half; gone with the end.
    pub(crate) writer: Option<Writer>,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    pub(crate) reader: Option<Reader>,
    /// Whether the transport holds the flusher's waker because it can take no more.
    pub(crate) blocked: bool,
    /// Whether the peer has closed its side.
    pub(crate) remote_closed: bool,
    pub(crate) flusher: Flusher,
    pub(crate) queued: Option<Queued>,
    /// Why the connection ended, or began to: the first reason wins.
    pub(crate) reason: Option<Reason>,
    /// What went wrong first, also where the connection was closing by then.
    pub(crate) failure: Option<Reason>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) packets_sent: u64,
    pub(crate) bytes_accepted: u64,
    pub(crate) bytes_written: u64,
    /// Of the bytes written, those that the transport has let go of; behind `bytes_written` where it buffers.
    pub(crate) bytes_flushed: u64,
    pub(crate) writes: u64,
    /// The task that waits in `recv`, to be told of the end.
    pub(crate) receiver: Option<Waker>,
    /// Tasks that wait for bytes to be written or for the end.
    pub(crate) progress: Waiters,
    /// Tasks that wait for the end alone.
    pub(crate) ended: Waiters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    Closing,
    Finished,
    Ended,
}

/// The flusher task as the others see it.
pub(crate) enum Flusher {
    /// No packet has waited yet.
    None,
    /// Spawned and not yet run, so that it will look at everything.
    Spawned,
    /// Waits for its waker, or was woken and will run.
    Running { waker: Waker, woken: bool },
}

impl State {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            outbox: Outbox::default(),
            phase: Phase::Open,
            writer: Some(writer),
            reader: None,
            blocked: false,
            remote_closed: false,
            flusher: Flusher::None,
            queued: None,
            reason: None,
            failure: None,
            deadline: None,
            packets_sent: 0,
            bytes_accepted: 0,
            bytes_written: 0,
            bytes_flushed: 0,
            writes: 0,
            receiver: None,
            progress: Waiters::default(),
            ended: Waiters::default(),
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.bytes_flushed < self.bytes_written
    }

    pub(crate) fn is_written(&self, target: u64) -> bool {
        self.bytes_flushed >= target
    }

    pub(crate) fn check_open(&self) -> Result<(), Reason> {
        if self.phase == Phase::Open { Ok(()) } else { Err(self.end_reason()) }
    }

    pub(crate) fn end_reason(&self) -> Reason {
        self.reason.clone().unwrap_or(Reason::LocalClose)
    }

    pub(crate) fn fail(&mut self, reason: Reason) {
        self.reason.get_or_insert_with(|| reason.clone());
        self.failure.get_or_insert(reason);
    }

    pub(crate) fn wake_all(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
        self.progress.wake();
        self.ended.wake();
    }

    /// Runs `poll` so that the flusher is woken when it can go on. Before the flusher has run for the first time nothing
    /// needs waking: it was spawned, or will be, and looks at everything then.
    fn with_flusher<T>(&mut self, poll: impl FnOnce(&mut Self, &mut Context<'_>) -> T) -> T {
        match &self.flusher {
            Flusher::Running { waker, .. } => {
                let waker = waker.clone();
                poll(self, &mut Context::from_waker(&waker))
            }
            Flusher::None | Flusher::Spawned => poll(self, &mut Context::from_waker(Waker::noop())),
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
        if let Some(reader) = &mut self.reader {
            if poll_discard(reader, cx)?.is_ready() {
                self.reader = None;
                self.remote_closed = true;
            }
        }
        Ok(())
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.poll_write_all(cx)?;
        // Also when it takes no more: what it took must not wait for a pause in the traffic.
        if let Some(writer) = self.writer.as_mut().filter(|_| self.bytes_flushed < self.bytes_written) {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.bytes_flushed = self.bytes_written;
        }
        written.map(Ok)
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.outbox.fill(&mut slices);
            let taken = ready!(match &slices[..count] {
                [one] => Pin::new(&mut *writer).poll_write(cx, one),
                many => Pin::new(&mut *writer).poll_write_vectored(cx, many),
            })?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(taken);
            self.bytes_written += taken as u64;
            self.writes += 1;
        }
        Poll::Ready(Ok(()))
    }

    /// A turn of the flusher: writes what is due, and takes a closing connection towards its end.
    pub(crate) fn run_flusher(&mut self, policy: FlushPolicy, cx: &Context<'_>) -> Next {
        self.flusher = match std::mem::replace(&mut self.flusher, Flusher::Spawned) {
            Flusher::Running { waker, .. } if waker.will_wake(cx.waker()) => {
                Flusher::Running { waker, woken: false }
            }
            _ => Flusher::Running { waker: cx.waker().clone(), woken: false },
        };
        let queued = self.queued.filter(|_| self.phase == Phase::Open && !self.blocked);
        if let Some(due) = queued.and_then(|queued| policy.due(queued)).filter(|&due| due > Instant::now()) {
            return Next::At(due);
        }
        self.write_out();
        if self.phase >= Phase::Closing {
            self.go_on_closing();
        }
        match (self.phase, self.deadline) {
            (Phase::Ended, _) => Next::End,
            (Phase::Open, _) | (_, None) => Next::Wake,
            (_, Some(deadline)) => Next::At(deadline),
        }
    }

    /// Sends FIN when all is written, and discards what the peer sends until it closes or the deadline passes.
    fn go_on_closing(&mut self) {
        let result = self.with_flusher(State::poll_close);
        if let Err(error) = result {
            // The peer is gone, and nobody can tell whether it got everything.
            self.fail(error.into());
            return self.end();
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if late && self.phase == Phase::Closing {
            self.fail(Reason::CloseTimeout);
        }
        if late || (self.phase == Phase::Finished && self.remote_closed) {
            self.end();
        }
    }

    /// Writes until the outbox is empty or the transport takes no more; in that case it will wake the flusher.
    pub(crate) fn write_out(&mut self) {
        let before = (self.bytes_written, self.bytes_flushed);
        let result = self.with_flusher(State::poll_write_out);
        self.blocked = result.is_pending();
        if self.blocked {
            self.outbox.shrink();
        }
        let len = self.outbox.len();
        if len == 0 {
            self.queued = None;
        }
        if let Poll::Ready(Err(error)) = result {
            self.fail(error.into());
            self.end();
        } else if before != (self.bytes_written, self.bytes_flushed) {
            self.progress.wake();
        }
    }

    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.writer = None;
        self.reader = None;
        self.blocked = false;
        self.wake_all();
        self.flusher.wake();
    }
}

impl Flusher {
    pub(crate) fn wake(&mut self) {
        if let Self::Running { waker, woken: woken @ false } = self {
            *woken = true;
            waker.wake_by_ref();
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
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The wakers of futures that wait, each under the key of its future, so that one that is dropped leaves nothing behind.
#[derive(Default)]
pub(crate) struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    pub(crate) fn register(&mut self, key: u64, cx: &Context<'_>) {
        match self.0.iter_mut().find(|(registered, _)| *registered == key) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => self.0.push((key, cx.waker().clone())),
        }
    }

    pub(crate) fn remove(&mut self, key: u64) {
        self.0.retain(|(registered, _)| *registered != key);
    }

    pub(crate) fn wake(&mut self) {
        for (_, waker) in std::mem::take(&mut self.0) {
            waker.wake();
        }
    }
}
