//! The TLS configuration of a server, and its handshake.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use super::credentials::{handshake_error, setup_error};
use super::loaded::Loaded;
use super::server_files::{ClientCa, ServerFiles};
use super::stream::{Tls, TrackedStream};
use super::version::TlsVersion;
use crate::Error;
use crate::error::Reason;
use crate::transport::handshake_bytes::HandshakeBytes;
use crate::transport::plain_stream::PlainStream;

/// The TLS configuration of a server: certificate, client certificates and revocation lists, versions, ALPN.
///
/// The protocol is TLS 1.3 or 1.2 with the default cipher suites of rustls.
///
/// # Files
///
/// The files are read when the server is made, by [`load`](Self::load), and again by
/// [`set_tls`](crate::ServerHandle::set_tls). Each must be a regular file of at most 1 MiB (16 MiB for revocation lists),
/// and all together must be readable within 5 s: a FIFO, a device, or a network file system that is gone cannot stop the
/// server. The chain and the key must belong together.
///
/// What an operator should change is logged as a warning, with the target `pktconn::tls`: a certificate that has expired,
/// expires within 7 days or is not valid yet; a chain in which a certificate is not signed by the next one; a private key
/// that the group or other users can read (Unix); revocation lists that are outdated or missing. The subject and the end
/// of the certificate are logged at INFO.
///
/// # Session tickets
///
/// A client that comes back resumes its session with a ticket, which saves both sides the certificates. The server keeps
/// nothing for that: the sessions are in the tickets, and their keys change every 6 hours and with each load. So after a
/// reload each client makes a full handshake once, and is checked against the new authorities and revocation lists.
/// A ticket is valid for 12 hours at most; within that time, a client certificate that expires is not noticed.
///
/// ```no_run
/// use pktconn::{PacketServer, ServerConfig, TlsServerConfig};
///
/// # async fn start() -> Result<(), pktconn::Error> {
/// let tls = TlsServerConfig::new("chain.pem", "key.pem").client_ca("clients.pem").crl("revoked.pem");
/// let server = PacketServer::bind_with("[::]:14572", ServerConfig::new().tls(tls.clone())).await?;
/// let handle = server.handle();
/// // Later, when the files contain a new certificate or a new list. Open connections stay open.
/// handle.set_tls(&tls).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsServerConfig(Source);

#[derive(Clone)]
enum Source {
    Files(Box<ServerFiles>),
    Loaded(Loaded),
}

