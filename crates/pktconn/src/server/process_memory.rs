//! Refuses new connections while the process uses more memory than it may.
//!
//! The server's own task looks at the memory a few times per second. A new connection reads one flag.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::resident_memory::ResidentMemory;
use crate::Error;
use crate::error::Reason;

/// Time between two looks at the memory. One takes a few microseconds. In this time, a flood of 5,000 connections per
/// second adds 1,250 connections, a few MiB without their packets.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest time between two log lines about the limit.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the process is over its limit. Ends a sixteenth below the limit, so that it does not begin again at once.
#[derive(Debug)]
struct Overload {
    limit: u64,
    is_over: bool,
}

/// A change of [`Overload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begins,
    Ends,
}

impl Overload {
    fn update(&mut self, resident: u64) -> Option<Change> {
        let was_over = self.is_over;
        let limit = if was_over { self.limit - self.limit / 16 } else { self.limit };
        self.is_over = resident > limit;
        match (was_over, self.is_over) {
            (false, true) => Some(Change::Begins),
            (true, false) => Some(Change::Ends),
            _ => None,
        }
    }
}

/// The limit on the memory of the process, for one server.
pub(crate) struct ProcessMemory {
    limit: u64,
    resident: ResidentMemory,
    is_over: AtomicBool,
    /// How often the process has come over the limit.
    exceeded: AtomicU64,
    refused: AtomicU64,
}

impl ProcessMemory {
    pub(super) fn open(limit: usize) -> Result<Self, Error> {
        let resident = ResidentMemory::open().map_err(|_| {
            Reason::Config(
                "max_process_memory needs Linux and a readable /proc/self/statm: turn it off on this system",
            )
        })?;
        Ok(Self {
            limit: limit as u64,
            resident,
            is_over: AtomicBool::new(false),
            exceeded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Whether to refuse new connections.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded.load(Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    async fn watch(&self) -> ! {
        let mut overload = Overload { limit: self.limit, is_over: false };
        let mut logged: Option<Instant> = None;
        let mut log_end = false;
        loop {
            // A look that fails changes nothing.
            let resident = self.resident.bytes().ok();
            let change = resident.and_then(|resident| overload.update(resident));
            self.is_over.store(overload.is_over, Relaxed);
            match change {
                Some(Change::Begins) => {
                    self.exceeded.fetch_add(1, Relaxed);
                    let now = Instant::now();
                    // The line about the end belongs to one about the beginning.
                    log_end = logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL);
                    if log_end {
                        logged = Some(now);
                        tracing::warn!(
                            resident,
                            limit = self.limit,
                            "the process holds more memory than max_process_memory: new connections are refused"
                        );
                    }
                }
                Some(Change::Ends) if log_end => tracing::info!(
                    resident,
                    limit = self.limit,
                    "the process holds less memory than max_process_memory again: new connections are accepted"
                ),
                Some(Change::Ends) | None => {}
            }
            sleep(SAMPLE_INTERVAL).await;
        }
    }
}

/// Looks at the memory again and again, if there is a limit. Never returns.
pub(super) async fn watch(limit: Option<&ProcessMemory>) {
    match limit {
        Some(limit) => limit.watch().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overload_begins_above_the_limit_and_ends_a_sixteenth_below() {
        let mut overload = Overload { limit: 1600, is_over: false };
        for (resident, change) in [
            (0, None),
            (1600, None),
            (1601, Some(Change::Begins)),
            (5000, None),
            (1501, None),
            (1500, Some(Change::Ends)),
            (1600, None),
            (u64::MAX, Some(Change::Begins)),
            (0, Some(Change::Ends)),
        ] {
            assert_eq!(overload.update(resident), change, "{resident} bytes");
        }
    }
}
