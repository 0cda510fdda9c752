//! The events of a client that the application has not received yet, in order. No lock, task or clock.
//!
//! ```text
//!   while a connection is open:  add a batch when no packet is waiting          otherwise backpressure
//!   after it has failed:         add batches while there is room                drop the rest
//! ```
//!
//! The limits count packets and bytes over all connections, so memory is bounded however many connections end while the
//! application does not receive.

use std::collections::VecDeque;
use std::mem;

use super::event::{ClientEvent, Lost};

/// The largest number of packets that are added at once.
pub(super) const BATCH: usize = 256;

/// The queue has no room from this many packets on. An event with an empty packet takes about 100 bytes.
const MAX_PACKETS: usize = 1024;

/// The queue has no room from this many bytes of payload on. Hundreds of clients in one process then need little
/// memory.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct ReceiveQueue {
    events: VecDeque<ClientEvent>,
    /// The number of packets in `events`, and the bytes of their payloads.
    packets: usize,
    bytes: usize,
    has_ended: bool,
    /// Whether the receiver was dropped. Events are then discarded.
    is_receiver_gone: bool,
    /// Whether packets of the current connection were discarded because of that.
    has_discarded: bool,
}

/// The result of taking an event.
pub(super) struct Popped {
    /// `None` if the queue is empty.
    pub(super) event: Option<ClientEvent>,
    /// Whether the queue is empty and stays empty.
    pub(super) is_end: bool,
    /// Whether this made room, or took the last packet.
    pub(super) has_made_room: bool,
}

impl ReceiveQueue {
    /// Whether no packet is waiting.
    pub(super) fn has_no_packets(&self) -> bool {
        self.packets == 0
    }

    /// Whether a batch of a connection that has ended may be added.
    pub(super) fn has_room(&self) -> bool {
        self.packets < MAX_PACKETS && self.bytes < MAX_BYTES
    }

    /// Adds an event. Returns an event that is dropped as a result, if any.
    ///
    /// Merges a `Lost` with the previous `Lost` if there is no packet in between, and a `Moved` with either, so that these
    /// events are bounded too while the application does not receive.
    pub(super) fn push(&mut self, event: ClientEvent) -> Option<ClientEvent> {
        match event {
            ClientEvent::Connected => self.has_discarded = false,
            ClientEvent::Packet(_) => self.has_discarded |= self.is_receiver_gone,
            ClientEvent::Lost(_) => {}
            #[cfg(feature = "session")]
            ClientEvent::Moved | ClientEvent::WithoutSession => {}
        }
        if self.is_receiver_gone {
            return Some(event);
        }
        match event {
            ClientEvent::Lost(lost) if self.follows_loss() => {
                // The `Connected` between the two.
                self.events.pop_back();
                let Some(ClientEvent::Lost(last)) = self.events.pop_back() else { return None };
                // A range that is empty has a place, too, but says nothing.
                let delivery_unknown = if lost.delivery_unknown.is_empty() {
                    last.delivery_unknown.clone()
                } else if last.delivery_unknown.is_empty() {
                    lost.delivery_unknown
                } else {
                    last.delivery_unknown.start..lost.delivery_unknown.end
                };
                self.events.push_back(ClientEvent::Lost(Lost {
                    error: lost.error,
                    delivery_unknown,
                    may_miss_packets: last.may_miss_packets || lost.may_miss_packets,
                }));
                return Some(ClientEvent::Lost(last));
            }
            #[cfg(feature = "session")]
            ClientEvent::Moved if self.follows_move_or_loss() => {
                // The `Connected` between the two. Nothing was lost, so the earlier event says enough.
                self.events.pop_back();
                return Some(event);
            }
            ClientEvent::Packet(ref packet) => {
                self.packets += 1;
                self.bytes += packet.len();
            }
            _ => {}
        }
        self.events.push_back(event);
        None
    }

    fn follows_loss(&self) -> bool {
        let mut last = self.events.iter().rev();
        matches!((last.next(), last.next()), (Some(ClientEvent::Connected), Some(ClientEvent::Lost(_))))
    }

    #[cfg(feature = "session")]
    fn follows_move_or_loss(&self) -> bool {
        let mut last = self.events.iter().rev();
        let (last, before) = (last.next(), last.next());
        matches!(
            (last, before),
            (Some(ClientEvent::Connected), Some(ClientEvent::Lost(_) | ClientEvent::Moved))
        )
    }

