//! TLS on the side of a server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::files::{certificates, failed, private_key, provider, roots, unusable};
use super::stream::{Below, Tls};
use crate::error::Reason;
use crate::transport::plain_stream::PlainStream;

/// TLS for a server: its certificate, whom it asks for one, and the protocols it speaks.
///
/// ```no_run
/// use pktconn::{PacketServer, ServerConfig, TlsServerConfig};
///
/// # async fn start() -> Result<(), pktconn::Error> {
/// let tls = TlsServerConfig::new("chain.pem", "key.pem").client_ca("clients.pem");
/// let server = PacketServer::bind_with("[::]:14572", ServerConfig::new().tls(tls.clone())).await?;
/// let handle = server.handle();
/// // Later, when there is a new certificate in these files; connections that are there go on.
/// handle.set_tls(&tls)?;
/// # Ok(())
/// # }
/// ```
///
/// TLS 1.3 and 1.2, with the cipher suites of rustls.
#[derive(Clone)]
pub struct TlsServerConfig {
    source: ServerSource,
    client_ca: Option<ClientCa>,
    alpn: Vec<Vec<u8>>,
}

#[derive(Clone)]
enum ServerSource {
    Files { chain: PathBuf, key: PathBuf },
    Given(Arc<rustls::ServerConfig>),
}

#[derive(Clone)]
struct ClientCa {
    path: PathBuf,
    is_required: bool,
}

impl TlsServerConfig {
    /// TLS with the certificate chain (the server's own certificate first) and the private key (PKCS #8, SEC1 or PKCS #1) of
    /// these PEM files.
    ///
    /// They are read when the server is bound, and when they are [set anew](crate::ServerHandle::set_tls).
    #[must_use]
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let source = ServerSource::Files { chain: chain.into(), key: key.into() };
        Self { source, client_ca: None, alpn: Vec::new() }
    }

    /// TLS as rustls is configured by the caller: for what has no setter here. The setters have no part in it then.
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ServerConfig>) -> Self {
        Self { source: ServerSource::Given(config), client_ca: None, alpn: Vec::new() }
    }

    /// Demands a certificate of each client, signed by one of the authorities in this PEM file.
    ///
    /// Default: clients are not asked.
    #[must_use]
    pub fn client_ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(ClientCa { path: authorities.into(), is_required: true });
        self
    }

    /// Asks each client for a certificate, and takes those that have none; one that is shown has to be good. The handler
    /// sees by [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates) who it is.
    #[must_use]
    pub fn optional_client_ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(ClientCa { path: authorities.into(), is_required: false });
        self
    }

    /// Sets the names of the protocols that the server speaks (ALPN), the one it likes best first. A client that names others
    /// alone is refused; one that names none is not.
    ///
    /// Default: none.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Reads the files.
    pub(crate) fn load(&self) -> Result<TlsAcceptor, Reason> {
        let (chain, key) = match &self.source {
            ServerSource::Given(config) => return Ok(Arc::clone(config).into()),
            ServerSource::Files { chain, key } => (chain, key),
        };
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable("TLS", &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ClientCa { path, is_required }) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
                let verifier = if *is_required { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier.build().map_err(|error| unusable(path.display(), &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates(chain)?, private_key(key)?)
            .map_err(|error| unusable(format_args!("{} with {}", chain.display(), key.display()), &error))?;
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(Arc::new(config).into())
    }
}

impl fmt::Debug for TlsServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsServerConfig");
        if let ServerSource::Files { chain, key } = &self.source {
            debug.field("chain", chain).field("key", key);
        }
        debug.finish_non_exhaustive()
    }
}

/// The handshake of a server.
pub(crate) async fn accept(
    acceptor: TlsAcceptor,
    stream: PlainStream,
    peer: Option<SocketAddr>,
) -> Result<Tls, Reason> {
    let accepted = acceptor.accept(Below::new(stream)).await.map_err(|error| failed(peer, error))?;
    Ok(Tls::new(accepted))
}
