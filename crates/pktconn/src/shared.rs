//! What all handles of a connection and its flusher share, behind one lock.
//!
//! The lock is held for a copy of a small frame, or for a write that does not block. `state` is what it guards; this file
//! is what the handles do with it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pktconn_codec::{Frame, FrameError, Packet, PacketCodec};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::Reason;
use crate::flush::{self, FlushPolicy, Next, Queued};
use crate::outbox::{Outbox, WRITE_WORTH};
use crate::state::{Flusher, Phase, Reader, State, Writer};
use crate::stats::{ConnStats, Received};
use crate::{ConnConfig, Error};

pub(crate) struct Shared {
    pub(crate) config: ConnConfig,
    pub(crate) codec: PacketCodec,
    pub(crate) local_addr: Option<SocketAddr>,
    pub(crate) peer_addr: Option<SocketAddr>,
    pub(crate) received: Received,
    /// The senders that wait for room, in their order: the one that holds it is next.
    turn: tokio::sync::Mutex<()>,
    /// How many senders wait. Nobody passes them by.
    waiting: AtomicUsize,
    /// The key of the next future that waits.
    next_key: AtomicU64,
    policy: FlushPolicy,
    runtime: Handle,
    /// Senders and the receiver; the last one to go ends the connection.
    handles: AtomicUsize,
    /// Whether this side was closed: what `recv` looks at before each packet, without the lock.
    closed_here: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(
        config: ConnConfig,
        writer: Writer,
        local_addr: Option<SocketAddr>,
        peer_addr: Option<SocketAddr>,
    ) -> Arc<Self> {
        Arc::new(Self {
            codec: PacketCodec::new(config.codec),
            turn: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
            next_key: AtomicU64::new(0),
            policy: config.flush_policy(),
            config,
            local_addr,
            peer_addr,
            received: Received::default(),
            runtime: Handle::current(),
            handles: AtomicUsize::new(0),
            closed_here: AtomicBool::new(false),
            state: Mutex::new(State::new(writer)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock but a transport of the user's own; what it leaves is in order.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handle off. Without any the connection ends at once; what the transport takes without waiting still goes.
    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let mut state = self.lock();
        if state.phase < Phase::Finished && !state.blocked {
            state.write_out();
        }
        state.reason.get_or_insert(Reason::LocalClose);
        state.outbox = Outbox::default();
        state.end();
    }

    /// What a future needs to leave its waker here, for as long as it waits.
    pub(crate) fn wait(&self) -> Wait<'_> {
        Wait { shared: self, key: self.next_key() }
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the wakers back that were left under `key`.
    pub(crate) fn forget(&self, key: u64) {
        let mut state = self.lock();
        state.progress.remove(key);
        state.ended.remove(key);
    }

    // ---- sending

    /// Puts `packet` into the outbox if there is room for it and nobody waits for that. [`Reason::Full`] otherwise.
    pub(crate) fn offer(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let mut state = self.lock();
        state.check_open()?;
        if self.waiting.load(Ordering::Relaxed) > 0 || !self.has_room(&state, frame.len()) {
            return Err(Reason::Full);
        }
        self.push(&mut state, packet, &frame);
        Ok(())
    }

    /// Puts `packet` into the outbox, whatever stands in it.
    pub(crate) fn force(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let mut state = self.lock();
        state.check_open()?;
        self.push(&mut state, packet, &frame);
        Ok(())
    }

    /// Waits for room, behind those that have waited for longer, and puts `packet` into the outbox.
    pub(crate) async fn accept_in_turn(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let _waiting = Waiting::new(&self.waiting);
        let wait = self.wait();
        let mut turn = pin!(self.turn.lock());
        // The end is waited for beside the turn: who has the turn may not be polled any more.
        let _turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
            Poll::Ready(turn) => Poll::Ready(Ok(turn)),
            Poll::Pending => self.poll_not_open(wait.key, cx).map(Err),
        })
        .await?;
        poll_fn(|cx| self.poll_accept(packet, &frame, wait.key, cx)).await
    }

    /// Waits until nothing is accepted any more.
    fn poll_not_open(&self, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        let mut state = self.lock();
        match state.check_open() {
            Err(reason) => Poll::Ready(reason),
            Ok(()) => {
                state.ended.register(key, cx);
                Poll::Pending
            }
        }
    }

    fn poll_accept(
        self: &Arc<Self>,
        packet: &Packet,
        frame: &Frame<'_>,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if !self.has_room(&state, frame.len()) && !state.blocked {
            state.write_out();
        }
        state.check_open()?;
        if self.has_room(&state, frame.len()) {
            self.push(&mut state, packet, frame);
            return Poll::Ready(Ok(()));
        }
        self.wake_flusher(&mut state);
        state.progress.register(key, cx);
        Poll::Pending
    }

    /// Whether a frame of `len` bytes may join the outbox. One that is larger than the outbox passes alone.
    fn has_room(&self, state: &State, len: usize) -> bool {
        state.outbox.is_empty() || state.outbox.len() + len <= self.config.send_high_water
    }

    fn push(self: &Arc<Self>, state: &mut State, packet: &Packet, frame: &Frame<'_>) {
        if let FlushPolicy::Timed { .. } = self.policy {
            let now = Instant::now();
            state.queued = Some(Queued { first: state.queued.map_or(now, |queued| queued.first), last: now });
        }
        let was_empty = state.outbox.is_empty();
        state.outbox.push(packet, frame);
        state.packets_sent += 1;
        state.bytes_accepted += frame.len() as u64;
        if state.outbox.len() >= WRITE_WORTH && !state.blocked {
            state.write_out();
        }
        // Once the outbox holds something the flusher has been woken, or sleeps until it is due, or is blocked.
        if was_empty && state.has_output() {
            self.wake_flusher(state);
        }
    }

