//! What went through a connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of a connection since it was made.
///
/// Bytes are those of whole frames on the wire: headers and checksums count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnStats {
    /// Packets that `recv` returned.
    pub packets_received: u64,
    /// Bytes that were read from the transport.
    pub bytes_received: u64,
    /// Reads from the transport that returned bytes.
    pub reads: u64,
    /// Packets that `send` accepted, also those that were dropped for others later.
    pub packets_sent: u64,
    /// Packets that were dropped for want of room: [`slow_consumer`](crate::ConnConfig::slow_consumer).
    pub packets_dropped: u64,
    /// Bytes that the transport took.
    pub bytes_sent: u64,
    /// Writes to the transport that took bytes.
    pub writes: u64,
    /// Bytes of accepted packets that the transport has not taken yet.
    pub queued_bytes: u64,
}

impl ConnStats {
    /// Adds those of another connection.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            packets_received,
            bytes_received,
            reads,
            packets_sent,
            packets_dropped,
            bytes_sent,
            writes,
            queued_bytes,
        } = self;
        *packets_received += other.packets_received;
        *bytes_received += other.bytes_received;
        *reads += other.reads;
        *packets_sent += other.packets_sent;
        *packets_dropped += other.packets_dropped;
        *bytes_sent += other.bytes_sent;
        *writes += other.writes;
        *queued_bytes += other.queued_bytes;
    }
}

/// The counts of the receiving side: written by the one receiver, read by any handle.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    pub(crate) reads: Counter,
}

/// A counter with one writer: no atomic read-modify-write is needed, which would cost as much as decoding a packet.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
