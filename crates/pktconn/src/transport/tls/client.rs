//! TLS on the side of a client.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use super::files::{certificates, failed, private_key, provider, roots, system_roots, unusable};
use super::stream::{Below, Tls};
use crate::Error;
use crate::error::Reason;
use crate::transport::plain_stream::PlainStream;
use crate::transport::target::Target;

/// TLS for a client: whom it trusts, and as whom it shows itself.
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
///
/// TLS 1.3 and 1.2, with the cipher suites of rustls. The server's certificate is verified always.
#[derive(Clone, Default)]
pub struct TlsClientConfig {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    /// In the place of all others but the name.
    given: Option<Arc<rustls::ClientConfig>>,
    /// Made of the others when it is first needed, and kept: the system's roots are many files.
    loaded: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
}

impl TlsClientConfig {
    /// TLS with the system's roots, towards the host that is connected to.
    ///
    /// Files are read when it first connects, once for all clones of it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// TLS as rustls is configured by the caller: for what has no setter here. Of the setters only
    /// [`server_name`](Self::server_name) has a part in it then.
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ClientConfig>) -> Self {
        Self { given: Some(config), ..Self::default() }
    }

    /// Trusts the authorities in this PEM file, instead of the system's.
    #[must_use]
    pub fn ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.ca = Some(authorities.into());
        self.anew()
    }

    /// Shows the certificate chain and the key of these PEM files to a server that asks.
    ///
    /// With TLS 1.3 the connection is there before the server has looked at it: where it refuses, the first `recv` fails with
    /// [`is_io`](Error::is_io).
    #[must_use]
    pub fn client_cert(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self.anew()
    }

    /// Sets the name that the server's certificate must be for, a host name or an IP address, which is also sent to it (SNI).
    ///
    /// Default: the host of the address that is connected to. A Unix socket has none.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the names of the protocols that the client speaks (ALPN), the one it likes best first.
    ///
    /// Default: none.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self.anew()
    }

    /// The same as rustls has it: for a stream that is not made by [`connect_with`](crate::PacketConn::connect_with), or to
    /// have the files read now.
    ///
    /// # Errors
    ///
    /// [`is_tls`](Error::is_tls): a file cannot be read or used.
    pub fn to_rustls(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        Ok(self.load()?)
    }

    fn anew(mut self) -> Self {
        self.loaded = Arc::default();
        self
    }

    fn load(&self) -> Result<Arc<rustls::ClientConfig>, Reason> {
        if let Some(config) = self.given.as_ref().or_else(|| self.loaded.get()) {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.ca {
            Some(path) => roots(path)?,
            None => system_roots()?,
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable("TLS", &error))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(certificates(chain)?, private_key(key)?).map_err(|error| {
                    unusable(format_args!("{} with {}", chain.display(), key.display()), &error)
                })?
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(Arc::clone(self.loaded.get_or_init(|| Arc::new(config))))
    }

    /// The name that the certificate of a server at `target` must be for.
    pub(crate) fn name_for(&self, target: Target<'_>) -> Result<ServerName<'static>, Reason> {
        let host = match (&self.server_name, target) {
            (Some(name), _) => name.clone(),
            (None, Target::Socket(addr)) => addr.ip().to_string(),
            (None, Target::Name { host, .. }) => host.to_owned(),
            (None, Target::Unix(_)) => {
                return Err(Reason::Config("TLS over a Unix socket needs a server_name"));
            }
        };
        ServerName::try_from(host.clone()).map_err(|error| unusable(host, &error))
    }

    /// The handshake of a client, on a stream that was connected to `target`.
    pub(crate) async fn handshake(&self, stream: PlainStream, target: Target<'_>) -> Result<Tls, Reason> {
        let name = self.name_for(target)?;
        let connected = TlsConnector::from(self.load()?).connect(name, Below::new(stream)).await;
        Ok(Tls::new(connected.map_err(|error| failed(Some(target), error))?))
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
