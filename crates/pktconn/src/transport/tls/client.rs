//! The TLS configuration of a client, and its handshake.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use super::credentials::{
    handshake_error, identity_error, load_system_roots, provider, read_certificates, read_private_key,
    setup_error, trust,
};
use super::file::READ_TIMEOUT;
use super::stream::{Tls, TrackedStream};
use crate::Error;
use crate::error::Reason;
use crate::transport::parsed_addr::ParsedAddr;
use crate::transport::plain_stream::PlainStream;

/// The TLS configuration of a client: trusted authorities, client certificate, server name, ALPN.
///
/// The protocol is TLS 1.3 or 1.2 with the default cipher suites of rustls. The server's certificate is always
/// verified; only [`from_rustls`](Self::from_rustls) can replace the verifier.
///
/// ```no_run
/// use pktconn::{ConnConfig, PacketConn, TlsClientConfig};
///
/// # async fn start() -> Result<(), pktconn::Error> {
/// let config = ConnConfig::new().tls(TlsClientConfig::new());
/// let conn = PacketConn::connect_with("example.org:14572", config).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct TlsClientConfig {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    /// Replaces all other fields but `server_name`.
    rustls: Option<Arc<rustls::ClientConfig>>,
    /// Built from the other fields on first use, and shared by all clones: the system's root certificates are many
    /// files.
    cached: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
}

impl TlsClientConfig {
    /// Trusts the root certificates of the system, and expects the host name that the address contains.
    ///
    /// Files are read on the first connect, once for all clones of this configuration. A file that cannot be read or
    /// used fails the connect with [`is_tls`](Error::is_tls), as does one that is larger than 1 MiB or cannot be read
    /// within 5 s. Call [`to_rustls`](Self::to_rustls) to read them earlier.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses a rustls configuration of the caller, for options that have no setter here.
    ///
    /// Of the setters only [`server_name`](Self::server_name) has an effect then.
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ClientConfig>) -> Self {
        Self { rustls: Some(config), ..Self::default() }
    }

    /// Trusts the certificate authorities in this PEM file instead of those of the system.
    ///
    /// Default: the root certificates of the system.
    #[must_use]
    pub fn ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.ca = Some(authorities.into());
        self.forget_cached()
    }

    /// Presents a client certificate to servers that request one: a PEM file with the chain, the client's own
    /// certificate first, and a PEM file with its private key (PKCS #8, SEC1 or PKCS #1).
    ///
    /// With TLS 1.3 the client's handshake ends before the server checks the certificate. If the server refuses it, the
    /// first `recv` fails with [`is_io`](Error::is_io). Default: no certificate.
    #[must_use]
    pub fn client_cert(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self.forget_cached()
    }

    /// Sets the name to expect in the server's certificate: a host name or an IP address. A host name is also sent to
    /// the server (SNI).
    ///
    /// Default: the host of the address. A Unix socket has no host: without a `server_name`, connecting to one fails
    /// with [`is_config`](Error::is_config).
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the application protocols to offer (ALPN), the preferred one first.
    ///
    /// Default: none.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self.forget_cached()
    }

    /// Builds the rustls configuration, and reads the files if they have not been read yet.
    ///
    /// Use it for a TLS stream that [`connect_with`](crate::PacketConn::connect_with) does not make, or to find
    /// problems with the files early.
    ///
    /// # Errors
    ///
    /// - [`is_tls`](Error::is_tls): a file cannot be read or used.
    pub fn to_rustls(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        Ok(self.load()?)
    }

    /// Gives this configuration its own empty cache: its fields now differ from those of its clones.
    fn forget_cached(mut self) -> Self {
        self.cached = Arc::default();
        self
    }

    fn load(&self) -> Result<Arc<rustls::ClientConfig>, Reason> {
        if let Some(config) = self.rustls.as_ref().or_else(|| self.cached.get()) {
            return Ok(Arc::clone(config));
        }
        let deadline = Instant::now() + READ_TIMEOUT;
        let roots = match &self.ca {
            Some(path) => trust(path, &read_certificates(path, deadline)?)?,
            None => load_system_roots()?,
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| setup_error("TLS", &error))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    read_certificates(chain, deadline)?,
                    read_private_key(key, deadline)?.key,
                )
                .map_err(|error| identity_error(chain, key, &error))?,
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(Arc::clone(self.cached.get_or_init(|| Arc::new(config))))
    }

    /// Expects the name of `target` in the certificate, whatever address is connected to.
    pub(crate) fn keep_server_name(mut self, target: ParsedAddr<'_>) -> Self {
        self.server_name = self.host_of(target);
        self
    }

    /// `None` for a Unix socket without a `server_name`.
    fn host_of(&self, target: ParsedAddr<'_>) -> Option<String> {
        match (&self.server_name, target) {
            (Some(name), _) => Some(name.clone()),
            (None, ParsedAddr::Socket(addr)) => Some(addr.ip().to_string()),
            (None, ParsedAddr::Name { host, .. }) => Some(host.to_owned()),
            (None, ParsedAddr::Unix { .. }) => None,
        }
    }

    /// The name to expect in the certificate of the server at `target`.
    pub(crate) fn server_name_for(&self, target: ParsedAddr<'_>) -> Result<ServerName<'static>, Reason> {
        let Some(host) = self.host_of(target) else {
            return Err(Reason::Config(
                "TLS over a Unix socket needs a server_name: set TlsClientConfig::server_name",
            ));
        };
        ServerName::try_from(host.clone()).map_err(|error| setup_error(host, &error))
    }

    /// Runs the client's handshake on a stream that is connected to `target`.
    pub(crate) async fn handshake(&self, stream: PlainStream, target: ParsedAddr<'_>) -> Result<Tls, Reason> {
        let name = self.server_name_for(target)?;
        let connected =
            TlsConnector::from(self.load()?).connect(name, TrackedStream::new(stream, None)).await;
        Ok(Tls::new(connected.map_err(|error| handshake_error(Some(target), error))?))
    }
}

impl fmt::Debug for TlsClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClientConfig")
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
