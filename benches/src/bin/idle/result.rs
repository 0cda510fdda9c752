//! The result of a measurement: memory per idle connection, as a table row and as JSON.

use anyhow::{Result, ensure};
use pktconn_benches::plan::ServerSpec;
use serde::Serialize;

/// The head of the table, with units.
pub(crate) const TABLE_HEAD: &str = "\
| server | connections | fresh, B/connection | after use, B/connection | peak RSS MB |
|---|--:|--:|--:|--:|";

/// A server's resident memory during a measurement, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// After the warm-up, without connections.
    pub(crate) empty_rss_bytes: u64,
    /// With all connections open, none of which has sent anything.
    pub(crate) fresh_rss_bytes: u64,
    /// With all connections open and idle, after each has echoed packets.
    pub(crate) used_rss_bytes: u64,
    /// The highest value so far.
    pub(crate) peak_rss_bytes: u64,
}

/// The result of one server with one number of connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct IdleResult {
    name: String,
    command: Vec<String>,
    conns: usize,
    #[serde(flatten)]
    memory: Memory,
    fresh_bytes_per_conn: f64,
    used_bytes_per_conn: f64,
}

impl IdleResult {
    /// Divides the memory that the connections added by their number, `conns`, which is at least 1.
    pub(crate) fn new(spec: &ServerSpec, conns: usize, memory: Memory) -> Self {
        let per_conn = |rss_bytes: u64| (rss_bytes as f64 - memory.empty_rss_bytes as f64) / conns as f64;
        Self {
            name: spec.name.clone(),
            command: spec.command.clone(),
            conns,
            memory,
            fresh_bytes_per_conn: per_conn(memory.fresh_rss_bytes),
            used_bytes_per_conn: per_conn(memory.used_rss_bytes),
        }
    }

    /// Fails if a connection costs more than `limit_bytes`, before or after use.
    pub(crate) fn check(&self, limit_bytes: f64) -> Result<()> {
        let (fresh, used) = (self.fresh_bytes_per_conn, self.used_bytes_per_conn);
        ensure!(
            fresh <= limit_bytes && used <= limit_bytes,
            "{}: an idle connection costs {fresh:.0} B fresh and {used:.0} B after use, above the limit of {limit_bytes:.0} B",
            self.name
        );
        Ok(())
    }

    /// A row below [`TABLE_HEAD`].
    pub(crate) fn row(&self) -> String {
        let Self { name, conns, fresh_bytes_per_conn: fresh, used_bytes_per_conn: used, .. } = self;
        let peak_mb = self.memory.peak_rss_bytes as f64 / 1e6;
        format!("| {name} | {conns} | {fresh:.0} | {used:.0} | {peak_mb:.1} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory {
        empty_rss_bytes: 2_000_000,
        fresh_rss_bytes: 2_500_000,
        used_rss_bytes: 1_999_000,
        peak_rss_bytes: 3_210_000,
    };

    #[test]
    fn a_row_holds_the_memory_that_each_connection_added() {
        let result = IdleResult::new(&"bare=echo -v".parse().unwrap(), 1000, MEMORY);
        assert_eq!(result.row(), "| bare | 1000 | 500 | -1 | 3.2 |");
    }

    #[test]
    fn a_connection_that_costs_more_than_the_limit_fails_the_check() {
        let result = IdleResult::new(&"bare=echo -v".parse().unwrap(), 1000, MEMORY);
        assert!(result.check(500.0).is_ok());
        assert_eq!(
            result.check(499.0).unwrap_err().to_string(),
            "bare: an idle connection costs 500 B fresh and -1 B after use, above the limit of 499 B"
        );
    }

    #[test]
    fn the_json_has_the_readings_and_the_figures() {
        let result = IdleResult::new(&"bare=echo -v".parse().unwrap(), 1000, MEMORY);
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(json["command"], serde_json::json!(["echo", "-v"]));
        assert_eq!(json["empty_rss_bytes"], 2_000_000);
        assert_eq!(json["fresh_bytes_per_conn"], 500.0);
    }
}
