//! How much was echoed, counted without anything that two threads write at the same time, and without memory for each
//! connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// As many threads count without sharing a line of the cache; more of them share some.
const SHARDS: usize = 16;

/// What all connections have echoed.
#[derive(Default)]
pub(crate) struct Board {
    accepted: AtomicU64,
    ended: AtomicU64,
    shards: [Shard; SHARDS],
}

/// What the connections of a thread have echoed. Processors fetch lines of 64 B in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What was echoed by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// A connection that is open, as the board sees it.
pub(crate) struct Tally {
    board: Arc<Board>,
}

impl Board {
    /// Begins the tally of one more connection; dropping it ends it.
    pub(crate) fn open(self: &Arc<Self>) -> Tally {
        self.accepted.fetch_add(1, Relaxed);
        Tally { board: Arc::clone(self) }
    }

    pub(crate) fn totals(&self) -> Totals {
        let sum = |count: fn(&Shard) -> &AtomicU64| {
            self.shards.iter().map(|shard| count(shard).load(Relaxed)).sum()
        };
        // The ended ones first: each of them was accepted before.
        let ended = self.ended.load(Relaxed);
        let accepted = self.accepted.load(Relaxed);
        Totals {
            accepted,
            open: accepted.saturating_sub(ended),
            packets: sum(|shard| &shard.packets),
            bytes: sum(|shard| &shard.bytes),
        }
    }

    /// That of this thread.
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
            totals.bytes as f64 / 1e6,
            connections(totals.accepted),
            elapsed.as_secs_f64()
        )
    }
}

/// "1 connection", "2 connections".
pub(crate) fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

impl Tally {
    /// Counts packets, and the bytes of their payloads.
    pub(crate) fn add(&self, count: usize, payload_len: usize) {
        let shard = self.board.shard();
        shard.packets.fetch_add(count as u64, Relaxed);
        shard.bytes.fetch_add(payload_len as u64, Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.board.ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_while_it_is_open_and_after_it_has_ended() {
        let board = Arc::new(Board::default());
        let (first, second) = (board.open(), board.open());
        first.add(1, 10);
        second.add(1, 0);
        let open = Totals { accepted: 2, open: 2, packets: 2, bytes: 10 };
        assert_eq!(board.totals(), open);
        drop(first);
        assert_eq!(board.totals(), Totals { open: 1, ..open });
        drop(second);
        assert_eq!(board.totals(), Totals { open: 0, ..open });
    }
}
