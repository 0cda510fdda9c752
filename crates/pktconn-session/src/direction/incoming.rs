//! Packets that arrive, until the application takes them, and when to acknowledge those that it has taken.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pktconn_codec::Packet;

use super::queue::{cost, shrink_if_empty};
use super::{Counter, OutOfBounds};

/// An acknowledgement is due after so many packets. At 32, ACKs are 1 % of the bytes of packets of 64 bytes.
const MAX_UNACKNOWLEDGED: u64 = 32;

/// An acknowledgement is due so long after the first packet without one. A write of its own costs as much as a packet: with
/// 1,000 clients that each send one packet at a time, 10 ms would double the writes.
const ACK_DELAY: Duration = Duration::from_millis(50);

/// So long after that packet, it goes with data that leaves anyway.
const ACK_DELAY_WITH_DATA: Duration = Duration::from_millis(10);

/// A peer that says it can hold less than this is treated as if it could hold this, so that a hostile one cannot ask for an ACK
/// after each byte.
const MIN_REPLAY_BYTES: u64 = 4096;

#[derive(Default)]
pub(crate) struct Incoming {
    inbox: VecDeque<Packet>,
    inbox_bytes: usize,
    received: u64,
    /// Packets of this connection that arrived after the application had closed the session.
    discarded: u64,
    is_discarding: bool,
    /// The last value of `received` that the peer was told.
    acknowledged: u64,
    unacknowledged_bytes: u64,
    unacknowledged_since: Option<Instant>,
    peer_replay_bytes: u64,
}

impl Incoming {
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn inbox_bytes(&self) -> usize {
        self.inbox_bytes
    }

    pub(crate) fn inbox_len(&self) -> usize {
        self.inbox.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// How many packets of the whole session have arrived without a gap.
    fn arrived(&self) -> u64 {
        self.received + self.inbox.len() as u64 + self.discarded
    }

    pub(crate) fn check_sent(&self, sent: u64) -> Result<(), OutOfBounds> {
        Counter::Sent.check(sent, self.arrived()..=self.arrived())
    }

    pub(crate) fn check_resume(&self, first_held: u64) -> Result<(), OutOfBounds> {
        Counter::FirstHeld.check(first_held, 0..=self.received)
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        if self.is_discarding {
            self.discarded += 1;
            return;
        }
        self.inbox_bytes += cost(&packet);
        self.inbox.push_back(packet);
    }

    pub(crate) fn pop(&mut self, now: Instant) -> Option<Packet> {
        let packet = self.inbox.pop_front()?;
        self.inbox_bytes -= cost(&packet);
        shrink_if_empty(&mut self.inbox);
        self.received += 1;
        self.unacknowledged_bytes += packet.len() as u64;
        self.unacknowledged_since.get_or_insert(now);
        Some(packet)
    }

    /// The application takes no more packets.
    pub(crate) fn discard(&mut self) {
        self.is_discarding = true;
        self.discarded += self.inbox.len() as u64;
        self.clear();
    }

    fn clear(&mut self) {
        self.inbox = VecDeque::new();
        self.inbox_bytes = 0;
    }

    /// Tells the peer `received` in a handshake, and forgets what older connections brought beyond it: the peer sends it again.
    pub(crate) fn restart(&mut self) -> u64 {
        self.clear();
        self.discarded = 0;
        self.acknowledge()
    }

    /// The value for a frame that is written now.
    pub(crate) fn acknowledge(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.unacknowledged_bytes = 0;
        self.unacknowledged_since = None;
        self.received
    }

    pub(crate) fn set_peer_replay_bytes(&mut self, bytes: u32) {
        self.peer_replay_bytes = u64::from(bytes).max(MIN_REPLAY_BYTES);
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.received
    }

    pub(crate) fn is_ack_due(&self, now: Instant) -> bool {
        !self.is_acknowledged()
            && (self.received - self.acknowledged >= MAX_UNACKNOWLEDGED
                || self.unacknowledged_bytes >= self.peer_replay_bytes / 4
                || self.ack_at().is_some_and(|at| at <= now))
    }

    /// Whether an acknowledgement goes with data that is written now.
    pub(crate) fn is_ack_due_with_data(&self, now: Instant) -> bool {
        self.unacknowledged_since.is_some_and(|since| since + ACK_DELAY_WITH_DATA <= now)
    }

    /// When an acknowledgement is due, if no more packets arrive.
    pub(crate) fn ack_at(&self) -> Option<Instant> {
        Some(self.unacknowledged_since? + ACK_DELAY)
    }
}
