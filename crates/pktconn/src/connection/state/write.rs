//! Writes the machine's output to the transport.

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
use crate::transport::{UnackedBytes, Writer};

/// Maximum bytes per write to a transport with its own buffer, if packets may be dropped: one TLS record.
const MAX_BUFFERED_WRITE: usize = 16 * 1024;

impl State {
    /// The memory, in bytes, of what was sent and is not in the kernel yet.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.machine.held() + if self.machine.is_unflushed() { self.buffered_bytes() } else { 0 }
    }

    #[cold]
    fn buffered_bytes(&self) -> usize {
        /// The most to count for a stream of the application that does not flush.
        const MAX_UNKNOWN: u64 = 64 * 1024;
        let Some(writer) = &self.writer else { return 0 };
        writer.buffered_bytes().unwrap_or_else(|| self.machine.unflushed_len().min(MAX_UNKNOWN) as usize)
    }

    /// Queues a packet, and writes it or schedules a write. Returns whether it may have written.
    #[inline(always)]
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

    /// Writes until the queue is empty or the transport blocks. If it blocks, the flusher continues.
    pub(crate) fn write_out(&mut self) {
        self.write(Self::poll_write_out);
    }

    /// Like [`write_out`](Self::write_out), but ignores tokio's cached readiness and the cooperative budget of the
    /// task. Use it before a peer is judged as slow, or if there is no later chance to write.
    pub(crate) fn write_all_now(&mut self) {
        self.write(|state, cx| {
            let written = pin!(tokio::task::unconstrained(poll_fn(|cx| state.poll_write_out(cx)))).poll(cx);
            if written.is_ready() { written } else { state.write_ignoring_readiness() }
        });
    }

    /// Writes with `write`. If the transport blocks, it wakes the flusher when it has room again.
    fn write(&mut self, write: impl Fn(&mut Self, &mut Context<'_>) -> Poll<io::Result<()>>) {
        let before = self.machine.bytes_out();
        // Mostly there is room. So a copy of the flusher's waker is made only if there is none.
        let mut written = write(self, &mut Context::from_waker(Waker::noop()));
        let mut needs_flusher = false;
        if written.is_pending() {
            match self.flusher_waker.clone() {
                Some(waker) => {
                    written = write(self, &mut Context::from_waker(&waker));
                    self.deferred.drop(waker);
                }
                None => needs_flusher = true,
            }
        }
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

    /// Passes the result of a write to the machine.
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
        // Flush even if the transport blocked. Bytes that it accepted must not wait for a pause in the traffic.
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

    /// Writes to the socket although tokio reports no room. tokio's readiness may be out of date.
    fn write_ignoring_readiness(&mut self) -> Poll<io::Result<()>> {
        let Self { machine, writer: Some(writer), deferred, .. } = self else { return Poll::Pending };
        if !machine.has_queued() {
            // The transport blocked while flushing its own buffer.
            return Poll::Pending;
        }
        loop {
            if machine.has_latest() {
                machine.queue_due_latest(Instant::now);
            }
            if machine.queue.is_empty() {
                break;
            }
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

    /// Writes the queue before the receiver waits. Under timed flushing, the queue is written only when it is due.
    #[inline]
    pub(crate) fn write_before_wait(&mut self) {
        if self.machine.has_queued() && !self.machine.has_timed_flush() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// Writes a batch while its packets are in the CPU cache. Under timed flushing, the queue is written only when it
    /// is due.
    pub(crate) fn write_batch(&mut self) {
        self.write_before_wait();
        // The sweeper has nothing left to write. If the transport blocked, the flusher continues.
        self.machine.clear_wakeups(Wakeups::SWEEPER);
    }

    /// Whether a batch of one packet may be written without passing through the queue.
    pub(crate) fn can_write_directly(&self) -> bool {
        !self.machine.has_queued() && !self.machine.is_blocked() && !self.machine.tracks_queue_time()
    }

    /// Writes a packet from its own memory if its whole frame is in one piece, as for a received packet. The rest that
    /// the transport does not accept goes into the queue, which was [empty](Self::can_write_directly). Increments
    /// `accepted`.
    #[inline]
    pub(crate) fn write_directly(&mut self, frame: &Frame<'_>, accepted: &mut usize) {
        let taken =
            if frame.body().len() == frame.len() { self.write_body(frame) } else { Poll::Ready(Ok(0)) };
        // Only count after the write: if the transport panics, the packet is not in the queue.
        *accepted += 1;
        match taken {
            Poll::Ready(Ok(taken)) if taken == frame.len() => {
                self.wrote_directly(taken);
            }
            taken => self.write_rest(frame, taken),
        }
    }

    /// The transport accepted a whole packet of `len` bytes that did not pass through the queue.
    #[inline(never)]
    fn wrote_directly(&mut self, len: usize) {
        let before = self.machine.bytes_out();
        self.machine.count_direct_packet(len);
        self.machine.note_written_directly(len);
        if self.writer.as_ref().is_some_and(Writer::has_buffered) {
            return self.write_out();
        }
        self.machine.flushed();
        self.finish_write(before, Poll::Ready(Ok(())));
    }

    fn write_body(&mut self, frame: &Frame<'_>) -> Poll<io::Result<usize>> {
        match &mut self.writer {
            // If the transport blocks, `write_rest` writes again, with the flusher's waker.
            Some(writer) => {
                Pin::new(writer).poll_write(&mut Context::from_waker(Waker::noop()), frame.body())
            }
            None => Poll::Pending,
        }
    }

    /// Queues a packet after a direct write with the result `taken`, and writes the rest.
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

    /// Runs the sweeper for this connection: writes the queue.
    pub(crate) fn run_sweeper(&mut self) {
        self.sweep = Sweep::No;
        if self.machine.has_queued() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// Writes what the transport accepts without waiting, for a connection that ends. Panics are caught: no caller is
    /// left to handle them, and a second panic would abort the process.
    pub(crate) fn write_last(&mut self) {
        if self.machine.phase() < Phase::Finished && self.machine.has_output() {
            catch_panic(|| self.write_all_now());
        }
    }

    /// Leaves the queue to the flusher, because the sweeper no longer exists.
    pub(crate) fn leave_to_flusher(&mut self) {
        self.sweep = Sweep::No;
        if self.machine.has_output() {
            self.machine.request_flusher();
        }
    }

    /// Asks the kernel what the peer has acknowledged, if the peer seems to exceed its maximum lag.
    pub(crate) fn update_lag(&mut self) {
        let now = Instant::now();
        if self.machine.exceeds_max_lag(|| now) {
            let unacked = self.writer.as_ref().map_or(Ok(UnackedBytes::NoSocket), Writer::unacked_bytes);
            match unacked {
                Ok(unacked) => self.machine.acknowledged(unacked, now),
                Err(error) => self.finish_write(self.machine.bytes_out(), Poll::Ready(Err(error))),
            }
        }
    }
}

/// Whether a retry may succeed.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
