//! What was made of the files of a server, and whether it may replace what is in use.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use super::checks::Validity;
use super::credentials::setup_error;
use super::x509::UnixTime;
use crate::error::Reason;

/// A configuration that needs no more files.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(super) config: Arc<rustls::ServerConfig>,
    /// `None` if it is unknown: the caller made the configuration, or the certificate cannot be parsed.
    pub(super) certificate: Option<OwnCertificate>,
}

/// The server's own certificate.
#[derive(Clone)]
pub(super) struct OwnCertificate {
    pub(super) file: PathBuf,
    pub(super) validity: Validity,
}

impl Loaded {
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config).into()
    }

    /// Fails if this would replace a valid certificate by one that is not valid now.
    pub(crate) fn check_replaces(&self, current: &Self) -> Result<(), Reason> {
        let (Some(new), Some(current)) = (&self.certificate, &current.certificate) else { return Ok(()) };
        match new.validity.reason_to_keep(current.validity, UnixTime::now()) {
            Some(problem) => Err(setup_error(new.file.display(), &problem)),
            None => Ok(()),
        }
    }
}
