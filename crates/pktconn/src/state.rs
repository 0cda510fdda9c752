//! What the lock of a connection guards: the outbox, the writing half of the transport, and how far the connection is on
//! its way to the [end](crate::close).
//!
//! Nothing here waits: where the transport takes no more, the flusher goes on.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pktconn_codec::{Frame, Packet};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::ConnConfig;
use crate::config::Timeouts;
use crate::error::{Reason, Timeout};
use crate::flush::{Next, Timing};
use crate::later::Later;
use crate::outbox::{Dropped, MAX_SLICES, Outbox, WRITE_WORTH};
use crate::slow::{Lag, SlowConsumer};
use crate::stats::{ConnStats, Received};
use crate::timer;
use crate::transport::{Reader, Writer};
use crate::wait::Waiters;

pub(crate) struct State {
    pub(crate) outbox: Outbox,
    pub(crate) phase: Phase,
    /// The writing half; gone with the end.
    pub(crate) writer: Option<Writer>,
    /// Whether the transport can take no more: it holds the flusher's waker, or the flusher is awake and will see to that.
    pub(crate) blocked: bool,
    /// Whether the peer has closed its side.
    pub(crate) remote_closed: bool,
    pub(crate) flusher: Flusher,
    pub(crate) sweep: Sweep,
    pub(crate) send_high_water: usize,
    pub(crate) slow_consumer: SlowConsumer,
    /// Where it is limited.
    pub(crate) lag: Option<Box<Lag>>,
    /// Of timed flushing.
    timing: Option<Box<Timing>>,
    /// What few connections need at a time, made when one does.
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) packets_sent: u64,
    pub(crate) bytes_accepted: u64,
    pub(crate) bytes_written: u64,
    /// Of the bytes written, those that the transport has let go of; behind `bytes_written` where it buffers.
    pub(crate) bytes_flushed: u64,
    pub(crate) writes: u64,
    /// What is done when the lock is let go of.
    pub(crate) later: Later,
    /// The task that waits in `recv`, to be told of the end.
    pub(crate) receiver: Option<Waker>,
}

/// What a connection has that had to wait, that ends or begins to.
#[derive(Default)]
pub(crate) struct Rare {
    /// Tasks that wait for bytes to be written or for the end.
    pub(crate) progress: Waiters,
    /// Tasks that wait for the end alone.
    pub(crate) ended: Waiters,
    /// The flusher's, once it has run.
    flusher: Option<Waker>,
    /// Why the connection ended, or began to: the first reason wins.
    pub(crate) reason: Option<Reason>,
    /// Why nothing is sent any more: the first reason but the peer's clean close, after which sending goes on.
    pub(crate) stopped: Option<Reason>,
    /// What went wrong first, also where the connection was closing by then.
    pub(crate) failure: Option<Reason>,
    /// When a close is given up.
    pub(crate) deadline: Option<Instant>,
    /// Since when the transport has taken nothing.
    blocked_since: Option<Instant>,
    /// By the policy for slow consumers.
    pub(crate) packets_dropped: u64,
    passed_over: PassedOver,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    pub(crate) reader: Option<Reader>,
}

/// The bytes that were accepted and dropped, for those who wait for bytes to be written.
#[derive(Default)]
struct PassedOver {
    bytes: u64,
    /// Those that were dropped behind a frame which was being written, and where that ends.
    behind_begun: u64,
    begun_end: u64,
}

impl PassedOver {
    /// How many of them are behind what is written, when so much is.
    fn until(&self, written: u64) -> u64 {
        self.bytes + if written >= self.begun_end { self.behind_begun } else { 0 }
    }

    fn add(&mut self, bytes: u64, written: u64, begun_end: u64) {
        if written >= self.begun_end {
            (self.bytes, self.behind_begun) = (self.bytes + self.behind_begun, 0);
        }
        self.begun_end = begun_end;
        self.behind_begun += bytes;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    Closing,
    Finished,
    Ended,
}

/// The flusher task as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flusher {
    /// Nothing had to wait for the transport or for a time yet.
    None,
    /// To be spawned by the one who holds the lock, when he has let go of it.
    Wanted,
    /// Spawned and not yet run, so that it will look at everything.
    Spawned,
    /// Waits for its waker.
    Waiting,
    /// Was woken, and will run.
    Woken,
}

