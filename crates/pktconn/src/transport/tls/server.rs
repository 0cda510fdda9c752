//! The TLS configuration of a server, and its handshake.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::credentials::{
    handshake_error, provider, read_certificates, read_private_key, read_roots, setup_error,
};
use super::stream::{Tls, TrackedStream};
use crate::error::Reason;
use crate::transport::handshake_bytes::HandshakeBytes;
use crate::transport::plain_stream::PlainStream;

/// The TLS configuration of a server: certificate, client certificates, ALPN.
///
/// The protocol is TLS 1.3 or 1.2 with the default cipher suites of rustls.
///
/// ```no_run
/// use pktconn::{PacketServer, ServerConfig, TlsServerConfig};
///
/// # async fn start() -> Result<(), pktconn::Error> {
/// let tls = TlsServerConfig::new("chain.pem", "key.pem").client_ca("clients.pem");
/// let server = PacketServer::bind_with("[::]:14572", ServerConfig::new().tls(tls.clone())).await?;
/// let handle = server.handle();
/// // Later, when the files contain a new certificate. Open connections stay open.
/// handle.set_tls(&tls)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsServerConfig {
    source: ServerSource,
    client_ca: Option<ClientCa>,
    alpn: Vec<Vec<u8>>,
}

#[derive(Clone)]
enum ServerSource {
    Files { chain: PathBuf, key: PathBuf },
    Rustls(Arc<rustls::ServerConfig>),
}

#[derive(Clone)]
struct ClientCa {
    path: PathBuf,
    is_required: bool,
}

impl TlsServerConfig {
    /// Uses the certificate chain and the private key of these PEM files. The chain starts with the server's own
    /// certificate. The key is in PKCS #8, SEC1 or PKCS #1.
    ///
    /// The files are read when the server is made, and again by [`set_tls`](crate::ServerHandle::set_tls). A file that
    /// cannot be read or used fails these calls with [`is_tls`](crate::Error::is_tls).
    #[must_use]
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let source = ServerSource::Files { chain: chain.into(), key: key.into() };
        Self { source, client_ca: None, alpn: Vec::new() }
    }

    /// Uses a rustls configuration of the caller, for options that have no setter here.
    ///
    /// The setters have no effect then.
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ServerConfig>) -> Self {
        Self { source: ServerSource::Rustls(config), client_ca: None, alpn: Vec::new() }
    }

    /// Requires each client to present a certificate that one of the authorities in this PEM file has signed.
    ///
    /// Replaces [`optional_client_ca`](Self::optional_client_ca). Default: the server does not request client
    /// certificates.
    #[must_use]
    pub fn client_ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(ClientCa { path: authorities.into(), is_required: true });
        self
    }

    /// Requests a certificate from each client, but accepts clients without one. A certificate that is presented must
    /// be signed by one of the authorities in this PEM file.
    ///
    /// The handler finds the certificate in [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates). Replaces
    /// [`client_ca`](Self::client_ca). Default: the server does not request client certificates.
    #[must_use]
    pub fn optional_client_ca(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(ClientCa { path: authorities.into(), is_required: false });
        self
    }

    /// Sets the supported application protocols (ALPN), the preferred one first.
    ///
    /// A client that offers only other protocols is refused. A client that offers none is accepted. Default: none.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Reads the files and builds the rustls configuration.
    pub(crate) fn load(&self) -> Result<TlsAcceptor, Reason> {
        let (chain, key) = match &self.source {
            ServerSource::Rustls(config) => return Ok(Arc::clone(config).into()),
            ServerSource::Files { chain, key } => (chain, key),
        };
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| setup_error("TLS", &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ClientCa { path, is_required }) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(path)?), provider());
                let verifier = if *is_required { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier.build().map_err(|error| setup_error(path.display(), &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(read_certificates(chain)?, read_private_key(key)?).map_err(|error| {
                setup_error(format_args!("{} with {}", chain.display(), key.display()), &error)
            })?;
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

/// Runs the server's handshake. `bytes` counts the bytes that arrive.
pub(crate) async fn accept(
    acceptor: TlsAcceptor,
    stream: PlainStream,
    peer: Option<SocketAddr>,
    bytes: HandshakeBytes,
) -> Result<Tls, Reason> {
    let stream = TrackedStream::new(stream, Some(bytes));
    let accepted = acceptor.accept(stream).await.map_err(|error| handshake_error(peer, error))?;
    Ok(Tls::new(accepted))
}
