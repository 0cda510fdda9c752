//! Offering the transport what the machine has.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use pktconn_codec::Frame;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::{State, Sweep};
use crate::connection::deferred::catch_panic;
use crate::connection::machine::{MAX_SLICES, Outgoing, Phase, Wakeups, WriteOutcome};
use crate::transport::{Acks, Writer};

/// How much a transport with a buffer of its own is given at a time where packets may be dropped: one record of TLS.
const MAX_BUFFERED_WRITE: usize = 16 * 1024;

impl State {
    /// Puts a packet into the queue, and sees to it that it leaves. Whether it may have written.
    #[inline]
    pub(crate) fn push(&mut self, frame: &impl Outgoing) -> bool {
        let needs_write = self.machine.push(frame, Instant::now);
        if needs_write {
            self.pushed();
        }
        needs_write
    }

    fn pushed(&mut self) {
        if self.machine.has_full_write() {
            self.write_out();
        }
        self.machine.request_write();
    }

    /// Writes until the queue is empty or the transport takes no more; in that case the flusher goes on.
    pub(crate) fn write_out(&mut self) {
        self.write(Self::poll_write_out);
    }

    /// The same, whatever is known of the transport, and however much the task has done in its turn: for those who judge a peer
    /// by what it takes, or have no other turn.
    pub(crate) fn write_all_now(&mut self) {
        self.write(|state, cx| {
            let written = pin!(tokio::task::unconstrained(poll_fn(|cx| state.poll_write_out(cx)))).poll(cx);
            if written.is_ready() { written } else { state.write_ignoring_readiness() }
        });
    }

