//! The channel between the handles of a client and its task: packets in one direction, events in the other, and the
//! state.
//!
//! ```text
//!   send() -> send queue, encoded once, bounded by `permits`   -> task
//!   recv() <- receive queue, bounded in packets and bytes     <- task
//! ```

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use pktconn_codec::{Frame, Packet, PacketCodec};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError, watch};
use tokio_util::sync::CancellationToken;

use super::event::{ClientEvent, ClientState};
use super::receive_queue::ReceiveQueue;
use crate::ConnConfig;
use crate::connection::deferred::catch_panic;
use crate::connection::machine::SendQueue;
use crate::error::Reason;

pub(super) struct ClientChannel {
    codec: PacketCodec,
    queue: Mutex<Queue>,
    /// One permit for each byte that may be queued.
    permits: Semaphore,
    max_permits: usize,
    /// One permit: the right to the next number. Held by a reservation, and by senders that had to wait for one, so
    /// that these are served in order.
    reservation: Semaphore,
    /// Notifies the task that a packet was queued.
    queued: Notify,
    received: Mutex<ReceiveQueue>,
    /// Notifies the receiver that there is an event.
    event_pushed: Notify,
    /// Notifies the task that the receiver has taken all packets, or enough to make room.
    event_taken: Notify,
    state: watch::Sender<ClientState>,
    /// Cancelled when the client is closed: no more packets are accepted.
    pub(super) closing: CancellationToken,
}

#[derive(Default)]
struct Queue {
    /// Packets that a lost connection has not written. Sent before `frames`; they hold no permits any more.
    requeued: SendQueue,
    frames: SendQueue,
    /// How many packets were accepted in total. The number of the next packet.
    accepted: u64,
    /// Whether the next number is reserved: other packets wait.
    is_reserved: bool,
    /// How many senders wait for the end of a reservation. Later ones wait behind them.
    waiting: usize,
    /// Permits that a reserved packet has used although there were none. Paid back before others get permits.
    debt: usize,
    /// Why no more packets are accepted.
    closed: Option<Reason>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientChannel {
    pub(super) fn new(config: &ConnConfig) -> Self {
        // A packet acquires one permit per byte in one call, which takes a `u32`.
        let max_permits = config.send_high_water.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            codec: PacketCodec::new(config.codec),
            queue: Mutex::default(),
            permits: Semaphore::new(max_permits),
            max_permits,
            reservation: Semaphore::new(1),
            queued: Notify::new(),
            received: Mutex::default(),
            event_pushed: Notify::new(),
            event_taken: Notify::new(),
            state: watch::Sender::new(ClientState::Connecting),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn codec(&self) -> &PacketCodec {
        &self.codec
    }

    pub(super) fn state(&self) -> &watch::Sender<ClientState> {
        &self.state
    }

    pub(super) fn set_state(&self, state: ClientState) {
        catch_panic(|| drop(self.state.send_replace(state)));
    }

    // ---- sending

    /// Waits for room, then queues `packet`. Returns its number.
    pub(super) async fn send(&self, packet: &Packet) -> Result<u64, Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let Ok(room) = self.permits.acquire_many(self.permits_for(frame.len())).await else {
            return Err(self.closed());
        };
        let number = match self.push(&frame, false) {
            // Another packet has the next number.
            Err(Reason::Full) => self.push_after_reservation(&frame).await?,
            pushed => pushed?,
        };
        room.forget();
        Ok(number)
    }

    async fn push_after_reservation(&self, frame: &Frame<'_>) -> Result<u64, Reason> {
        lock(&self.queue).waiting += 1;
        let _waiting = Waiting(self);
        let Ok(_next) = self.reservation.acquire().await else { return Err(self.closed()) };
        self.push(frame, true)
    }

    /// Waits for room for the next packet. Until the reservation is used or dropped, no other packet is queued.
    pub(super) async fn reserve(&self) -> Result<Reservation<'_>, Reason> {
        let Ok(room) = self.permits.acquire().await else { return Err(self.closed()) };
        let Ok(only) = self.reservation.acquire().await else { return Err(self.closed()) };
        let mut queue = lock(&self.queue);
        queue.is_reserved = true;
        Ok(Reservation { channel: self, number: queue.accepted, room: Some(room), _only: only })
    }

