//! The operations of a receiver: checks before each packet, waiting in `recv`, and the end of receiving.
//!
//! Reading and decoding are in [`frame_reader`](crate::connection::frame_reader).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use pktconn_codec::FrameError;
use tokio::time::Instant;

use super::{CLOSED, ConnCore, DRAINING};
use crate::connection::machine::{Phase, TimedWait};
use crate::connection::state::State;
use crate::error::{Reason, Timeout};
use crate::transport::Reader;

/// What a receiver does when there is nothing to read.
#[derive(Debug)]
pub(crate) enum WaitDecision {
    /// Waits. Its waker is registered.
    Wait,
    /// Ends: the connection has ended.
    End,
    /// Ends: a deadline has passed, and the receiver has read once more since then.
    Overdue(Reason),
    /// Reads the bytes that have arrived, and then ends: a write has failed.
    ReadRest,
}

impl ConnCore {
    /// Whether `recv` must check more than its buffer, because this side was closed or the server shuts down. Does not
    /// take the lock, so it can be called before each packet.
    #[inline]
    pub(crate) fn has_signals(&self) -> bool {
        self.signals.load(Ordering::Relaxed) != 0
    }

    /// Whether this side was closed. Nothing is received then.
    pub(crate) fn is_closed_locally(&self) -> bool {
        self.signals.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether the server shuts down and drains its connections: the receiver then receives what has arrived, and does
    /// not wait for more.
    pub(crate) fn is_draining(&self) -> bool {
        self.signals.load(Ordering::Relaxed) & DRAINING != 0
    }

    /// Makes the receiver receive what has arrived, and then end.
    pub(crate) fn drain(self: &Arc<Self>) {
        self.set_signal(DRAINING);
        self.with_state_catching_panics(|state| state.machine.wake_receiver());
    }

    /// Whether the connection has ended and bytes that have arrived are not received any more: for example, because the
    /// peer did not read. Such a peer may still send without a pause, and the receiver must not follow it. After a
    /// failed write this is `false`: the peer is gone, so the rest to read is finite.
    #[cold]
    pub(crate) fn must_stop_receiving(self: &Arc<Self>) -> bool {
        self.with_state(|state| state.machine.phase() == Phase::Ended && !state.machine.can_still_read())
    }

    /// Why receiving has ended without an error.
    pub(crate) fn clean_end_reason(self: &Arc<Self>) -> Reason {
        let aged = self.with_state(|state| state.machine.aged().filter(|_| !state.machine.has_peer_closed()));
        aged.map_or(Reason::RemoteClose, |grace| Reason::Timeout(Timeout::MaxAge, grace))
    }

    /// Prepares the receiver for a wait: writes the queue, and registers the receiver's waker unless the connection has
    /// begun to end.
    #[inline(always)]
    pub(crate) fn before_wait(self: &Arc<Self>, cx: &Context<'_>) -> WaitDecision {
        self.with_state(|state| Self::decide_wait(state, cx))
    }

    /// Like [`before_wait`](Self::before_wait), for a wait with a deadline.
    #[inline(never)]
    pub(crate) fn before_timed_wait(self: &Arc<Self>, wait: &TimedWait, cx: &Context<'_>) -> WaitDecision {
        self.with_state(|state| {
            let decision = Self::decide_wait(state, cx);
            if matches!(decision, WaitDecision::Wait) {
                let now = Instant::now();
                let overdue =
                    if wait.has_read { None } else { state.machine.recv_overdue(self.rules(), now) };
                if let Some(reason) = overdue {
                    return WaitDecision::Overdue(reason);
                }
                state.machine.recv_waits(self.rules(), wait, now);
            }
            decision
        })
    }

    /// Like [`before_timed_wait`](Self::before_timed_wait), for a receiver that is paused by the memory budget. Only the
    /// deadlines of the frame and of the first packet count: whether the peer is silent or slow is not known.
    #[cold]
    pub(crate) fn before_paused_wait(
        self: &Arc<Self>,
        in_frame: bool,
        awaits_first: bool,
        cx: &Context<'_>,
    ) -> WaitDecision {
        self.with_state(|state| {
            let decision = Self::decide_wait(state, cx);
            if matches!(decision, WaitDecision::Wait) {
                let now = Instant::now();
                let overdue = state.machine.recv_overdue(self.rules(), now);
                if let Some(reason @ Reason::Timeout(Timeout::Frame | Timeout::FirstPacket, _)) = overdue {
                    return WaitDecision::Overdue(reason);
                }
                let wait = TimedWait { in_frame, has_read: true, awaits_first, part: None };
                state.machine.recv_waits(self.rules(), &wait, now);
            }
            decision
        })
    }

    #[inline(always)]
    fn decide_wait(state: &mut State, cx: &Context<'_>) -> WaitDecision {
        state.write_before_wait();
        if state.machine.phase() != Phase::Open {
            return if state.machine.can_still_read() { WaitDecision::ReadRest } else { WaitDecision::End };
        }
        state.wait_in_recv(cx);
        WaitDecision::Wait
    }

    /// The receiver no longer waits, and has received nothing.
    #[cold]
    pub(crate) fn pause_recv(self: &Arc<Self>) {
        self.with_state(|state| state.machine.recv_pauses(Instant::now()));
    }

    /// A wait with a deadline has ended: the receiver has received a whole frame. The machine learns of it when the lock
    /// is taken next, because taking it for each packet is expensive.
    #[inline]
    pub(crate) fn note_received(&self) {
        self.has_received.store(true, Ordering::Relaxed);
    }

    /// The application has received the end of the stream. From now on, dropping the connection is a clean close.
    pub(crate) fn note_end_delivered(self: &Arc<Self>) {
        self.with_state(|state| state.machine.note_end_delivered());
    }

    /// The peer has closed its side between two frames. It may still receive. Fails if receiving has ended for another
    /// reason: for example, a read also returns the end of the stream after a write has failed with a reset.
    pub(crate) fn remote_closed(self: &Arc<Self>) -> Result<(), Reason> {
        // The caller is the receiver, so its waker is not needed any more. Dropped without the lock.
        let mut waker = None;
        self.with_state(|state| {
            if !state.machine.peer_closed(self.rules(), Instant::now()) {
                return Err(state.machine.stop_reason());
            }
            waker = state.stop_waiting_in_recv();
            state.machine.note_end_delivered();
            state.write_before_wait();
            state.finish_close_now(self.settings.owns_socket);
            Ok(())
        })
    }

    /// Receiving has failed. Unless the transport has failed, the queue is still written, within a short time.
    ///
    /// The receiver then returns the [`stop_reason`](Self::stop_reason), not `reason`: a write may have failed earlier.
    pub(crate) fn receive_failed(self: &Arc<Self>, reason: &Reason) {
        self.with_state(|state| {
            // A connection that is closing has its own deadline, and may still end cleanly.
            let is_late = matches!(reason, Reason::Timeout(..) | Reason::TooSlow { .. });
            if is_late && state.machine.phase() > Phase::Open {
                return;
            }
            let is_truncated = matches!(reason, Reason::Frame(FrameError::Truncated { .. }));
            if is_truncated {
                state.machine.peer_closed_without_receiver();
            }
            state.machine.fail(reason.clone());
            match reason {
                // The close continues.
                Reason::Frame(_) if state.machine.phase() > Phase::Open => state.machine.request_flusher(),
                Reason::Frame(_) => self.abort_after_last_write(state, true),
                _ if is_late => self.abort_after_last_write(state, false),
                _ => state.machine.end(false),
            }
        });
    }

    /// Ends the connection without a close, after a last try to write the queue. With a reset if `undelivered`, or if
    /// packets would be lost silently.
    pub(super) fn abort_after_last_write(&self, state: &mut State, undelivered: bool) {
        state.write_last();
        let undelivered = self.has_undelivered() || undelivered || self.would_look_clean(state);
        state.machine.abort(undelivered, Instant::now());
    }

    /// Takes over the reading half from a receiver that no longer reads.
    pub(crate) fn park_reader(self: &Arc<Self>, reader: Reader) {
        self.with_state(|state| state.park_reader(reader, self.has_undelivered()));
    }
}
