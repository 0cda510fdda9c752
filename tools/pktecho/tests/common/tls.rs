//! A self-signed certificate in files.

use std::path::PathBuf;

pub(crate) struct Certificate {
    dir: tempfile::TempDir,
    host: String,
}

impl Certificate {
    pub(crate) fn new(host: &str) -> Self {
        let certificate = Self { dir: tempfile::tempdir().unwrap(), host: host.to_owned() };
        certificate.renew();
        certificate
    }

    /// Replaces the certificate and the key with new ones.
    pub(crate) fn renew(&self) {
        let new = rcgen::generate_simple_self_signed([self.host.clone()]).unwrap();
        std::fs::write(self.chain(), new.cert.pem()).unwrap();
        std::fs::write(self.key(), new.signing_key.serialize_pem()).unwrap();
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.dir.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Options of a server that uses it.
    pub(crate) fn options(&self) -> [&'static str; 4] {
        let leak = |path: PathBuf| &*path.to_str().unwrap().to_owned().leak();
        ["--tls-cert", leak(self.chain()), "--tls-key", leak(self.key())]
    }
}
