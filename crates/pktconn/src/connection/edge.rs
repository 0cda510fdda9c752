//! The settings of a connection on the open Internet.

use std::time::Duration;

use crate::ConnConfig;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl ConnConfig {
    /// A configuration for connections of clients on the open Internet, as in
    /// [`ServerConfig::edge`](crate::ServerConfig::edge).
    ///
    /// | setting | value | against |
    /// |---|---|---|
    /// | `handshake_timeout` (with TLS or the PROXY protocol) | 10 s | clients that begin a handshake and do not complete it |
    /// | [`first_packet_timeout`](Self::first_packet_timeout) | 10 s | clients that connect and say nothing |
    /// | [`frame_timeout`](Self::frame_timeout) | 30 s | clients that send a part of a frame |
    /// | [`min_recv_rate`](Self::min_recv_rate) | 500 bytes/s over 5 s | clients that drip a frame |
    /// | [`write_timeout`](Self::write_timeout) | 30 s | clients that do not read |
    /// | [`min_send_rate`](Self::min_send_rate) | 4 KiB/s over 60 s | clients that read a few bytes now and then |
    /// | [`idle_timeout`](Self::idle_timeout) | 5 min | clients that are gone, and connections that nobody uses |
    ///
    /// All other settings have their default values. Set the largest payload of your protocol, too: the default of
    /// 32 MiB is more than most need.
    ///
    /// Cost: a small task and a timer for each connection, and one look at the clock for each wait.
    ///
    /// ```
    /// use pktconn::{CodecConfig, ConnConfig, ServerConfig};
    ///
    /// let conn = ConnConfig::edge().codec(CodecConfig::new().max_payload_len(64 * 1024));
    /// let config = ServerConfig::edge().conn(conn);
    /// ```
    #[must_use]
    pub fn edge() -> Self {
        Self::new()
            .first_packet_timeout(secs(10))
            .min_recv_rate(500, secs(5))
            .min_send_rate(4 * 1024, secs(60))
            .idle_timeout(secs(300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_agree() {
        assert!(ConnConfig::edge().check().is_ok());
    }
}
