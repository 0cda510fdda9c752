//! The public configuration of a server, and its checks.

#[cfg(feature = "proxy-protocol")]
use ipnet::IpNet;

#[cfg(feature = "session")]
use crate::SessionConfig;
#[cfg(feature = "tls")]
use crate::TlsServerConfig;
use crate::error::Reason;
#[cfg(feature = "proxy-protocol")]
use crate::transport::proxy_protocol::TrustedProxies;
use crate::{ConnConfig, ConnRate, Error};

/// The configuration of a server: connections, limits, shutdown, TLS, PROXY protocol.
///
/// A [`ConnConfig`] converts into a `ServerConfig` with default limits, so functions that need a `ServerConfig` accept
/// it too.
///
/// ```
/// use pktconn::{ConnConfig, ServerConfig};
///
/// let config = ServerConfig::new()
///     .conn(ConnConfig::new().send_high_water(256 * 1024))
///     .max_conns(10_000)
///     .max_conns_per_ip(100);
/// ```
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) conn: ConnConfig,
    pub(crate) max_conns: Option<usize>,
    pub(crate) max_conns_per_ip: Option<usize>,
    pub(crate) conn_rate_per_ip: Option<ConnRate>,
    pub(crate) memory_budget: Option<usize>,
    pub(crate) max_process_memory: Option<usize>,
    max_handshakes: Option<usize>,
    pub(crate) drain_on_shutdown: bool,
    pub(crate) access_log: bool,
    #[cfg(feature = "session")]
    pub(crate) sessions: Option<SessionConfig>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsServerConfig>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxies: Option<TrustedProxies>,
}

impl ServerConfig {
    /// Enough for 1,000 clients that connect at once, each within a second. At 64 KiB each at most, they hold 64 MiB.
    const DEFAULT_MAX_HANDSHAKES: usize = 1024;

