//! What all handles of a connection and its flusher share, behind one lock.
//!
//! The lock is held for a copy of small frames, or for a write that does not block; of a batch, also for the checksums of
//! packets that come without. No code of the application runs under it but a transport of its own. `state` is what it guards; this file is what the handles do with it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pktconn_codec::{Frame, FrameError, Packet};
use tokio::time::Instant;

use super::flush::{self, Next};
use super::later::contained;
use super::machine::{Machine, News, Phase, Rules};
use super::state::State;
use super::sweep;
use super::wait::Wait;
use crate::budget::{Account, FEW};
use crate::census::Ticket;
use crate::config::Settings;
use crate::ends::Ends;
use crate::error::Reason;
use crate::stats::{ConnStats, Received};
use crate::transport::{Reader, Writer};
use crate::{ConnConfig, CutConn, Error, SlowConsumer};

/// What `recv` looks at before each packet, without the lock: whether this side was closed, and whether the server stops.
const CLOSED: u8 = 1;
const DRAINS: u8 = 2;

// In this order in memory: what each packet needs, so that it takes no more lines of the cache than it must, and the rest.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    /// What it holds, where its server counts that.
    account: Option<Box<Account>>,
    pub(crate) received: Received,
    signals: AtomicU8,
    /// Whether an end would discard packets that were read and not received.
    has_undelivered: AtomicBool,
    /// Whether a peer is judged by a transport of which is known what tokio knew in the last turn of its driver.
    judges_late: bool,
    state: Mutex<State>,
    /// The key of the next future that waits.
    next_key: AtomicU64,
    /// Senders and the receiver; the last one to go ends the connection.
    handles: AtomicUsize,
    pub(crate) ends: Ends,
    /// Its place among those of its server, where it has one.
    ticket: Option<Ticket>,
}

const RUNTIME_GONE: &str = "the runtime of the connection was shut down";

const TRANSPORT_PANICKED: &str = "the transport of the connection panicked";

/// Ends a connection when code panics under its lock: dropped where that unwinds, behind the lock, and forgotten otherwise.
/// Those who wait are told then, also where nobody uses the connection any more.
struct EndOnPanic<'a>(&'a Arc<Shared>);

impl Drop for EndOnPanic<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.with_state_contained(|_| ());
    }
}

/// What a receiver does that has found nothing to read.
#[derive(Debug)]
pub(crate) enum Found {
    /// It waits; its waker was left.
    Nothing,
    /// It gives up: the connection has ended.
    End,
    /// It gives up: a deadline has passed, and it has looked once more.
    Overdue(Reason),
    /// It reads what has arrived, and then gives up: writing has failed.
    LastPackets,
}

impl Shared {
    pub(crate) fn new(
        config: &ConnConfig,
        settings: &Arc<Settings>,
        writer: Writer,
        ends: Ends,
        ticket: Option<Ticket>,
    ) -> Arc<Self> {
        let may_drop = config.slow_consumer != SlowConsumer::Block;
        let judges_late = may_drop && !writer.can_write_now();
        let shared = Arc::new(Self {
            settings: Arc::clone(settings),
            received: Received::default(),
            signals: AtomicU8::new(0),
            has_undelivered: AtomicBool::new(false),
            judges_late,
            state: Mutex::new(State::new(writer, Machine::new(config), may_drop)),
            next_key: AtomicU64::new(0),
            handles: AtomicUsize::new(0),
            ends,
            account: ticket.as_ref().and_then(Ticket::account).map(Box::new),
            ticket,
        });
        // It is listed when it is complete: the server may use what is in its list at any time.
        if shared.ticket.as_ref().is_some_and(|ticket| ticket.enroll(&shared)) {
            shared.signal(DRAINS);
        }
        shared
    }

