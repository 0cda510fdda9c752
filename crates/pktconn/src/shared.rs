//! What all handles of a connection and its flusher share, behind one lock.
//!
//! The lock is held for a copy of small frames, or for a write that does not block; of a batch, also for the checksums of
//! packets that come without. No code of the application runs under it but a transport of its own. `state` is what it guards; this file is what the handles do with it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use pktconn_codec::{Frame, FrameError, Packet};

use crate::budget::{Account, FEW};
use crate::census::Ticket;
use crate::config::Settings;
use crate::ends::Ends;
use crate::error::{Reason, Timeout};
use crate::flush::{self, Next};
use crate::slow::SlowConsumer;
use crate::state::{Flusher, Phase, State, Sweep};
use crate::stats::{ConnStats, Received};
use crate::sweep;
use crate::transport::{Reader, Writer};
use crate::wait::{Wait, Waiting};
use crate::{ConnConfig, CutConn, Error};

// In this order in memory: what each packet needs, so that it takes no more lines of the cache than it must, and the rest.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    /// What it holds, where its server counts that.
    account: Option<Box<Account>>,
    pub(crate) received: Received,
    /// Whether this side was closed: what `recv` looks at before each packet, without the lock.
    closed_here: AtomicBool,
    state: Mutex<State>,
    /// Made by the first sender that has to wait; others look whether there is one.
    line: OnceLock<Box<Line>>,
    /// The key of the next future that waits.
    next_key: AtomicU64,
    /// Senders and the receiver; the last one to go ends the connection.
    handles: AtomicUsize,
    pub(crate) ends: Ends,
    /// Its place among those of its server, where it has one.
    ticket: Option<Ticket>,
}

