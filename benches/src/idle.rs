//! What a server's memory says about its idle connections, and when it can be read.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::ServerSpec;

/// The head of the table, with the units.
pub const IDLE_TABLE_HEAD: &str = "\
| server | connections | fresh, B/connection | after use, B/connection | peak RSS MB |
|---|--:|--:|--:|--:|";

/// A server's memory at the points of a measurement, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Warmed up, without a connection.
    pub empty_rss_bytes: u64,
    /// All connections are open, and none of them has sent anything.
    pub fresh_rss_bytes: u64,
    /// All connections are open, idle, and have echoed packets.
    pub used_rss_bytes: u64,
    /// The most that it held at any time.
    pub peak_rss_bytes: u64,
}

/// One server with one number of connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdleResult {
    name: String,
    command: Vec<String>,
    conns: usize,
    #[serde(flatten)]
    memory: Memory,
    fresh_bytes_per_conn: f64,
    used_bytes_per_conn: f64,
}

impl IdleResult {
    /// Divides the memory that came with the connections by their number, `conns`, at least 1.
    pub fn new(spec: &ServerSpec, conns: usize, memory: Memory) -> Self {
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

    /// Checks what a connection costs, before and after use.
    ///
    /// # Errors
    ///
    /// When one of them is above `limit_bytes`.
    pub fn check(&self, limit_bytes: f64) -> Result<()> {
        let (fresh, used) = (self.fresh_bytes_per_conn, self.used_bytes_per_conn);
        ensure!(
            fresh <= limit_bytes && used <= limit_bytes,
            "{}: an idle connection costs {fresh:.0} B fresh and {used:.0} B after use, above the limit of {limit_bytes:.0} B",
            self.name
        );
        Ok(())
    }

    /// A row under [`IDLE_TABLE_HEAD`].
    pub fn row(&self) -> String {
        let Self { name, conns, fresh_bytes_per_conn: fresh, used_bytes_per_conn: used, .. } = self;
        let peak_mb = self.memory.peak_rss_bytes as f64 / 1e6;
        format!("| {name} | {conns} | {fresh:.0} | {used:.0} | {peak_mb:.1} |")
    }
}

/// What tells whether a server is at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its memory, in bytes.
    pub rss_bytes: u64,
    /// Its open files: one for each connection that it has accepted, and some of its own.
    pub open_files: usize,
}

/// Tells when readings have stayed the same for long enough.
#[derive(Debug)]
pub struct Steady {
    span: Duration,
    since: Option<(Reading, Instant)>,
}

impl Steady {
    /// Readings are to stay the same for `span`.
    pub fn new(span: Duration) -> Self {
        Self { span, since: None }
    }

    /// Takes a reading; true when all since `span` ago were like it.
    pub fn see(&mut self, reading: Reading, now: Instant) -> bool {
        match self.since {
            Some((same, since)) if same == reading => now.duration_since(since) >= self.span,
            _ => {
                self.since = Some((reading, now));
                false
            }
        }
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
    fn a_row_holds_what_came_with_each_connection() {
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
    fn the_json_has_the_readings_and_what_was_made_of_them() {
        let result = IdleResult::new(&"bare=echo -v".parse().unwrap(), 1000, MEMORY);
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(json["command"], serde_json::json!(["echo", "-v"]));
        assert_eq!(json["empty_rss_bytes"], 2_000_000);
        assert_eq!(json["fresh_bytes_per_conn"], 500.0);
    }

    #[test]
    fn memory_is_steady_once_it_has_not_moved_for_the_span() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut steady = Steady::new(ms(500));
        let reading = |rss_bytes, open_files| Reading { rss_bytes, open_files };
        assert!(!steady.see(reading(1, 9), start));
        assert!(!steady.see(reading(1, 9), start + ms(499)));
        assert!(!steady.see(reading(2, 9), start + ms(500)), "the memory moved");
        assert!(!steady.see(reading(2, 8), start + ms(900)), "a file was closed");
        assert!(!steady.see(reading(2, 8), start + ms(1399)));
        assert!(steady.see(reading(2, 8), start + ms(1400)));
    }
}
