//! TLS, by rustls: what a server and a client need for it, and what a connection tells of it.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ConnectionCommon, RootCertStore, SideData};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::Error;
use crate::byte_stream::ByteStream;
use crate::error::Reason;
use crate::failure::Operation;
use crate::target::Target;
use crate::transport::{SCRATCH, room_for_read_now};

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
    /// sees by [`TlsInfo::peer_certificates`] who it is.
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
    pub(crate) async fn handshake(
        &self,
        stream: ByteStream,
        target: Target<'_>,
    ) -> Result<ByteStream, Reason> {
        let name = self.name_for(target)?;
        let connected = TlsConnector::from(self.load()?).connect(name, Below::new(stream)).await;
        Ok(ByteStream::Tls(Box::new(Tls::new(connected.map_err(|error| failed(Some(target), error))?))))
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

/// The handshake of a server.
pub(crate) async fn accept(
    acceptor: TlsAcceptor,
    stream: ByteStream,
    peer: Option<SocketAddr>,
) -> Result<ByteStream, Reason> {
    let accepted = acceptor.accept(Below::new(stream)).await.map_err(|error| failed(peer, error))?;
    Ok(ByteStream::Tls(Box::new(Tls::new(accepted))))
}

/// What the handshake of a connection with TLS has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The protocol that both agreed on (ALPN), where they named any.
    pub alpn: Option<Vec<u8>>,
    /// The peer's certificates, which were verified, its own first: DER, as X.509 has it. Empty for a client that showed none.
    pub peer_certificates: Vec<Vec<u8>>,
    /// The name of the server that the client asked for (SNI); on a server's side alone.
    pub server_name: Option<String>,
}

impl TlsInfo {
    pub(crate) fn of(stream: &TlsStream<Below>) -> Self {
        let (_, common) = stream.get_ref();
        let certificates = common.peer_certificates().unwrap_or_default();
        let server_name = match stream {
            tokio_rustls::TlsStream::Server(server) => server.get_ref().1.server_name().map(str::to_owned),
            tokio_rustls::TlsStream::Client(_) => None,
        };
        Self {
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            peer_certificates: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
            server_name,
        }
    }
}

/// Not that which the process may have installed: nothing is to depend on who comes first.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| unusable(path.display(), &error))?;
    if certificates.is_empty() {
        return Err(unusable(path.display(), &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Reason> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path.display(), &error))
}

fn roots(path: &Path) -> Result<RootCertStore, Reason> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path.display(), &error))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Reason> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have a few that nobody can read: the others do.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(unusable("the system's root certificates", &problem));
    }
    Ok(roots)
}

/// A file that is no good, or not there.
fn unusable(what: impl fmt::Display, error: &dyn fmt::Display) -> Reason {
    let error = io::Error::new(io::ErrorKind::InvalidData, format!("cannot use {what}: {error}"));
    Reason::tls(Operation::TlsSetup, None::<String>, error)
}

fn failed(with: Option<impl ToString>, error: io::Error) -> Reason {
    Reason::tls(Operation::TlsHandshake, with, error)
}

/// A byte stream with TLS over it.
pub(crate) struct Tls {
    stream: TlsStream<Below>,
    /// Why nothing more can be read, where bytes that had arrived before were still to come.
    failed: Option<io::Error>,
}

impl Tls {
    fn new(stream: impl Into<TlsStream<Below>>) -> Self {
        Self { stream: stream.into(), failed: None }
    }

    pub(crate) fn stream(&self) -> &TlsStream<Below> {
        &self.stream
    }

    pub(crate) fn stream_mut(&mut self) -> &mut TlsStream<Below> {
        &mut self.stream
    }

    /// What TLS runs over.
    pub(crate) fn below(&self) -> &ByteStream {
        &self.stream.get_ref().0.stream
    }

    /// How many bytes of a record have arrived that is not whole yet: nothing of it can be read.
    pub(crate) fn held_back(&self) -> usize {
        self.stream.get_ref().0.records.arrived
    }

