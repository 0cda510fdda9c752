//! The result: one table row per sender.

use pktconn_benches::report::{median, ratio_cell};

/// The head of the table, with units.
pub(crate) const TABLE_HEAD: &str = "\
| contender | CPU ns per connection and packet | ratio (min-max) |
|---|--:|--:|";

/// One round of both senders: CPU time in nanoseconds per connection and packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Round {
    /// One write per socket.
    pub(crate) bare_ns: f64,
    /// One `try_send` per connection, and the work that the library does afterwards.
    pub(crate) pktconn_ns: f64,
}

impl Round {
    /// The CPU time of `pktconn`, as a ratio to the bare writes of the same round.
    pub(crate) fn ratio(&self) -> f64 {
        self.pktconn_ns / self.bare_ns
    }
}

/// A row per sender: the median over the rounds, and the spread of the ratio.
///
/// # Panics
///
/// If there are no rounds.
pub(crate) fn rows(rounds: &[Round]) -> [String; 2] {
    let row = |name: &str, cpu_ns: fn(&Round) -> f64, ratio: fn(&Round) -> f64| {
        let median_ns = median(rounds.iter().map(cpu_ns)).expect("there is at least one round");
        format!("| {name} | {median_ns:.0} | {} |", ratio_cell(rounds.iter().map(ratio)))
    };
    [row("bare", |round| round.bare_ns, |_| 1.0), row("pktconn", |round| round.pktconn_ns, Round::ratio)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_within_a_round() {
        // The machine was twice as slow in the second round, for both.
        let round = |bare_ns, pktconn_ns| Round { bare_ns, pktconn_ns };
        let rows = rows(&[round(1000.0, 1100.0), round(2000.0, 2400.0), round(1000.0, 1000.0)]);
        assert_eq!(rows, ["| bare | 1000 | 1.00 (1.00-1.00) |", "| pktconn | 1100 | 1.10 (1.00-1.20) |"]);
    }
}
