//! The files that TLS needs: certificates, keys, and the authorities that are trusted.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

use crate::error::Reason;
use crate::error::failure::Operation;

/// Not that which the process may have installed: nothing is to depend on who comes first.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| unusable(path.display(), &error))?;
    if certificates.is_empty() {
        return Err(unusable(path.display(), &"there is no certificate in it"));
    }
    Ok(certificates)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Reason> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path.display(), &error))
}

pub(super) fn roots(path: &Path) -> Result<RootCertStore, Reason> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path.display(), &error))?;
    }
    Ok(roots)
}

pub(super) fn system_roots() -> Result<RootCertStore, Reason> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have a few that nobody can read: the others do.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(unusable("the system's root certificates", &problem));
    }
    Ok(roots)
}

/// A file that is no good, or not there.
pub(super) fn unusable(what: impl fmt::Display, error: &dyn fmt::Display) -> Reason {
    let error = io::Error::new(io::ErrorKind::InvalidData, format!("cannot use {what}: {error}"));
    Reason::tls(Operation::TlsSetup, None::<String>, error)
}

pub(super) fn failed(with: Option<impl ToString>, error: io::Error) -> Reason {
    Reason::tls(Operation::TlsHandshake, with, error)
}
