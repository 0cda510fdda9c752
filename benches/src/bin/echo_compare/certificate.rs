//! The certificate of the servers over TLS, made when the program starts.

use std::fs;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A self-signed certificate for `127.0.0.1` and `::1`, and its key, as PEM files in a folder that is removed on drop.
pub(crate) struct Certificate {
    /// The certificate. Clients trust it as an authority.
    pub(crate) cert: String,
    pub(crate) key: String,
    _folder: TempDir,
}

impl Certificate {
    pub(crate) fn new() -> Result<Self> {
        let names = ["127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
        let folder = TempDir::new().context("cannot make a folder for the certificate")?;
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            path.into_os_string().into_string().ok().context("the temporary folder is not valid UTF-8")
        };
        let (cert, key) =
            (write("cert.pem", made.cert.pem())?, write("key.pem", made.signing_key.serialize_pem())?);
        Ok(Self { cert, key, _folder: folder })
    }
}
