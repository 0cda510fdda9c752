//! What a receiver does with a connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use pktconn_codec::FrameError;
use tokio::time::Instant;

use super::{CLOSED, DRAINS, Shared};
use crate::connection::machine::Phase;
use crate::connection::state::State;
use crate::error::Reason;
use crate::transport::Reader;

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
        self.with_state(|state| state.machine.phase() == Phase::Ended && !state.machine.can_still_read())
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
            return if state.machine.can_still_read() { Found::LastPackets } else { Found::End };
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
        self.with_state(|state| state.machine.note_end_delivered());
    }

    /// The peer closed its side between two frames. It may still receive. Fails where something else ended
    /// receiving: after a write has failed with a reset, a read finds the end of the stream too.
    pub(crate) fn remote_closed(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            if !state.machine.peer_closed(self.rules(), Instant::now()) {
                return Err(state.machine.stop_reason());
            }
            state.machine.note_end_delivered();
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
                state.machine.peer_closed_without_receiver();
            }
            state.machine.fail(reason.clone());
            match reason {
                // A close that is under way goes on.
                Reason::Frame(_) if state.machine.phase() > Phase::Open => state.machine.request_flusher(),
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
}
