//! Traffic counters of a connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Traffic counters of a connection, since it was established.
///
/// Byte counts are bytes of the pktconn stream, including headers and checksums. Bytes that TLS adds do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnStats {
    /// Packets that `recv` returned.
    pub packets_received: u64,
    /// Bytes that were read from the transport.
    pub bytes_received: u64,
    /// Reads from the transport that returned bytes.
    pub reads: u64,
    /// Packets that `send` accepted, including accepted packets that were dropped later.
    pub packets_sent: u64,
    /// Packets that were dropped by the [`slow_consumer`](crate::ConnConfig::slow_consumer) policy, or replaced by a
    /// later packet with the same key.
    pub packets_dropped: u64,
    /// Bytes that were written to the transport.
    pub bytes_sent: u64,
    /// Writes to the transport that accepted bytes.
    pub writes: u64,
    /// Bytes of accepted packets that are not yet written to the transport. A current value, not a total.
    pub queued_bytes: u64,
}

impl ConnStats {
    /// Adds the counters of another connection.
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

/// The counters of the receiving side. Only the receiver writes them; any handle reads them.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    pub(crate) reads: Counter,
}

/// A counter with a single writer. It needs no atomic read-modify-write, which would cost as much as decoding a packet.
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
