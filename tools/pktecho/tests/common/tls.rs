//! A self-signed certificate in files.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

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
        self.write(&self.params());
    }

    /// Like `renew`, with a certificate that expired on 2020-01-02.
    pub(crate) fn expired(&self) {
        let mut params = self.params();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 1, 2));
        self.write(&params);
    }

    /// Like `renew`, with a certificate that expires in `time`.
    pub(crate) fn expires_in(&self, time: Duration) {
        let mut params = self.params();
        params.not_after = (SystemTime::now() + time).into();
        self.write(&params);
    }

    fn params(&self) -> rcgen::CertificateParams {
        rcgen::CertificateParams::new([self.host.clone()]).unwrap()
    }

    fn write(&self, params: &rcgen::CertificateParams) {
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(self.chain(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
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
