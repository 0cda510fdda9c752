//! Loads what TLS needs: certificates, private keys, trusted authorities, the crypto provider. Also makes TLS errors.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

use crate::error::Reason;
use crate::error::failure::Operation;

/// The crypto provider. It is not the process-wide default, because that depends on which crate installs one first.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| setup_error(path.display(), &error))?;
    if certificates.is_empty() {
        return Err(setup_error(path.display(), &"the file contains no certificate"));
    }
    Ok(certificates)
}

pub(super) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Reason> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| setup_error(path.display(), &error))
}

pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, Reason> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| setup_error(path.display(), &error))?;
    }
    Ok(roots)
}

pub(super) fn load_system_roots() -> Result<RootCertStore, Reason> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have a few certificates that cannot be parsed. The others are enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = found.errors.first().map_or("the system has none".to_owned(), ToString::to_string);
        return Err(setup_error("the system's root certificates", &problem));
    }
    Ok(roots)
}

/// The error for a file or value that cannot be read or used.
pub(super) fn setup_error(what: impl fmt::Display, error: &dyn fmt::Display) -> Reason {
    let error = io::Error::new(io::ErrorKind::InvalidData, format!("cannot use {what}: {error}"));
    Reason::tls(Operation::TlsSetup, None::<String>, error)
}

pub(super) fn handshake_error(with: Option<impl ToString>, error: io::Error) -> Reason {
    Reason::tls(Operation::TlsHandshake, with, error)
}