/// Whether the sweeper of a thread will look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    No,
    /// It is to be told by the one who holds the lock, when he has let go of it.
    Wanted,
    Listed,
}

impl State {
    pub(crate) fn new(writer: Writer, config: &ConnConfig) -> Self {
        Self {
            outbox: Outbox::default(),
            phase: Phase::Open,
            writer: Some(writer),
            blocked: false,
            remote_closed: false,
            flusher: Flusher::None,
            sweep: Sweep::No,
            send_high_water: config.send_high_water,
            slow_consumer: config.slow_consumer,
            lag: Lag::new(config).map(Box::new),
            timing: config.timing().map(Box::new),
            rare: None,
            packets_sent: 0,
            bytes_accepted: 0,
            bytes_written: 0,
            bytes_flushed: 0,
            writes: 0,
            later: Later::default(),
            receiver: None,
        }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Leaves a waker for when bytes were written, or for the end.
    pub(crate) fn wait_for_progress(&mut self, key: u64, cx: &Context<'_>) {
        self.rare.get_or_insert_default().progress.register(key, cx, &mut self.later);
    }

    /// Leaves a waker for the end alone.
    pub(crate) fn wait_for_end(&mut self, key: u64, cx: &Context<'_>) {
        self.rare.get_or_insert_default().ended.register(key, cx, &mut self.later);
    }

    fn wake_progress(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.progress.wake(&mut self.later);
        }
    }

    /// Wakes the flusher if there is one.
    pub(crate) fn wake_flusher(&mut self) {
        if self.flusher == Flusher::Waiting {
            self.flusher = Flusher::Woken;
            if let Some(waker) = self.rare.as_ref().and_then(|rare| rare.flusher.as_ref()) {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes the flusher, or has it spawned.
    pub(crate) fn want_flusher(&mut self) {
        match self.flusher {
            Flusher::None => self.flusher = Flusher::Wanted,
            _ => self.wake_flusher(),
        }
    }

    /// Whether something is to be done when the lock is let go of.
    pub(crate) fn has_left_something(&self) -> bool {
        self.sweep == Sweep::Wanted || !self.later.is_empty() || self.flusher == Flusher::Wanted
    }

    pub(crate) fn stats(&self, received: &Received) -> ConnStats {
        ConnStats {
            packets_received: received.packets.total(),
            bytes_received: received.bytes.total(),
            reads: received.reads.total(),
            packets_sent: self.packets_sent,
            bytes_sent: self.bytes_written,
            writes: self.writes,
            queued_bytes: self.outbox.len() as u64,
            packets_dropped: self.rare.as_ref().map_or(0, |rare| rare.packets_dropped),
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.bytes_flushed < self.bytes_written
    }

    /// Whether the outbox is below its high-water mark.
    pub(crate) fn is_below_mark(&self) -> bool {
        self.outbox.len() < self.send_high_water
    }

    /// Whether a frame of `len` bytes may join the outbox. One that is larger than the outbox passes alone.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.outbox.is_empty() || (self.outbox.len() + len <= self.send_high_water && !self.lags())
    }

    /// Puts a packet into the outbox, and sees to it that it leaves.
    #[inline]
    pub(crate) fn push(&mut self, packet: &Packet, frame: &Frame<'_>) {
        let was_empty = self.outbox.is_empty();
        self.outbox.push(packet, frame);
        self.packets_sent += 1;
        self.bytes_accepted += frame.len() as u64;
        if was_empty || self.outbox.len() >= WRITE_WORTH || self.timing.is_some() {
            self.pushed(was_empty);
        }
    }

    /// What a push leads to, unless another one before it has.
    fn pushed(&mut self, was_empty: bool) {
        if let Some(timing) = &mut self.timing {
            timing.packet_queued(Instant::now());
        }
        if self.outbox.len() >= WRITE_WORTH && !self.blocked {
            self.write_out();
        }
        // Once the outbox holds something, someone has been told.
        if was_empty && !self.outbox.is_empty() && !self.blocked {
            if self.timing.is_some() {
                self.want_flusher();
            } else if self.sweep == Sweep::No {
                self.sweep = Sweep::Wanted;
            }
        }
    }

    /// Whether `target` bytes, of all that were ever accepted, are written or dropped.
    pub(crate) fn is_written(&self, target: u64) -> bool {
        let passed_over = self.rare.as_ref().map_or(0, |rare| rare.passed_over.until(self.bytes_flushed));
        self.bytes_flushed + passed_over >= target
    }

    /// Notes what was dropped, behind the frame that is being written if there is one.
    pub(crate) fn dropped(&mut self, dropped: Dropped) {
        let (flushed, begun_end) = (self.bytes_flushed, self.bytes_written + self.outbox.begun_len() as u64);
        let rare = self.rare();
        rare.packets_dropped += dropped.packets;
        rare.passed_over.add(dropped.bytes as u64, flushed, begun_end);
        self.wake_progress();
    }

    pub(crate) fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
            let writer = Pin::new(&mut *writer);
            let taken = ready!(match self.outbox.single() {
                Some(frames) => writer.poll_write(cx, frames),
                None => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let count = self.outbox.fill(&mut slices);
                    writer.poll_write_vectored(cx, &slices[..count])
                }
            })?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(taken, |packet| self.later.drop(packet));
            self.bytes_written += taken as u64;
            self.writes += 1;
        }
        Poll::Ready(Ok(()))
    }

