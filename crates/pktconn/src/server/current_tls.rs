//! The TLS configuration that new connections of an address get. It can be replaced while the server runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;

use crate::TlsServerConfig;
use crate::error::Reason;
use crate::transport::tls::Loaded;

/// Clones share one configuration.
#[derive(Clone)]
pub(crate) struct CurrentTls(Arc<RwLock<Loaded>>);

impl CurrentTls {
    pub(crate) fn load(config: &TlsServerConfig) -> Result<Self, Reason> {
        Ok(Self(Arc::new(RwLock::new(config.load_here()?))))
    }

    pub(crate) fn get(&self) -> TlsAcceptor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).acceptor()
    }

    /// Replaces the configuration. Fails if the certificate in use is valid and the new one is not.
    pub(crate) fn replace(&self, new: &Loaded) -> Result<(), Reason> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        new.check_replaces(&current)?;
        *current = new.clone();
        Ok(())
    }
}

impl fmt::Debug for CurrentTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentTls").finish_non_exhaustive()
    }
}
