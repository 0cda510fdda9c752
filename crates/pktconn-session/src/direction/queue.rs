//! What both queues of packets share: what a packet counts, and how small an empty queue is.

use std::collections::VecDeque;

use pktconn_codec::Packet;

/// What a packet in a queue counts beside its payload, in bytes: its place in the queue and the header of its allocation.
pub const PACKET_OVERHEAD: usize = 64;

/// An empty queue keeps room for so many packets, about half a kilobyte: an idle session is small, and one that is busy with a few
/// packets at a time does not allocate for each of them.
const MAX_IDLE_CAPACITY: usize = 8;

/// What a packet counts, in bytes.
pub(super) fn cost(packet: &Packet) -> usize {
    packet.len() + PACKET_OVERHEAD
}

/// Gives memory back once the queue is empty.
pub(super) fn shrink_if_empty(queue: &mut VecDeque<Packet>) {
    if queue.is_empty() && queue.capacity() > MAX_IDLE_CAPACITY {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_queue_keeps_little_and_one_with_packets_everything() {
        let mut queue: VecDeque<Packet> = (0..100).map(|_| Packet::default()).collect();
        shrink_if_empty(&mut queue);
        assert_eq!(queue.len(), 100);
        queue.clear();
        shrink_if_empty(&mut queue);
        assert_eq!(queue.capacity(), 0);
        queue.push_back(Packet::default());
        queue.clear();
        let capacity = queue.capacity();
        shrink_if_empty(&mut queue);
        assert_eq!(queue.capacity(), capacity);
        assert!(MAX_IDLE_CAPACITY * size_of::<Packet>() <= 512);
    }
}