    /// A turn of the flusher: writes what is due, and takes a closing connection towards its end.
    pub(crate) fn run_flusher(&mut self, timeouts: &Timeouts, cx: &mut Context<'_>) -> Next {
        self.flusher = Flusher::Waiting;
        let waker = &mut self.rare().flusher;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        let timing = self.timing.as_ref().filter(|_| self.phase == Phase::Open && !self.blocked);
        if let Some(due) = timing.and_then(|timing| timing.due()).filter(|&due| due > Instant::now()) {
            return Next::At(due);
        }
        // It is awake: there is nobody to be told when the transport takes no more.
        let before = self.bytes_out();
        self.write(cx);
        if self.phase >= Phase::Closing {
            self.go_on_closing(timeouts, cx);
        }
        let write_due = self.write_due(before != self.bytes_out(), timeouts.write);
        if write_due.is_some_and(|due| due <= Instant::now()) {
            let granted = timeouts.write.unwrap_or_default();
            self.fail(Reason::Timeout(Timeout::Write, granted));
            self.end();
        }
        let lag_due = self.lag_due();
        if lag_due.is_some_and(|due| due <= Instant::now()) {
            self.disconnect_slow();
        }
        if self.phase == Phase::Ended {
            return Next::End;
        }
        let close_due = self.rare().deadline;
        match [close_due, write_due, lag_due].into_iter().flatten().min() {
            None => Next::Wake,
            Some(due) => Next::At(due),
        }
    }

    /// When a transport that is blocked will have taken nothing for too long.
    fn write_due(&mut self, has_progressed: bool, timeout: Option<Duration>) -> Option<Instant> {
        let blocked = self.blocked;
        let since = &mut self.rare().blocked_since;
        if has_progressed {
            *since = None;
        }
        if !blocked {
            return None;
        }
        // A time beyond what the clock can say is none.
        let due = since.get_or_insert_with(Instant::now).checked_add(timeout?)?;
        if !timer::is_long_past(due) {
            return Some(due);
        }
        // The process stood still, and the peer may not have.
        since.insert(Instant::now()).checked_add(timeout?)
    }

    /// Writes what was sent before the receiver waits; under timed flushing it is not due for that.
    pub(crate) fn write_before_wait(&mut self) {
        if self.timing.is_none() && !self.outbox.is_empty() && !self.blocked {
            self.write_out();
        }
    }

