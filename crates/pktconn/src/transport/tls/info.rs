//! What a handshake has shown.

use super::stream::Tls;

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
