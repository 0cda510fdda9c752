//! One form for an IPv4 address, however the socket reports it.

use std::net::{IpAddr, SocketAddr};

/// Converts an IPv4-mapped IPv6 address to IPv4. A dual-stack socket reports `::ffff:192.0.2.1` for `192.0.2.1`.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        // Unchanged, so that it keeps its scope.
        IpAddr::V6(_) => addr,
    }
}
