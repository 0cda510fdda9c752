//! What can be set on a server.

#[cfg(feature = "proxy-protocol")]
use std::sync::Arc;

#[cfg(feature = "proxy-protocol")]
use ipnet::IpNet;

#[cfg(feature = "tls")]
use crate::TlsServerConfig;
use crate::error::Reason;
use crate::{ConnConfig, Error};

/// The configuration of a server: that of its connections, and how many it takes.
///
/// ```
/// use pktconn::{ConnConfig, ServerConfig};
///
/// let config = ServerConfig::new()
///     .conn(ConnConfig::new().send_high_water(256 * 1024))
///     .max_conns(10_000)
///     .max_conns_per_ip(100);
/// ```
///
/// Where a server needs no more than that of its connections, a [`ConnConfig`] serves in its place.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) conn: ConnConfig,
    pub(crate) max_conns: Option<usize>,
    pub(crate) max_conns_per_ip: Option<usize>,
    pub(crate) memory_budget: Option<usize>,
    pub(crate) drain_on_shutdown: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsServerConfig>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxies: Option<Arc<[IpNet]>>,
}

impl ServerConfig {
    /// The defaults, as each setter names them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            conn: ConnConfig::new(),
            max_conns: None,
            max_conns_per_ip: None,
            memory_budget: None,
            drain_on_shutdown: true,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "proxy-protocol")]
            proxies: None,
        }
    }

    /// Sets the configuration of the server's connections.
    #[must_use]
    pub fn conn(mut self, conn: ConnConfig) -> Self {
        self.conn = conn;
        self
    }

    /// Sets how many connections the server has at most. What is accepted beyond is closed at once, and
    /// [counted](crate::ServerStats::refused).
    ///
    /// Protects the memory of the machine: a connection takes up to a chunk of 64 KiB or twice what has arrived of a
    /// frame, and [`send_high_water`](ConnConfig::send_high_water). One counts until its handler has finished and the
    /// last of its handles is dropped. At least 1. Default: `None`, without a limit of the server's own; there is that
    /// of the system on open files.
    #[must_use]
    pub fn max_conns(mut self, conns: impl Into<Option<usize>>) -> Self {
        self.max_conns = conns.into();
        self
    }

    /// Sets how many connections the server has at most of one IPv4 address, or of one IPv6 network of 64 bits, which
    /// is the least that a customer is given. What is accepted beyond is closed at once.
    ///
    /// Protects the others from one peer that takes all of [`max_conns`](Self::max_conns). Many users may stand behind
    /// one address, at a company or a mobile carrier. At least 1. Default: `None`, without a limit.
    #[must_use]
    pub fn max_conns_per_ip(mut self, conns: impl Into<Option<usize>>) -> Self {
        self.max_conns_per_ip = conns.into();
        self
    }

    /// Sets how much all connections together may hold in memory, in bytes: what was read of frames that are not whole
    /// or not received, the batch that was received last, and what is queued to be sent. A packet that is queued for
    /// many counts for each.
    ///
    /// While it is exceeded, connections that hold 4 KiB or more are not read, the others 4 KiB at a time, and new ones
    /// are refused. When that does not help within a second, those that hold the most are closed, until an eighth of
    /// the budget is free: they end with [`is_over_budget`](Error::is_over_budget), and lose what was queued for them.
    ///
    /// The budget may be exceeded by the read that reaches it, which can double the buffer of one large frame, and for
    /// each connection by 8 KiB of reads and by 64 KiB that move from what was read into its queue. What handlers send
    /// to *other* connections is not stopped: until the second has passed, each queue may fill to
    /// [`send_high_water`](ConnConfig::send_high_water).
    ///
    /// Protects the memory of the machine from many connections that each stay within
    /// [`send_high_water`](ConnConfig::send_high_water) and the limit on a payload. Beside it stand some KiB for each
    /// connection, and what handlers keep. At least 1 MiB. Default: `None`, without.
    #[must_use]
    pub fn memory_budget(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.memory_budget = bytes.into();
        self
    }

    /// Sets whether `recv` returns `None` on the server's connections once it [stops](crate::ServerHandle::shutdown),
    /// after the packets that have arrived (8 MiB of them at most, so that a peer that floods holds nothing up). A
    /// handler that receives in a loop then ends by itself, and its connection counts as
    /// [drained](crate::ShutdownReport::drained).
    ///
    /// Turn it off for handlers that have to go on receiving, and tell them by
    /// [`stopping`](crate::ServerHandle::stopping). Default: on.
    #[must_use]
    pub fn drain_on_shutdown(mut self, on: bool) -> Self {
        self.drain_on_shutdown = on;
        self
    }

    /// Has clients connect with TLS, over all that the server listens on. Handshakes run beside the accepting of
    /// others, each within [`handshake_timeout`](ConnConfig::handshake_timeout).
    ///
    /// Default: without.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsServerConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Has connections come through proxies that tell whom they speak for, by the PROXY protocol, version 1 or 2: each
    /// has to begin with its header, and to come from one of the networks of `trusted`, or by a Unix socket. Any other
    /// is closed. It is never guessed: a client that could send a header of its own would choose its address.
    ///
    /// The address in the header is [`peer_addr`](crate::PacketConn::peer_addr) then, and what
    /// [`max_conns_per_ip`](Self::max_conns_per_ip) counts; where the proxy speaks for itself, its own. The header
    /// comes before TLS, within [`handshake_timeout`](ConnConfig::handshake_timeout).
    ///
    /// An IPv4 network may be written as a part of IPv6, with 96 more bits: `::ffff:10.0.0.0/104` is `10.0.0.0/8`, and
    /// `::ffff:10.0.0.0/8` is refused. Any other IPv6 network, also `::/0`, has no IPv4 addresses in it.
    ///
    /// Default: without.
    ///
    /// ```
    /// # use pktconn::ServerConfig;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = ServerConfig::new().proxy_protocol(["10.0.0.0/8".parse()?, "fd00::/8".parse()?]);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "proxy-protocol")]
    #[must_use]
    pub fn proxy_protocol(mut self, trusted: impl IntoIterator<Item = IpNet>) -> Self {
        self.proxies = Some(trusted.into_iter().map(crate::transport::proxy_protocol::canonical).collect());
        self
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.max_conns == Some(0) {
            return Err(Reason::Config("max_conns must be at least 1").into());
        }
        if self.max_conns_per_ip == Some(0) {
            return Err(Reason::Config("max_conns_per_ip must be at least 1").into());
        }
        if self.memory_budget.is_some_and(|bytes| bytes < 1024 * 1024) {
            return Err(Reason::Config("memory_budget must be at least 1 MiB").into());
        }
        #[cfg(feature = "proxy-protocol")]
        if let Some(networks) = &self.proxies {
            if networks.is_empty() {
                return Err(Reason::Config("proxy_protocol trusts nobody").into());
            }
            if let Some(problem) = networks.iter().find_map(crate::transport::proxy_protocol::network_problem)
            {
                return Err(Reason::BadValue(problem.into()).into());
            }
        }
        self.conn.check_without_connect()
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl From<ConnConfig> for ServerConfig {
    fn from(conn: ConnConfig) -> Self {
        Self::new().conn(conn)
    }
}
