//! The options of TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use pktconn::TlsClientConfig;

use crate::plan::{Tls, Trust};

#[derive(Debug, Args)]
pub(super) struct TlsOptions {
    /// Connect with TLS; needs an ADDR
    #[arg(help_heading = "Server", long)]
    tls: bool,

    /// PEM file of the certificates to trust [default: the certificate store of the system]
    ///
    /// Give the certificate of the authority that signed the server's certificate. A self-signed certificate that is no
    /// authority (basicConstraints=CA:FALSE) can be given directly.
    #[arg(help_heading = "Server", long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Accept any certificate of the server, such as an expired or self-signed one
    ///
    /// Anyone on the network path can then pose as the server. The server must still own the key of its certificate.
    #[arg(help_heading = "Server", long, conflicts_with = "tls_ca")]
    tls_insecure: bool,

    /// Server name to expect in the certificate (SNI) [default: the host of ADDR]
    ///
    /// Required for TLS over a Unix socket. Example: --tls-server-name echo.example.org
    #[arg(help_heading = "Server", long, value_name = "NAME")]
    tls_server_name: Option<String>,

    /// PEM file of the client certificate chain, for servers that ask for one; needs --tls-key
    #[arg(help_heading = "Server", long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// PEM file of the private key of --tls-cert
    #[arg(help_heading = "Server", long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl TlsOptions {
    /// The files that are read.
    pub(super) fn files(&self) -> [(&'static str, Option<&Path>); 3] {
        [
            ("--tls-ca", self.tls_ca.as_deref()),
            ("--tls-cert", self.tls_cert.as_deref()),
            ("--tls-key", self.tls_key.as_deref()),
        ]
    }

    /// `None` without `--tls`.
    pub(super) fn settings(&self) -> Result<Option<Tls>, String> {
        let (has_chain, has_key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        if !self.tls {
            let unused = [
                ("--tls-ca", self.tls_ca.is_some()),
                ("--tls-insecure", self.tls_insecure),
                ("--tls-server-name", self.tls_server_name.is_some()),
                ("--tls-cert", has_chain),
                ("--tls-key", has_key),
            ];
            return match unused.iter().find(|(_, is_given)| *is_given) {
                Some((option, _)) => Err(format!("{option} has no effect without --tls; add --tls")),
                None => Ok(None),
            };
        }
        if has_chain != has_key {
            return Err(
                "a client certificate needs its private key: give both --tls-cert FILE and --tls-key FILE"
                    .to_owned(),
            );
        }
        let server_name = self.tls_server_name.clone();
        if self.tls_insecure {
            let identity = self.tls_cert.clone().zip(self.tls_key.clone());
            return Ok(Some(Tls { trust: Trust::Any { identity }, server_name }));
        }
        let mut config = TlsClientConfig::new();
        if let Some(ca) = &self.tls_ca {
            config = config.ca(ca);
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            config = config.client_cert(chain, key);
        }
        Ok(Some(Tls { trust: Trust::Verified(config), server_name }))
    }
}
