//! The public counts of a server, and the report of a shutdown.

use crate::CutConn;

/// The counts of a server since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that the server has accepted from the system, including those in `refused`.
    pub accepted: u64,
    /// Connections that were closed at once because a limit was reached:
    /// [`max_conns`](crate::ServerConfig::max_conns), [`max_conns_per_ip`](crate::ServerConfig::max_conns_per_ip),
    /// [`conn_rate_per_ip`](crate::ServerConfig::conn_rate_per_ip), [`memory_budget`](crate::ServerConfig::memory_budget),
    /// [`max_process_memory`](crate::ServerConfig::max_process_memory); and handshakes that made room for newer ones: [`max_handshakes`](crate::ServerConfig::max_handshakes).
    pub refused: u64,
    /// Those in `refused` whose client network opened connections too fast:
    /// [`conn_rate_per_ip`](crate::ServerConfig::conn_rate_per_ip).
    pub refused_over_rate: u64,
    /// Those in `refused` that came while the process held too much memory:
    /// [`max_process_memory`](crate::ServerConfig::max_process_memory).
    pub refused_over_process_memory: u64,
    /// Connections that were closed because their TLS or PROXY handshake failed or took too long.
    pub handshakes_failed: u64,
    /// Handshakes that are running now: see [`max_handshakes`](crate::ServerConfig::max_handshakes).
    pub handshakes_running: usize,
    /// How often the connections held three quarters of the [`memory_budget`](crate::ServerConfig::memory_budget), so
    /// that the server paused the networks that held the most.
    pub budget_pauses: u64,
    /// Connections that were closed because of the [`memory_budget`](crate::ServerConfig::memory_budget). They end with
    /// [`is_over_budget`](crate::Error::is_over_budget). A connection that had already failed is not counted.
    pub closed_over_budget: u64,
    /// Those of `closed_over_budget` that had moved no bytes for a second, while memory was short. The others were
    /// closed because the budget was exceeded.
    pub closed_idle_over_budget: u64,
    /// How often the memory of the process has come over
    /// [`max_process_memory`](crate::ServerConfig::max_process_memory).
    pub process_memory_exceeded: u64,
    /// Connections that are open now, including those in a handshake. A connection counts until its handler returns and
    /// all of its handles are dropped.
    pub open: usize,
    /// Bytes that connections hold in memory now, as the [`memory_budget`](crate::ServerConfig::memory_budget) counts
    /// them. 0 without a budget.
    pub held_bytes: usize,
}

/// How the connections ended that were open when the server was shut down.
///
/// [`PacketServer::serve`](crate::PacketServer::serve) returns it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How many ended by themselves before the deadline.
    pub drained: usize,
    /// Those that were closed at the deadline, with their unsent packets. A connection that had only to wait for the
    /// peer's close is not among them.
    pub cut: Vec<CutConn>,
}