    /// Offers the transport what there is, by `write`. It gets the flusher's waker, so that this one is woken when there is
    /// room again.
    fn write(&mut self, write: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<()>>) {
        let before = self.machine.bytes_out();
        let waker = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone());
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let written = write(self, &mut cx);
        let needs_flusher = waker.is_none() && written.is_pending();
        self.deferred.drop_some(waker);
        self.finish_write(before, written);
        if needs_flusher {
            self.machine.request_flusher();
        }
    }

    pub(super) fn write_with(&mut self, cx: &mut Context<'_>) {
        let before = self.machine.bytes_out();
        let written = self.poll_write_out(cx);
        self.finish_write(before, written);
    }

    /// What a write led to.
    fn finish_write(&mut self, before: (u64, u64), written: Poll<io::Result<()>>) {
        let outcome = match written {
            Poll::Ready(Ok(())) => WriteOutcome::All,
            Poll::Pending => WriteOutcome::Blocked,
            Poll::Ready(Err(error)) => WriteOutcome::Failed(error.into()),
        };
        let Self { machine, deferred, .. } = self;
        machine.finish_write(before, outcome, Instant::now, |packet| deferred.drop(packet));
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.poll_write_all(cx)?;
        // Also when it takes no more: what it took must not wait for a pause in the traffic.
        if self.machine.is_unflushed() {
            if let Some(writer) = &mut self.writer {
                ready!(Pin::new(writer).poll_flush(cx))?;
                self.machine.flushed();
            }
        }
        written.map(Ok)
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { machine, writer: Some(writer), deferred, .. } = self else { return Poll::Ready(Ok(())) };
        loop {
            if machine.has_latest() {
                machine.queue_due_latest(Instant::now);
            }
            if machine.queue.is_empty() {
                break;
            }
            if self.limits_buffering && machine.is_unflushed() {
                ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                machine.flushed();
            }
            let writer = Pin::new(&mut *writer);
            let taken = ready!(match machine.queue.contiguous() {
                Some(frames) if self.limits_buffering =>
                    writer.poll_write(cx, &frames[..frames.len().min(MAX_BUFFERED_WRITE)]),
                None if self.limits_buffering => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    machine.queue.fill(&mut slices);
                    writer.poll_write(cx, &slices[0][..slices[0].len().min(MAX_BUFFERED_WRITE)])
                }
                Some(frames) => writer.poll_write(cx, frames),
                None => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let count = machine.queue.fill(&mut slices);
                    writer.poll_write_vectored(cx, &slices[..count])
                }
            })?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            machine.note_written(taken, |packet| deferred.drop(packet));
        }
        Poll::Ready(Ok(()))
    }

    /// What a socket takes though tokio knows of no room.
    fn write_ignoring_readiness(&mut self) -> Poll<io::Result<()>> {
        let Self { machine, writer: Some(writer), deferred, .. } = self else { return Poll::Pending };
        if machine.has_latest() {
            machine.queue_due_latest(Instant::now);
        }
        if machine.queue.is_empty() {
            // It has bytes in a buffer of its own.
            return Poll::Pending;
        }
        while !machine.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            machine.queue.fill(&mut slices);
            match writer.write_now(&slices[0]) {
                Some(Ok(taken @ 1..)) => machine.note_written(taken, |packet| deferred.drop(packet)),
                Some(Err(error)) if !is_temporary(&error) => return Poll::Ready(Err(error)),
                _ => return Poll::Pending,
            }
        }
        machine.flushed();
        Poll::Ready(Ok(()))
    }

    /// Writes what was sent before the receiver waits; under timed flushing it is not due for that.
    #[inline]
    pub(crate) fn write_before_wait(&mut self) {
        if self.machine.has_queued() && !self.machine.has_timed_flush() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// Writes the packets of a batch while they are in the cache; under timed flushing they are not due for that.
    pub(crate) fn write_batch(&mut self) {
        self.write_before_wait();
        // Nothing is left to be swept: where the transport took no more, the flusher has been told.
        self.machine.clear_wakeups(Wakeups::SWEEPER);
    }

    /// Whether a batch of one packet need not go through the queue.
    pub(crate) fn can_write_directly(&self) -> bool {
        !self.machine.has_queued() && !self.machine.is_blocked() && !self.machine.tracks_queue_time()
    }

    /// Writes a packet from its own memory, where its frame stands there whole, as that of one that was received. What the
    /// transport does not take goes into the queue, which was [empty](Self::can_write_directly). Counts it in `accepted`.
    #[inline]
    pub(crate) fn write_directly(&mut self, frame: &Frame<'_>, accepted: &mut usize) {
        let taken =
            if frame.body().len() == frame.len() { self.write_body(frame) } else { Poll::Ready(Ok(0)) };
        // Only now: had the transport panicked, the packet would be nowhere.
        *accepted += 1;
        match taken {
            Poll::Ready(Ok(taken)) if taken == frame.len() => {
                self.wrote_directly(taken);
            }
            taken => self.write_rest(frame, taken),
        }
    }

    /// The transport took a packet of `len` bytes that did not go through the queue.
    #[inline(never)]
    fn wrote_directly(&mut self, len: usize) {
        let before = self.machine.bytes_out();
        self.machine.count_direct_packet(len);
        self.machine.note_written_directly(len);
        if self.writer.as_ref().is_some_and(Writer::may_gather) {
            return self.write_out();
        }
        self.machine.flushed();
        self.finish_write(before, Poll::Ready(Ok(())));
    }

    fn write_body(&mut self, frame: &Frame<'_>) -> Poll<io::Result<usize>> {
        let waker = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone());
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let taken = match &mut self.writer {
            Some(writer) => Pin::new(writer).poll_write(&mut cx, frame.body()),
            None => Poll::Pending,
        };
        self.deferred.drop_some(waker);
        taken
    }

    /// Goes on by the queue, after so much was taken of the packet.
    #[cold]
    fn write_rest(&mut self, frame: &Frame<'_>, taken: Poll<io::Result<usize>>) {
        self.machine.push(frame, Instant::now);
        match taken {
            Poll::Ready(Err(error)) => {
                return self.finish_write(self.machine.bytes_out(), Poll::Ready(Err(error)));
            }
            Poll::Ready(Ok(taken @ 1..)) => {
                let Self { machine, deferred, .. } = self;
                machine.note_written(taken, |packet| deferred.drop(packet));
            }
            Poll::Ready(Ok(0)) | Poll::Pending => {}
        }
        self.write_out();
    }

    /// A turn of the sweeper.
    pub(crate) fn run_sweeper(&mut self) {
        self.sweep = Sweep::No;
        if self.machine.has_queued() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// What the transport takes without waiting, of a connection that ends. Nobody is left to be told of a panic, which may be
    /// the second one, and would abort the process.
    pub(crate) fn write_last(&mut self) {
        if self.machine.phase() < Phase::Finished && self.machine.has_output() {
            catch_panic(|| self.write_all_now());
        }
    }

    /// Of a sweeper that is gone.
    pub(crate) fn leave_to_flusher(&mut self) {
        self.sweep = Sweep::No;
        if self.machine.has_output() {
            self.machine.request_flusher();
        }
    }

    /// Asks what the peer has acknowledged, where that says whether it is slow.
    pub(crate) fn update_lag(&mut self) {
        let now = Instant::now();
        if self.machine.exceeds_max_lag(|| now) {
            let acks = self.writer.as_ref().map_or(Ok(Acks::NoNetwork), Writer::acks);
            match acks {
                Ok(acks) => self.machine.acknowledged(acks, now),
                Err(error) => self.finish_write(self.machine.bytes_out(), Poll::Ready(Err(error))),
            }
        }
    }
}

/// Whether it will pass.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
