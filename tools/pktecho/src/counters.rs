//! Counters of echoed packets. They are fast for two reasons: threads do not write to the same cache line, and a
//! connection needs no memory of its own for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::output::format_connections;

/// Number of threads that can count without sharing a cache line. More threads share some.
const SHARDS: usize = 16;

/// Counters over all connections.
#[derive(Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    ended: AtomicU64,
    shards: [Shard; SHARDS],
}

/// Counters of the connections of one thread. Aligned to 128 B because processors fetch cache lines of 64 B in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    packets: AtomicU64,
    payload_bytes: AtomicU64,
}

/// The counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) packets: u64,
    pub(crate) payload_bytes: u64,
}

/// Counts for one open connection. Dropping it counts the connection as ended.
pub(crate) struct ConnCounter {
    counters: Arc<Counters>,
}

impl Counters {
    /// Counts a new connection.
    pub(crate) fn connection(self: &Arc<Self>) -> ConnCounter {
        self.accepted.fetch_add(1, Relaxed);
        ConnCounter { counters: Arc::clone(self) }
    }

    pub(crate) fn totals(&self) -> Totals {
        let sum = |counter: fn(&Shard) -> &AtomicU64| {
            self.shards.iter().map(|shard| counter(shard).load(Relaxed)).sum()
        };
        // `ended` is read first: every ended connection was accepted before, so `ended` cannot exceed `accepted`.
        let ended = self.ended.load(Relaxed);
        let accepted = self.accepted.load(Relaxed);
        Totals {
            accepted,
            open: accepted.saturating_sub(ended),
            packets: sum(|shard| &shard.packets),
            payload_bytes: sum(|shard| &shard.payload_bytes),
        }
    }

    /// The shard of this thread.
    fn shard(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OF_THIS_THREAD: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
        }
        &self.shards[OF_THIS_THREAD.with(|&index| index)]
    }

    pub(crate) fn summary(&self, elapsed: Duration) -> String {
        let totals = self.totals();
        format!(
            "echoed {} packets, {:.1} MB of payload, over {} in {:.1} s",
            totals.packets,
            totals.payload_bytes as f64 / 1e6,
            format_connections(totals.accepted),
            elapsed.as_secs_f64()
        )
    }
}

impl ConnCounter {
    /// Counts `count` echoed packets, whose payloads have `payload_len` bytes together.
    pub(crate) fn add(&self, count: usize, payload_len: usize) {
        let shard = self.counters.shard();
        shard.packets.fetch_add(count as u64, Relaxed);
        shard.payload_bytes.fetch_add(payload_len as u64, Relaxed);
    }
}

impl Drop for ConnCounter {
    fn drop(&mut self) {
        self.counters.ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_count_while_their_connection_is_open_and_after_its_end() {
        let counters = Arc::new(Counters::default());
        let (first, second) = (counters.connection(), counters.connection());
        first.add(1, 10);
        second.add(1, 0);
        let open = Totals { accepted: 2, open: 2, packets: 2, payload_bytes: 10 };
        assert_eq!(counters.totals(), open);
        drop(first);
        assert_eq!(counters.totals(), Totals { open: 1, ..open });
        drop(second);
        assert_eq!(counters.totals(), Totals { open: 0, ..open });
    }
}