    /// Reads what has arrived, whatever tokio knows of the socket below. 0 bytes are the end of the stream.
    pub(crate) fn read_now(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let scratch = &mut [0; SCRATCH][..room_for_read_now(buffer)];
        let read = match (self.failed.take(), &mut self.stream) {
            (Some(error), _) => Err(error),
            (None, TlsStream::Client(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session_now(socket, session, scratch)
            }
            (None, TlsStream::Server(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session_now(socket, session, scratch)
            }
        };
        let count = read.or_else(|error| self.put_off(error, scratch))?;
        buffer.extend_from_slice(&scratch[..count]);
        Ok(count)
    }

    /// What stands before a record that is not acceptable, or before an alert, has arrived and comes first.
    #[cold]
    fn put_off(&mut self, error: io::Error, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().1.reader(),
            TlsStream::Server(stream) => stream.get_mut().1.reader(),
        };
        match reader.read(buffer) {
            Ok(count @ 1..) => {
                self.failed = Some(error);
                Ok(count)
            }
            Ok(_) | Err(_) => Err(error),
        }
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.failed.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buf)),
        };
        Poll::Ready(read.or_else(|error| {
            let count = self.put_off(error, buf.initialize_unfilled())?;
            buf.advance(count);
            Ok(())
        }))
    }
}

/// What TLS runs over.
pub(crate) struct Below {
    stream: ByteStream,
    records: Records,
}

impl Below {
    fn new(stream: ByteStream) -> Self {
        Self { stream, records: Records::default() }
    }
}

impl AsyncRead for Below {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.records.note(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Below {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where the bytes that have arrived end in a record. rustls does not tell.
#[derive(Debug, Default)]
struct Records {
    /// That of the present record, as far as it has arrived.
    header: [u8; Self::HEADER_LEN],
    /// How many bytes of the present record have arrived; 0 between two of them.
    arrived: usize,
    /// How many are missing, where the header is whole.
    missing: usize,
}

impl Records {
    /// A type, a version, and the length of what follows (RFC 8446, 5.1).
    const HEADER_LEN: usize = 5;

    fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_header = self.arrived < Self::HEADER_LEN;
            let missing = if in_header { Self::HEADER_LEN - self.arrived } else { self.missing };
            let (these, others) = bytes.split_at(missing.min(bytes.len()));
            if in_header {
                self.header[self.arrived..][..these.len()].copy_from_slice(these);
            }
            self.arrived += these.len();
            self.missing = match (in_header, these.len() == missing) {
                (true, true) => u16::from_be_bytes([self.header[3], self.header[4]]).into(),
                _ => missing - these.len(),
            };
            if self.missing == 0 {
                self.arrived = 0;
            }
            bytes = others;
        }
    }
}

fn read_session_now<S: SideData>(
    socket: &mut Below,
    session: &mut ConnectionCommon<S>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        session.read_tls(&mut Arrived(socket))?;
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

/// What a socket holds.
struct Arrived<'a>(&'a mut Below);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.stream.recv_now(buffer)?;
        self.0.records.note(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_of_a_record_is_known_however_it_is_cut() {
        // Records of 0, 1 and 700 bytes.
        let record = |len: u16| [&[0x17, 3, 3][..], &len.to_be_bytes(), &vec![0xff; len.into()]].concat();
        let stream = [record(0), record(1), record(700), record(0)].concat();
        let starts = [0, 5, 11, 716, 721];
        for step in [1, 2, 3, 5, 7, 300, 1000] {
            let mut records = Records::default();
            for (number, part) in stream.chunks(step).enumerate() {
                records.note(part);
                let end = number * step + part.len();
                let start = starts.iter().rfind(|start| **start <= end).unwrap();
                assert_eq!(records.arrived, end - start, "{end} bytes in steps of {step}");
            }
        }
    }
}
