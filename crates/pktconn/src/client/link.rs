//! What the handles of a client and its task share.
//!
//! ```text
//!   send() -> queue, encoded once, bounded by `room` -> task
//!   recv() <- inbox, bounded in packets and bytes   <- task
//! ```

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use pktconn_codec::{Frame, Packet, PacketCodec};
use tokio::sync::{Notify, Semaphore, TryAcquireError, watch};
use tokio_util::sync::CancellationToken;

use super::event::{ClientEvent, ClientState};
use super::inbox::Inbox;
use crate::ConnConfig;
use crate::connection::deferred::catch_panic;
use crate::connection::machine::SendQueue;
use crate::error::Reason;

pub(super) struct Link {
    codec: PacketCodec,
    queue: Mutex<Queue>,
    /// A permit for each byte that may be queued.
    room: Semaphore,
    max_room: usize,
    /// Tells the keeper that something was queued.
    queued: Notify,
    inbox: Mutex<Inbox>,
    /// Tells the receiver that something has happened.
    happened: Notify,
    /// Tells the keeper that the receiver has taken all packets, or enough for there to be room.
    taken: Notify,
    state: watch::Sender<ClientState>,
    /// Once nothing more is accepted, because the client was closed.
    pub(super) closing: CancellationToken,
}

#[derive(Default)]
struct Queue {
    /// What a connection has not written: comes before the others, and has given its room up.
    returned: SendQueue,
    frames: SendQueue,
    /// How many packets were ever accepted.
    accepted: u64,
    /// Why nothing more is.
    closed: Option<Reason>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(config: &ConnConfig) -> Self {
        // A packet acquires as many at once as it has bytes.
        let max_room = config.send_high_water.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            codec: PacketCodec::new(config.codec),
            queue: Mutex::default(),
            room: Semaphore::new(max_room),
            max_room,
            queued: Notify::new(),
            inbox: Mutex::default(),
            happened: Notify::new(),
            taken: Notify::new(),
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

    /// Waits for room, and queues `packet`. Tells its number.
    pub(super) async fn accept(&self, packet: &Packet) -> Result<u64, Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let Ok(room) = self.room.acquire_many(self.room_for(frame.len())).await else {
            return Err(self.closed());
        };
        let number = self.push(&frame)?;
        room.forget();
        Ok(number)
    }

    /// Queues `packet` if there is room and nobody waits for that.
    pub(super) fn try_accept(&self, packet: &Packet) -> Result<u64, Reason> {
        let frame = self.codec.frame(packet).map_err(Reason::TooLarge)?;
        let room = self.room.try_acquire_many(self.room_for(frame.len())).map_err(|error| match error {
            TryAcquireError::Closed => self.closed(),
            TryAcquireError::NoPermits => Reason::Full,
        })?;
        let number = self.push(&frame)?;
        room.forget();
        Ok(number)
    }

    /// One that is larger than all the room passes alone.
    fn room_for(&self, frame_len: usize) -> u32 {
        frame_len.min(self.max_room) as u32
    }

    fn push(&self, frame: &Frame<'_>) -> Result<u64, Reason> {
        let mut queue = lock(&self.queue);
        if let Some(reason) = &queue.closed {
            return Err(reason.clone());
        }
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
        queue.returned.len() + queue.frames.len()
    }

    /// Puts packets that were taken before all others.
    pub(super) fn put_back(&self, packets: Vec<Packet>) {
        let mut returned = SendQueue::default();
        let mut push = |packet: &Packet| {
            // It was accepted: it is within the limit.
            if let Ok(frame) = self.codec.frame(packet) {
                returned.push(&frame, true);
            }
        };
        packets.iter().for_each(&mut push);
        let mut queue = lock(&self.queue);
        queue.returned.take_unsent(&self.codec).iter().for_each(push);
        queue.returned = returned;
        drop(queue);
        catch_panic(|| drop(packets));
    }

    /// Takes packets out of the queue: a write's worth, or all where there are fewer. Waits for the first.
    pub(super) async fn take(&self, packets: &mut Vec<Packet>) {
        while !self.try_take(packets) {
            self.queued.notified().await;
        }
    }

