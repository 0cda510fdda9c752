//! What has happened to a client, in its order, and was not received yet. No lock, task or clock.
//!
//! ```text
//!   while a connection lives:  a batch is added when no packet waits           the peer is held up
//!   after its end:             batches are added while there is room           what is beyond is dropped
//! ```
//!
//! What waits is counted in packets and in bytes, over all connections. So it is bounded however many of them end while
//! nobody receives.

use std::collections::VecDeque;
use std::mem;

use super::event::{ClientEvent, Lost};

/// How many packets are added at a time, at most.
pub(super) const BATCH: usize = 256;

/// From so many packets on there is no room. An empty one takes some 100 bytes as an event.
const MAX_PACKETS: usize = 1024;

/// From so many bytes of payload on there is no room. Hundreds of clients in a process are no trouble.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Inbox {
    events: VecDeque<ClientEvent>,
    /// How many of the events are packets, and the bytes of their payloads.
    packets: usize,
    bytes: usize,
    has_ended: bool,
    /// Whether the receiver is gone: events are dropped.
    is_deserted: bool,
    /// Whether packets of the present connection were dropped for that.
    has_discarded: bool,
}

/// What taking an event has changed.
pub(super) struct Taken {
    /// `None` when none waits.
    pub(super) event: Option<ClientEvent>,
    /// Whether no event follows, now or later.
    pub(super) is_end: bool,
    /// Whether there is room where there was none, or no packet waits any more.
    pub(super) has_made_room: bool,
}

impl Inbox {
    /// Whether no packet waits.
    pub(super) fn is_clear(&self) -> bool {
        self.packets == 0
    }

    /// Whether a batch of a connection that has ended may be added.
    pub(super) fn has_room(&self) -> bool {
        self.packets < MAX_PACKETS && self.bytes < MAX_BYTES
    }

