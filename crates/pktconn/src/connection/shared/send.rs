//! What senders do with a connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use pktconn_codec::Packet;
use tokio::time::Instant;

use super::Shared;
use crate::SlowConsumer;
use crate::connection::machine::{Encoded, Machine, Outgoing, Phase};
use crate::connection::state::State;
use crate::error::Reason;

impl Shared {
    /// Puts `packet` into the queue if there is room for it and nobody waits for that. [`Reason::Full`] otherwise.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        self.offer_with(packet, self.rules().slow_consumer)
    }

    /// [Offers](Self::offer) `packet`, with a policy that may differ from the connection's.
    #[inline]
    pub(crate) fn offer_with(self: &Arc<Self>, packet: &Packet, policy: SlowConsumer) -> Result<(), Reason> {
        // Its checksum is computed before the lock is taken, which other senders wait for.
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        self.offer_frame(&frame, policy)
    }

    #[inline]
    fn offer_frame(self: &Arc<Self>, frame: &impl Outgoing, policy: SlowConsumer) -> Result<(), Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            // A policy that does not wait, such as that of a group, goes past senders that do.
            if state.machine.has_waiting_senders()
                && matches!(policy, SlowConsumer::Block | SlowConsumer::DropNewest)
            {
                return Err(Reason::Full);
            }
            if !state.machine.has_room(frame.len(), self.rules(), Instant::now) {
                self.make_room(state, frame.len(), policy)?;
            }
            state.push(frame);
            Ok(())
        })
    }

    /// Accepts a packet that replaces one that waits with the same key. [`Reason::Full`] if there is none and no room.
    pub(crate) fn offer_latest(
        self: &Arc<Self>,
        key: u64,
        packet: &Packet,
        policy: SlowConsumer,
    ) -> Result<(), Reason> {
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        let frame = Encoded::new(&frame);
        let len = frame.len();
        self.with_state(|state| {
            state.machine.check_open()?;
            let frame = match state.machine.replace_latest(key, frame) {
                Ok(replaced) => {
                    state.deferred.drop(replaced);
                    return Ok(());
                }
                Err(frame) => frame,
            };
            if state.machine.exceeds_max_lag(Instant::now) {
                self.make_room(state, len, policy)?;
            }
            if !state.machine.has_room_for_latest(len, self.rules()) {
                return Err(match policy {
                    SlowConsumer::Disconnect => state.machine.disconnect_slow(),
                    _ => Reason::Full,
                });
            }
            state.machine.put_latest(key, frame);
            state.machine.request_write();
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
        self.has_room(lens.map(|frame| frame.len()).sum())
    }

    /// Whether `len` bytes have room, after the transport was offered what there is, or will be refused for another reason.
    fn has_room(self: &Arc<Self>, len: usize) -> bool {
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
    fn make_room(&self, state: &mut State, len: usize, policy: SlowConsumer) -> Result<(), Reason> {
        // A peer is slow only if it was offered what there is.
        state.write_all_now();
        state.machine.check_open()?;
        state.update_lag();
        state.machine.check_open()?;
        let now = Instant::now();
        if state.machine.has_room(len, self.rules(), || now) {
            return Ok(());
        }
        let State { machine, deferred, .. } = state;
        machine.make_room(len, policy, self.rules(), now, |packet| deferred.drop(packet))
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
            if state.machine.has_waiting_senders() {
                return Err(Reason::Full);
            }
            if let [packet] = packets {
                if state.can_write_directly() {
                    let frame = rules.codec.frame(packet).map_err(Reason::TooLarge)?;
                    state.write_directly(&frame, accepted);
                    return state.machine.check_open();
                }
            }
            if packets.len() > 1 {
                state.machine.queue.reserve_for(packets);
            }
            for packet in packets {
                let frame = rules.codec.frame(packet).map_err(Reason::TooLarge)?;
                if !state.machine.has_room(frame.len(), rules, Instant::now) {
                    self.make_room(state, frame.len(), rules.slow_consumer)?;
                }
                // Before a transport may panic: what stands in the queue has been accepted.
                *accepted += 1;
                if state.push(&frame) {
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
            state.push(&frame);
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
        self.accept_frame_in_turn(&frame).await
    }

    async fn accept_frame_in_turn(self: &Arc<Self>, frame: &impl Outgoing) -> Result<(), Reason> {
        // It gives the place in the line up, whether it is served or dropped.
        let wait = self.wait();
        poll_fn(|cx| self.poll_accept(frame, wait.key, cx)).await
    }

    /// Puts a payload in parts into the queue, as a packet: waits for room, or does what the policy says.
    pub(crate) async fn accept_parts(self: &Arc<Self>, parts: &[Bytes]) -> Result<(), Reason> {
        let frame = self.rules().codec.frame_of_parts(parts).map_err(Reason::TooLarge)?;
        if self.judges_late() && !self.has_room(frame.len()) {
            tokio::task::yield_now().await;
        }
        match self.offer_frame(&frame, self.rules().slow_consumer) {
            Err(Reason::Full) if self.drops_newest() => self.drop_newest(),
            Err(Reason::Full) => self.accept_frame_in_turn(&frame).await,
            offered => offered,
        }
    }

    fn poll_accept(
        self: &Arc<Self>,
        frame: &impl Outgoing,
        key: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        self.with_state(|state| {
            state.machine.check_open()?;
            if state.machine.add_waiting_sender(key) {
                let has_room = |machine: &Machine| machine.has_room(frame.len(), self.rules(), Instant::now);
                if !has_room(&state.machine) && !state.machine.is_blocked() {
                    state.write_out();
                    state.machine.check_open()?;
                }
                if has_room(&state.machine) {
                    state.push(frame);
                    return Poll::Ready(Ok(()));
                }
            }
            state.wait_for_sender_turn(key, cx);
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
            if state.machine.may_bypass_waiting_senders() && state.machine.is_below_mark(self.rules()) {
                return Poll::Ready(Ok(()));
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    pub(crate) fn queued_bytes(self: &Arc<Self>) -> usize {
        self.with_state(|state| state.machine.queued_bytes())
    }

    /// How many bytes were ever accepted: what a flush that begins now has to wait for.
    pub(crate) fn bytes_accepted(self: &Arc<Self>) -> u64 {
        self.with_state(|state| {
            state.machine.queue_all_latest(Instant::now);
            state.machine.bytes_accepted()
        })
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
}