    #[inline]
    fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// Runs `act` under the lock, and afterwards what it left to be done without: wakers, foreign drops, and the tasks that
    /// it wants, which a runtime that is shut down drops in place, so that they take the lock to end the connection.
    #[inline]
    fn with_state<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let end_on_panic = EndOnPanic(self);
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.mend(poisoned));
        let result = act(&mut state);
        std::mem::forget(end_on_panic);
        if state.has_orders() || self.account.is_some() {
            self.settle(state);
        }
        result
    }

    /// The same for a task that sees to other connections too, or to its own for all of its handles: a panic in what was left
    /// to be done, which is code of the application's, ends nothing else.
    fn with_state_contained<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.mend(poisoned));
        let result = act(&mut state);
        contained(|| self.settle(state));
        result
    }

    /// Ends a connection of which code has panicked under the lock.
    #[cold]
    fn mend<'a>(&self, poisoned: PoisonError<MutexGuard<'a, State>>) -> MutexGuard<'a, State> {
        self.state.clear_poison();
        let mut state = poisoned.into_inner();
        state.lost(TRANSPORT_PANICKED, self.has_undelivered());
        state
    }

    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.machine.news().has(News::END) {
            self.name_failure(&state.machine);
        }
        let mut orders = state.take_orders();
        let is_to_tell =
            self.account.as_ref().is_some_and(|account| account.note_queued(state.machine.held()));
        drop(state);
        if let Some(account) = &self.account {
            if is_to_tell {
                account.budget().tell();
            }
            if let Some(waker) = account.resume_if_few() {
                orders.later.wake(waker);
            }
        }
        if orders.spawn {
            self.settings.home.runtime.spawn(flush::flusher(Arc::clone(self)));
        }
        if orders.enlist {
            sweep::enlist(self, &self.settings.home);
        }
        orders.later.run();
    }

    /// Tells those who will be told of a failure whose connection it was.
    #[cold]
    fn name_failure(&self, machine: &Machine) {
        if let (Some(reason), Some(peer)) = (machine.failure(), self.ends.peer()) {
            reason.name_peer(peer);
        }
    }

    #[inline]
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// How much the receiver, which holds `read` bytes, may read at a time. `None` while the connections of its server hold
    /// too much: it is woken then.
    pub(crate) fn may_read(&self, read: usize, cx: &Context<'_>) -> Option<usize> {
        let Some(account) = self.account().filter(|account| account.budget().is_pressed()) else {
            return Some(usize::MAX);
        };
        account.note_read(read);
        (!account.pause(cx.waker())).then_some(FEW)
    }

    /// Ends the connection because those of its server hold too much, and this one among the most. Whether that closes it: one
    /// that had failed before, or that no handle is left of, was at its end anyway, and there is nobody to be told.
    pub(crate) fn end_over_budget(self: &Arc<Self>, held: usize) -> bool {
        self.with_state_contained(|state| {
            let is_in_use = self.handles.load(Ordering::Acquire) > 0;
            let closes =
                is_in_use && state.machine.phase() < Phase::Ended && state.machine.failure().is_none();
            if state.machine.phase() < Phase::Ended {
                state.machine.fail(Reason::OverBudget { held });
                self.signal(CLOSED);
                state.machine.end(true);
                // To free memory is what it is for.
                let unsent = std::mem::take(&mut state.machine.queue);
                state.later.drop(unsent);
            }
            closes
        })
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handle off. Without any the connection ends: where its receiver has been told the end of the stream, as by a
    /// close, and otherwise after a moment for what is queued.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.with_state(|state| {
            if state.machine.phase() > Phase::Open {
                return;
            }
            state.machine.stop(Reason::LocalClose);
            if state.machine.has_told_end() {
                return state.machine.close(self.rules(), Instant::now());
            }
            state.write_last();
            let undelivered = self.has_undelivered() || self.would_look_clean(state);
            state.machine.abort(undelivered, Instant::now());
        });
    }

    /// Whether the peer would take an end now for a clean close, though packets of its own were not received, or packets for it
    /// are lost: where the transport has stopped between two of them, no frame is cut that would tell. In the first case what is
    /// queued has a moment to leave; in the second it goes.
    fn would_look_clean(&self, state: &mut State) -> bool {
        if state.has_unread() {
            return true;
        }
        let (unsent, is_torn) = state.machine.take_unsent(self.rules());
        let is_hidden = !unsent.is_empty() && !is_torn;
        state.later.drop(unsent);
        is_hidden
    }

    /// Notes whether packets that were read have not come to the application.
    #[inline]
    pub(crate) fn note_undelivered(&self, are_some: bool) {
        self.has_undelivered.store(are_some, Ordering::Relaxed);
    }

    fn has_undelivered(&self) -> bool {
        self.has_undelivered.load(Ordering::Relaxed)
    }

    fn signal(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::Relaxed);
    }

    /// What a future needs to leave its waker here, for as long as it waits.
    pub(crate) fn wait(self: &Arc<Self>) -> Wait<'_> {
        Wait::new(self)
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the wakers back that were left under `key`, and its place in the line.
    pub(crate) fn forget(self: &Arc<Self>, key: u64) {
        self.with_state(|state| state.forget(key));
    }

    // ---- sending

    /// Puts `packet` into the queue if there is room for it and nobody waits for that. [`Reason::Full`] otherwise.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        // Its checksum is computed before the lock is taken, which other senders wait for.
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        self.with_state(|state| {
            state.machine.check_open()?;
            if state.machine.is_waited_for() {
                return Err(Reason::Full);
            }
            if !state.machine.has_room(frame.len(), self.rules(), Instant::now) {
                self.make_room(state, frame.len())?;
            }
            state.push(packet, &frame);
            Ok(())
        })
    }

    /// Whether a peer may look slow because tokio has not looked at the transport for long: let it look before you judge.
    #[inline]
    pub(crate) fn judges_late(&self) -> bool {
        self.judges_late
    }

    /// Whether all of `packets` have room, after the transport was offered what there is. Those that are refused for another
    /// reason have.
    pub(crate) fn have_room(self: &Arc<Self>, packets: &[Packet]) -> bool {
        let lens = packets.iter().filter_map(|packet| self.rules().codec.frame(packet).ok());
        let len = lens.map(|frame| frame.len()).sum();
        self.with_state(|state| {
            let has_room = |machine: &Machine| machine.has_room(len, self.rules(), Instant::now);
            if state.machine.check_open().is_err() || has_room(&state.machine) {
                return true;
            }
            state.write_all_now();
            state.machine.check_open().is_err() || has_room(&state.machine)
        })
    }

    /// Makes room for a frame of `len` bytes that has none, where that can be had or the policy makes it. [`Reason::Full`]
    /// where it is to wait or to be dropped.
    #[cold]
    fn make_room(&self, state: &mut State, len: usize) -> Result<(), Reason> {
        // A peer is slow only if it was offered what there is.
        state.write_all_now();
        state.machine.check_open()?;
        state.look_at_lag();
        state.machine.check_open()?;
        let now = Instant::now();
        if state.machine.has_room(len, self.rules(), || now) {
            return Ok(());
        }
        let State { machine, later, .. } = state;
        machine.make_room(len, self.rules(), now, |packet| later.drop(packet))
    }

    /// Puts packets into the queue, and counts them in `accepted`, until one of them has to wait or is refused. Writes
    /// them when that was all.
    pub(crate) fn offer_many(
        self: &Arc<Self>,
        packets: &[Packet],
        accepted: &mut usize,
    ) -> Result<(), Reason> {
        let rules = self.rules();
        self.with_state(|state| {
            state.machine.check_open()?;
            if state.machine.is_waited_for() {
                return Err(Reason::Full);
            }
            if let [packet] = packets {
                if state.writes_through() {
                    let frame = rules.codec.frame(packet).map_err(Reason::TooLarge)?;
                    state.write_through(packet, &frame, accepted);
                    return state.machine.check_open();
                }
            }
            if packets.len() > 1 {
                state.machine.queue.make_room_for(packets);
            }
            for packet in packets {
                let frame = rules.codec.frame(packet).map_err(Reason::TooLarge)?;
                if !state.machine.has_room(frame.len(), rules, Instant::now) {
                    self.make_room(state, frame.len())?;
                }
                // Before a transport may panic: what stands in the queue has been accepted.
                *accepted += 1;
                if state.push(packet, &frame) {
                    // It may have written, and so found the connection broken.
                    state.machine.check_open()?;
                }
            }
            state.write_batch();
            state.machine.check_open()
        })
    }

    /// Puts `packet` into the queue, whatever stands in it, where senders are to wait for room and so have.
    pub(crate) fn force(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        if self.rules().slow_consumer != SlowConsumer::Block {
            return self.offer_or_drop(packet);
        }
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        self.with_state(|state| {
            state.machine.check_open()?;
            state.push(packet, &frame);
            Ok(())
        })
    }

    /// [Offers](Self::offer) `packet`, and drops it where it has no room and the policy is to drop it. [`Reason::Full`] where it
    /// is to wait.
    #[inline]
    pub(crate) fn offer_or_drop(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        match self.offer(packet) {
            Err(Reason::Full) if self.drops_newest() => self.drop_newest(),
            offered => offered,
        }
    }

    /// Whether a packet without room is dropped, and not waited with.
    pub(crate) fn drops_newest(&self) -> bool {
        self.rules().slow_consumer == SlowConsumer::DropNewest
    }

    /// Counts a packet that was dropped for want of room.
    pub(crate) fn drop_newest(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            state.machine.drop_newest();
            Ok(())
        })
    }

    /// Waits for room, behind those that have waited for longer, and puts `packet` into the queue.
    pub(crate) async fn accept_in_turn(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        // It gives the place in the line up, whether it is served or dropped.
        let wait = self.wait();
        poll_fn(|cx| self.poll_accept(packet, &frame, wait.key, cx)).await
    }

    fn poll_accept(
        self: &Arc<Self>,
        packet: &Packet,
        frame: &Frame<'_>,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            state.machine.check_open()?;
            if state.machine.stand_in_line(key) {
                let has_room = |machine: &Machine| machine.has_room(frame.len(), self.rules(), Instant::now);
                if !has_room(&state.machine) && !state.machine.is_blocked() {
                    state.write_out();
                    state.machine.check_open()?;
                }
                if has_room(&state.machine) {
                    state.push(packet, frame);
                    return Poll::Ready(Ok(()));
                }
            }
            state.wait_in_line(key, cx);
            Poll::Pending
        })
    }

    /// Waits until a packet may be [forced](Self::force) in. For `Sink`, which reserves no room of its own.
    pub(crate) fn poll_ready(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        match self.rules().slow_consumer {
            SlowConsumer::Block => self.poll_room(key, cx),
            _ => Poll::Ready(self.with_state(|state| state.machine.check_open())),
        }
    }

    /// Waits until the queue is below its high-water mark.
    pub(crate) fn poll_room(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            if !state.machine.is_below_mark(self.rules()) && !state.machine.is_blocked() {
                state.write_out();
            }
            state.machine.check_open()?;
            if state.machine.may_pass_line() && state.machine.is_below_mark(self.rules()) {
                return Poll::Ready(Ok(()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    pub(crate) fn queued_bytes(self: &Arc<Self>) -> usize {
        self.with_state(|state| state.machine.queue.len())
    }

    /// How many bytes were ever accepted: what a flush that begins now has to wait for.
    pub(crate) fn bytes_accepted(self: &Arc<Self>) -> u64 {
        self.with_state(|state| state.machine.bytes_accepted())
    }

    /// Waits until `target` bytes, of all that were ever accepted, are written.
    pub(crate) fn poll_flushed(
        self: &Arc<Self>,
        target: u64,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            let has_ended = state.machine.phase() == Phase::Ended;
            if !state.machine.is_written(target) && !has_ended && !state.machine.is_blocked() {
                state.write_out();
            }
            if state.machine.is_written(target) {
                return Poll::Ready(Ok(()));
            }
            if state.machine.phase() == Phase::Ended {
                return Poll::Ready(Err(state.machine.stop_reason()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    // ---- receiving

    /// Whether `recv` has to look at more than its buffer: this side was closed, or the server stops. Cheap enough to ask before
    /// each packet.
    #[inline]
    pub(crate) fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Relaxed) != 0
    }

    /// Whether this side was closed, so that nothing is received any more.
    pub(crate) fn is_closed_here(&self) -> bool {
        self.signals.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether the server stops, so that nothing is waited for any more.
    pub(crate) fn drains(&self) -> bool {
        self.signals.load(Ordering::Relaxed) & DRAINS != 0
    }

    /// Has the receiver take what has arrived, and then end.
    pub(crate) fn drain(self: &Arc<Self>) {
        self.signal(DRAINS);
        self.with_state_contained(|state| state.machine.wake_receiver());
    }

    /// Whether the connection has ended for a peer that takes nothing. It may still send, and without a pause: of one that is
    /// gone, what has arrived has an end.
    #[cold]
    pub(crate) fn is_given_up(self: &Arc<Self>) -> bool {
        self.with_state(|state| state.machine.phase() == Phase::Ended && !state.machine.reads_on())
    }

    /// What the receiver does before it waits: writes what was sent, and leaves its waker for news of the end.
    #[inline(always)]
    pub(crate) fn before_wait(self: &Arc<Self>, cx: &Context<'_>) -> Found {
        self.with_state(|state| Self::wait_in_recv(state, cx))
    }

    /// The same for a wait that has a deadline.
    #[inline(never)]
    pub(crate) fn before_timed_wait(
        self: &Arc<Self>,
        in_frame: bool,
        has_read: bool,
        cx: &Context<'_>,
    ) -> Found {
        self.with_state(|state| {
            let found = Self::wait_in_recv(state, cx);
            if matches!(found, Found::Nothing) {
                let now = Instant::now();
                let overdue = if has_read { None } else { state.machine.recv_overdue(self.rules(), now) };
                if let Some(reason) = overdue {
                    return Found::Overdue(reason);
                }
                state.machine.recv_waits(self.rules(), in_frame, has_read, now);
            }
            found
        })
    }

    #[inline(always)]
    fn wait_in_recv(state: &mut State, cx: &Context<'_>) -> Found {
        state.write_before_wait();
        if state.machine.phase() != Phase::Open {
            return if state.machine.reads_on() { Found::LastPackets } else { Found::End };
        }
        state.wait_in_recv(cx);
        Found::Nothing
    }

    /// Nobody waits in `recv` any more; `has_received`, because a frame has come.
    pub(crate) fn pause_recv(self: &Arc<Self>, has_received: bool) {
        self.with_state(|state| state.machine.recv_pauses(has_received, Instant::now()));
    }

    /// The receiver has told the end of the stream: dropping the connection is as good as closing it from now on.
    pub(crate) fn told_end(self: &Arc<Self>) {
        self.with_state(|state| state.machine.told_end());
    }

    /// The peer closed its side between two frames. It may still receive. Fails where that is not what ended receiving:
    /// a reset that writing ran into is the end of the stream for who reads after it.
    pub(crate) fn remote_closed(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            if !state.machine.peer_closed(self.rules(), Instant::now()) {
                return Err(state.machine.stop_reason());
            }
            state.machine.told_end();
            state.write_before_wait();
            Ok(())
        })
    }

    /// Receiving failed. The peer still gets what was accepted for it, for a moment; a transport that failed is gone.
    /// What the receiver is to say is the [`stop_reason`](Self::stop_reason): the connection may have failed before, in
    /// writing.
    pub(crate) fn receive_failed(self: &Arc<Self>, reason: &Reason) {
        self.with_state(|state| {
            // One that is closing has a deadline of its own, and goes on towards a clean end.
            if matches!(reason, Reason::Timeout(..)) && state.machine.phase() > Phase::Open {
                return;
            }
            let is_truncated = matches!(reason, Reason::Frame(FrameError::Truncated { .. }));
            if is_truncated {
                state.machine.peer_closed_unheard();
            }
            state.machine.fail(reason.clone());
            match reason {
                // A close that is under way goes on.
                Reason::Frame(_) if state.machine.phase() > Phase::Open => state.machine.want_task(),
                Reason::Frame(_) | Reason::Timeout(..) => {
                    state.write_last();
                    let undelivered = self.has_undelivered()
                        || matches!(reason, Reason::Frame(_))
                        || self.would_look_clean(state);
                    state.machine.abort(undelivered, Instant::now());
                }
                _ => state.machine.end(false),
            }
        });
    }

    /// Takes the reading half over from a receiver that reads no more.
    pub(crate) fn park_reader(self: &Arc<Self>, reader: Reader) {
        self.with_state(|state| state.park_reader(reader, self.has_undelivered()));
    }

    // ---- the end

    pub(crate) fn reason(self: &Arc<Self>) -> Option<Reason> {
        self.with_state(|state| state.machine.reason())
    }

    /// Fails where nothing is sent any more.
    pub(crate) fn check_open(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| state.machine.check_open())
    }

    /// Why nothing is sent or received any more, of a connection of which that holds.
    pub(crate) fn stop_reason(self: &Arc<Self>) -> Reason {
        self.with_state(|state| state.machine.stop_reason())
    }

    pub(crate) fn poll_reason(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        self.with_state(|state| match state.machine.reason() {
            Some(reason) => Poll::Ready(reason),
            None => {
                state.wait_for_end(key, cx);
                Poll::Pending
            }
        })
    }

    /// Closes this side: accepts and receives nothing more, and has the rest written.
    pub(crate) fn close(self: &Arc<Self>) {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            self.signal(CLOSED);
            state.machine.close(self.rules(), Instant::now());
        });
    }

    /// Waits for the end of a connection that is closing.
    pub(crate) fn poll_ended(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.with_state(|state| {
            if state.machine.phase() < Phase::Ended {
                state.wait_for_progress(key, cx);
                return Poll::Pending;
            }
            Poll::Ready(match state.machine.failure() {
                Some(failure) => Err(Error::new(failure, state.machine.take_unsent(self.rules()).0)),
                None => Ok(()),
            })
        })
    }

    /// Waits for the end, however it comes.
    pub(crate) fn poll_over(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<()> {
        self.with_state(|state| {
            if state.machine.phase() == Phase::Ended {
                return Poll::Ready(());
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    pub(crate) fn has_ended(self: &Arc<Self>) -> bool {
        self.with_state(|state| state.machine.phase() == Phase::Ended)
    }

    /// Whether it ends by itself, within a time that is bounded.
    pub(crate) fn is_ending(self: &Arc<Self>) -> bool {
        self.with_state(|state| !matches!(state.machine.phase(), Phase::Open | Phase::Ended))
    }

    /// Ends the connection because the time to close it is over, and takes what was not written. `None` where it had ended
    /// before, but for the peer's close.
    pub(crate) fn cut(self: &Arc<Self>) -> Option<CutConn> {
        self.with_state_contained(|state| {
            let phase = state.machine.phase();
            if phase == Phase::Ended {
                return None;
            }
            self.signal(CLOSED);
            if !state.machine.is_blocked() {
                state.write_out();
            }
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            // Where all was written and the peer alone has not closed yet, nothing is lost.
            if phase == Phase::Finished {
                state.machine.end(false);
                return None;
            }
            // A close that is waited for is not to be taken for a clean one.
            state.machine.fail(Reason::LocalClose);
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            state.machine.abort(undelivered, Instant::now());
            Some(CutConn { peer_addr: self.ends.peer(), unsent })
        })
    }

    /// Ends the connection, and takes what was not wholly written. Nothing more is written of it: it will be sent elsewhere.
    pub(crate) fn abandon(self: &Arc<Self>) -> Vec<Packet> {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            // A close that loses nothing, as after that of the peer, goes on: over TLS the peer would miss its end.
            let is_closing = matches!(state.machine.phase(), Phase::Closing | Phase::Finished);
            if undelivered || !unsent.is_empty() || !is_closing {
                state.machine.abort(undelivered, Instant::now());
            }
            unsent
        })
    }

    pub(crate) fn stats(self: &Arc<Self>) -> ConnStats {
        self.with_state(|state| state.machine.stats(&self.received))
    }

    // ---- the flusher and the sweeper

    pub(crate) fn sweep(self: &Arc<Self>) {
        self.with_state(State::run_sweeper);
    }

    /// Of a sweeper that is gone: leaves what is in the queue to the flusher.
    pub(crate) fn leave_to_flusher(self: &Arc<Self>) {
        self.with_state(State::leave_to_flusher);
    }

    pub(crate) fn run_flusher(self: &Arc<Self>, is_first: bool, cx: &mut Context<'_>) -> Next {
        self.with_state_contained(|state| state.run_flusher(self.rules(), is_first, cx))
    }

    /// Of a flusher that is dropped before its end: the runtime is gone. What the transport takes without waiting still goes.
    pub(crate) fn flusher_gone(self: &Arc<Self>) {
        self.with_state_contained(|state| {
            state.write_last();
            state.lost(RUNTIME_GONE, self.has_undelivered());
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(ticket) = &self.ticket else { return };
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        ticket.note(state.machine.stats(&self.received));
        #[cfg(feature = "metrics")]
        crate::metrics::ended(state.machine.reason(), ticket.since().elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::transport::{Foreign, split};

    /// A read that had begun before this side closed may find the peer's end when the flusher waits for just that.
    #[tokio::test(start_paused = true)]
    async fn the_peers_end_found_while_closing_ends_the_close_before_its_deadline() {
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        for failure in [None, Some(Reason::Frame(truncated))] {
            let config = ConnConfig::new();
            let settings = Settings::new(&config, Origin::Unknown);
            let (_reader, writer) =
                split(Foreign::new(tokio::io::join(tokio::io::empty(), tokio::io::sink())));
            let shared = Shared::new(&config, &settings, writer, Ends::Unknown, None);
            let started = tokio::time::Instant::now();
            shared.close();
            tokio::task::yield_now().await;
            match &failure {
                None => assert!(matches!(shared.remote_closed(), Err(Reason::LocalClose))),
                Some(reason) => shared.receive_failed(reason),
            }
            assert!(matches!(shared.stop_reason(), Reason::LocalClose));
            let wait = shared.wait();
            let closed = poll_fn(|cx| shared.poll_ended(wait.key, cx)).await;
            assert_eq!(closed.is_err(), failure.is_some());
            assert!(started.elapsed().is_zero(), "it took until the deadline");
        }
    }

    /// A connection with a packet in its queue, which its transport does not take, and the other end of that.
    fn stuck() -> (Arc<Shared>, tokio::io::DuplexStream) {
        let config = ConnConfig::new();
        let (here, there) = tokio::io::duplex(1);
        let (_reader, writer) = split(Foreign::new(tokio::io::join(tokio::io::empty(), here)));
        let settings = Settings::new(&config, Origin::Unknown);
        let shared = Shared::new(&config, &settings, writer, Ends::Unknown, None);
        shared.add_handle();
        assert!(shared.offer(&Packet::from(vec![7; 100])).is_ok());
        (shared, there)
    }

    /// Its server counts it then as one that was closed for the budget, and whoever uses it is told so.
    #[tokio::test(start_paused = true)]
    async fn the_budget_closes_what_is_in_use_and_has_not_failed() {
        let ((open, _open), (failed, _failed), (unused, _unused)) = (stuck(), stuck(), stuck());
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        failed.receive_failed(&Reason::Frame(truncated));
        unused.note_undelivered(true);
        unused.drop_handle();
        assert!([&open, &failed, &unused].iter().all(|shared| !shared.has_ended()));
        let closed = [&open, &failed, &unused].map(|shared| shared.end_over_budget(1));
        assert_eq!(closed, [true, false, false]);
        assert!([&open, &failed, &unused].iter().all(|shared| shared.has_ended()));
        let told =
            [&open, &failed, &unused].map(|shared| matches!(shared.stop_reason(), Reason::OverBudget { .. }));
        assert_eq!(told, closed);
        assert!(!open.end_over_budget(1), "it has ended");
    }
}