/// The senders that wait for room.
#[derive(Default)]
struct Line {
    /// In their order: the one that holds it is next.
    turn: tokio::sync::Mutex<()>,
    /// How many there are. Nobody passes them by.
    waiting: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(
        config: &ConnConfig,
        settings: &Arc<Settings>,
        writer: Writer,
        ends: Ends,
        ticket: Option<Ticket>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|conn| {
            if let Some(ticket) = &ticket {
                ticket.enroll(conn);
            }
            Self {
                settings: Arc::clone(settings),
                received: Received::default(),
                closed_here: AtomicBool::new(false),
                state: Mutex::new(State::new(writer, config)),
                line: OnceLock::new(),
                next_key: AtomicU64::new(0),
                handles: AtomicUsize::new(0),
                ends,
                account: ticket.as_ref().and_then(Ticket::account).map(Box::new),
                ticket,
            }
        })
    }

    /// Runs `act` under the lock, and afterwards what it left to be done without: wakers, foreign drops, and the tasks that
    /// it wants, which a runtime that is shut down drops in place, so that they take the lock to end the connection.
    #[inline]
    fn with_state<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.mend(poisoned));
        let result = act(&mut state);
        if state.has_left_something() || self.account.is_some() {
            self.settle(state);
        }
        result
    }

    /// Ends a connection whose transport panicked under the lock.
    #[cold]
    fn mend<'a>(&self, poisoned: PoisonError<MutexGuard<'a, State>>) -> MutexGuard<'a, State> {
        self.state.clear_poison();
        let mut state = poisoned.into_inner();
        state.lost();
        state
    }

    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let later = std::mem::take(&mut state.later);
        let spawn = matches!(state.flusher, Flusher::Wanted);
        if spawn {
            state.flusher = Flusher::Spawned;
        }
        let enlist = state.sweep == Sweep::Wanted;
        if enlist {
            state.sweep = Sweep::Listed;
        }
        let account = self.account.as_ref().filter(|account| account.note_queued(state.outbox.held()));
        drop(state);
        if let Some(account) = account {
            account.budget().tell();
        }
        if spawn {
            self.settings.runtime.spawn(flush::flusher(Arc::clone(self)));
        }
        if enlist {
            sweep::enlist(self, &self.settings.runtime);
        }
        later.run();
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
        let place = self.ticket.as_ref().map_or(0, Ticket::place);
        let is_paused = account.held() >= FEW && account.budget().pause(place, cx.waker());
        (!is_paused).then_some(FEW)
    }

    /// Ends the connection because those of its server hold too much, and this one among the most.
    pub(crate) fn end_over_budget(self: &Arc<Self>, held: usize) {
        self.with_state(|state| {
            if state.phase < Phase::Ended {
                state.fail(Reason::OverBudget { held });
                self.closed_here.store(true, Ordering::Relaxed);
                state.end();
                // To free memory is what it is for.
                let unsent = std::mem::take(&mut state.outbox);
                state.later.drop(unsent);
            }
        });
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handle off. Without any the connection ends at once; what the transport takes without waiting still goes.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.with_state(|state| {
            state.write_last();
            state.stop(Reason::LocalClose);
            let unsent = std::mem::take(&mut state.outbox);
            state.later.drop(unsent);
            state.end();
        });
    }

    /// What a future needs to leave its waker here, for as long as it waits.
    pub(crate) fn wait(self: &Arc<Self>) -> Wait<'_> {
        Wait::new(self)
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the wakers back that were left under `key`.
    pub(crate) fn forget(self: &Arc<Self>, key: u64) {
        self.with_state(|state| {
            if let Some(rare) = &mut state.rare {
                rare.progress.remove(key, &mut state.later);
                rare.ended.remove(key, &mut state.later);
            }
        });
    }

    // ---- sending

    /// Puts `packet` into the outbox if there is room for it and nobody waits for that. [`Reason::Full`] otherwise.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        // Its checksum is computed before the lock is taken, which other senders wait for.
        let frame = self.settings.codec.frame(packet).map_err(Reason::TooLarge)?;
        self.with_state(|state| {
            state.check_open()?;
            if self.is_waited_for() {
                return Err(Reason::Full);
            }
            if !state.has_room(frame.len()) {
                state.make_room(frame.len(), &self.settings.codec)?;
            }
            state.push(packet, &frame);
            Ok(())
        })
    }

    /// Puts packets into the outbox, and counts them in `accepted`, until one of them has to wait or is refused. Writes
    /// them when that was all.
    pub(crate) fn offer_many(
        self: &Arc<Self>,
        packets: &[Packet],
        accepted: &mut usize,
    ) -> Result<(), Reason> {
        let codec = &self.settings.codec;
        self.with_state(|state| {
            state.check_open()?;
            if self.is_waited_for() {
                return Err(Reason::Full);
            }
            if let [packet] = packets {
                if state.writes_through() {
                    let frame = codec.frame(packet).map_err(Reason::TooLarge)?;
                    state.write_through(packet, &frame);
                    *accepted += 1;
                    return state.check_open();
                }
            }
            if packets.len() > 1 {
                state.outbox.make_room_for(packets);
            }
            for packet in packets {
                let frame = codec.frame(packet).map_err(Reason::TooLarge)?;
                if !state.has_room(frame.len()) {
                    state.make_room(frame.len(), codec)?;
                }
                state.push(packet, &frame);
                *accepted += 1;
                // Pushing may write, and so find the connection broken.
                state.check_open()?;
            }
            state.write_batch();
            state.check_open()
        })
    }

    fn is_waited_for(&self) -> bool {
        self.line.get().is_some_and(|line| line.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Puts `packet` into the outbox, whatever stands in it, where senders are to wait for room and so have.
    pub(crate) fn force(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        if self.settings.slow_consumer != SlowConsumer::Block {
            return self.offer_or_drop(packet);
        }
        let frame = self.settings.codec.frame(packet).map_err(Reason::TooLarge)?;
        self.with_state(|state| {
            state.check_open()?;
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
        self.settings.slow_consumer == SlowConsumer::DropNewest
    }

    /// Counts a packet that was dropped for want of room.
    pub(crate) fn drop_newest(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            state.check_open()?;
            state.rare().packets_dropped += 1;
            Ok(())
        })
    }

    /// Waits for room, behind those that have waited for longer, and puts `packet` into the outbox.
    pub(crate) async fn accept_in_turn(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.settings.codec.frame(packet).map_err(Reason::TooLarge)?;
        let line = self.line.get_or_init(Box::default);
        let _waiting = Waiting::new(&line.waiting);
        let wait = self.wait();
        let mut turn = pin!(line.turn.lock());
        // The end is waited for beside the turn: who has the turn may not be polled any more.
        let _turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
            Poll::Ready(turn) => Poll::Ready(Ok(turn)),
            Poll::Pending => self.poll_not_open(wait.key, cx).map(Err),
        })
        .await?;
        poll_fn(|cx| self.poll_accept(packet, &frame, wait.key, cx)).await
    }

    /// Waits until nothing is accepted any more.
    fn poll_not_open(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        self.with_state(|state| match state.check_open() {
            Err(reason) => Poll::Ready(reason),
            Ok(()) => {
                state.wait_for_end(key, cx);
                Poll::Pending
            }
        })
    }

    fn poll_accept(
        self: &Arc<Self>,
        packet: &Packet,
        frame: &Frame<'_>,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            if !state.has_room(frame.len()) && !state.blocked {
                state.write_out();
            }
            state.check_open()?;
            if state.has_room(frame.len()) {
                state.push(packet, frame);
                return Poll::Ready(Ok(()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    /// Waits until a packet may be [forced](Self::force) in. For `Sink`, which reserves no room of its own.
    pub(crate) fn poll_ready(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        match self.settings.slow_consumer {
            SlowConsumer::Block => self.poll_room(key, cx),
            _ => Poll::Ready(self.with_state(|state| state.check_open())),
        }
    }

    /// Waits until the outbox is below its high-water mark.
    pub(crate) fn poll_room(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            if !state.is_below_mark() && !state.blocked {
                state.write_out();
            }
            state.check_open()?;
            // Behind the senders that wait, but for an empty outbox: they may not be polled any more.
            let in_turn = state.outbox.is_empty() || !self.is_waited_for();
            if in_turn && state.is_below_mark() {
                return Poll::Ready(Ok(()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    pub(crate) fn queued_bytes(self: &Arc<Self>) -> usize {
        self.with_state(|state| state.outbox.len())
    }

    /// How many bytes were ever accepted: what a flush that begins now has to wait for.
    pub(crate) fn bytes_accepted(self: &Arc<Self>) -> u64 {
        self.with_state(|state| state.bytes_accepted)
    }

    /// Waits until `target` bytes, of all that were ever accepted, are written.
    pub(crate) fn poll_flushed(
        self: &Arc<Self>,
        target: u64,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            if !state.is_written(target) && state.phase < Phase::Ended && !state.blocked {
                state.write_out();
            }
            if state.is_written(target) {
                return Poll::Ready(Ok(()));
            }
            if state.phase == Phase::Ended {
                return Poll::Ready(Err(state.stop_reason()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    // ---- receiving

    /// Whether this side was closed, so that nothing is received any more; cheap enough to ask before each packet.
    pub(crate) fn is_closed_here(&self) -> bool {
        self.closed_here.load(Ordering::Relaxed)
    }

    /// Whether the connection has ended for a peer that takes nothing. It may still send, and without a pause: of one that is
    /// gone, what has arrived has an end.
    #[cold]
    pub(crate) fn is_given_up(self: &Arc<Self>) -> bool {
        self.with_state(|state| {
            state.phase == Phase::Ended
                && matches!(
                    state.stop_reason(),
                    Reason::SlowConsumer { .. } | Reason::Timeout(Timeout::Write, _)
                )
        })
    }

    /// What the receiver does before it waits: writes what was sent, and leaves its waker for news of the end.
    #[inline(always)]
    pub(crate) fn before_wait(self: &Arc<Self>, cx: &Context<'_>) -> Result<(), Reason> {
        self.with_state(|state| {
            state.write_before_wait();
            state.check_open()?;
            if !state.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                if let Some(last) = state.receiver.replace(cx.waker().clone()) {
                    state.later.drop(last);
                }
            }
            Ok(())
        })
    }

    /// The peer closed its side between two frames. It may still receive. Fails where that is not what ended receiving:
    /// a reset that writing ran into is the end of the stream for who reads after it.
    pub(crate) fn remote_closed(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            state.remote_closed = true;
            // Where this side is closing already, that was the last thing it waited for.
            state.wake_flusher();
            state.check_open()?;
            let rare = state.rare.get_or_insert_default();
            rare.reason.get_or_insert(Reason::RemoteClose);
            rare.ended.wake(&mut state.later);
            state.write_before_wait();
            Ok(())
        })
    }

    /// Receiving failed. After a bad frame the peer still gets what was accepted for it; a transport that failed is gone,
    /// and of a peer that was too slow nothing more is waited for.
    /// What the receiver is to say is the [`stop_reason`](Self::stop_reason): the connection may have failed before, in
    /// writing.
    pub(crate) fn receive_failed(self: &Arc<Self>, reason: &Reason) {
        self.with_state(|state| {
            // One that is closing has a deadline of its own, and goes on towards a clean end.
            if matches!(reason, Reason::Timeout(..)) && state.phase > Phase::Open {
                return;
            }
            state.fail(reason.clone());
            match reason {
                Reason::Frame(error) => {
                    state.remote_closed |= matches!(error, FrameError::Truncated { .. });
                    state.wake_flusher();
                    state.begin_close(self.settings.timeouts.close);
                }
                Reason::Timeout(..) => {
                    // The transport works, and the peer may still read.
                    state.write_last();
                    state.end();
                }
                _ => state.end(),
            }
        });
    }

    /// Takes the reading half over from a receiver that reads no more.
    pub(crate) fn park_reader(self: &Arc<Self>, reader: Reader) {
        self.with_state(|state| {
            if state.phase < Phase::Ended && !state.remote_closed {
                state.rare().reader = Some(reader);
                state.wake_flusher();
            } else {
                state.later.drop(reader);
            }
        });
    }

    // ---- the end

    pub(crate) fn reason(self: &Arc<Self>) -> Option<Reason> {
        self.with_state(|state| state.reason())
    }

    /// Why nothing is sent or received any more, of a connection of which that holds.
    pub(crate) fn stop_reason(self: &Arc<Self>) -> Reason {
        self.with_state(|state| state.stop_reason())
    }

    pub(crate) fn poll_reason(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        self.with_state(|state| match state.reason() {
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
            state.stop(Reason::LocalClose);
            self.closed_here.store(true, Ordering::Relaxed);
            state.begin_close(self.settings.timeouts.close);
        });
    }

    /// Waits for the end of a connection that is closing.
    pub(crate) fn poll_ended(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.with_state(|state| {
            if state.phase < Phase::Ended {
                state.wait_for_progress(key, cx);
                return Poll::Pending;
            }
            Poll::Ready(match state.rare().failure.clone() {
                Some(failure) => Err(Error::new(failure, state.outbox.take_unsent(&self.settings.codec))),
                None => Ok(()),
            })
        })
    }

    pub(crate) fn has_ended(self: &Arc<Self>) -> bool {
        self.with_state(|state| state.phase == Phase::Ended)
    }

    /// Ends the connection because the time to close it is over, and takes what was not written. `None` where it had ended
    /// before, but for the peer's close.
    pub(crate) fn cut(self: &Arc<Self>) -> Option<CutConn> {
        self.with_state(|state| {
            if state.phase == Phase::Ended {
                return None;
            }
            state.write_last();
            let unsent = state.outbox.take_unsent(&self.settings.codec);
            self.closed_here.store(true, Ordering::Relaxed);
            // Where all was written and the peer alone has not closed yet, nothing is lost.
            let is_cut = state.phase < Phase::Finished;
            if is_cut {
                // Who waits for its close is not to take it for a clean one.
                state.fail(Reason::LocalClose);
            }
            state.end();
            is_cut.then(|| CutConn { peer_addr: self.ends.peer(), unsent })
        })
    }

    /// Ends the connection, and takes what was not wholly written. Nothing more is written of it: it will be sent elsewhere.
    pub(crate) fn abandon(self: &Arc<Self>) -> Vec<Packet> {
        self.with_state(|state| {
            state.stop(Reason::LocalClose);
            let unsent = state.outbox.take_unsent(&self.settings.codec);
            state.end();
            unsent
        })
    }

    pub(crate) fn stats(self: &Arc<Self>) -> ConnStats {
        self.with_state(|state| state.stats(&self.received))
    }

    // ---- the flusher and the sweeper

    pub(crate) fn sweep(self: &Arc<Self>) {
        self.with_state(State::run_sweeper);
    }

    /// Of a sweeper that is gone: leaves what is in the outbox to the flusher.
    pub(crate) fn want_flusher(self: &Arc<Self>) {
        self.with_state(|state| {
            state.sweep = Sweep::No;
            if state.has_output() {
                state.want_flusher();
            }
        });
    }

    pub(crate) fn run_flusher(self: &Arc<Self>, cx: &mut Context<'_>) -> Next {
        self.with_state(|state| state.run_flusher(&self.settings.timeouts, cx))
    }

    /// Of a flusher that is dropped: without one, a connection that has not ended yet does now. What the transport takes
    /// without waiting still goes.
    pub(crate) fn flusher_gone(self: &Arc<Self>) {
        self.with_state(|state| {
            state.write_last();
            state.lost();
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(ticket) = &self.ticket else { return };
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        ticket.note(state.stats(&self.received));
        #[cfg(feature = "metrics")]
        crate::metrics::ended(state.reason(), ticket.since().elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read that had begun before this side closed may find the peer's end when the flusher waits for just that.
    #[tokio::test(start_paused = true)]
    async fn the_peers_end_found_while_closing_ends_the_close_before_its_deadline() {
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        for failure in [None, Some(Reason::Frame(truncated))] {
            let config = ConnConfig::new();
            let settings = Settings::new(&config);
            let shared =
                Shared::new(&config, &settings, Writer::other(tokio::io::sink()), Ends::Unknown, None);
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
}