    /// Adds an event, and returns one that is dropped for it. A loss becomes one with the loss before it where no
    /// packet stands in between: so losses are few, too, however long nobody receives.
    pub(super) fn push(&mut self, event: ClientEvent) -> Option<ClientEvent> {
        match event {
            ClientEvent::Connected => self.has_discarded = false,
            ClientEvent::Packet(_) => self.has_discarded |= self.is_deserted,
            ClientEvent::Lost(_) => {}
        }
        if self.is_deserted {
            return Some(event);
        }
        match event {
            ClientEvent::Lost(lost) if self.follows_loss() => {
                // The `Connected` in between.
                self.events.pop_back();
                let Some(ClientEvent::Lost(last)) = self.events.pop_back() else { return None };
                self.events.push_back(ClientEvent::Lost(Lost {
                    error: lost.error,
                    written: last.written.start..lost.written.end,
                    undelivered: last.undelivered || lost.undelivered,
                }));
                return Some(ClientEvent::Lost(last));
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

    /// Takes the first event.
    pub(super) fn pop(&mut self) -> Taken {
        let had_room = self.has_room();
        let event = self.events.pop_front();
        let packet_len = match &event {
            Some(ClientEvent::Packet(packet)) => Some(packet.len()),
            _ => None,
        };
        self.packets -= usize::from(packet_len.is_some());
        self.bytes -= packet_len.unwrap_or_default();
        if self.events.is_empty() && self.events.capacity() > 2 * BATCH {
            // A flood has made it so large.
            self.events = VecDeque::new();
        }
        let has_made_room = packet_len.is_some() && (self.is_clear() || (!had_room && self.has_room()));
        Taken { is_end: event.is_none() && self.has_ended, event, has_made_room }
    }

    /// Drops all events, also those to come, and returns those that wait.
    pub(super) fn desert(&mut self) -> VecDeque<ClientEvent> {
        self.is_deserted = true;
        self.has_discarded |= self.packets > 0;
        (self.packets, self.bytes) = (0, 0);
        mem::take(&mut self.events)
    }

    pub(super) fn has_discarded(&self) -> bool {
        self.has_discarded
    }

    /// No event is added any more.
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
        ClientEvent::Lost(Lost { error: Reason::RemoteClose.into(), written, undelivered })
    }

    #[test]
    fn there_is_room_until_one_of_the_limits() {
        for (len, most) in
            [(0, 1024), (1023, 1024), (1024, 1024), (1025, 1024), (4096, 256), (1 << 20, 1), (9 << 20, 1)]
        {
            let mut inbox = Inbox::default();
            let mut packets = 0;
            while inbox.has_room() {
                assert!(inbox.push(packet(len)).is_none());
                packets += 1;
            }
            assert_eq!(packets, most, "packets of {len} bytes");
            assert!(inbox.pop().has_made_room, "packets of {len} bytes");
        }
    }

    #[test]
    fn losses_become_one_only_where_no_packet_stands_between_them() {
        let mut inbox = Inbox::default();
        for (written, undelivered) in [(0..3, false), (3..3, true), (3..7, false)] {
            inbox.push(ClientEvent::Connected);
            inbox.push(lost(written, undelivered));
        }
        inbox.push(ClientEvent::Connected);
        inbox.push(packet(1));
        inbox.push(lost(7..9, false));
        let events: Vec<_> = std::iter::from_fn(|| inbox.pop().event).collect();
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
        assert_eq!((first.written.clone(), first.undelivered), (0..7, true));
        assert_eq!((second.written.clone(), second.undelivered), (7..9, false));
    }

    #[test]
    fn an_inbox_that_is_empty_again_does_not_keep_the_memory_of_a_flood() {
        let mut inbox = Inbox::default();
        (0..1024).for_each(|_| assert!(inbox.push(packet(0)).is_none()));
        while inbox.pop().event.is_some() {}
        assert!(inbox.events.capacity() <= 2 * BATCH, "room for {} events", inbox.events.capacity());
    }

    /// What one connection does, and how many events the receiver takes before each batch.
    #[derive(Clone, Debug)]
    struct Conn {
        /// The number of packets and the length of each.
        batches: Vec<(usize, usize)>,
        /// From this batch on it has ended.
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

    /// What the receiver got.
    #[derive(Default)]
    struct Received {
        /// The lengths of packets, since the last loss.
        lens: Vec<usize>,
        /// Of each loss: these, and the loss.
        losses: Vec<(Vec<usize>, Lost)>,
    }

    impl Received {
        /// Takes `count` events, and tells whether room was made.
        fn take(&mut self, inbox: &mut Inbox, count: usize) -> bool {
            let mut has_made_room = false;
            for _ in 0..count {
                let taken = inbox.pop();
                has_made_room |= taken.has_made_room;
                match taken.event {
                    Some(ClientEvent::Packet(packet)) => self.lens.push(packet.len()),
                    Some(ClientEvent::Lost(lost)) => self.losses.push((mem::take(&mut self.lens), lost)),
                    Some(ClientEvent::Connected) => {}
                    None => break,
                }
            }
            has_made_room
        }
    }

    proptest! {
        /// Connections come and go, with a receiver that takes some, or nothing for long: what waits stays within the
        /// limits and a batch; what comes is what arrived, in its order; and where something is missing a loss says so.
        #[test]
        fn what_waits_is_bounded_and_what_is_missing_is_told(conns in proptest::collection::vec(conn(), 1..30)) {
            let mut inbox = Inbox::default();
            let mut received = Received::default();
            // Of each connection: the lengths that were added, and whether something was dropped.
            let mut added: Vec<(Vec<usize>, bool)> = Vec::new();
            let mut first = 0;
            for conn in &conns {
                inbox.push(ClientEvent::Connected);
                let (mut lens, mut undelivered) = (Vec::new(), false);
                for (index, &(count, len)) in conn.batches.iter().enumerate() {
                    let (was_clear, had_room) = (inbox.is_clear(), inbox.has_room());
                    let has_made_room = received.take(&mut inbox, conn.taken);
                    prop_assert_eq!(
                        has_made_room,
                        (!was_clear && inbox.is_clear()) || (!had_room && inbox.has_room()),
                        "the task would sleep on, or wake for nothing"
                    );
                    if index < conn.ended_at {
                        // The task waits, and so the peer.
                        while !inbox.is_clear() {
                            received.take(&mut inbox, 1);
                        }
                    } else if !inbox.has_room() {
                        undelivered = true;
                        break;
                    }
                    for _ in 0..count {
                        prop_assert!(inbox.push(packet(len)).is_none());
                        lens.push(len);
                    }
                    prop_assert!(inbox.packets < MAX_PACKETS + BATCH);
                    prop_assert!(inbox.bytes < MAX_BYTES + 70_000);
                    let waiting = inbox.events.iter().filter_map(|event| match event {
                        ClientEvent::Packet(packet) => Some(packet.len()),
                        _ => None,
                    });
                    prop_assert_eq!((inbox.packets, inbox.bytes), (waiting.clone().count(), waiting.sum()));
                }
                inbox.push(lost(first..first + conn.written, undelivered));
                first += conn.written;
                added.push((lens, undelivered));
                prop_assert!(inbox.events.len() <= 3 * (inbox.packets + 1), "{} events", inbox.events.len());
            }
            received.take(&mut inbox, usize::MAX);
            prop_assert!(inbox.is_clear() && inbox.has_room());
            // A loss stands for one connection or for several: their numbers say for which.
            let mut added = added.into_iter().zip(&conns);
            let mut next = 0;
            for (lens, lost) in received.losses {
                prop_assert_eq!(lost.written.start, next);
                let (mut expected, mut undelivered) = (Vec::new(), false);
                while next < lost.written.end {
                    let ((lens, is_incomplete), conn) = added.next().unwrap();
                    expected.extend(lens);
                    undelivered |= is_incomplete;
                    next += conn.written;
                }
                prop_assert_eq!(&lens, &expected);
                prop_assert_eq!(undelivered, lost.undelivered);
            }
            prop_assert!(added.next().is_none());
        }
    }
}