impl TlsServerConfig {
    /// Uses the certificate chain and the private key of these PEM files. The chain starts with the server's own
    /// certificate. The key is in PKCS #8, SEC1 or PKCS #1.
    ///
    /// A file that cannot be read or used fails the calls that read it with [`is_tls`](crate::Error::is_tls).
    #[must_use]
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self(Source::Files(Box::new(ServerFiles {
            chain: chain.into(),
            key: key.into(),
            client_ca: None,
            crls: Vec::new(),
            min_version: TlsVersion::default(),
            alpn: Vec::new(),
        })))
    }

    /// Uses a rustls configuration of the caller, for options that have no setter here.
    ///
    /// The setters have no effect then. Certificates are not checked when they are loaded.
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ServerConfig>) -> Self {
        Self(Source::Loaded(Loaded { config, certificate: None }))
    }

    /// Requires each client to present a certificate that one of the authorities in this PEM file has signed.
    ///
    /// The handler finds the name in [`TlsInfo::peer_subject`](crate::TlsInfo::peer_subject). Replaces
    /// [`optional_client_ca`](Self::optional_client_ca). Default: the server does not request client certificates.
    #[must_use]
    pub fn client_ca(self, authorities: impl Into<PathBuf>) -> Self {
        let client_ca = ClientCa { path: authorities.into(), is_required: true };
        self.with(|files| files.client_ca = Some(client_ca))
    }

    /// Requests a certificate from each client, but accepts clients without one. A certificate that is presented must
    /// be signed by one of the authorities in this PEM file.
    ///
    /// The handler finds the name in [`TlsInfo::peer_subject`](crate::TlsInfo::peer_subject), which is `None` for
    /// clients without a certificate, and decides what they may do. Replaces [`client_ca`](Self::client_ca). Default:
    /// the server does not request client certificates.
    #[must_use]
    pub fn optional_client_ca(self, authorities: impl Into<PathBuf>) -> Self {
        let client_ca = ClientCa { path: authorities.into(), is_required: false };
        self.with(|files| files.client_ca = Some(client_ca))
    }

    /// Refuses client certificates that a revocation list (CRL) in this PEM file names. The file may contain several
    /// lists, and each call adds a file.
    ///
    /// Use it against stolen keys of clients: without a list, a certificate is accepted until it expires. The
    /// certificates of intermediate authorities are checked, too. Read the files again with
    /// [`set_tls`](crate::ServerHandle::set_tls) when the authority publishes a new list; this also ends the session
    /// tickets of revoked clients. Open connections stay open.
    ///
    /// A list whose date has passed still applies, and an authority without a list has all its certificates accepted:
    /// otherwise a list that comes too late would refuse every client. Both are logged as warnings when the files are
    /// read. A list with a wrong signature refuses all clients of its authority.
    ///
    /// Needs [`client_ca`](Self::client_ca) or [`optional_client_ca`](Self::optional_client_ca); otherwise loading fails
    /// with [`is_config`](crate::Error::is_config). Default: none.
    #[must_use]
    pub fn crl(self, lists: impl Into<PathBuf>) -> Self {
        self.with(|files| files.crls.push(lists.into()))
    }

    /// Refuses clients that support only versions of TLS before this one.
    ///
    /// TLS 1.2 as rustls implements it has no known weakness. Choose [`Tls13`](TlsVersion::Tls13) if all clients are
    /// yours: only TLS 1.3 hides the certificates from listeners, and its handshake is a round trip shorter. Default:
    /// [`Tls12`](TlsVersion::Tls12).
    #[must_use]
    pub fn min_version(self, version: TlsVersion) -> Self {
        self.with(|files| files.min_version = version)
    }

    /// Sets the supported application protocols (ALPN), the preferred one first.
    ///
    /// A client that offers only other protocols is refused. A client that offers none is accepted. Default: none.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.with(|files| files.alpn = protocols.into_iter().map(Into::into).collect())
    }

    /// Reads the files now. Returns a configuration with their contents, which reads no files any more.
    ///
    /// Use it for several servers with one certificate: the session tickets of one are then valid for all. Or before
    /// [`from_listener`](crate::PacketServer::from_listener) and [`add_listener`](crate::PacketServer::add_listener),
    /// which otherwise read the files themselves and block for that time. The setters have no effect on the result.
    ///
    /// The files are read in a thread of its own, so this needs no runtime and does not block one.
    ///
    /// # Errors
    ///
    /// - [`is_tls`](Error::is_tls): a file cannot be read or used, or reading takes longer than 5 s.
    /// - [`is_config`](Error::is_config): there is a [`crl`](Self::crl) without authorities of clients.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future has no effect. The thread ends by itself, or with the process if a file hangs.
    pub async fn load(&self) -> Result<Self, Error> {
        Ok(Self(Source::Loaded(self.load_in_thread().await?)))
    }

    /// Reads the files in a thread of its own.
    pub(crate) async fn load_in_thread(&self) -> Result<Loaded, Reason> {
        let files = match &self.0 {
            Source::Loaded(loaded) => return Ok(loaded.clone()),
            Source::Files(files) => files.clone(),
        };
        let (sender, receiver) = oneshot::channel();
        let load = move || drop(sender.send(files.load()));
        thread::Builder::new()
            .name("pktconn-tls".to_owned())
            .spawn(load)
            .map_err(|error| setup_error("the TLS files, because there is no thread to read them", &error))?;
        receiver
            .await
            .unwrap_or_else(|_| Err(setup_error("the TLS files", &"the thread that reads them panicked")))
    }

    /// Reads the files in the thread of the caller. Blocks for at most `READ_TIMEOUT`.
    pub(crate) fn load_here(&self) -> Result<Loaded, Reason> {
        match &self.0 {
            Source::Loaded(loaded) => Ok(loaded.clone()),
            Source::Files(files) => files.load(),
        }
    }

    fn with(mut self, set: impl FnOnce(&mut ServerFiles)) -> Self {
        if let Source::Files(files) = &mut self.0 {
            set(files);
        }
        self
    }
}

impl fmt::Debug for TlsServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsServerConfig");
        if let Source::Files(files) = &self.0 {
            debug.field("chain", &files.chain).field("key", &files.key);
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
