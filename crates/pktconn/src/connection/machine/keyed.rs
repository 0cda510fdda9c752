//! The machine's handling of keyed packets: a later packet with the same key replaces an earlier one that still waits.
//!
//! See [`latest`](super::latest) for the data structure.

use tokio::time::Instant;

use super::latest::{Encoded, Latest};
use super::{Machine, Rules};

impl Machine {
    /// Whether keyed packets wait behind the send queue.
    #[inline]
    pub(crate) fn has_latest(&self) -> bool {
        self.has_latest
    }

    /// Whether packets wait to be written.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty() || self.has_latest
    }

    /// Replaces the waiting packet with this key, and returns the old one. Returns `Err(frame)` if none waits.
    pub(crate) fn replace_latest(
        &mut self,
        key: u64,
        frame: Encoded,
        now: impl FnOnce() -> Instant,
    ) -> Result<Encoded, Encoded> {
        let Some(cold) = &mut self.cold else { return Err(frame) };
        let replaced = cold.latest.replace(key, frame)?;
        cold.packets_dropped += 1;
        self.packets_sent += 1;
        self.note_accepted_latest(now);
        Ok(replaced)
    }

    /// Timed flushing counts keyed packets like others.
    fn note_accepted_latest(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(timing) = &mut self.timing {
            timing.packet_queued(now());
        }
    }

    /// Whether a frame of `len` bytes may wait under a new key. Keyed packets have their own limit, because they are
    /// needed most when the send queue is full.
    pub(crate) fn has_room_for_latest(&self, len: usize, rules: &Rules) -> bool {
        let waiting = self.latest_len();
        waiting == 0 || waiting + len <= rules.send_high_water
    }

    /// Adds a packet with a new key.
    pub(crate) fn put_latest(&mut self, key: u64, frame: Encoded, now: impl FnOnce() -> Instant) {
        let accepted = self.bytes_accepted;
        self.cold().latest.put(key, frame, accepted);
        self.has_latest = true;
        self.packets_sent += 1;
        self.note_accepted_latest(now);
    }

    /// Moves the packets that are due to the queue. All are due unless the transport is blocked and the queue is not
    /// empty.
    pub(crate) fn queue_due_latest(&mut self, now: impl FnMut() -> Instant) {
        let all = !self.blocked || self.queue.is_empty();
        self.queue_latest(all, now);
    }

    /// Moves all packets to the queue.
    pub(crate) fn queue_all_latest(&mut self, now: impl FnMut() -> Instant) {
        if self.has_latest {
            self.queue_latest(true, now);
        }
    }

    #[cold]
    fn queue_latest(&mut self, all: bool, mut now: impl FnMut() -> Instant) {
        while let Some(due) = self.cold().latest.first_due() {
            if !all && !self.is_written(due) {
                return;
            }
            if let Some(frame) = self.cold().latest.pop() {
                self.enqueue(&frame, &mut now);
            }
        }
        self.cold().latest = Latest::default();
        self.has_latest = false;
    }

    /// The bytes of the waiting keyed packets.
    pub(crate) fn latest_len(&self) -> usize {
        if !self.has_latest {
            return 0;
        }
        self.cold.as_ref().map_or(0, |cold| cold.latest.len())
    }

    /// The memory of the waiting keyed packets, in bytes.
    pub(super) fn latest_held(&self) -> usize {
        if !self.has_latest {
            return 0;
        }
        self.cold.as_ref().map_or(0, |cold| cold.latest.held())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::ConnConfig;
    use crate::connection::machine::WriteOutcome;
    use bytes::{Buf, BytesMut};
    use pktconn_codec::{Packet, PacketCodec};
    use proptest::prelude::*;

    fn now() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    /// A machine, and a transport that accepts a given number of bytes.
    struct World {
        machine: Machine,
        codec: PacketCodec,
        written: BytesMut,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let machine = Machine::new(&ConnConfig::new());
            Self { machine, codec: PacketCodec::default(), written: BytesMut::new(), now: now() }
        }

        fn send(&mut self, payload: Vec<u8>) {
            let packet = Packet::from(payload);
            let now = self.now;
            self.machine.push(&self.codec.frame(&packet).unwrap(), || now);
        }

        fn send_latest(&mut self, key: u64, payload: Vec<u8>) {
            let packet = Packet::from(payload);
            let frame = Encoded::new(&self.codec.frame(&packet).unwrap());
            if let Err(frame) = self.machine.replace_latest(key, frame, now) {
                self.machine.put_latest(key, frame, now);
            }
        }

        /// Writes to a transport with room for `room` bytes, as the driver does.
        fn write(&mut self, mut room: usize) {
            let (before, now) = (self.machine.bytes_out(), self.now);
            let outcome = loop {
                self.machine.queue_due_latest(|| now);
                if self.machine.queue.is_empty() {
                    break WriteOutcome::All;
                }
                if room == 0 {
                    break WriteOutcome::Blocked;
                }
                let mut slices = [std::io::IoSlice::new(&[]); super::super::MAX_SLICES];
                self.machine.queue.fill(&mut slices);
                let count = room.min(slices[0].len());
                self.written.extend_from_slice(&slices[0][..count]);
                self.machine.note_written(count, drop);
                room -= count;
            };
            self.machine.flushed();
            self.machine.finish_write(before, outcome, || now, drop);
        }

        fn received(&mut self) -> Vec<Vec<u8>> {
            let next = || self.codec.clone().decode_frame(&mut self.written).unwrap();
            let packets = std::iter::from_fn(next).map(|packet| packet.payload().to_vec()).collect();
            assert!(!self.written.has_remaining());
            packets
        }
    }

    #[test]
    fn a_keyed_packet_can_be_replaced_until_all_earlier_packets_are_written() {
        let mut world = World::new();
        world.send(vec![1; 96]);
        world.write(50);
        world.send_latest(7, vec![71]);
        world.send_latest(8, vec![81]);
        // A plain packet overtakes the keyed ones.
        world.send(vec![2; 96]);
        world.send_latest(7, vec![72; 2]);
        world.write(40);
        world.send_latest(7, vec![73; 3]);
        assert_eq!(world.machine.queued_bytes(), 10 + 100 + 7 + 5);
        // The first packet is written, so the keyed packets join the queue behind the second one.
        world.write(10);
        world.write(0);
        world.send_latest(7, vec![74]);
        world.write(1000);
        let expected = [vec![1; 96], vec![2; 96], vec![73; 3], vec![81], vec![74]];
        assert_eq!(world.received(), expected);
        assert!(!world.machine.has_output());
        let stats = world.machine.stats(&Default::default());
        assert_eq!((stats.packets_sent, stats.packets_dropped), (7, 2));
    }

    #[test]
    fn without_a_block_packets_stay_in_order_and_are_replaced_only_before_the_write() {
        let mut world = World::new();
        world.send_latest(7, vec![71]);
        world.send_latest(7, vec![72]);
        world.send(vec![1]);
        world.send_latest(7, vec![73]);
        world.write(1000);
        assert_eq!(world.received(), [vec![72], vec![1], vec![73]]);
    }

    proptest! {
        /// For any packets and writes: packets without a key arrive in order, the last packet of each key arrives, none
        /// arrives twice, and only replaced packets are missing.
        #[test]
        fn only_replaced_packets_are_missing(
            steps in prop::collection::vec((0..6_u64, 0..40_000_usize, 0..60_000_usize), 1..80),
        ) {
            let mut world = World::new();
            let (mut plain, mut last_of_key) = (Vec::new(), HashMap::new());
            for (number, (key, len, room)) in steps.iter().enumerate() {
                let payload = [&[number as u8, *key as u8][..], &vec![0; *len]].concat();
                if *key < 2 {
                    plain.push(number as u8);
                    world.send(payload);
                } else {
                    last_of_key.insert(*key as u8, number as u8);
                    world.send_latest(*key, payload);
                }
                if room % 3 > 0 {
                    world.write(*room);
                }
            }
            let total = world.machine.stats(&Default::default());
            world.write(usize::MAX);
            let received: Vec<(u8, u8)> = world.received().iter().map(|packet| (packet[0], packet[1])).collect();
            let of = |keyed: bool| received.iter().filter(move |(_, key)| (*key >= 2) == keyed).copied();
            prop_assert_eq!(of(false).map(|(number, _)| number).collect::<Vec<_>>(), plain);
            for (key, last) in last_of_key {
                let numbers: Vec<u8> = of(true).filter(|(_, of)| *of == key).map(|(number, _)| number).collect();
                prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
                prop_assert_eq!(numbers.last(), Some(&last));
            }
            prop_assert_eq!(received.len() as u64, total.packets_sent - total.packets_dropped);
            prop_assert_eq!(total.packets_sent, steps.len() as u64);
            prop_assert!(!world.machine.has_output() && world.machine.held() == 0);
        }
    }
}