    /// Writes the packets of a batch while they are in the cache; under timed flushing they are not due for that.
    pub(crate) fn write_batch(&mut self) {
        self.write_before_wait();
        // Nothing is left to be swept: where the transport took no more, the flusher has been told.
        if self.sweep == Sweep::Wanted {
            self.sweep = Sweep::No;
        }
    }

    /// Whether a batch of one packet need not go through the outbox.
    pub(crate) fn writes_through(&self) -> bool {
        self.outbox.is_empty() && !self.blocked && self.timing.is_none()
    }

    /// Writes a packet from its own memory, where its frame stands there whole, as that of one that was received. What the
    /// transport does not take goes into the outbox, which was [empty](Self::writes_through).
    #[inline]
    pub(crate) fn write_through(&mut self, packet: &Packet, frame: &Frame<'_>) {
        self.packets_sent += 1;
        self.bytes_accepted += frame.len() as u64;
        let before = self.bytes_out();
        let result = self.poll_write_through(packet, frame, &mut Context::from_waker(Waker::noop()));
        self.wrote(before, result);
        if self.blocked {
            self.want_flusher();
        }
    }

    #[inline]
    fn poll_write_through(
        &mut self,
        packet: &Packet,
        frame: &Frame<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let writer = self.writer.as_mut().filter(|_| frame.body().len() == frame.len());
        match writer.map_or(Poll::Pending, |writer| Pin::new(writer).poll_write(cx, frame.body())) {
            Poll::Ready(Ok(taken @ 1..)) => {
                self.bytes_written += taken as u64;
                self.writes += 1;
                if taken < frame.len() {
                    self.outbox.push(packet, frame);
                    self.outbox.advance(taken, |packet| self.later.drop(packet));
                }
            }
            Poll::Ready(failed) => {
                self.outbox.push(packet, frame);
                return Poll::Ready(failed.and(Err(io::ErrorKind::WriteZero.into())));
            }
            Poll::Pending => self.outbox.push(packet, frame),
        }
        self.poll_write_out(cx)
    }

    /// A turn of the sweeper.
    pub(crate) fn run_sweeper(&mut self) {
        self.sweep = Sweep::No;
        if !self.outbox.is_empty() && !self.blocked {
            self.write_out();
        }
    }

    /// Writes until the outbox is empty or the transport takes no more; in that case the flusher goes on.
    pub(crate) fn write_out(&mut self) {
        self.write(&mut Context::from_waker(Waker::noop()));
        if self.blocked {
            self.want_flusher();
        }
    }

    /// The same, also where the task has done so much in its turn that tokio would put it off. Where the flusher waits, the
    /// transport is known to take no more.
    pub(crate) fn write_all_now(&mut self) {
        if self.blocked && self.flusher == Flusher::Waiting {
            return;
        }
        let before = self.bytes_out();
        let mut cx = Context::from_waker(Waker::noop());
        let write = tokio::task::unconstrained(poll_fn(|cx| self.poll_write_out(cx)));
        let result = pin!(write).poll(&mut cx);
        self.wrote(before, result);
        if self.blocked {
            self.want_flusher();
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) {
        let before = self.bytes_out();
        let result = self.poll_write_out(cx);
        self.wrote(before, result);
    }

    /// What tells whether a write came to something.
    fn bytes_out(&self) -> (u64, u64) {
        (self.bytes_written, self.bytes_flushed)
    }

    /// What a write leads to.
    fn wrote(&mut self, before: (u64, u64), result: Poll<io::Result<()>>) {
        self.blocked = result.is_pending();
        if self.blocked {
            self.outbox.shrink();
        }
        if let Some(timing) = self.timing.as_mut().filter(|_| self.outbox.is_empty()) {
            timing.all_written();
        }
        if let Some(lag) = &mut self.lag {
            lag.wrote(!self.blocked);
        }
        if let Poll::Ready(Err(error)) = result {
            self.fail(error.into());
            self.end();
        } else if before != self.bytes_out() {
            self.wake_progress();
        }
    }
}
