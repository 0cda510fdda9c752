//! Stopping a server, and what it says of itself.

use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(feature = "tls")]
use tokio_rustls::TlsAcceptor;

use super::registry::Registry;
use crate::{ConnStats, Error, ServerConfig, ServerStats};
#[cfg(feature = "tls")]
use crate::{TlsServerConfig, error::Reason};

/// Stops a [`PacketServer`](crate::PacketServer), tells its handlers of it, and counts its connections. Clone it
/// freely.
#[derive(Clone)]
pub struct ServerHandle(Arc<Control>);

/// What a server, its handles and its connections share.
pub(crate) struct Control {
    /// When the connections that are still there are closed, once that is known.
    pub(crate) cut_at: watch::Sender<Option<Instant>>,
    pub(crate) registry: Arc<Registry>,
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
            cut_at,
            registry: Arc::new(Registry::new(config)),
            #[cfg(feature = "tls")]
            tls: config.tls.as_ref().map(TlsServerConfig::load).transpose()?.map(RwLock::new),
        })))
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.0
    }

    /// Stops accepting. On each connection `recv` returns what has arrived, and then `None`, so that a handler that
    /// receives in a loop ends by itself. [`drain_on_shutdown`](crate::ServerConfig::drain_on_shutdown) turns that off;
    /// [`stopping`](Self::stopping) tells handlers that wait for something else.
    pub fn shutdown(&self) {
        self.0.registry.stop.trigger();
    }

    /// Stops as [`shutdown`](Self::shutdown) does, and closes the connections that are still there after `timeout`,
    /// those among them that their handlers have passed on. Their packets that were not written come back in the
    /// [`ShutdownReport`](crate::ShutdownReport).
    ///
    /// When it is called again, the last call counts: so a second signal may end at once what the first one granted
    /// time.
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
        self.0.registry.stop.triggered().await;
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
        self.0.registry.stats()
    }

    /// What went through all connections that the server has had, each as [`ConnStats`] says. It takes the lock of each
    /// that is there: ask now and then, and not for each packet. One that ends at this very moment may be missing, and
    /// is there the next time.
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
