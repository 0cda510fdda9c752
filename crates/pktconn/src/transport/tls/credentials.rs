//! Loads what TLS needs: certificates, private keys, trusted authorities, the crypto provider. Also makes TLS errors.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

use super::file::{self, FileBytes, MAX_CRL_LEN, MAX_LEN};
use crate::error::Reason;
use crate::error::failure::Operation;

/// The crypto provider. It is not the process-wide default, because that depends on which crate installs one first.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// Reads the certificates of a PEM file: at least one.
pub(super) fn read_certificates(
    path: &Path,
    deadline: Instant,
) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let file = read_file(path, MAX_LEN, deadline)?;
    parse_all(path, &file, "the file contains no certificate")
}

/// Reads a private key from a PEM file.
pub(super) fn read_private_key(path: &Path, deadline: Instant) -> Result<PrivateKey, Reason> {
    let file = read_file(path, MAX_LEN, deadline)?;
    let key = PrivateKeyDer::from_pem_slice(&file.bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => setup_error(path.display(), &"the file contains no private key"),
        error => setup_error(path.display(), &error),
    })?;
    Ok(PrivateKey { key, is_readable_by_others: file.is_readable_by_others })
}

pub(super) struct PrivateKey {
    pub(super) key: PrivateKeyDer<'static>,
    /// Unix: whether the group or other users may read the file.
    pub(super) is_readable_by_others: bool,
}

/// Reads the certificate revocation lists of a PEM file: at least one.
pub(super) fn read_crls(
    path: &Path,
    deadline: Instant,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Reason> {
    let file = read_file(path, MAX_CRL_LEN, deadline)?;
    parse_all(path, &file, "the file contains no certificate revocation list")
}

/// Trusts `authorities`, which are from the file at `path`.
pub(super) fn trust(path: &Path, authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, Reason> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate.clone()).map_err(|error| setup_error(path.display(), &error))?;
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

fn read_file(path: &Path, max_len: u64, deadline: Instant) -> Result<FileBytes, Reason> {
    file::read(path, max_len, deadline).map_err(|error| setup_error(path.display(), &error))
}

fn parse_all<T: PemObject>(path: &Path, file: &FileBytes, none: &str) -> Result<Vec<T>, Reason> {
    let parsed: Result<Vec<T>, _> = T::pem_slice_iter(&file.bytes).collect();
    match parsed {
        Ok(items) if items.is_empty() => Err(setup_error(path.display(), &none)),
        Ok(items) => Ok(items),
        Err(error) => Err(setup_error(path.display(), &error)),
    }
}

/// The error for a file or value that cannot be read or used.
pub(super) fn setup_error(what: impl fmt::Display, error: &dyn fmt::Display) -> Reason {
    let error = io::Error::new(io::ErrorKind::InvalidData, format!("cannot use {what}: {error}"));
    Reason::tls(Operation::TlsSetup, None::<String>, error)
}

pub(super) fn handshake_error(with: Option<impl ToString>, error: io::Error) -> Reason {
    Reason::tls(Operation::TlsHandshake, with, error)
}

/// The error for a chain and a key that rustls does not accept together.
pub(super) fn identity_error(chain: &Path, key: &Path, error: &rustls::Error) -> Reason {
    let mismatch = rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch);
    let files = format!("{} with {}", chain.display(), key.display());
    if *error == mismatch {
        return setup_error(files, &"the key is not that of the first certificate in the chain");
    }
    setup_error(files, error)
}
