//! How much was echoed, counted without anything that the connections share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The tallies of all connections.
#[derive(Default)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    accepted: u64,
    live: HashMap<u64, Arc<Counts>>,
    /// The sums of the connections that have ended.
    packets: u64,
    bytes: u64,
}

/// What was echoed by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// The tally of one connection: written by its task alone, read by the board.
pub(crate) struct Tally<'a> {
    board: &'a Board,
    id: u64,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Board {
    /// Begins the tally of one more connection; dropping it ends it.
    pub(crate) fn open(&self) -> Tally<'_> {
        let mut state = self.lock();
        let id = state.accepted;
        state.accepted += 1;
        let counts = Arc::<Counts>::default();
        state.live.insert(id, Arc::clone(&counts));
        Tally { board: self, id, counts }
    }

    pub(crate) fn totals(&self) -> Totals {
        let state = self.lock();
        let live = |count: fn(&Counts) -> &AtomicU64| -> u64 {
            state.live.values().map(|counts| count(counts).load(Relaxed)).sum()
        };
        Totals {
            accepted: state.accepted,
            open: state.live.len() as u64,
            packets: state.packets + live(|counts| &counts.packets),
            bytes: state.bytes + live(|counts| &counts.bytes),
        }
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// "1 connection", "2 connections".
pub(crate) fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

impl Tally<'_> {
    /// Counts packets, and the bytes of their payloads. One task writes, so that no atomic read-modify-write is needed.
    pub(crate) fn add(&self, count: usize, payload_len: usize) {
        let Counts { packets, bytes } = &*self.counts;
        packets.store(packets.load(Relaxed) + count as u64, Relaxed);
        bytes.store(bytes.load(Relaxed) + payload_len as u64, Relaxed);
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        state.live.remove(&self.id);
        state.packets += self.counts.packets.load(Relaxed);
        state.bytes += self.counts.bytes.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_while_it_is_open_and_after_it_has_ended() {
        let board = Board::default();
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
