//! What all handles of a connection and its flusher share: the outbox, the writing half of the transport, and how far
//! the connection is on its way to the end.
//!
//! ```text
//!   Open ----------> Closing ----------> Finished ----------> Ended
//!        close(), or         all written,          the peer
//!        a bad frame         FIN sent              closed too
//!     \________________________________________________^
//!        the transport failed, the deadline passed, or the last handle was dropped
//! ```
//!
//! One mutex guards all of it. It is held for a copy of a small frame, or for a write that does not block.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use pktconn_codec::{Frame, Packet, PacketCodec};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::Reason;
use crate::flush::{self, FlushPolicy, Next, Queued};
use crate::outbox::{MAX_SLICES, Outbox, WRITE_WORTH};
use crate::stats::{ConnStats, Received};
use crate::{ConnConfig, Error};

pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

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
    policy: FlushPolicy,
    runtime: Handle,
    /// Senders and the receiver; the last one to go ends the connection.
    handles: AtomicUsize,
    /// Whether this side was closed: what `recv` looks at before each packet, without the lock.
    closed_here: AtomicBool,
    state: Mutex<State>,
}

pub(crate) struct State {
    outbox: Outbox,
    phase: Phase,
    /// The writing half; gone with the end.
    writer: Option<Writer>,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    reader: Option<Reader>,
    /// Whether the transport holds the flusher's waker because it can take no more.
    blocked: bool,
    /// Whether the transport took bytes that it was not yet told to flush.
    unflushed: bool,
    /// Whether the peer has closed its side.
    remote_closed: bool,
    flusher: Flusher,
    queued: Option<Queued>,
    /// Why the connection ended, or began to: the first reason wins.
    reason: Option<Reason>,
    /// What went wrong first, also where the connection was closing by then.
    failure: Option<Reason>,
    deadline: Option<Instant>,
    packets_sent: u64,
    bytes_accepted: u64,
    writes: u64,
    /// The task that waits in `recv`, to be told of the end.
    receiver: Option<Waker>,
    /// Tasks that wait for bytes to be written or for the end.
    progress: Vec<Waker>,
    /// Tasks that wait for the end alone.
    ended: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Closing,
    Finished,
    Ended,
}

