//! What the lock of a connection guards: the [machine](super::machine), the transport, and the wakers of those who wait.
//!
//! This is the driver of the machine: it offers the transport what the machine has, and does what the machine says. It decides
//! nothing itself, and nothing here waits: where the transport takes no more, the flusher goes on.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use pktconn_codec::{Frame, Packet};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::flush::Next;
use super::later::{Later, contained};
use super::machine::{MAX_SLICES, Machine, News, Outcome, Phase, Rules};
use super::wait::Waiters;
use crate::error::Reason;
use crate::transport::{Acks, Reader, Writer};
use crate::turn;

/// How much a transport with a buffer of its own is given at a time where packets may be dropped: one record of TLS.
const FEW: usize = 16 * 1024;

// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct State {
    /// The writing half; gone with the end.
    writer: Option<Writer>,
    /// The task that waits in `recv`.
    receiver: Option<Waker>,
    /// Other tasks that wait; most connections have none.
    waiters: Option<Box<Waiting>>,
    /// What is done when the lock is let go of.
    pub(crate) later: Later,
    pub(crate) machine: Machine,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    reader: Option<Box<Reader>>,
    /// Whether the transport may gather bytes in a buffer of its own, where packets that may be dropped are to be few.
    keeps_few: bool,
    pub(crate) flusher: Flusher,
    pub(crate) sweep: Sweep,
}

/// Those who wait for a connection, and its own task.
#[derive(Default)]
struct Waiting {
    /// For bytes to be written, or for the end.
    progress: Waiters,
    /// For room, each in its turn, or for the end.
    line: Waiters,
    /// For the end alone.
    end: Waiters,
    flusher: Option<Waker>,
}

/// The flusher task as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flusher {
    /// There is none: nothing has to be waited for.
    None,
    /// Spawned and not yet run, so that it will look at everything.
    Spawned,
    /// Waits for its waker.
    Waiting,
    /// Was woken, and will run.
    Woken,
}

/// Whether a sweeper will look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    No,
    Listed,
}

/// What to do after the lock is released.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) later: Later,
    pub(crate) spawn: bool,
    pub(crate) enlist: bool,
}

impl State {
    pub(crate) fn new(writer: Writer, machine: Machine, may_drop: bool) -> Self {
        Self {
            keeps_few: may_drop && writer.may_gather(),
            machine,
            writer: Some(writer),
            reader: None,
            flusher: Flusher::None,
            sweep: Sweep::No,
            later: Later::default(),
            receiver: None,
            waiters: None,
        }
    }

    // ---- those who wait

    fn waiters(&mut self) -> &mut Waiting {
        // Whatever has happened before, nobody has waited for it.
        if self.waiters.is_none() {
            self.machine.forget_news(News::PROGRESS);
        }
        self.waiters.get_or_insert_default()
    }

