//! The operations of a sender: queue packets, wait for room, wait until packets are written.
//!
//! An `offer` does not wait: it returns [`Reason::Full`] if the packet has to wait. `accept_in_turn` waits for room,
//! after the senders that already wait.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use pktconn_codec::Packet;
use tokio::time::Instant;

use super::ConnCore;
use crate::SlowConsumer;
use crate::connection::machine::{Encoded, Machine, Outgoing, Phase};
use crate::connection::state::State;
use crate::error::Reason;

impl ConnCore {
    /// Queues `packet` if there is room for it and no sender waits for room, or if the slow-consumer policy makes room.
    /// Fails with [`Reason::Full`] if the packet must wait or be dropped.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        self.offer_with(packet, self.rules().slow_consumer)
    }

    /// Like [`offer`](Self::offer), with a slow-consumer policy that may differ from the connection's.
    #[inline]
    pub(crate) fn offer_with(self: &Arc<Self>, packet: &Packet, policy: SlowConsumer) -> Result<(), Reason> {
        // Before taking the lock, because this computes the checksum.
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        self.offer_frame(&frame, policy)
    }

    #[inline]
    fn offer_frame(self: &Arc<Self>, frame: &impl Outgoing, policy: SlowConsumer) -> Result<(), Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            // The other policies, such as that of a group, do not queue behind waiting senders.
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

    /// Queues a packet under `key`, and replaces the queued packet with the same key. Fails with [`Reason::Full`] if
    /// there is no such packet and no room.
    pub(crate) fn offer_latest(
        self: &Arc<Self>,
        key: u64,
        frame: Encoded,
        policy: SlowConsumer,
    ) -> Result<(), Reason> {
        let len = frame.len();
        self.with_state(|state| {
            state.machine.check_open()?;
            let frame = match state.machine.replace_latest(key, frame, Instant::now) {
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
            state.machine.put_latest(key, frame, Instant::now);
            state.machine.request_write();
            Ok(())
        })
    }

    /// Whether a peer can look slow only because tokio's readiness of the transport is out of date: the slow-consumer
    /// policy acts on a full queue, and the transport cannot bypass tokio's readiness. Yield to tokio's driver once
    /// before you treat the queue as full.
    #[inline]
    pub(crate) fn readiness_may_be_stale(&self) -> bool {
        self.readiness_may_be_stale
    }

    /// Whether the queue has room for all `packets`. Writes the queue first if necessary. Ignores packets that exceed
    /// the size limit, because they need no room.
    pub(crate) fn has_room_for(self: &Arc<Self>, packets: &[Packet]) -> bool {
        let lens = packets.iter().filter_map(|packet| self.rules().codec.frame(packet).ok());
        self.has_room(lens.map(|frame| frame.len()).sum())
    }

    /// Whether the queue has room for `len` bytes. Writes the queue first if necessary. Also `true` if nothing can be
    /// sent any more, because the packets then fail for that reason.
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

    /// Makes room for a frame of `len` bytes: writes the queue, and then applies `policy`. Fails with [`Reason::Full`]
    /// if the packet must wait or be dropped.
    #[cold]
    fn make_room(&self, state: &mut State, len: usize, policy: SlowConsumer) -> Result<(), Reason> {
        // A peer is slow only if the transport does not accept the queue now.
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

    /// Queues `packets` in order until one of them fails or has to wait, and adds the number of queued packets to
    /// `accepted`. Writes the queue if all were queued.
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
            let mut reserves = packets.len() > 1;
            for packet in packets {
                let frame = rules.codec.frame(packet).map_err(Reason::TooLarge)?;
                if !state.machine.has_room(frame.len(), rules, Instant::now) {
                    self.make_room(state, frame.len(), rules.slow_consumer)?;
                }
                // After the checks: an empty queue must not keep a buffer.
                if std::mem::take(&mut reserves) {
                    state.machine.queue.reserve_for(packets);
                }
                // Before the push, which may write: if the transport panics, the packet is in the queue.
                *accepted += 1;
                if state.push(&frame) {
                    // A write may have failed.
                    state.machine.check_open()?;
                }
            }
            state.write_batch();
            state.machine.check_open()
        })
    }

    /// Queues `packet` even if the queue has no room, if the policy is to wait. The caller has already waited. Other
    /// policies apply as usual.
    pub(crate) fn accept_without_room(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
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

    /// Queues `packets` whatever the room and the policy, and returns how many bytes are queued then. For an owner that
    /// has a queue of its own.
    #[cfg(feature = "session")]
    pub(crate) fn push(self: &Arc<Self>, packets: &[Packet]) -> Result<usize, Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            for packet in packets {
                let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
                state.push(&frame);
            }
            Ok(state.machine.queued_bytes())
        })
    }

    /// Like [`offer`](Self::offer), but drops `packet` and succeeds if there is no room and the policy is to drop new
    /// packets.
    #[inline]
    pub(crate) fn offer_or_drop(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        match self.offer(packet) {
            Err(Reason::Full) if self.drops_newest() => self.drop_newest(),
            offered => offered,
        }
    }

    /// Whether the policy is to drop new packets that have no room.
    pub(crate) fn drops_newest(&self) -> bool {
        self.rules().slow_consumer == SlowConsumer::DropNewest
    }

    /// Counts a packet that was dropped because it had no room.
    pub(crate) fn drop_newest(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            state.machine.drop_newest();
            Ok(())
        })
    }

    /// Waits for room, after the senders that already wait, and queues `packet`.
    pub(crate) async fn accept_in_turn(self: &Arc<Self>, packet: &Packet) -> Result<(), Reason> {
        let frame = self.rules().codec.frame(packet).map_err(Reason::TooLarge)?;
        self.accept_frame_in_turn(&frame).await
    }

    async fn accept_frame_in_turn(self: &Arc<Self>, frame: &impl Outgoing) -> Result<(), Reason> {
        // When dropped, removes this sender from the waiting senders.
        let waiter = self.waiter();
        poll_fn(|cx| self.poll_accept(frame, waiter.key, cx)).await
    }

    /// Queues one packet whose payload is the concatenation of `parts`. Waits for room, or applies the policy.
    pub(crate) async fn accept_parts(self: &Arc<Self>, parts: &[Bytes]) -> Result<(), Reason> {
        let frame = self.rules().codec.frame_of_parts(parts).map_err(Reason::TooLarge)?;
        if self.readiness_may_be_stale() && !self.has_room(frame.len()) {
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

    /// Waits until a packet may be [accepted without room](Self::accept_without_room). For `Sink`, which reserves no
    /// room.
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

    /// The number of bytes accepted since the start of the connection. A flush that begins now waits until all of them
    /// are written.
    pub(crate) fn bytes_accepted(self: &Arc<Self>) -> u64 {
        self.with_state(|state| {
            state.machine.queue_all_latest(Instant::now);
            state.machine.bytes_accepted()
        })
    }

    /// Waits until the first `target` bytes, counted since the start of the connection, are written or dropped.
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