/// The flusher task as the others see it.
enum Flusher {
    /// No packet has waited yet.
    None,
    /// Spawned and not yet run, so that it will look at everything.
    Spawned,
    /// Waits for its waker, or was woken and will run.
    Running { waker: Waker, woken: bool },
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
            self.write_out(&mut state);
        }
        state.reason.get_or_insert(Reason::LocalClose);
        state.outbox = Outbox::default();
        self.end(&mut state);
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
        let _turn = self.turn.lock().await;
        poll_fn(|cx| self.poll_accept(packet, &frame, cx)).await
    }

    fn poll_accept(
        self: &Arc<Self>,
        packet: &Packet,
        frame: &Frame<'_>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if !self.has_room(&state, frame.len()) && !state.blocked {
            self.write_out(&mut state);
        }
        state.check_open()?;
        if self.has_room(&state, frame.len()) {
            self.push(&mut state, packet, frame);
            return Poll::Ready(Ok(()));
        }
        self.wake_flusher(&mut state);
        register(&mut state.progress, cx);
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
            self.write_out(state);
        }
        // Once the outbox holds something the flusher has been woken, or sleeps until it is due, or is blocked.
        if was_empty && !state.outbox.is_empty() {
            self.wake_flusher(state);
        }
    }

    /// Waits until the outbox is below its high-water mark. For `Sink`, which reserves no room of its own.
    pub(crate) fn poll_room(self: &Arc<Self>, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if state.outbox.len() >= self.config.send_high_water && !state.blocked {
            self.write_out(&mut state);
        }
        state.check_open()?;
        if state.outbox.len() < self.config.send_high_water {
            return Poll::Ready(Ok(()));
        }
        self.wake_flusher(&mut state);
        register(&mut state.progress, cx);
        Poll::Pending
    }

    /// How many bytes were ever accepted: what a flush that begins now has to wait for.
    pub(crate) fn bytes_accepted(&self) -> u64 {
        self.lock().bytes_accepted
    }

    /// Waits until `target` bytes, of all that were ever accepted, are written.
    pub(crate) fn poll_flushed(self: &Arc<Self>, target: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let mut state = self.lock();
        if !state.is_written(target) && state.phase < Phase::Ended && !state.blocked {
            self.write_out(&mut state);
        }
        if state.is_written(target) {
            return Poll::Ready(Ok(()));
        }
        if state.phase == Phase::Ended {
            return Poll::Ready(Err(state.end_reason()));
        }
        self.wake_flusher(&mut state);
        register(&mut state.progress, cx);
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
            self.write_out(&mut state);
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
        state.reason.get_or_insert(Reason::RemoteClose);
        wake(&mut state.ended);
        if self.policy == FlushPolicy::Adaptive && !state.outbox.is_empty() && !state.blocked {
            self.write_out(&mut state);
        }
    }

    /// Receiving failed. After a bad frame the peer still gets what was accepted for it; a transport that failed is gone.
    pub(crate) fn receive_failed(self: &Arc<Self>, reason: &Reason) {
        let mut state = self.lock();
        state.fail(reason.clone());
        match reason {
            Reason::Frame(error) => {
                state.remote_closed |= matches!(error, pktconn_codec::FrameError::Truncated { .. });
                self.begin_close(&mut state);
            }
            _ => self.end(&mut state),
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

    pub(crate) fn poll_reason(&self, cx: &Context<'_>) -> Poll<Reason> {
        let mut state = self.lock();
        match &state.reason {
            Some(reason) => Poll::Ready(reason.clone()),
            None => {
                register(&mut state.ended, cx);
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
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if state.phase < Phase::Ended {
            register(&mut state.progress, cx);
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
            bytes_sent: state.bytes_written(),
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

    /// A turn of the flusher: writes what is due, and takes a closing connection towards its end.
    pub(crate) fn run_flusher(&self, cx: &Context<'_>) -> Next {
        let mut state = self.lock();
        state.flusher = match std::mem::replace(&mut state.flusher, Flusher::Spawned) {
            Flusher::Running { waker, .. } if waker.will_wake(cx.waker()) => {
                Flusher::Running { waker, woken: false }
            }
            _ => Flusher::Running { waker: cx.waker().clone(), woken: false },
        };
        let queued = state.queued.filter(|_| state.phase == Phase::Open && !state.blocked);
        if let Some(due) =
            queued.and_then(|queued| self.policy.due(queued)).filter(|&due| due > Instant::now())
        {
            return Next::At(due);
        }
        self.write_out(&mut state);
        if state.phase >= Phase::Closing {
            self.go_on_closing(&mut state);
        }
        match (state.phase, state.deadline) {
            (Phase::Ended, _) => Next::End,
            (Phase::Open, _) | (_, None) => Next::Wake,
            (_, Some(deadline)) => Next::At(deadline),
        }
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

    /// Sends FIN when all is written, and discards what the peer sends until it closes or the deadline passes.
    fn go_on_closing(&self, state: &mut State) {
        let result = state.with_flusher(State::poll_close);
        if let Err(error) = result {
            // The peer is gone, and nobody can tell whether it got everything.
            state.fail(error.into());
            return self.end(state);
        }
        let late = state.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if late && state.phase == Phase::Closing {
            state.fail(Reason::CloseTimeout);
        }
        if late || (state.phase == Phase::Finished && state.remote_closed) {
            self.end(state);
        }
    }

    /// Writes until the outbox is empty or the transport takes no more; in that case it will wake the flusher.
    fn write_out(&self, state: &mut State) {
        let before = state.outbox.len();
        let result = state.with_flusher(State::poll_write_out);
        state.blocked = result.is_pending();
        if state.blocked {
            state.outbox.shrink();
        }
        let len = state.outbox.len();
        if len == 0 {
            state.queued = None;
        }
        if let Poll::Ready(Err(error)) = result {
            state.fail(error.into());
            self.end(state);
        } else if len < before || result.is_ready() {
            wake(&mut state.progress);
        }
    }

    fn end(&self, state: &mut State) {
        state.phase = Phase::Ended;
        state.writer = None;
        state.reader = None;
        state.blocked = false;
        state.wake_all();
        state.flusher.wake();
    }
}

impl State {
    fn new(writer: Writer) -> Self {
        Self {
            outbox: Outbox::default(),
            phase: Phase::Open,
            writer: Some(writer),
            reader: None,
            blocked: false,
            unflushed: false,
            remote_closed: false,
            flusher: Flusher::None,
            queued: None,
            reason: None,
            failure: None,
            deadline: None,
            packets_sent: 0,
            bytes_accepted: 0,
            writes: 0,
            receiver: None,
            progress: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.unflushed
    }

    fn bytes_written(&self) -> u64 {
        self.bytes_accepted - self.outbox.len() as u64
    }

    fn is_written(&self, target: u64) -> bool {
        self.bytes_written() >= target && !self.unflushed
    }

    fn check_open(&self) -> Result<(), Reason> {
        if self.phase == Phase::Open { Ok(()) } else { Err(self.end_reason()) }
    }

    fn end_reason(&self) -> Reason {
        self.reason.clone().unwrap_or(Reason::LocalClose)
    }

    fn fail(&mut self, reason: Reason) {
        self.reason.get_or_insert_with(|| reason.clone());
        self.failure.get_or_insert(reason);
    }

    fn wake_all(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
        wake(&mut self.progress);
        wake(&mut self.ended);
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
            self.writes += 1;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
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

impl Flusher {
    fn wake(&mut self) {
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

fn register(waiting: &mut Vec<Waker>, cx: &Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

fn wake(waiting: &mut Vec<Waker>) {
    for waker in std::mem::take(waiting) {
        waker.wake();
    }
}
