//! What a TLS handshake found out about the connection and its peer.

use super::stream::Tls;
use super::x509::subject_text;

/// Facts from the TLS handshake of a connection.
///
/// [`PacketConn::tls`](crate::PacketConn::tls) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The negotiated application protocol (ALPN). `None` if none was negotiated.
    pub alpn: Option<Vec<u8>>,
    /// The peer's verified certificate chain, its own certificate first; each is an X.509 certificate in DER. Empty if
    /// a client presented none.
    pub peer_certificates: Vec<Vec<u8>>,
    /// The subject of the peer's own certificate as text (RFC 4514), such as `CN=device-7,O=Example`.
    ///
    /// The text has one line: special characters are escaped with a backslash, and control characters and invisible
    /// ones with their UTF-8 bytes in hexadecimal, such as `\0A`. Compare the whole text, not a part of it: an authority
    /// may sign names that contain any text. `None` if the peer presented no certificate, or one without a subject.
    pub peer_subject: Option<String>,
    /// The server name that the client requested (SNI). Always `None` on the client's side.
    pub server_name: Option<String>,
}

impl TlsInfo {
    pub(crate) fn of(tls: &Tls) -> Self {
        let stream = tls.stream();
        let (_, common) = stream.get_ref();
        let certificates = common.peer_certificates().unwrap_or_default();
        let server_name = match stream {
            tokio_rustls::TlsStream::Server(server) => server.get_ref().1.server_name().map(str::to_owned),
            tokio_rustls::TlsStream::Client(_) => None,
        };
        Self {
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            peer_certificates: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
            peer_subject: certificates.first().and_then(subject_text),
            server_name,
        }
    }

    /// The memory that the connection keeps for the peer's certificates, in bytes. rustls keeps a copy of them.
    pub(crate) fn kept_bytes(&self) -> usize {
        let certificates: usize = self.peer_certificates.iter().map(Vec::capacity).sum();
        2 * certificates + self.peer_subject.as_ref().map_or(0, String::capacity)
    }
}