    /// Leaves a waker for when bytes were written, or for the end.
    pub(crate) fn wait_for_progress(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().progress.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves a waker for when it is the turn of `key` in the line, or for the end.
    pub(crate) fn wait_in_line(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().line.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves a waker for the end alone.
    pub(crate) fn wait_for_end(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().end.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves the waker of the receiver.
    #[inline]
    pub(crate) fn wait_in_recv(&mut self, cx: &Context<'_>) {
        if !self.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = self.receiver.replace(cx.waker().clone());
            self.later.drop_some(replaced);
        }
    }

    /// Takes the wakers back that were left under `key`, and its place in the line.
    pub(crate) fn forget(&mut self, key: u64) {
        if let Some(waiters) = &mut self.waiters {
            for waiters in [&mut waiters.progress, &mut waiters.line, &mut waiters.end] {
                self.later.drop_some(waiters.remove(key));
            }
        }
        self.machine.leave_line(key);
    }

    /// Whether something is to be done when the lock is let go of.
    #[inline]
    pub(crate) fn has_orders(&self) -> bool {
        let news = self.machine.news();
        (!news.is_empty() && (news != News::PROGRESS || self.waiters.is_some())) || !self.later.is_empty()
    }

    /// What is to be done when the lock is let go of.
    #[inline]
    pub(crate) fn take_orders(&mut self) -> Orders {
        let news = self.machine.take_news();
        if news.is_within(News::OF_WRITING) && self.waiters.is_none() {
            return self.orders(news, false);
        }
        self.take_all_orders(news)
    }

    fn orders(&mut self, news: News, spawn: bool) -> Orders {
        let enlist = news.has(News::SWEEP) && self.sweep == Sweep::No;
        if enlist {
            self.sweep = Sweep::Listed;
        }
        Orders { later: std::mem::take(&mut self.later), spawn, enlist }
    }

    fn take_all_orders(&mut self, news: News) -> Orders {
        if self.machine.phase() == Phase::Ended {
            self.release_transport();
        }
        if news.has(News::END) || news.has(News::RECEIVER) {
            if let Some(receiver) = self.receiver.take() {
                self.later.wake(receiver);
            }
        }
        if let Some(waiters) = &mut self.waiters {
            if news.has(News::END) {
                for waiters in [&mut waiters.progress, &mut waiters.line, &mut waiters.end] {
                    waiters.take_all(|waker| self.later.wake(waker));
                }
            } else if news.has(News::PROGRESS) {
                waiters.progress.take_all(|waker| self.later.wake(waker));
                let first = self.machine.first_in_line();
                let waker = first.and_then(|key| waiters.line.remove(key));
                if let Some(waker) = waker {
                    self.later.wake(waker);
                }
            }
        }
        let has_ended = self.machine.phase() == Phase::Ended;
        let spawn = news.has(News::TASK) && self.flusher == Flusher::None && !has_ended;
        if spawn {
            self.flusher = Flusher::Spawned;
        } else if news.has(News::TASK) {
            self.wake_flusher();
        }
        self.orders(news, spawn)
    }

    fn wake_flusher(&mut self) {
        if self.flusher == Flusher::Waiting {
            self.flusher = Flusher::Woken;
            if let Some(waker) = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone()) {
                self.later.wake(waker);
            }
        }
    }

    // ---- writing

    /// Puts a packet into the queue, and sees to it that it leaves. Whether it may have written.
    #[inline]
    pub(crate) fn push(&mut self, packet: &Packet, frame: &Frame<'_>) -> bool {
        let is_to_see_to = self.machine.push(packet, frame, Instant::now);
        if is_to_see_to {
            self.pushed();
        }
        is_to_see_to
    }

    fn pushed(&mut self) {
        if self.machine.has_writes_worth() {
            self.write_out();
        }
        self.machine.want_write();
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
            if written.is_ready() { written } else { state.write_past_readiness() }
        });
    }

    /// Offers the transport what there is, by `write`. It gets the flusher's waker, so that this one is woken when there is
    /// room again.
    fn write(&mut self, write: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<()>>) {
        let before = self.machine.bytes_out();
        let waker = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone());
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let written = write(self, &mut cx);
        let is_unheard = waker.is_none() && written.is_pending();
        self.later.drop_some(waker);
        self.wrote(before, written);
        if is_unheard {
            self.machine.want_task();
        }
    }

    fn write_with(&mut self, cx: &mut Context<'_>) {
        let before = self.machine.bytes_out();
        let written = self.poll_write_out(cx);
        self.wrote(before, written);
    }

    /// What a write led to.
    fn wrote(&mut self, before: (u64, u64), written: Poll<io::Result<()>>) {
        let outcome = match written {
            Poll::Ready(Ok(())) => Outcome::All,
            Poll::Pending => Outcome::Blocked,
            Poll::Ready(Err(error)) => Outcome::Failed(error.into()),
        };
        let Self { machine, later, .. } = self;
        machine.wrote(before, outcome, Instant::now, |packet| later.drop(packet));
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
        let Self { machine, writer: Some(writer), later, .. } = self else { return Poll::Ready(Ok(())) };
        while !machine.queue.is_empty() {
            if self.keeps_few && machine.is_unflushed() {
                ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                machine.flushed();
            }
            let writer = Pin::new(&mut *writer);
            let taken = ready!(match machine.queue.single() {
                Some(frames) if self.keeps_few => writer.poll_write(cx, &frames[..frames.len().min(FEW)]),
                None if self.keeps_few => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    machine.queue.fill(&mut slices);
                    writer.poll_write(cx, &slices[0][..slices[0].len().min(FEW)])
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
            machine.took(taken, |packet| later.drop(packet));
        }
        Poll::Ready(Ok(()))
    }

    /// What a socket takes though tokio knows of no room.
    fn write_past_readiness(&mut self) -> Poll<io::Result<()>> {
        let Self { machine, writer: Some(writer), later, .. } = self else { return Poll::Pending };
        if machine.queue.is_empty() {
            // It has bytes in a buffer of its own.
            return Poll::Pending;
        }
        while !machine.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            machine.queue.fill(&mut slices);
            match writer.write_now(&slices[0]) {
                Some(Ok(taken @ 1..)) => machine.took(taken, |packet| later.drop(packet)),
                Some(Err(error)) if !is_for_now(&error) => return Poll::Ready(Err(error)),
                _ => return Poll::Pending,
            }
        }
        machine.flushed();
        Poll::Ready(Ok(()))
    }

    /// Writes what was sent before the receiver waits; under timed flushing it is not due for that.
    #[inline]
    pub(crate) fn write_before_wait(&mut self) {
        if !self.machine.queue.is_empty() && !self.machine.gathers() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// Writes the packets of a batch while they are in the cache; under timed flushing they are not due for that.
    pub(crate) fn write_batch(&mut self) {
        self.write_before_wait();
        // Nothing is left to be swept: where the transport took no more, the flusher has been told.
        self.machine.forget_news(News::SWEEP);
    }

    /// Whether a batch of one packet need not go through the queue.
    pub(crate) fn writes_through(&self) -> bool {
        self.machine.queue.is_empty() && !self.machine.is_blocked() && !self.machine.is_timed()
    }

    /// Writes a packet from its own memory, where its frame stands there whole, as that of one that was received. What the
    /// transport does not take goes into the queue, which was [empty](Self::writes_through). Counts it in `accepted`.
    #[inline]
    pub(crate) fn write_through(&mut self, packet: &Packet, frame: &Frame<'_>, accepted: &mut usize) {
        let taken =
            if frame.body().len() == frame.len() { self.write_body(frame) } else { Poll::Ready(Ok(0)) };
        // Only now: had the transport panicked, the packet would be nowhere.
        *accepted += 1;
        match taken {
            Poll::Ready(Ok(taken)) if taken == frame.len() => {
                self.wrote_through(taken);
            }
            taken => self.write_rest(packet, frame, taken),
        }
    }

    /// The transport took a packet of `len` bytes that did not go through the queue.
    #[inline(never)]
    fn wrote_through(&mut self, len: usize) {
        let before = self.machine.bytes_out();
        self.machine.pass_through(len);
        self.machine.took_past_queue(len);
        if self.writer.as_ref().is_some_and(Writer::may_gather) {
            return self.write_out();
        }
        self.machine.flushed();
        self.wrote(before, Poll::Ready(Ok(())));
    }

    fn write_body(&mut self, frame: &Frame<'_>) -> Poll<io::Result<usize>> {
        let waker = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone());
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let taken = match &mut self.writer {
            Some(writer) => Pin::new(writer).poll_write(&mut cx, frame.body()),
            None => Poll::Pending,
        };
        self.later.drop_some(waker);
        taken
    }

    /// Goes on by the queue, after so much was taken of the packet.
    #[cold]
    fn write_rest(&mut self, packet: &Packet, frame: &Frame<'_>, taken: Poll<io::Result<usize>>) {
        self.machine.push(packet, frame, Instant::now);
        match taken {
            Poll::Ready(Err(error)) => return self.wrote(self.machine.bytes_out(), Poll::Ready(Err(error))),
            Poll::Ready(Ok(taken @ 1..)) => {
                let Self { machine, later, .. } = self;
                machine.took(taken, |packet| later.drop(packet));
            }
            Poll::Ready(Ok(0)) | Poll::Pending => {}
        }
        self.write_out();
    }

    /// A turn of the sweeper.
    pub(crate) fn run_sweeper(&mut self) {
        self.sweep = Sweep::No;
        if !self.machine.queue.is_empty() && !self.machine.is_blocked() {
            self.write_out();
        }
    }

    /// What the transport takes without waiting, of a connection that ends. Nobody is left to be told of a panic, which may be
    /// the second one, and would abort the process.
    pub(crate) fn write_last(&mut self) {
        if self.machine.phase() < Phase::Finished && self.machine.has_output() {
            contained(|| self.write_all_now());
        }
    }

    /// Of a sweeper that is gone.
    pub(crate) fn leave_to_flusher(&mut self) {
        self.sweep = Sweep::No;
        if self.machine.has_output() {
            self.machine.want_task();
        }
    }

    /// Asks what the peer has acknowledged, where that says whether it is slow.
    pub(crate) fn look_at_lag(&mut self) {
        let now = Instant::now();
        if self.machine.lags(|| now) {
            let acks = self.writer.as_ref().map_or(Ok(Acks::NoNetwork), Writer::acks);
            match acks {
                Ok(acks) => self.machine.acknowledged(acks, now),
                Err(error) => self.wrote(self.machine.bytes_out(), Poll::Ready(Err(error))),
            }
        }
    }

    // ---- the flusher

    /// A turn of the flusher: writes what is due, takes a connection towards its end, and looks at all deadlines. `is_first`:
    /// where a deadline has passed, it comes back after a turn of tokio's driver.
    pub(crate) fn run_flusher(&mut self, rules: &Rules, is_first: bool, cx: &mut Context<'_>) -> Next {
        self.flusher = Flusher::Waiting;
        let waker = &mut self.waiters().flusher;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = waker.replace(cx.waker().clone());
            self.later.drop_some(replaced);
        }
        let now = Instant::now();
        let flush_due = self.machine.flush_due().filter(|&due| due > now);
        if flush_due.is_none() && self.machine.phase() < Phase::Ended {
            self.write_with(cx);
        }
        if self.machine.phase() > Phase::Open && self.machine.phase() < Phase::Ended {
            if let Err(error) = self.poll_end(cx) {
                self.machine.wrote(self.machine.bytes_out(), Outcome::Failed(error.into()), || now, drop);
            }
        }
        let Self { machine, writer, .. } = self;
        let mut look = machine.look(rules, is_first, now, || {
            let acks = writer.as_ref().map_or(Ok(Acks::NoNetwork), Writer::acks);
            acks.map_err(Reason::from)
        });
        look.wait_until(flush_due);
        // It has just looked at everything.
        self.machine.forget_news(News::TASK);
        if look.again {
            Next::Again
        } else if let Some(at) = look.next {
            Next::At(at)
        } else if self.machine.is_at_rest() {
            self.retire_flusher();
            Next::End
        } else {
            Next::Wake
        }
    }

    /// The flusher ends: there is nothing to wait for.
    fn retire_flusher(&mut self) {
        self.flusher = Flusher::None;
        if let Some(waiters) = &mut self.waiters {
            self.later.drop_some(waiters.flusher.take());
        }
    }

    /// Takes both directions of a connection that ends as far as they go.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_written = self.machine.phase() == Phase::Closing && !self.machine.has_output();
        if let Some(writer) = self.writer.as_mut().filter(|_| is_written) {
            if Pin::new(writer).poll_shutdown(cx)?.is_ready() {
                self.machine.finished(Instant::now());
            }
        }
        // One that aborts leaves unread what it will not deliver: so the kernel tells the peer.
        if matches!(self.machine.phase(), Phase::Closing | Phase::Finished) {
            if let Some(reader) = &mut self.reader {
                if poll_discard(reader, cx)?.is_ready() {
                    self.later.drop_some(self.reader.take());
                    self.machine.peer_closed_unheard();
                }
            }
        }
        Ok(())
    }

    // ---- the end

    /// Takes the reading half over from a receiver that reads no more.
    pub(crate) fn park_reader(&mut self, reader: Reader, undelivered: bool) {
        if self.machine.phase() < Phase::Ended && !self.machine.has_peer_closed() {
            self.reader = Some(Box::new(reader));
            if self.machine.phase() > Phase::Open {
                self.machine.want_task();
            }
            return;
        }
        // It was left to the receiver after a failed write. That need not be the peer's doing: the runtime may be gone.
        if (undelivered || self.machine.ends_by_reset()) && self.machine.reads_on() {
            reader.reset();
        }
        self.later.drop(reader);
    }

    /// Whether the kernel holds bytes that were not received.
    pub(crate) fn has_unread(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::has_unread)
    }

    /// Ends a connection that nobody takes to its end, and says why: the runtime was shut down, or the transport panicked.
    pub(crate) fn lost(&mut self, why: &'static str, undelivered: bool) {
        if self.machine.phase() < Phase::Ended {
            self.machine.fail(io::Error::other(why).into());
            let reset = undelivered || self.machine.has_output() || self.has_unread();
            self.machine.end(reset);
        } else if undelivered && self.machine.reads_on() {
            // The last write has found the runtime gone.
            self.machine.reset_at_end();
        }
        self.machine.stop_reading_on();
    }

    /// Lets go of the transport of a connection that has ended.
    fn release_transport(&mut self) {
        if let Some(writer) = self.writer.take() {
            if self.machine.reads_on() {
                self.later.drop(writer);
            } else {
                let reader_is_elsewhere = self.reader.is_none() && !self.machine.has_peer_closed();
                let stream = writer.release(self.machine.ends_by_reset(), reader_is_elsewhere);
                self.later.drop_some(stream);
            }
        }
        self.later.drop_some(self.reader.take());
    }
}

/// Whether it will pass.
pub(crate) fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
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
