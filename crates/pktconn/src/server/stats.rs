//! What a server counts, and what it reports when it has stopped.

use crate::CutConn;

/// Counts of a server since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that were accepted, those among them that were refused then.
    pub accepted: u64,
    /// Connections that were closed as soon as they were accepted, because there were too many:
    /// [`max_conns`](crate::ServerConfig::max_conns), [`max_conns_per_ip`](crate::ServerConfig::max_conns_per_ip),
    /// [`memory_budget`](crate::ServerConfig::memory_budget).
    pub refused: u64,
    /// Connections that never came to their first packet, because of what has to come before it: the header of a proxy,
    /// TLS.
    pub handshakes_failed: u64,
    /// Connections that were closed because all together were over the
    /// [`memory_budget`](crate::ServerConfig::memory_budget): as many as end with
    /// [`is_over_budget`](crate::Error::is_over_budget). A connection that had already failed is not counted.
    pub closed_over_budget: u64,
    /// Connections that are there now, those in their handshakes among them: each up to when its handler has finished
    /// and the last of its handles is dropped.
    pub open: usize,
    /// What they hold in memory, in bytes, as the [`memory_budget`](crate::ServerConfig::memory_budget) counts it; 0
    /// without one.
    pub held_bytes: usize,
}

/// How the connections of a server ended that were there when it was shut down.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How many ended by themselves, before the time was over.
    pub drained: usize,
    /// Those that were closed when the time was over.
    pub cut: Vec<CutConn>,
}
