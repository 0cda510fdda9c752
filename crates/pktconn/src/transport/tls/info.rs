//! What a TLS handshake found out about the connection and its peer.

use super::stream::Tls;

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
            server_name,
        }
    }
}
