//! The byte stream of a connection: TCP, or TLS over it.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use mio::{Interest, Registry, Token, net::TcpStream};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// Long enough for three retries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

/// A TLS session after its handshake.
pub(crate) struct TlsStream {
    stream: TcpStream,
    session: ClientConnection,
}

/// The TLS configuration of all connections: trusts the certificates in a PEM file, and resumes no session.
pub(crate) fn tls_config(ca: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let file = File::open(ca).with_context(|| format!("cannot read {}", ca.display()))?;
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
        let certificate = certificate.with_context(|| format!("{} is invalid", ca.display()))?;
        roots.add(certificate).with_context(|| format!("{} is invalid", ca.display()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Transport {
    /// Connects, and completes the TLS handshake.
    pub(crate) fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut stream = StdTcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        let session = match tls {
            None => None,
            Some(config) => {
                let mut session = ClientConnection::new(Arc::clone(config), ServerName::from(address.ip()))?;
                while session.is_handshaking() {
                    session.complete_io(&mut stream).context("the TLS handshake failed")?;
                }
                Some(session)
            }
        };
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        Ok(match session {
            None => Self::Tcp(stream),
            Some(session) => Self::Tls(Box::new(TlsStream { stream, session })),
        })
    }

    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(tls) => &mut tls.stream,
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.socket(), token, Interest::READABLE)
    }

    pub(crate) fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.reregister(self.socket(), token, interest)
    }

    /// Whether a read that does not fill the buffer has emptied the socket. Under TLS, it has emptied only a record.
    pub(crate) fn is_empty_after_short_read(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Whether encrypted bytes wait until the socket is writable.
    pub(crate) fn wants_write(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.wants_write())
    }
}

impl TlsStream {
    /// Writes encrypted bytes, as far as the socket accepts them.
    fn write_encrypted(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Tcp(stream) => return stream.read(buffer),
            Self::Tls(tls) => tls,
        };
        loop {
            match tls.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            tls.session.read_tls(&mut tls.stream)?;
            let processed = tls.session.process_new_packets();
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(tls) => {
                let len = tls.session.writer().write(bytes)?;
                tls.write_encrypted()?;
                match len {
                    0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
                    len => Ok(len),
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(tls) => tls.write_encrypted(),
        }
    }
}
