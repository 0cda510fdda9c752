//! The public handle that stops a server and reports its counts, and the state that it shares with the server.

use std::sync::Arc;
#[cfg(feature = "session")]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(feature = "tls")]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(feature = "tls")]
use super::current_tls::CurrentTls;
use super::registry::Registry;
#[cfg(feature = "tls")]
use crate::{Addr, TlsServerConfig, error::Reason};
use crate::{ConnStats, Error, ServerConfig, ServerStats};

/// A handle to a [`PacketServer`](crate::PacketServer): shuts it down, notifies handlers of the shutdown, reports
/// counts.
///
/// Clones refer to the same server.
#[derive(Clone)]
pub struct ServerHandle(Arc<ServerState>);

/// What a server and its handles share.
pub(crate) struct ServerState {
    /// When a shutdown closes the remaining connections. `None` if no deadline is set.
    pub(crate) close_deadline: watch::Sender<Option<Instant>>,
    pub(crate) registry: Arc<Registry>,
    /// The spread of the last GOAWAY, in milliseconds.
    #[cfg(feature = "session")]
    go_away_spread_ms: AtomicU64,
    /// For the addresses without a configuration of their own.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<CurrentTls>,
    /// The addresses with a configuration of their own.
    #[cfg(feature = "tls")]
    tls_by_addr: Mutex<Vec<(Addr, CurrentTls)>>,
}

#[cfg(feature = "session")]
impl ServerState {
    pub(crate) fn go_away_spread(&self) -> Duration {
        Duration::from_millis(self.go_away_spread_ms.load(Relaxed))
    }
}

#[cfg(feature = "tls")]
impl ServerState {
    /// Loads the TLS configuration of an address that has its own.
    pub(crate) fn add_tls(&self, addr: &Addr, config: &TlsServerConfig) -> Result<CurrentTls, Reason> {
        let tls = CurrentTls::load(config)?;
        let mut by_addr = self.tls_by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        by_addr.push((addr.clone(), tls.clone()));
        Ok(tls)
    }

    /// Those of the listeners at `addr`. Sockets with `SO_REUSEPORT` can have the same address.
    fn tls_at(&self, addr: &Addr) -> Vec<CurrentTls> {
        let by_addr = self.tls_by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        by_addr.iter().filter(|(of, _)| of == addr).map(|(_, tls)| tls.clone()).collect()
    }
}

impl ServerHandle {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, Error> {
        let (close_deadline, _) = watch::channel(None);
        Ok(Self(Arc::new(ServerState {
            close_deadline,
            registry: Arc::new(Registry::new(config)?),
            #[cfg(feature = "session")]
            go_away_spread_ms: AtomicU64::new(0),
            #[cfg(feature = "tls")]
            tls: config.tls.as_ref().map(CurrentTls::load).transpose()?,
            #[cfg(feature = "tls")]
            tls_by_addr: Mutex::default(),
        })))
    }

    pub(crate) fn state(&self) -> &Arc<ServerState> {
        &self.0
    }

    /// Shuts the server down without a deadline: it stops accepting, and drains its connections.
    ///
    /// On each connection, `recv` returns the packets that have arrived, and then `None`. A handler that receives in a
    /// loop then ends by itself. [`drain_on_shutdown`](crate::ServerConfig::drain_on_shutdown) turns that off. Handlers
    /// that wait for something else can also wait for [`stopping`](Self::stopping).
    ///
    /// Returns at once. [`serve`](crate::PacketServer::serve) returns when the shutdown is complete.
    pub fn shutdown(&self) {
        self.0.registry.shutdown.trigger();
    }

    /// Shuts the server down like [`shutdown`](Self::shutdown), and closes the connections that are still open after
    /// `timeout`, including connections that handlers have passed on.
    ///
    /// The packets in their send queues are returned in the [`ShutdownReport`](crate::ShutdownReport). If it is called
    /// again, the last call counts: a second signal can call it with a timeout of zero to end the wait.
    pub fn shutdown_within(&self, timeout: Duration) {
        // A timeout that overflows the clock means no deadline.
        self.0.close_deadline.send_replace(Instant::now().checked_add(timeout));
        self.shutdown();
    }

