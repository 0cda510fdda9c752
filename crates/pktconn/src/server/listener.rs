//! The public listening socket of a server, with the settings that differ from those of the server.

#[cfg(feature = "proxy-protocol")]
use ipnet::IpNet;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

#[cfg(feature = "tls")]
use crate::TlsServerConfig;
use crate::error::Reason;
use crate::error::failure::Operation;
#[cfg(feature = "tls")]
use crate::server::current_tls::CurrentTls;
use crate::server::server_handle::ServerState;
use crate::transport::listen_socket::ListenSocket;
#[cfg(feature = "proxy-protocol")]
use crate::transport::proxy_protocol::TrustedProxies;
use crate::{Addr, ConnConfig, Error, ServerConfig};

/// A listening socket, with settings that differ from those of its server.
///
/// Made by [`bind`](Self::bind), or from tokio's `TcpListener` or `UnixListener`. A server is made
/// [from one](crate::PacketServer::from_listener), and can [get more](crate::PacketServer::add_listener). They share
/// the limits and the counts of the server. Every other setting is that of the [`ServerConfig`], unless it is set here.
///
/// The socket file that [`bind`](Self::bind) creates is removed when the listener is dropped; that of a converted
/// `UnixListener` stays.
///
/// ```
/// use std::time::Duration;
///
/// use pktconn::{ConnConfig, Listener, PacketServer, ServerConfig};
///
/// # async fn start() -> Result<(), pktconn::Error> {
/// // Clients must send a packet every minute. The backend on this machine may be silent.
/// let clients = ConnConfig::new().idle_timeout(Duration::from_secs(60));
/// let config = ServerConfig::new().conn(clients).max_conns(10_000);
/// let mut server = PacketServer::bind_with("[::]:14572", config).await?;
/// let backend = Listener::bind("unix:/run/app.sock").await?;
/// server.add_listener(backend.conn(ConnConfig::new()))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: ListenSocket,
    conn: Option<ConnConfig>,
    #[cfg(feature = "tls")]
    tls: Override<TlsServerConfig>,
    #[cfg(feature = "proxy-protocol")]
    proxies: Override<TrustedProxies>,
}

/// A setting that replaces that of the server.
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
#[derive(Debug)]
enum Override<T> {
    /// The server's setting applies.
    No,
    With(T),
    Without,
}

impl Listener {
    /// Listens on an [address](Addr), without making a server yet.
    ///
    /// Port 0 selects a free port. At the path of a Unix socket, a socket file that no program has open is replaced,
    /// for example one that a killed program left. See [`Addr`](Addr#unix-sockets) for its lock file and its permissions.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the address does not resolve, does not belong to this machine, or is in use; or the
    ///   path of a Unix socket is taken by a file that is not a socket.
    /// - [`is_config`](Error::is_config): nothing can ever listen on the address.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves no listening socket behind.
    pub async fn bind(addr: impl Into<Addr>) -> Result<Self, Error> {
        Ok(Self::new(ListenSocket::bind(&addr.into()).await?))
    }

    fn new(socket: ListenSocket) -> Self {
        Self {
            socket,
            conn: None,
            #[cfg(feature = "tls")]
            tls: Override::No,
            #[cfg(feature = "proxy-protocol")]
            proxies: Override::No,
        }
    }

    /// Sets the configuration of each connection that this socket accepts. Default: [`ServerConfig::conn`].
    ///
    /// It replaces all of the server's `ConnConfig`: the setters that are not called have their default values, not
    /// those of the server.
    #[must_use]
    pub fn conn(mut self, conn: ConnConfig) -> Self {
        self.conn = Some(conn);
        self
    }

    /// Requires TLS on this socket, with its own certificate. Default: [`ServerConfig::tls`].
    ///
    /// [`ServerHandle::set_tls_at`](crate::ServerHandle::set_tls_at) replaces the certificate while the server runs.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsServerConfig) -> Self {
        self.tls = Override::With(tls);
        self
    }

    /// Accepts connections without TLS on this socket, although the server has [TLS](ServerConfig::tls): for example on
    /// a Unix socket.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.tls = Override::Without;
        self
    }

    /// Requires the PROXY protocol on this socket, from proxies in one of the networks in `trusted` or over a Unix
    /// socket. Default: [`ServerConfig::proxy_protocol`], which describes the details.
    #[cfg(feature = "proxy-protocol")]
    #[must_use]
    pub fn proxy_protocol(mut self, trusted: impl IntoIterator<Item = IpNet>) -> Self {
        self.proxies = Override::With(TrustedProxies::new(trusted));
        self
    }

    /// Accepts connections without a PROXY header on this socket, although the server has the
    /// [PROXY protocol](ServerConfig::proxy_protocol): for example on an address for health checks.
    #[cfg(feature = "proxy-protocol")]
    #[must_use]
    pub fn without_proxy_protocol(mut self) -> Self {
        self.proxies = Override::Without;
        self
    }

    /// Checks the settings, and completes them with those of the server, which were checked before.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only TLS has state that is shared"))]
    pub(crate) fn for_server(
        self,
        server: &ServerConfig,
        state: &ServerState,
    ) -> Result<ServerListener, Error> {
        if let Some(conn) = &self.conn {
            conn.check_without_connect()?;
            #[cfg(feature = "session")]
            if let Some(sessions) = &server.sessions {
                sessions.check(conn)?;
            }
        }
        #[cfg(feature = "proxy-protocol")]
        let proxies = match self.proxies {
            Override::No => server.proxies.clone(),
            Override::With(proxies) => {
                proxies.check()?;
                Some(proxies)
            }
            Override::Without => None,
        };
        let mut conn = self.conn.unwrap_or_else(|| server.conn.clone());
        let unusable = |error| Reason::io(Operation::Listen, None::<String>, error);
        self.socket.set_inherited_options(&conn.tcp).map_err(unusable)?;
        conn.tcp = conn.tcp.for_accepted();
        let local_addr = self.socket.local_addr().map_err(unusable)?;
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            Override::No => state.tls.clone(),
            Override::With(config) => Some(state.add_tls(&local_addr, &config)?),
            Override::Without => None,
        };
        Ok(ServerListener {
            socket: self.socket,
            local_addr,
            conn,
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "proxy-protocol")]
            proxies,
        })
    }
}

/// A listening socket of a server, with the settings of its connections.
#[derive(Debug)]
pub(crate) struct ServerListener {
    pub(crate) socket: ListenSocket,
    pub(crate) local_addr: Addr,
    pub(crate) conn: ConnConfig,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<CurrentTls>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxies: Option<TrustedProxies>,
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(ListenSocket::Tcp(listener))
    }
}

/// The socket file stays when the listener is dropped: the caller created it and may still use it.
#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::new(ListenSocket::Unix { listener, _file: None })
    }
}
