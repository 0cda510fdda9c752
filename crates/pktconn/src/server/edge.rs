//! The settings of a server on the open Internet.

use crate::{ConnConfig, ConnRate, MachineLimits, ServerConfig};

impl ServerConfig {
    /// A configuration for a server that clients on the open Internet can reach.
    ///
    /// | setting | value | against |
    /// |---|---|---|
    /// | [`conn`](Self::conn) | [`ConnConfig::edge`] | clients that hold a connection without using it |
    /// | [`memory_budget`](Self::memory_budget) | a quarter of the memory ([`MachineLimits`]) | clients that make the server hold data |
    /// | [`max_process_memory`](Self::max_process_memory) | three quarters of the memory, if it is known | running out of memory for another reason |
    /// | [`max_conns`](Self::max_conns) | the open files, less 64 | running out of files |
    /// | [`max_conns_per_ip`](Self::max_conns_per_ip) | 100 | one client that opens all connections |
    /// | [`conn_rate_per_ip`](Self::conn_rate_per_ip) | 20 per second, 100 at once | floods of connections and handshakes |
    /// | `max_handshakes` (with TLS or the PROXY protocol) | 1,024, the default | handshakes that are never completed |
    ///
    /// The values of this machine are found when this is called. Each setter replaces a value. Use
    /// [`ConnConfig::edge`], not [`ConnConfig::new`], for another [`conn`](Self::conn).
    ///
    /// Many users can share one address, for example in a company or at a mobile carrier: raise the limits per address if
    /// yours do. Behind a proxy all clients have the address of the proxy, so use the PROXY protocol there.
    ///
    /// ```
    /// use pktconn::{PacketConn, PacketServer, ServerConfig};
    ///
    /// # async fn example() -> Result<(), pktconn::Error> {
    /// let server = PacketServer::bind_with("[::]:14572", ServerConfig::edge().max_conns_per_ip(500)).await?;
    /// server
    ///     .serve_conn(async |conn: &mut PacketConn| {
    ///         while let Some(packet) = conn.recv().await? {
    ///             conn.send(packet).await?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn edge() -> Self {
        let machine = MachineLimits::detect();
        Self::new()
            .conn(ConnConfig::edge())
            .memory_budget(machine.memory_budget())
            .max_process_memory(machine.max_process_memory())
            .max_conns(machine.max_conns())
            .max_conns_per_ip(100)
            .conn_rate_per_ip(ConnRate::per_second(20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_agree() {
        assert!(ServerConfig::edge().check().is_ok());
    }
}
