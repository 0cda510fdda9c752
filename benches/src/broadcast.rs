//! What is made of the rounds of a broadcast.

use crate::{median, table::ratio_cell};

/// The head of the table, with the units.
pub const BROADCAST_TABLE_HEAD: &str = "\
| contender | CPU ns per connection and packet | ratio (min-max) |
|---|--:|--:|";

/// One round of both contenders: the CPU time of the sender, in nanoseconds per connection and packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BroadcastRound {
    /// One write for each socket.
    pub bare_ns: f64,
    /// One `try_send` for each connection, and what the library does behind it.
    pub pktconn_ns: f64,
}

impl BroadcastRound {
    /// What `pktconn` takes, as a ratio to the bare writes of the same round.
    pub fn ratio(&self) -> f64 {
        self.pktconn_ns / self.bare_ns
    }
}

/// A row for each contender: medians over the rounds, and the spread of the ratio.
///
/// # Panics
///
/// When there are no rounds.
pub fn broadcast_rows(rounds: &[BroadcastRound]) -> [String; 2] {
    let row = |name: &str, cpu_ns: fn(&BroadcastRound) -> f64, ratio: fn(&BroadcastRound) -> f64| {
        let middle_ns = median(rounds.iter().map(cpu_ns)).expect("a comparison has at least one round");
        format!("| {name} | {middle_ns:.0} | {} |", ratio_cell(rounds.iter().map(ratio)))
    };
    [
        row("bare", |round| round.bare_ns, |_| 1.0),
        row("pktconn", |round| round.pktconn_ns, BroadcastRound::ratio),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_within_a_round() {
        // The machine was twice as slow in the second round, for both.
        let round = |bare_ns, pktconn_ns| BroadcastRound { bare_ns, pktconn_ns };
        let rows = broadcast_rows(&[round(1000.0, 1100.0), round(2000.0, 2400.0), round(1000.0, 1000.0)]);
        assert_eq!(rows, ["| bare | 1000 | 1.00 (1.00-1.00) |", "| pktconn | 1100 | 1.10 (1.00-1.20) |"]);
    }
}