    /// Shuts a server with [sessions](crate::PacketServer::serve_sessions) down like
    /// [`shutdown_within`](Self::shutdown_within). Its clients move to another server at random moments within `spread`,
    /// so that they do not all connect there at once.
    #[cfg(feature = "session")]
    pub fn go_away(&self, deadline: Duration, spread: Duration) {
        let spread_ms = spread.as_millis().try_into().unwrap_or(u64::MAX);
        self.0.go_away_spread_ms.store(spread_ms, Relaxed);
        self.shutdown_within(deadline);
    }

    /// Waits until [`shutdown`](Self::shutdown) or [`shutdown_within`](Self::shutdown_within) is called. Returns at
    /// once if that has happened.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future has no effect.
    pub async fn stopping(&self) {
        self.0.registry.shutdown.triggered().await;
    }

    /// Replaces [`ServerConfig::tls`](crate::ServerConfig::tls) for new connections, for example after a certificate
    /// was renewed in the same files.
    ///
    /// Open connections and running handshakes are not affected, nor are addresses with
    /// [their own TLS](crate::Listener::tls). The files are read in a thread of its own, within 5 s, so a file that hangs
    /// delays no connection. Session tickets from before are no longer valid. Of calls that overlap, the last one to
    /// finish counts.
    ///
    /// A certificate that has expired, or is not valid yet, does not replace one that is valid. It replaces one that is
    /// not valid either, with a warning in the log.
    ///
    /// # Errors
    ///
    /// The server keeps its configuration.
    ///
    /// - [`is_tls`](Error::is_tls): a file cannot be read or used, reading takes longer than 5 s, or the new certificate
    ///   is not valid now and the current one is.
    /// - [`is_config`](Error::is_config): the server was made without `ServerConfig::tls`, or there is a
    ///   [`crl`](TlsServerConfig::crl) without authorities of clients.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves the configuration as it was before.
    #[cfg(feature = "tls")]
    pub async fn set_tls(&self, tls: &TlsServerConfig) -> Result<(), Error> {
        let Some(current) = &self.0.tls else {
            return Err(Reason::Config(
                "the server was made without TLS: set ServerConfig::tls to use set_tls",
            )
            .into());
        };
        CurrentTls::replace(std::slice::from_ref(current), &tls.load_in_thread().await?)?;
        Ok(())
    }

    /// Replaces the [TLS configuration of one listener](crate::Listener::tls) for new connections. `addr` is its
    /// address in [`local_addrs`](crate::PacketServer::local_addrs).
    ///
    /// Otherwise like [`set_tls`](Self::set_tls).
    ///
    /// # Errors
    ///
    /// The listener keeps its configuration.
    ///
    /// - [`is_tls`](Error::is_tls): a file cannot be read or used, reading takes longer than 5 s, or the new certificate
    ///   is not valid now and the current one is.
    /// - [`is_config`](Error::is_config): no listener with its own TLS configuration has this address, or there is a
    ///   [`crl`](TlsServerConfig::crl) without authorities of clients.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves the configuration as it was before.
    #[cfg(feature = "tls")]
    pub async fn set_tls_at(&self, addr: impl Into<Addr>, tls: &TlsServerConfig) -> Result<(), Error> {
        let addr = addr.into();
        let listeners = self.0.tls_at(&addr);
        if listeners.is_empty() {
            let problem = format!(
                "no listener at {addr} has its own TLS configuration: set Listener::tls to use set_tls_at"
            );
            return Err(Reason::BadValue(problem.into()).into());
        }
        CurrentTls::replace(&listeners, &tls.load_in_thread().await?)?;
        Ok(())
    }

    /// The server's connection counts: since it was made, and now.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.0.registry.stats()
    }

    /// The sums of the [`ConnStats`] of all connections that the server has had.
    ///
    /// Call it now and then, not for each packet: it takes the lock of each open connection. A connection that ends at
    /// the same moment may be missing; the next call includes it.
    #[must_use]
    pub fn traffic(&self) -> ConnStats {
        self.0.registry.traffic()
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
