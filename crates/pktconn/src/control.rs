//! Stopping a server, and what it says of itself.

use std::net::SocketAddr;
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use pktconn_codec::Packet;
use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(feature = "tls")]
use tokio_rustls::TlsAcceptor;

use crate::census::Census;
use crate::stop::Stop;
use crate::{ConnStats, Error, ServerConfig};
#[cfg(feature = "tls")]
use crate::{TlsServerConfig, error::Reason};

/// Stops a [`PacketServer`](crate::PacketServer), tells its handlers of it, and counts its connections. Clone it freely.
#[derive(Clone)]
pub struct ServerHandle(Arc<Control>);

/// What a server, its handles and its connections share.
pub(crate) struct Control {
    pub(crate) stop: Stop,
    /// When the connections that are still there are closed, once that is known.
    pub(crate) cut_at: watch::Sender<Option<Instant>>,
    pub(crate) census: Census,
    /// Whether connections receive the end of the stream once the server stops.
    pub(crate) drains: bool,
    #[cfg(feature = "tls")]
    tls: Option<RwLock<TlsAcceptor>>,
}

impl Control {
    #[cfg(feature = "tls")]
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What new connections are accepted with.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<TlsAcceptor> {
        Some(self.tls.as_ref()?.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl ServerHandle {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, Error> {
        let (cut_at, _) = watch::channel(None);
        Ok(Self(Arc::new(Control {
            stop: Stop::default(),
            cut_at,
            census: Census::new(config),
            drains: config.drain_on_shutdown,
            #[cfg(feature = "tls")]
            tls: config.tls.as_ref().map(TlsServerConfig::load).transpose()?.map(RwLock::new),
        })))
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.0
    }

    /// Stops accepting. On each connection `recv` returns what has arrived, and then `None`, so that a handler that receives in
    /// a loop ends by itself. [`drain_on_shutdown`](crate::ServerConfig::drain_on_shutdown) turns that off;
    /// [`stopping`](Self::stopping) tells handlers that wait for something else.
    pub fn shutdown(&self) {
        self.0.stop.say();
    }

    /// Stops as [`shutdown`](Self::shutdown) does, and closes the connections that are still there after `timeout`, those among them that their handlers
    /// have passed on. Their packets that were not written come back in the [`ShutdownReport`].
    ///
    /// When it is called again, the last call counts: so a second signal may end at once what the first one granted time.
    pub fn shutdown_within(&self, timeout: Duration) {
        // A time beyond what the clock can say is none.
        self.0.cut_at.send_replace(Instant::now().checked_add(timeout));
        self.shutdown();
    }

    /// Waits for [`shutdown`](Self::shutdown) to be called.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.0.stop.said().await;
    }

    /// Sets what connections are accepted with from now on: a new certificate, or the same files, read again. The
    /// connections that are there go on, and so do handshakes that have begun.
    ///
    /// It reads files, and so may take a moment.
    ///
    /// # Errors
    ///
    /// [`is_tls`](Error::is_tls): a file cannot be read or is no good; the server goes on with what it has.
    /// [`is_config`](Error::is_config): the server was made without TLS.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, tls: &TlsServerConfig) -> Result<(), Error> {
        let Some(current) = &self.0.tls else {
            return Err(Reason::Config("the server was made without TLS").into());
        };
        let acceptor = tls.load()?;
        *current.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    /// What the server has accepted so far, and has now.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.0.census.stats()
    }

    /// What went through all connections that the server has had, each as [`ConnStats`] says. It takes the lock of each that is
    /// there: ask now and then, and not for each packet. One that ends at this very moment may be missing, and is there the
    /// next time.
    #[must_use]
    pub fn traffic(&self) -> ConnStats {
        self.0.census.traffic()
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Counts of a server since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that were accepted, those among them that were refused then.
    pub accepted: u64,
    /// Connections that were closed as soon as they were accepted, because there were too many:
    /// [`max_conns`](crate::ServerConfig::max_conns), [`max_conns_per_ip`](crate::ServerConfig::max_conns_per_ip),
    /// [`memory_budget`](crate::ServerConfig::memory_budget).
    pub refused: u64,
    /// Connections that never came to their first packet, because of what has to come before it: the header of a proxy, TLS.
    pub handshakes_failed: u64,
    /// Connections that were closed because all together were over the
    /// [`memory_budget`](crate::ServerConfig::memory_budget): as many as end with
    /// [`is_over_budget`](crate::Error::is_over_budget). One that had failed before is none of them.
    pub closed_over_budget: u64,
    /// Connections that are there now, those in their handshakes among them: each up to when its handler has finished and the last of its handles is dropped.
    pub open: usize,
    /// What they hold in memory, in bytes, as the [`memory_budget`](crate::ServerConfig::memory_budget) counts it; 0 without one.
    pub held_bytes: usize,
}

/// How the connections of a server ended that were there when it was shut down.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How many ended by themselves, before the time was over.
    pub drained: usize,
    /// Those that were closed when the time was over.
    pub cut: Vec<CutConn>,
}

/// A connection that was closed because the time to shut down was over.
#[derive(Debug)]
#[non_exhaustive]
pub struct CutConn {
    /// The address of the peer.
    pub peer_addr: Option<SocketAddr>,
    /// The packets that were accepted to be sent and not wholly written, in their order. The first of these may have been
    /// written in part.
    pub unsent: Vec<Packet>,
}
