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

    /// Replaces the configuration of `all`. Replaces none and fails if the certificate of one is valid and the new one is
    /// not.
    pub(crate) fn replace(all: &[Self], new: &Loaded) -> Result<(), Reason> {
        // All stay locked in between: another call must not replace one of them after its check. The order is that of the
        // listeners, so two calls cannot wait for each other.
        let mut locked: Vec<_> =
            all.iter().map(|Self(current)| current.write().unwrap_or_else(PoisonError::into_inner)).collect();
        locked.iter().try_for_each(|current| new.check_replaces(current))?;
        locked.iter_mut().for_each(|current| **current = new.clone());
        Ok(())
    }
}

impl fmt::Debug for CurrentTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentTls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose certificate is valid until the end of `last_year`.
    fn loaded(dir: &tempfile::TempDir, last_year: i32) -> Loaded {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let key_pair = rcgen::KeyPair::generate().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        std::fs::write(&chain, params.self_signed(&key_pair).unwrap().pem()).unwrap();
        std::fs::write(&key, key_pair.serialize_pem()).unwrap();
        TlsServerConfig::new(chain, key).load_here().unwrap()
    }

    #[test]
    fn a_certificate_that_one_listener_refuses_replaces_that_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let of = |last_year| CurrentTls(Arc::new(RwLock::new(loaded(&dir, last_year))));
        let all = [of(2020), of(4000)];
        let config = |current: &CurrentTls| Arc::as_ptr(current.get().config());
        let before = all.each_ref().map(config);
        assert!(CurrentTls::replace(&all, &loaded(&dir, 2021)).is_err());
        assert_eq!(all.each_ref().map(config), before);
        assert!(CurrentTls::replace(&all, &loaded(&dir, 4001)).is_ok());
        assert!(all.iter().zip(before).all(|(current, before)| config(current) != before));
    }
}
