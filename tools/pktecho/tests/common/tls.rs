//! A certificate that signs itself, in files.

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

    /// Puts another one in its place.
    pub(crate) fn renew(&self) {
        let own = rcgen::generate_simple_self_signed([self.host.clone()]).unwrap();
        std::fs::write(self.chain(), own.cert.pem()).unwrap();
        std::fs::write(self.key(), own.signing_key.serialize_pem()).unwrap();
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.dir.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Those of the server that shows it.
    pub(crate) fn options(&self) -> [&'static str; 4] {
        let leak = |path: PathBuf| &*path.to_str().unwrap().to_owned().leak();
        ["--tls-cert", leak(self.chain()), "--tls-key", leak(self.key())]
    }
}