    /// Waits until the outbox is below its high-water mark. For `Sink`, which reserves no room of its own.
    pub(crate) fn poll_room(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if state.outbox.len() >= self.config.send_high_water && !state.blocked {
            state.write_out();
        }
        state.check_open()?;
        if state.outbox.len() < self.config.send_high_water {
            return Poll::Ready(Ok(()));
        }
        self.wake_flusher(&mut state);
        state.progress.register(key, cx);
        Poll::Pending
    }

    /// How many bytes were ever accepted: what a flush that begins now has to wait for.
    pub(crate) fn bytes_accepted(&self) -> u64 {
        self.lock().bytes_accepted
    }

    /// Waits until `target` bytes, of all that were ever accepted, are written.
    pub(crate) fn poll_flushed(
        self: &Arc<Self>,
        target: u64,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if !state.is_written(target) && state.phase < Phase::Ended && !state.blocked {
            state.write_out();
        }
        if state.is_written(target) {
            return Poll::Ready(Ok(()));
        }
        if state.phase == Phase::Ended {
            return Poll::Ready(Err(state.end_reason()));
        }
        self.wake_flusher(&mut state);
        state.progress.register(key, cx);
        Poll::Pending
    }

    // ---- receiving

    /// Whether this side was closed, so that nothing is received any more; cheap enough to ask before each packet.
    pub(crate) fn is_closed_here(&self) -> bool {
        self.closed_here.load(Ordering::Relaxed)
    }

    /// What the receiver does before it waits: writes what was sent, and leaves its waker for news of the end.
    pub(crate) fn before_wait(self: &Arc<Self>, cx: &Context<'_>) -> Result<(), Reason> {
        let mut state = self.lock();
        if self.policy == FlushPolicy::Adaptive && !state.outbox.is_empty() && !state.blocked {
            state.write_out();
        }
        state.check_open()?;
        if !state.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.receiver = Some(cx.waker().clone());
        }
        Ok(())
    }

    /// The peer closed its side between two frames. It may still receive.
    pub(crate) fn remote_closed(self: &Arc<Self>) {
        let mut state = self.lock();
        state.remote_closed = true;
        // Where this side is closing already, that was the last thing it waited for.
        state.flusher.wake();
        state.reason.get_or_insert(Reason::RemoteClose);
        state.ended.wake();
        if self.policy == FlushPolicy::Adaptive && !state.outbox.is_empty() && !state.blocked {
            state.write_out();
        }
    }

    /// Receiving failed. After a bad frame the peer still gets what was accepted for it; a transport that failed is gone.
    pub(crate) fn receive_failed(self: &Arc<Self>, reason: &Reason) {
        let mut state = self.lock();
        state.fail(reason.clone());
        match reason {
            Reason::Frame(error) => {
                state.remote_closed |= matches!(error, FrameError::Truncated { .. });
                state.flusher.wake();
                self.begin_close(&mut state);
            }
            _ => state.end(),
        }
    }

    /// Takes the reading half over from a receiver that reads no more.
    pub(crate) fn park_reader(&self, reader: Reader) {
        let mut state = self.lock();
        if state.phase < Phase::Ended && !state.remote_closed {
            state.reader = Some(reader);
            state.flusher.wake();
        }
    }

    // ---- the end

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.lock().reason.clone()
    }

    pub(crate) fn poll_reason(&self, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        let mut state = self.lock();
        match &state.reason {
            Some(reason) => Poll::Ready(reason.clone()),
            None => {
                state.ended.register(key, cx);
                Poll::Pending
            }
        }
    }

    /// Closes this side: accepts and receives nothing more, and has the rest written.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.reason.get_or_insert(Reason::LocalClose);
        self.closed_here.store(true, Ordering::Relaxed);
        self.begin_close(&mut state);
    }

    /// Waits for the end of a connection that is closing.
    pub(crate) fn poll_ended(&self, key: u64, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if state.phase < Phase::Ended {
            state.progress.register(key, cx);
            return Poll::Pending;
        }
        Poll::Ready(match state.failure.clone() {
            Some(failure) => Err(Error::new(failure, state.outbox.take_unsent(&self.codec))),
            None => Ok(()),
        })
    }

    pub(crate) fn stats(&self) -> ConnStats {
        let state = self.lock();
        let queued_bytes = state.outbox.len() as u64;
        ConnStats {
            packets_received: self.received.packets.total(),
            bytes_received: self.received.bytes.total(),
            reads: self.received.reads.total(),
            packets_sent: state.packets_sent,
            bytes_sent: state.bytes_written,
            writes: state.writes,
            queued_bytes,
        }
    }

    // ---- the flusher

    fn wake_flusher(self: &Arc<Self>, state: &mut State) {
        match &mut state.flusher {
            Flusher::None => {
                state.flusher = Flusher::Spawned;
                self.runtime.spawn(flush::flusher(Arc::clone(self)));
            }
            flusher => flusher.wake(),
        }
    }

    pub(crate) fn run_flusher(&self, cx: &Context<'_>) -> Next {
        self.lock().run_flusher(self.policy, cx)
    }

    fn begin_close(self: &Arc<Self>, state: &mut State) {
        if state.phase > Phase::Open {
            return;
        }
        state.phase = Phase::Closing;
        // A timeout beyond what the clock can say is none.
        state.deadline = Instant::now().checked_add(self.config.close_timeout);
        state.wake_all();
        self.wake_flusher(state);
    }
}

/// The key of a future that waits. Dropped with it, and its wakers go too.
pub(crate) struct Wait<'a> {
    shared: &'a Shared,
    pub(crate) key: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.key);
    }
}

/// Counts a sender that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