    /// Takes the first event.
    pub(super) fn pop(&mut self) -> Popped {
        let had_room = self.has_room();
        let event = self.events.pop_front();
        let packet_len = match &event {
            Some(ClientEvent::Packet(packet)) => Some(packet.len()),
            _ => None,
        };
        self.packets -= usize::from(packet_len.is_some());
        self.bytes -= packet_len.unwrap_or_default();
        if self.events.is_empty() && self.events.capacity() > 2 * BATCH {
            // Frees the memory that a peak has needed.
            self.events = VecDeque::new();
        }
        let has_made_room = packet_len.is_some() && (self.has_no_packets() || (!had_room && self.has_room()));
        Popped { is_end: event.is_none() && self.has_ended, event, has_made_room }
    }

    /// Discards all future events, and returns the waiting ones for the caller to drop.
    pub(super) fn discard_all(&mut self) -> VecDeque<ClientEvent> {
        self.is_receiver_gone = true;
        self.has_discarded |= self.packets > 0;
        (self.packets, self.bytes) = (0, 0);
        mem::take(&mut self.events)
    }

    pub(super) fn has_discarded(&self) -> bool {
        self.has_discarded
    }

    /// No event follows.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use pktconn_codec::Packet;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Reason;

    fn packet(len: usize) -> ClientEvent {
        ClientEvent::Packet(Packet::from(vec![0; len]))
    }

    fn lost(written: Range<u64>, undelivered: bool) -> ClientEvent {
        ClientEvent::Lost(Lost {
            error: Reason::RemoteClose.into(),
            delivery_unknown: written,
            may_miss_packets: undelivered,
        })
    }

    #[test]
    fn there_is_room_until_a_limit_is_reached() {
        for (len, most) in
            [(0, 1024), (1023, 1024), (1024, 1024), (1025, 1024), (4096, 256), (1 << 20, 1), (9 << 20, 1)]
        {
            let mut queue = ReceiveQueue::default();
            let mut packets = 0;
            while queue.has_room() {
                assert!(queue.push(packet(len)).is_none());
                packets += 1;
            }
            assert_eq!(packets, most, "packets of {len} bytes");
            assert!(queue.pop().has_made_room, "packets of {len} bytes");
        }
    }