    /// Queues `packet` if there is room and no sender waits for room. Returns its number.
    pub(super) fn try_send(&self, packet: &Packet) -> Result<u64, Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let refused = |error| match error {
            TryAcquireError::Closed => self.closed(),
            TryAcquireError::NoPermits => Reason::Full,
        };
        let room = self.permits.try_acquire_many(self.permits_for(frame.len())).map_err(refused)?;
        let number = self.push(&frame, false)?;
        room.forget();
        Ok(number)
    }

    /// The permits for a frame. A frame larger than the limit needs all permits, and so passes when the queue is empty.
    fn permits_for(&self, frame_len: usize) -> u32 {
        frame_len.min(self.max_permits) as u32
    }

    /// Queues a frame. `is_next`: the caller has the right to the next number. Otherwise fails with [`Reason::Full`] if
    /// somebody else has it or waits for it.
    fn push(&self, frame: &Frame<'_>, is_next: bool) -> Result<u64, Reason> {
        let mut queue = lock(&self.queue);
        if let Some(reason) = &queue.closed {
            return Err(reason.clone());
        }
        if !is_next && (queue.is_reserved || queue.waiting > 0) {
            return Err(Reason::Full);
        }
        queue.is_reserved = false;
        queue.frames.push(frame, true);
        let number = queue.accepted;
        queue.accepted += 1;
        drop(queue);
        self.queued.notify_one();
        Ok(number)
    }

    fn closed(&self) -> Reason {
        lock(&self.queue).closed.clone().unwrap_or(Reason::LocalClose)
    }

    pub(super) fn queued_bytes(&self) -> usize {
        let queue = lock(&self.queue);
        queue.requeued.len() + queue.frames.len()
    }

    /// Puts packets back in front of all others.
    pub(super) fn requeue(&self, packets: Vec<Packet>) {
        let mut requeued = SendQueue::default();
        let mut push = |packet: &Packet| {
            // Never an error: the packet was accepted before, so it is within the limit.
            if let Ok(frame) = self.codec.frame(packet) {
                requeued.push(&frame, true);
            }
        };
        packets.iter().for_each(&mut push);
        let mut queue = lock(&self.queue);
        queue.requeued.take_unsent(&self.codec).iter().for_each(push);
        queue.requeued = requeued;
        drop(queue);
        catch_panic(|| drop(packets));
    }

    /// Takes packets for about one write out of the queue, or all if there are fewer. Waits for the first.
    pub(super) async fn take_packets(&self, packets: &mut Vec<Packet>) {
        while !self.try_take_packets(packets) {
            self.queued.notified().await;
        }
    }

    /// Like [`take_packets`](Self::take_packets), without waiting. Returns whether there were any.
    pub(super) fn try_take_packets(&self, packets: &mut Vec<Packet>) -> bool {
        let before = packets.len();
        let mut queue = lock(&self.queue);
        if !queue.requeued.is_empty() {
            queue.requeued.take_chunk(&self.codec, packets);
            return true;
        }
        queue.frames.take_chunk(&self.codec, packets);
        let config = self.codec.config();
        let overhead = config.header_format().header_len() + config.checksum_kind().checksum_len();
        let lens = packets[before..].iter().map(|packet| packet.len() + overhead);
        let room: usize = lens.map(|len| len.min(self.max_permits)).sum();
        let paid_back = room.min(queue.debt);
        queue.debt -= paid_back;
        drop(queue);
        let room = room - paid_back;
        catch_panic(|| self.permits.add_permits(room));
        packets.len() > before
    }

    // ---- receiving

    /// Waits until the receiver has taken all packets. Backpressure while a connection is open.
    pub(super) async fn wait_until_no_packets(&self) {
        while !lock(&self.received).has_no_packets() {
            self.event_taken.notified().await;
        }
    }

    /// Waits until the receive queue has room for packets of a connection that has ended.
    pub(super) async fn wait_for_room(&self) {
        while !lock(&self.received).has_room() {
            self.event_taken.notified().await;
        }
    }

    pub(super) fn push_events(&self, events: impl IntoIterator<Item = ClientEvent>) {
        let mut received = lock(&self.received);
        // Dropping an event may run application code: not under the lock.
        let dropped: Vec<_> = events.into_iter().filter_map(|event| received.push(event)).collect();
        drop(received);
        catch_panic(|| self.event_pushed.notify_one());
        catch_panic(|| drop(dropped));
    }

    /// Waits for the next event. `None` if the client has ended and there are no more.
    pub(super) async fn next_event(&self) -> Option<ClientEvent> {
        loop {
            if let Poll::Ready(event) = self.try_next_event() {
                return event;
            }
            self.event_pushed.notified().await;
        }
    }

    fn try_next_event(&self) -> Poll<Option<ClientEvent>> {
        let popped = lock(&self.received).pop();
        if popped.has_made_room {
            self.event_taken.notify_one();
        }
        if popped.event.is_some() || popped.is_end { Poll::Ready(popped.event) } else { Poll::Pending }
    }

    /// Discards all events from now on, because the receiver was dropped.
    pub(super) fn receiver_dropped(&self) {
        let unread = lock(&self.received).discard_all();
        self.event_taken.notify_one();
        drop(unread);
    }

    /// Whether packets of the current connection were discarded because the receiver was dropped.
    pub(super) fn has_discarded(&self) -> bool {
        lock(&self.received).has_discarded()
    }

    // ---- the end

    /// Accepts no more packets, and makes the task send the rest and end.
    pub(super) fn close(&self) {
        self.stop_accepting(Reason::LocalClose);
        self.closing.cancel();
    }

    fn stop_accepting(&self, reason: Reason) {
        lock(&self.queue).closed.get_or_insert(reason);
        // Wakes the senders that wait; they return `closed`.
        self.permits.close();
        self.reservation.close();
    }

    /// Ends the client. `reason`: why not everything was sent, or `None`.
    pub(super) fn end(&self, reason: Option<Reason>) {
        catch_panic(|| self.stop_accepting(reason.clone().unwrap_or(Reason::LocalClose)));
        // The state first, so that it is `Ended` by the time `recv` returns `None`.
        self.set_state(ClientState::Ended(reason.map(|reason| Arc::new(reason.into()))));
        lock(&self.received).end();
        catch_panic(|| self.event_pushed.notify_one());
    }

    /// Takes the packets that a client has not sent before it ended. Returns them once.
    pub(super) fn take_unsent(&self) -> Vec<Packet> {
        let mut queue = lock(&self.queue);
        let (mut requeued, mut frames) = (mem::take(&mut queue.requeued), mem::take(&mut queue.frames));
        drop(queue);
        let mut unsent = requeued.take_unsent(&self.codec);
        unsent.append(&mut frames.take_unsent(&self.codec));
        unsent
    }
}