    /// The same without waiting. Whether there were some.
    pub(super) fn try_take(&self, packets: &mut Vec<Packet>) -> bool {
        let before = packets.len();
        let mut queue = lock(&self.queue);
        if !queue.returned.is_empty() {
            queue.returned.take_chunk(&self.codec, packets);
            return true;
        }
        queue.frames.take_chunk(&self.codec, packets);
        drop(queue);
        let config = self.codec.config();
        let around = config.header_format().header_len() + config.checksum_kind().checksum_len();
        let lens = packets[before..].iter().map(|packet| packet.len() + around);
        let room = lens.map(|len| len.min(self.max_room)).sum();
        catch_panic(|| self.room.add_permits(room));
        packets.len() > before
    }

    // ---- receiving

    /// Waits until the receiver has taken all packets.
    pub(super) async fn wait_until_clear(&self) {
        while !lock(&self.inbox).is_clear() {
            self.taken.notified().await;
        }
    }

    /// Waits until there is room for packets of a connection that has ended.
    pub(super) async fn wait_for_room(&self) {
        while !lock(&self.inbox).has_room() {
            self.taken.notified().await;
        }
    }

    pub(super) fn tell(&self, events: impl IntoIterator<Item = ClientEvent>) {
        let mut inbox = lock(&self.inbox);
        // To drop one may run code of the application's: not under the lock.
        let untold: Vec<_> = events.into_iter().filter_map(|event| inbox.push(event)).collect();
        drop(inbox);
        catch_panic(|| self.happened.notify_one());
        catch_panic(|| drop(untold));
    }

    /// Takes the next event; `None` when there will be no more.
    pub(super) async fn next(&self) -> Option<ClientEvent> {
        loop {
            if let Poll::Ready(event) = self.try_next() {
                return event;
            }
            self.happened.notified().await;
        }
    }

    fn try_next(&self) -> Poll<Option<ClientEvent>> {
        let taken = lock(&self.inbox).pop();
        if taken.has_made_room {
            self.taken.notify_one();
        }
        if taken.event.is_some() || taken.is_end { Poll::Ready(taken.event) } else { Poll::Pending }
    }

    /// The receiver is gone: what arrives from now on is discarded.
    pub(super) fn desert(&self) {
        let unread = lock(&self.inbox).desert();
        self.taken.notify_one();
        drop(unread);
    }

    /// Whether packets of the present connection were dropped because the receiver is gone.
    pub(super) fn has_discarded(&self) -> bool {
        lock(&self.inbox).has_discarded()
    }

    // ---- the end

    /// Accepts nothing more, and has the keeper send the rest.
    pub(super) fn close(&self) {
        self.refuse(Reason::LocalClose);
        self.closing.cancel();
    }

    /// Accepts nothing more.
    fn refuse(&self, reason: Reason) {
        lock(&self.queue).closed.get_or_insert(reason);
        // Who waits for room looks there.
        self.room.close();
    }

    /// Of a keeper that keeps no longer: why not everything was sent, if so.
    pub(super) fn end(&self, reason: Option<Reason>) {
        catch_panic(|| self.refuse(reason.clone().unwrap_or(Reason::LocalClose)));
        // The state first: who has received the last event finds it.
        self.set_state(ClientState::Ended(reason.map(|reason| Arc::new(reason.into()))));
        lock(&self.inbox).end();
        catch_panic(|| self.happened.notify_one());
    }

    /// What was not sent, of a client that has ended. Told once.
    pub(super) fn take_unsent(&self) -> Vec<Packet> {
        let mut queue = lock(&self.queue);
        let (mut returned, mut frames) = (mem::take(&mut queue.returned), mem::take(&mut queue.frames));
        drop(queue);
        let mut unsent = returned.take_unsent(&self.codec);
        unsent.append(&mut frames.take_unsent(&self.codec));
        unsent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_before_all_that_waits_and_takes_no_room() {
        let link = Link::new(&ConnConfig::new().send_high_water(10));
        let packet = |number| Packet::from(vec![number; 6]);
        assert!(matches!(link.try_accept(&packet(7)), Ok(0)));
        link.put_back(vec![packet(4), packet(5), packet(6)]);
        link.put_back(vec![packet(1), packet(2), packet(3)]);
        assert_eq!(link.queued_bytes(), 7 * 10);
        assert!(matches!(link.try_accept(&packet(8)), Err(Reason::Full)));
        let mut taken = Vec::new();
        while link.try_take(&mut taken) {}
        assert_eq!(taken, (1..8).map(packet).collect::<Vec<_>>());
        assert_eq!(link.room.available_permits(), 10);
    }
}