    #[test]
    fn losses_are_merged_only_without_a_packet_in_between() {
        let mut queue = ReceiveQueue::default();
        for (written, undelivered) in [(0..3, false), (3..3, true), (3..7, false)] {
            queue.push(ClientEvent::Connected);
            queue.push(lost(written, undelivered));
        }
        queue.push(ClientEvent::Connected);
        queue.push(packet(1));
        queue.push(lost(7..9, false));
        let events: Vec<_> = std::iter::from_fn(|| queue.pop().event).collect();
        let [
            ClientEvent::Connected,
            ClientEvent::Lost(first),
            ClientEvent::Connected,
            ClientEvent::Packet(_),
            ClientEvent::Lost(second),
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((first.delivery_unknown.clone(), first.may_miss_packets), (0..7, true));
        assert_eq!((second.delivery_unknown.clone(), second.may_miss_packets), (7..9, false));
    }

    #[test]
    fn an_emptied_queue_frees_the_memory_of_a_flood() {
        let mut queue = ReceiveQueue::default();
        (0..1024).for_each(|_| assert!(queue.push(packet(0)).is_none()));
        while queue.pop().event.is_some() {}
        assert!(queue.events.capacity() <= 2 * BATCH, "room for {} events", queue.events.capacity());
    }

    /// A connection, and how many events the receiver takes before each batch.
    #[derive(Clone, Debug)]
    struct Conn {
        /// Per batch, the number of packets and the length of each.
        batches: Vec<(usize, usize)>,
        /// The connection has ended before this batch.
        ended_at: usize,
        written: u64,
        taken: usize,
    }

    fn conn() -> impl Strategy<Value = Conn> {
        let len = prop_oneof![Just(0), 1..300usize, 1000..70_000usize];
        // A batch comes from a read of 64 KiB, or is one larger packet.
        let batch = (1..=BATCH, len).prop_map(|(count, len)| (count.min(65_536 / (len + 4)).max(1), len));
        let parts = (proptest::collection::vec(batch, 0..20), 0..20usize, 1..5u64);
        (parts, prop_oneof![3 => Just(0usize), 1 => 0..600usize])
            .prop_map(|((batches, ended_at, written), taken)| Conn { batches, ended_at, written, taken })
    }

    /// What the receiver has received.
    #[derive(Default)]
    struct Received {
        /// The lengths of the packets since the last loss.
        lens: Vec<usize>,
        /// Each loss, with the lengths of the packets before it.
        losses: Vec<(Vec<usize>, Lost)>,
    }

    impl Received {
        /// Takes `count` events. Returns whether room was made.
        fn take(&mut self, queue: &mut ReceiveQueue, count: usize) -> bool {
            let mut has_made_room = false;
            for _ in 0..count {
                let taken = queue.pop();
                has_made_room |= taken.has_made_room;
                match taken.event {
                    Some(ClientEvent::Packet(packet)) => self.lens.push(packet.len()),
                    Some(ClientEvent::Lost(lost)) => self.losses.push((mem::take(&mut self.lens), lost)),
                    Some(_) => {}
                    None => break,
                }
            }
            has_made_room
        }
    }

    proptest! {
        /// Many connections, with a receiver that takes some events or none for a long time. The queue stays within its
        /// limits plus a batch, received packets are those that arrived, in order, and a loss reports missing packets.
        #[test]
        fn the_queue_is_bounded_and_missing_packets_are_reported(conns in proptest::collection::vec(conn(), 1..30)) {
            let mut queue = ReceiveQueue::default();
            let mut received = Received::default();
            // Per connection: the lengths that were added, and whether packets were dropped.
            let mut added: Vec<(Vec<usize>, bool)> = Vec::new();
            let mut first = 0;
            for conn in &conns {
                queue.push(ClientEvent::Connected);
                let (mut lens, mut undelivered) = (Vec::new(), false);
                for (index, &(count, len)) in conn.batches.iter().enumerate() {
                    let (was_clear, had_room) = (queue.has_no_packets(), queue.has_room());
                    let has_made_room = received.take(&mut queue, conn.taken);
                    prop_assert_eq!(
                        has_made_room,
                        (!was_clear && queue.has_no_packets()) || (!had_room && queue.has_room()),
                        "the task would not be woken, or be woken for nothing"
                    );
                    if index < conn.ended_at {
                        // The task waits until the receiver has taken all packets.
                        while !queue.has_no_packets() {
                            received.take(&mut queue, 1);
                        }
                    } else if !queue.has_room() {
                        undelivered = true;
                        break;
                    }
                    for _ in 0..count {
                        prop_assert!(queue.push(packet(len)).is_none());
                        lens.push(len);
                    }
                    prop_assert!(queue.packets < MAX_PACKETS + BATCH);
                    prop_assert!(queue.bytes < MAX_BYTES + 70_000);
                    let waiting = queue.events.iter().filter_map(|event| match event {
                        ClientEvent::Packet(packet) => Some(packet.len()),
                        _ => None,
                    });
                    prop_assert_eq!((queue.packets, queue.bytes), (waiting.clone().count(), waiting.sum()));
                }
                queue.push(lost(first..first + conn.written, undelivered));
                first += conn.written;
                added.push((lens, undelivered));
                prop_assert!(queue.events.len() <= 3 * (queue.packets + 1), "{} events", queue.events.len());
            }
            received.take(&mut queue, usize::MAX);
            prop_assert!(queue.has_no_packets() && queue.has_room());
            // A loss reports one connection or several. The packet numbers show which.
            let mut added = added.into_iter().zip(&conns);
            let mut next = 0;
            for (lens, lost) in received.losses {
                prop_assert_eq!(lost.delivery_unknown.start, next);
                let (mut expected, mut undelivered) = (Vec::new(), false);
                while next < lost.delivery_unknown.end {
                    let ((lens, is_incomplete), conn) = added.next().unwrap();
                    expected.extend(lens);
                    undelivered |= is_incomplete;
                    next += conn.written;
                }
                prop_assert_eq!(&lens, &expected);
                prop_assert_eq!(undelivered, lost.may_miss_packets);
            }
            prop_assert!(added.next().is_none());
        }
    }
}