/// A sender that waits for the end of a reservation.
struct Waiting<'a>(&'a ClientChannel);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).waiting -= 1;
    }
}

/// The number of the next packet, reserved.
pub(super) struct Reservation<'a> {
    channel: &'a ClientChannel,
    pub(super) number: u64,
    /// One permit, until the packet is queued.
    room: Option<SemaphorePermit<'a>>,
    _only: SemaphorePermit<'a>,
}

impl Reservation<'_> {
    /// Queues `packet` under the reserved number.
    pub(super) fn send(mut self, packet: &Packet) -> Result<(), Reason> {
        let frame = self.channel.codec.frame(packet).map_err(Reason::TooLarge)?;
        self.channel.push(&frame, true)?;
        if let Some(room) = self.room.take() {
            room.forget();
        }
        // The packet may be larger than the room that was waited for.
        let more = self.channel.permits_for(frame.len()) as usize - 1;
        let missing = more - self.channel.permits.forget_permits(more);
        lock(&self.channel.queue).debt += missing;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        // `_only` is dropped after this, and wakes the next one that waits. `send` has cleared it already, and nobody
        // can have reserved the next number since.
        lock(&self.channel.queue).is_reserved = false;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_reserved_packet_may_exceed_the_limit_and_later_ones_wait_for_it() {
        let channel = ClientChannel::new(&ConnConfig::new().send_high_water(10));
        let packet = |len| Packet::from(vec![7; len]);
        // 8 of 10 permits are in use.
        assert!(matches!(channel.try_send(&packet(4)), Ok(0)));
        let reservation = channel.reserve().await.unwrap();
        assert_eq!(reservation.number, 1);
        assert!(matches!(channel.try_send(&Packet::default()), Err(Reason::Full)), "it would get the number");
        assert!(reservation.send(&packet(4)).is_ok());
        assert_eq!((channel.permits.available_permits(), lock(&channel.queue).debt), (0, 6));
        let mut taken = Vec::new();
        while channel.try_take_packets(&mut taken) {}
        assert_eq!((channel.permits.available_permits(), lock(&channel.queue).debt), (10, 0));
        // One that is not used, or whose packet is too large, takes neither number nor room.
        drop(channel.reserve().await.unwrap());
        let reservation = channel.reserve().await.unwrap();
        assert!(matches!(reservation.send(&packet(33 << 20)), Err(Reason::TooLarge(_))));
        assert!(matches!(channel.try_send(&packet(6)), Ok(2)));
        assert_eq!(channel.permits.available_permits(), 0);
    }

    #[tokio::test]
    async fn senders_that_wait_for_a_reservation_are_served_in_order() {
        for uses_it in [false, true] {
            let channel = ClientChannel::new(&ConnConfig::new());
            let packet = |number| Packet::from(vec![number]);
            let first = channel.reserve().await.unwrap();
            let (early, late, cancelled) = (packet(1), packet(3), packet(9));
            let mut early = std::pin::pin!(channel.send(&early));
            let mut reserved = std::pin::pin!(channel.reserve());
            let mut late = std::pin::pin!(channel.send(&late));
            assert!(early.as_mut().now_or_never().is_none());
            assert!(channel.send(&cancelled).now_or_never().is_none());
            assert!(reserved.as_mut().now_or_never().is_none());
            assert!(late.as_mut().now_or_never().is_none());
            if uses_it {
                first.send(&packet(0)).unwrap();
            } else {
                drop(first);
            }
            // Others come before the waiting ones run.
            assert!(matches!(channel.try_send(&packet(8)), Err(Reason::Full)));
            let last = packet(4);
            let mut last = std::pin::pin!(channel.send(&last));
            assert!(last.as_mut().now_or_never().is_none());
            let base = u64::from(uses_it);
            assert_eq!(early.await.unwrap(), base);
            let reserved = reserved.await.unwrap();
            assert_eq!(reserved.number, base + 1);
            assert!(late.as_mut().now_or_never().is_none());
            reserved.send(&packet(2)).unwrap();
            assert_eq!((late.await.unwrap(), last.await.unwrap()), (base + 2, base + 3));
            assert_eq!(channel.try_send(&packet(5)).unwrap(), base + 4, "nobody waits any more");
            let mut taken = Vec::new();
            while channel.try_take_packets(&mut taken) {}
            assert_eq!(taken, (1 - base as u8..6).map(packet).collect::<Vec<_>>());
            assert_eq!(channel.permits.available_permits(), 1024 * 1024);
        }
    }

    #[test]
    fn requeued_packets_come_first_and_hold_no_permits() {
        let channel = ClientChannel::new(&ConnConfig::new().send_high_water(10));
        let packet = |number| Packet::from(vec![number; 6]);
        assert!(matches!(channel.try_send(&packet(7)), Ok(0)));
        channel.requeue(vec![packet(4), packet(5), packet(6)]);
        channel.requeue(vec![packet(1), packet(2), packet(3)]);
        assert_eq!(channel.queued_bytes(), 7 * 10);
        assert!(matches!(channel.try_send(&packet(8)), Err(Reason::Full)));
        let mut taken = Vec::new();
        while channel.try_take_packets(&mut taken) {}
        assert_eq!(taken, (1..8).map(packet).collect::<Vec<_>>());
        assert_eq!(channel.permits.available_permits(), 10);
    }
}
