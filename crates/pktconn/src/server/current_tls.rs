//! The TLS configuration that new connections of an address get. It can be replaced while the server runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;

use crate::TlsServerConfig;
use crate::error::Reason;

/// Clones share one configuration.
#[derive(Clone)]
pub(crate) struct CurrentTls(Arc<RwLock<TlsAcceptor>>);

impl CurrentTls {
    pub(crate) fn load(config: &TlsServerConfig) -> Result<Self, Reason> {
        Ok(Self(Arc::new(RwLock::new(config.load()?))))
    }

    pub(crate) fn get(&self) -> TlsAcceptor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, acceptor: TlsAcceptor) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
    }
}

impl fmt::Debug for CurrentTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentTls").finish_non_exhaustive()
    }
}
