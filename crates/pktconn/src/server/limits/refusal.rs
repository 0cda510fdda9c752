//! Why a server refuses a connection.

use std::fmt;

/// The limit that a new connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    ConnRate,
    MaxConns,
    MaxConnsPerIp,
    MemoryBudget,
    ProcessMemory,
    /// A handshake that makes room for a newer one.
    MaxHandshakes,
}

impl Refusal {
    /// The setting of `ServerConfig`.
    fn setting(self) -> &'static str {
        match self {
            Self::ConnRate => "conn_rate_per_ip",
            Self::MaxConns => "max_conns",
            Self::MaxConnsPerIp => "max_conns_per_ip",
            Self::MemoryBudget => "memory_budget",
            Self::ProcessMemory => "max_process_memory",
            Self::MaxHandshakes => "max_handshakes",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit {} is reached", self.setting())
    }
}