    /// A configuration with the default values. Each setter documents its default.
    #[must_use]
    pub fn new() -> Self {
        Self {
            conn: ConnConfig::new(),
            max_conns: None,
            max_conns_per_ip: None,
            conn_rate_per_ip: None,
            memory_budget: None,
            max_process_memory: None,
            max_handshakes: Some(Self::DEFAULT_MAX_HANDSHAKES),
            drain_on_shutdown: true,
            access_log: false,
            #[cfg(feature = "session")]
            sessions: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "proxy-protocol")]
            proxies: None,
        }
    }

    /// Sets the configuration of each connection. Default: [`ConnConfig::new`]. A [`Listener`](crate::Listener::conn)
    /// can have its own.
    #[must_use]
    pub fn conn(mut self, conn: ConnConfig) -> Self {
        self.conn = conn;
        self
    }

    /// Sets the maximum number of open connections. The server closes further connections at once, and counts them in
    /// [`refused`](crate::ServerStats::refused).
    ///
    /// Use it to limit memory. Worst case per connection: 64 KiB or twice the received part of a frame, whichever is
    /// larger, plus [`send_high_water`](ConnConfig::send_high_water). A connection counts until its handler returns and
    /// all of its handles are dropped.
    ///
    /// At least 1. Default: `None`, no limit except that of the system on open files.
    #[must_use]
    pub fn max_conns(mut self, conns: impl Into<Option<usize>>) -> Self {
        self.max_conns = conns.into();
        self
    }

    /// Sets the maximum number of open connections per client network: one IPv4 address, or one IPv6 `/64` network,
    /// which is the smallest network that a provider assigns. The server closes further connections at once, and counts
    /// them in [`refused`](crate::ServerStats::refused).
    ///
    /// Use it so that one client cannot use up [`max_conns`](Self::max_conns). Many users can share one address, for
    /// example in a company or at a mobile carrier. Connections over Unix sockets count only if a PROXY header names
    /// their client.
    ///
    /// An IPv6 client may own more than a `/64`. So the networks of one `/56` together may have 4 times as many
    /// connections, and those of one `/48` 16 times as many.
    ///
    /// At least 1. Default: `None`, no limit.
    #[must_use]
    pub fn max_conns_per_ip(mut self, conns: impl Into<Option<usize>>) -> Self {
        self.max_conns_per_ip = conns.into();
        self
    }

    /// Sets how many connections per second a client network may open: one IPv4 address, or one IPv6 `/64`. The server
    /// resets further connections at once, and counts them in [`refused`](crate::ServerStats::refused) and in
    /// [`refused_over_rate`](crate::ServerStats::refused_over_rate).
    ///
    /// Use it against floods of connections, which cost the server a handler or a TLS handshake each, and which
    /// [`max_conns_per_ip`](Self::max_conns_per_ip) does not stop if they close at once. A connection counts when its
    /// client's address is known and before TLS, so this limits handshakes too. Behind a proxy it counts after the
    /// PROXY header. Connections over Unix sockets count only if a PROXY header names their client. Each attempt counts,
    /// also if another limit refuses it.
    ///
    /// [`ConnRate`] describes the rate, the burst and the cool-down. An IPv6 client may own more than a `/64`. So the
    /// networks of one `/56` together get 4 times the rate and burst, and those of one `/48` 16 times. What a `/64` is
    /// refused does not count for its `/56`.
    ///
    /// The server remembers networks until their bursts are full again, at most 50,000 of them in up to 14 MiB. If there
    /// are more, it forgets the one that is closest to a full burst: it refuses no network because of others, and a
    /// network in its cool-down is forgotten last.
    ///
    /// Default: `None`, no limit.
    ///
    /// ```
    /// use pktconn::{ConnRate, ServerConfig};
    ///
    /// let config = ServerConfig::new().conn_rate_per_ip(ConnRate::per_second(20));
    /// ```
    #[must_use]
    pub fn conn_rate_per_ip(mut self, rate: impl Into<Option<ConnRate>>) -> Self {
        self.conn_rate_per_ip = rate.into();
        self
    }

    /// Sets how many bytes all connections together may hold in memory.
    ///
    /// Use it to protect the machine from clients that each stay within
    /// [`send_high_water`](ConnConfig::send_high_water) and the payload limit, but are many, or open many connections.
    ///
    /// The budget counts received bytes of incomplete frames, frames that are not yet received, the batch that was
    /// received last, the send queues, the bytes of running handshakes, TLS records, and what connections keep of their
    /// handshakes: the PROXY header and the client's certificates. A packet in several send queues counts for each of
    /// them. A few KiB per connection, with TLS about 10 KiB, and what handlers keep, are not counted.
    ///
    /// It is shared by client network, so that one client cannot take the memory of the others: one IPv4 address, or
    /// one IPv6 `/64` network. A connection without an address, as over a Unix socket, is a network of its own. Each
    /// network that holds more than 1/1024 of the budget has the same fair share of its first three quarters.
    ///
    /// | the connections hold | what the server does |
    /// |---|---|
    /// | more than 3/4 of the budget, until they hold 5/8 | It does not read the networks above their fair share, except connections that hold less than 4 KiB, which it reads 4 KiB at a time. It refuses new connections of these networks. The deadlines of incomplete frames go on. |
    /// | the same, for 1 s | It closes connections that have moved no bytes in that time, first those of the heaviest network, until the others hold 5/8. Those of networks within their fair share only if these networks together hold more than 5/8. |
    /// | more than the budget | It closes connections of the heaviest networks at once, until the others hold 3/4, and ends the running handshakes of the networks above their fair share. Meanwhile it refuses all new ones. |
    ///
    /// Closed connections end with [`is_over_budget`](Error::is_over_budget), and the packets in their send queues are
    /// lost. [`ServerStats`](crate::ServerStats) counts each step, and the server logs it at WARN, once per second at
    /// most.
    ///
    /// The memory can exceed the budget by the read that reaches it, which can double the buffer of one large frame,
    /// and per connection by 8 KiB of reads and by 64 KiB that move from received bytes to the send queue.
    ///
    /// At least 1 MiB. Default: `None`, no budget.
    #[must_use]
    pub fn memory_budget(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.memory_budget = bytes.into();
        self
    }

    /// Sets how much memory the process may use. While it uses more, the server refuses new connections, until it uses at
    /// most 15/16 of that. It serves the open connections as before.
    ///
    /// Use it beside [`memory_budget`](Self::memory_budget), so that the process does not run out of memory: the
    /// budget counts neither what handlers keep nor what the allocator keeps. The server closes no connections, because
    /// that would not help: allocators keep much of the memory that is freed. So set it well above the budget, otherwise
    /// the server may refuse connections long after an attack.
    /// [`MachineLimits::max_process_memory`](crate::MachineLimits::max_process_memory) suits a budget of
    /// [`MachineLimits::memory_budget`](crate::MachineLimits::memory_budget).
    ///
    /// This is the resident memory, as `VmRSS` in `/proc/self/status`, and not that of the cgroup: the latter includes
    /// the cache of files. The server looks at it 4 times per second while it serves. Refused connections count in
    /// [`refused_over_process_memory`](crate::ServerStats::refused_over_process_memory). The server logs at WARN when
    /// that begins, and at INFO when it ends, at most once per second.
    ///
    /// In bytes, at least 1 MiB. Default: `None`, no limit. Only Linux reports the memory: on other systems, a limit is
    /// refused with [`is_config`](Error::is_config).
    ///
    /// ```
    /// use pktconn::{MachineLimits, ServerConfig};
    ///
    /// let machine = MachineLimits::detect();
    /// let config = ServerConfig::new()
    ///     .memory_budget(machine.memory_budget())
    ///     .max_process_memory(machine.max_process_memory());
    /// ```
    #[must_use]
    pub fn max_process_memory(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.max_process_memory = bytes.into();
        self
    }

    /// Sets the maximum number of handshakes (TLS, PROXY protocol, sessions) that run at the same time. At the limit, a new
    /// one ends the oldest one of the client network that has the most: one IPv4 address, or one IPv6 `/64` network.
    ///
    /// Use it so that clients which connect and never complete their handshake cannot keep others from connecting. A
    /// client may send at most 32 KiB before its handshakes are complete, so running handshakes hold at most 64 KiB
    /// each. Ended ones count in [`refused`](crate::ServerStats::refused).
    ///
    /// At least 1. Default: 1,024. `None`: no limit.
    #[cfg(any(feature = "tls", feature = "proxy-protocol", feature = "session"))]
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: impl Into<Option<usize>>) -> Self {
        self.max_handshakes = handshakes.into();
        self
    }

    pub(crate) fn max_handshake_count(&self) -> usize {
        self.max_handshakes.unwrap_or(usize::MAX)
    }

    /// Sets whether `recv` on the server's connections returns `None` after a
    /// [shutdown](crate::ServerHandle::shutdown), once it has returned the packets that have arrived.
    ///
    /// A handler that receives in a loop then ends by itself, and its connection counts as
    /// [drained](crate::ShutdownReport::drained). At most 8 MiB of arrived packets are returned, so a peer that sends
    /// without pause cannot delay the shutdown.
    ///
    /// Turn it off for handlers that must continue to receive; they can wait for
    /// [`stopping`](crate::ServerHandle::stopping). Default: on.
    #[must_use]
    pub fn drain_on_shutdown(mut self, on: bool) -> Self {
        self.drain_on_shutdown = on;
        self
    }

    /// Logs each connection at its end, also a refused one and a failed handshake: one `tracing` event at INFO with the
    /// target `pktconn::access`.
    ///
    /// Use it to find out afterwards who was connected, for example after an attack. The fields:
    ///
    /// | field | value |
    /// |---|---|
    /// | `peer` | the client's address; missing for a Unix socket |
    /// | `id` | the [`ConnId`](crate::ConnId); missing if the connection was refused or its handshake failed |
    /// | `server_name`, `alpn` | what TLS negotiated; missing without |
    /// | `subject` | the subject of the client's certificate, if it presented one |
    /// | `duration_ms` | time since the accept, in milliseconds |
    /// | `packets_received`, `bytes_received`, `packets_sent`, `bytes_sent` | as in [`ConnStats`](crate::ConnStats) |
    /// | `reason` | why it ended: a reason of the metric `pktconn_connections_ended_total`, or `refused`, or `handshake` |
    /// | `detail` | the same as a text |
    /// | `suppressed` | how many lines were left out since the last one; missing if none |
    ///
    /// Text that comes from the peer is escaped (control characters, quotes, backslashes, invisible characters) and cut
    /// after 256 characters. At most 1,000 connections per second are logged, and in addition at most 100 that were
    /// refused or whose handshake failed, so that a flood cannot hide the others. The line of an open connection follows
    /// when its last handle is dropped.
    ///
    /// Default: off. It then costs nothing.
    #[must_use]
    pub fn access_log(mut self, on: bool) -> Self {
        self.access_log = on;
        self
    }

    /// Requires TLS on all addresses of the server, except those with [other settings](crate::Listener::without_tls).
    ///
    /// Each handshake runs in the task of its connection and does not delay others. It must complete within
    /// [`handshake_timeout`](ConnConfig::handshake_timeout). Default: no TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsServerConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Requires the PROXY protocol, version 1 or 2, on all connections: the server is reached only through proxies. A
    /// [`Listener`](crate::Listener::without_proxy_protocol) can have other settings.
    ///
    /// Each connection must start with a PROXY header, and must come from one of the networks in `trusted` or over a
    /// Unix socket. The server closes all others. It never guesses whether a header is there: otherwise a client could
    /// send its own header and choose its address.
    ///
    /// The address in the header becomes [`peer_addr`](crate::PacketConn::peer_addr), and
    /// [`max_conns_per_ip`](Self::max_conns_per_ip) and [`conn_rate_per_ip`](Self::conn_rate_per_ip) count it. If the
    /// proxy speaks for itself, as in a health check, this is the proxy's own address. The handler gets all that the
    /// header says from [`proxy_header`](crate::PacketConn::proxy_header). The header comes before TLS, and both must
    /// complete within [`handshake_timeout`](ConnConfig::handshake_timeout).
    ///
    /// A header is refused if its client address is unspecified, multicast or broadcast, if it is not exactly as
    /// specified (fields after the addresses and the checksum of version 2 included), or if it is longer than 16 KiB: then
    /// its body is not read.
    ///
    /// An IPv4 network can be written as IPv4-mapped IPv6, with a prefix that is 96 bits longer: `::ffff:10.0.0.0/104`
    /// is `10.0.0.0/8`. `::ffff:10.0.0.0/8` is refused with [`is_config`](Error::is_config), and so is an empty list.
    /// No other IPv6 network, not even `::/0`, matches IPv4 proxies.
    ///
    /// Default: no PROXY protocol.
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
        self.proxies = Some(TrustedProxies::new(trusted));
        self
    }

    /// Refuses invalid values.
    /// Sets the configuration of sessions, for [`serve_sessions`](crate::PacketServer::serve_sessions). Default: `None`.
    /// Other ways to serve have no sessions, and log a warning.
    #[cfg(feature = "session")]
    #[must_use]
    pub fn sessions(mut self, sessions: impl Into<Option<SessionConfig>>) -> Self {
        self.sessions = sessions.into();
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.max_conns == Some(0) {
            return Err(Reason::Config("max_conns must be at least 1").into());
        }
        if self.max_conns_per_ip == Some(0) {
            return Err(Reason::Config("max_conns_per_ip must be at least 1").into());
        }
        if self.max_handshakes == Some(0) {
            return Err(Reason::Config("max_handshakes must be at least 1").into());
        }
        self.conn_rate_per_ip.map_or(Ok(()), ConnRate::check)?;
        if self.memory_budget.is_some_and(|bytes| bytes < 1024 * 1024) {
            return Err(Reason::Config("memory_budget must be at least 1 MiB").into());
        }
        if self.max_process_memory.is_some_and(|bytes| bytes < 1024 * 1024) {
            return Err(Reason::Config("max_process_memory must be at least 1 MiB").into());
        }
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxies) = &self.proxies {
            proxies.check()?;
        }
        #[cfg(feature = "session")]
        if let Some(sessions) = &self.sessions {
            sessions.check(&self.conn)?;
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
