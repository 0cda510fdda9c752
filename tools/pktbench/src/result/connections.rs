//! How connections were opened, and what happened at each address, as they are in a document.

use serde::{Deserialize, Serialize};

use super::latency::{Latencies, Latency};

/// The connections of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Connections {
    /// Connections that were opened, those before the start included.
    pub(crate) opened: u64,
    /// Connections that were opened in place of one that had failed or was retired.
    pub(crate) replaced: u64,
    /// Connections that were closed because of `--conn-packets` or `--conn-lifetime`.
    pub(crate) retired: u64,
    /// Without `--conns-per-second`: for how much of the window a connection was missing, in percent of all `--conns`.
    #[serde(default)]
    pub(crate) down_pct: Option<f64>,
    /// With `--conns-per-second`: connections that were due in the window and not started.
    pub(crate) missed: Option<u64>,
    /// From when a connection was due to the established connection. With `--conn-packets` or `--conn-lifetime` those that
    /// were due in the window, otherwise all. Connections that could not be opened are censored.
    pub(crate) connect_ns: Latency,
    /// The TLS handshakes of the same connections. `None` without TLS.
    pub(crate) handshake_ns: Option<Latency>,
}

/// One of several addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddressResult {
    pub(crate) address: String,
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Connections that could not be opened or failed.
    pub(crate) failed: u64,
    /// The message of the first failure.
    pub(crate) first_error: Option<String>,
    /// As in the totals.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) packets_per_s: f64,
    pub(crate) latency_ns: Latencies,
}
