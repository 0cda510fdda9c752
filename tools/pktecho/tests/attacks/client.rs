//! How a client connects: from which address, with or without TLS, and what it echoes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::tls::Certificate;
use crate::common::{Server, socket_from};

/// The address of an attacker, and of clients that share it.
const ATTACKER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The address of clients that do not share the attacker's address.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A PROXY header, version 1, of a client that is neither the attacker nor another client of the tests.
const PROXY_HEADER: &[u8] = b"PROXY TCP4 192.0.2.2 192.0.2.1 50000 14572\r\n";

/// A stream with or without TLS.
pub(crate) trait Stream: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    addr: SocketAddr,
    source: Ipv4Addr,
    tls: Option<Arc<ClientConfig>>,
    sends_proxy_header: bool,
    mss: Option<u32>,
    payload_len: usize,
}

impl Client {
    /// A client with the attacker's address that echoes packets of 512 bytes.
    pub(crate) fn new(server: &Server) -> Self {
        Self::of_addr(&server.addr)
    }

    pub(crate) fn of_addr(addr: &str) -> Self {
        let addr = addr.parse().unwrap();
        Self { addr, source: ATTACKER, tls: None, sends_proxy_header: false, mss: None, payload_len: 512 }
    }

    pub(crate) fn elsewhere(self) -> Self {
        Self { source: ELSEWHERE, ..self }
    }

    pub(crate) fn payload_len(self, payload_len: usize) -> Self {
        Self { payload_len, ..self }
    }

    /// Uses segments of the size that they have on the Internet. With the large ones of loopback, the server's kernel
    /// buffers more than 1 MiB of replies per connection.
    pub(crate) fn internet_segments(self) -> Self {
        Self { mss: Some(1448), ..self }
    }

    pub(crate) fn proxy_header(self) -> Self {
        Self { sends_proxy_header: true, ..self }
    }

    /// Uses TLS, and trusts `certificate`, which is for `localhost`.
    pub(crate) fn tls(self, certificate: &Certificate) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate.chain()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Some(Arc::new(config)), ..self }
    }

    /// A TCP connection from the client's address.
    pub(crate) fn connect_tcp(&self, timeout: Duration) -> io::Result<TcpStream> {
        let socket = socket_from(self.source)?;
        self.mss.map_or(Ok(()), |mss| socket.set_tcp_mss(mss))?;
        socket.connect_timeout(&self.addr.into(), timeout)?;
        Ok(socket.into())
    }

    /// Connects, with all handshakes. `timeout` is also the timeout of each later read and write.
    pub(crate) fn connect(&self, timeout: Duration) -> io::Result<Box<dyn Stream>> {
        let mut tcp = self.connect_tcp(timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(timeout))?;
        tcp.set_write_timeout(Some(timeout))?;
        if self.sends_proxy_header {
            tcp.write_all(PROXY_HEADER)?;
        }
        let Some(config) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Box::new(StreamOwned::new(tls, tcp)))
    }

    /// Sends the packet with this number, and reads the reply. A reply that differs is an error.
    pub(crate) fn echo(&self, stream: &mut dyn Stream, number: u32) -> io::Result<()> {
        let mut frame = vec![7; 4 + self.payload_len];
        frame[..4].copy_from_slice(&u32::try_from(self.payload_len).unwrap().to_le_bytes());
        frame[4..8].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&frame)?;
        let mut reply = vec![0; frame.len()];
        stream.read_exact(&mut reply)?;
        if reply == frame {
            Ok(())
        } else {
            Err(io::Error::new(ErrorKind::InvalidData, "the reply differs from the packet"))
        }
    }
}
