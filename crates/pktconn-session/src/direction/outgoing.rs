//! Packets that leave: numbered ones until they are acknowledged, then those without a number.
//!
//! ```text
//!   number   first_held          next            sent
//!   packets      | held, written   | held, replay  | without a number
//! ```
//!
//! `next` is the packet to write next on the current connection. It is `sent` unless a replay is under way.

use std::collections::VecDeque;
use std::ops::Range;

use pktconn_codec::Packet;

use super::queue::{cost, shrink_if_empty};
use super::{Counter, OutOfBounds};

pub(crate) struct Outgoing {
    queue: VecDeque<Packet>,
    first_held: u64,
    next: u64,
    sent: u64,
    held_bytes: usize,
    unsent_bytes: usize,
    replay_bytes: usize,
}

impl Outgoing {
    pub(crate) fn new(replay_bytes: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            first_held: 0,
            next: 0,
            sent: 0,
            held_bytes: 0,
            unsent_bytes: 0,
            replay_bytes,
        }
    }

    pub(crate) fn first_held(&self) -> u64 {
        self.first_held
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    fn held_len(&self) -> usize {
        (self.sent - self.first_held) as usize
    }

    pub(crate) fn unsent_len(&self) -> usize {
        self.queue.len() - self.held_len()
    }

    fn is_replaying(&self) -> bool {
        self.next < self.sent
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        self.unsent_bytes += cost(&packet);
        self.queue.push_back(packet);
    }

    /// The next packet to write: first the replay, then, if `may_number`, a packet that can get a number now.
    fn peek(&self, may_number: bool) -> Option<&Packet> {
        let packet = self.queue.get((self.next - self.first_held) as usize)?;
        let has_room = || self.held_bytes == 0 || self.held_bytes + cost(packet) <= self.replay_bytes;
        (self.is_replaying() || (may_number && has_room())).then_some(packet)
    }

    /// Whether [`next`](Self::next) would return a packet.
    pub(crate) fn has_next(&self, may_number: bool) -> bool {
        self.peek(may_number).is_some()
    }

    /// Takes the next packet to write, which has a number then.
    pub(crate) fn next(&mut self, may_number: bool) -> Option<Packet> {
        let packet = self.peek(may_number)?.clone();
        if !self.is_replaying() {
            let cost = cost(&packet);
            self.sent += 1;
            self.held_bytes += cost;
            self.unsent_bytes -= cost;
        }
        self.next += 1;
        Some(packet)
    }

    /// The peer has handed over the packets below `received`. It can have got only those written on this connection.
    pub(crate) fn acknowledge(&mut self, received: u64) -> Result<(), OutOfBounds> {
        Counter::Received.check(received, self.first_held..=self.next)?;
        self.release(received);
        Ok(())
    }

    /// A new connection: the peer has handed over the packets below `received`, and gets all others again.
    pub(crate) fn rewind(&mut self, received: u64) {
        self.release(received);
        self.next = self.first_held;
    }

    /// Whether a peer with this counter can resume.
    pub(crate) fn check_resume(&self, received: u64) -> Result<(), OutOfBounds> {
        Counter::Received.check(received, self.first_held..=self.sent)
    }

    fn release(&mut self, received: u64) {
        let len = (received - self.first_held) as usize;
        self.held_bytes -= self.queue.drain(..len).map(|packet| cost(&packet)).sum::<usize>();
        self.first_held = received;
        shrink_if_empty(&mut self.queue);
    }

    /// Removes the packets of `range`, counted from the first one without a number.
    pub(crate) fn drain_unsent(&mut self, range: Range<usize>) -> Vec<Packet> {
        let start = self.held_len();
        let packets: Vec<_> = self.queue.drain(start + range.start..start + range.end).collect();
        self.unsent_bytes -= packets.iter().map(cost).sum::<usize>();
        packets
    }

    /// The packets that have a number.
    pub(crate) fn held(&self) -> Vec<Packet> {
        self.queue.iter().take(self.held_len()).cloned().collect()
    }
}
