//! The public type for what a proxy said about a connection.

use std::fmt;
use std::net::SocketAddr;

use super::tlv::{self, Escaped, ProxyTlv, SSL_START_LEN, Tlvs};

/// The client presented a certificate on this connection, or earlier in its TLS session.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// What a proxy said about a connection in its PROXY header. See
/// [`PacketConn::proxy_header`](crate::PacketConn::proxy_header).
///
/// The proxy is trusted, but some values are copied from the client, such as [`authority`](Self::authority): escape them
/// before you print them. `{:?}` does that. The connection keeps the header in memory, at most 16 KiB.
///
/// With `HAProxy`, the fields are there if its server line says so: `send-proxy-v2 proxy-v2-options
/// ssl,cert-cn,crc32c,authority,unique-id`.
///
/// ```
/// # async fn handle(conn: pktconn::PacketConn) -> pktconn::HandlerResult {
/// let header = conn.proxy_header().ok_or("not behind a proxy")?;
/// let certificate = header.ssl().filter(|ssl| ssl.is_client_verified());
/// let name = certificate.and_then(|ssl| ssl.common_name()).ok_or("a client certificate is needed")?;
/// println!("{} is {}", name.escape_ascii(), conn.peer_addr().ok_or("unknown client")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: u8,
    pub(super) is_local: bool,
    pub(super) source: Option<SocketAddr>,
    pub(super) destination: Option<SocketAddr>,
    pub(super) proxy: Option<SocketAddr>,
    /// Checked: each of them is well-formed.
    pub(super) tlvs: Box<[u8]>,
}

impl ProxyHeader {
    /// A header without addresses and TLVs.
    pub(super) fn new(version: u8) -> Self {
        Self { version, is_local: false, source: None, destination: None, proxy: None, tlvs: Box::default() }
    }

    /// The memory that the connection keeps for the TLVs, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.tlvs.len()
    }

    /// The version of the protocol: 1 or 2. Version 1 has only addresses.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Whether the proxy speaks for itself (the command LOCAL), as in a health check. There is then no client.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// The address of the client, which is also [`peer_addr`](crate::PacketConn::peer_addr). `None` if the proxy does
    /// not know it, if the client uses a Unix socket, or if the proxy speaks for itself.
    ///
    /// Its port can be 0: some proxies do not know the client's port, for example behind another proxy.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    /// The address that the client connected to. `None` if [`source`](Self::source) is.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        self.destination
    }

    /// The address of the proxy itself, from which it connected. `None` over a Unix socket.
    #[must_use]
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.proxy
    }

    /// The protocol that the client and the proxy agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(tlv::ALPN)
    }

    /// The host name that the client asked for: with TLS, its server name (SNI).
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.tlv(tlv::AUTHORITY)
    }

    /// The proxy's identifier of the connection, at most 128 bytes: to find it in the logs of several machines.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(tlv::UNIQUE_ID)
    }

    /// The name of the network namespace in which the proxy accepted the connection.
    #[must_use]
    pub fn netns(&self) -> Option<&[u8]> {
        self.tlv(tlv::NETNS)
    }

    /// The facts of the TLS connection between client and proxy. `None` if the proxy says nothing about it.
    #[must_use]
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        let value = self.tlv(tlv::SSL)?;
        let (&[client, ref verify @ ..], tlvs) = value.split_first_chunk::<SSL_START_LEN>()?;
        Some(ProxySsl { client, verify: u32::from_be_bytes(*verify), tlvs })
    }

    /// All fields, in the order of the header, also those without a method here. If there are several of a type, the
    /// methods return the first.
    pub fn tlvs(&self) -> impl Iterator<Item = ProxyTlv<'_>> {
        Tlvs::new(&self.tlvs).filter_map(Result::ok)
    }

    fn tlv(&self, kind: u8) -> Option<&[u8]> {
        Tlvs::new(&self.tlvs).first(kind)
    }
}

/// Values are escaped.
impl fmt::Debug for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyHeader")
            .field("version", &self.version)
            .field("is_local", &self.is_local)
            .field("source", &self.source)
            .field("destination", &self.destination)
            .field("proxy_addr", &self.proxy)
            .field("alpn", &self.alpn().map(Escaped))
            .field("authority", &self.authority().map(Escaped))
            .field("unique_id", &self.unique_id().map(Escaped))
            .field("netns", &self.netns().map(Escaped))
            .field("ssl", &self.ssl())
            .finish_non_exhaustive()
    }
}

/// What a proxy said about the TLS connection of the client. From [`ProxyHeader::ssl`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProxySsl<'a> {
    client: u8,
    verify: u32,
    tlvs: &'a [u8],
}

impl<'a> ProxySsl<'a> {
    /// Whether the client connected with TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.client & CLIENT_SSL != 0
    }

    /// Whether the client presented a certificate on this connection.
    #[must_use]
    pub fn has_cert(&self) -> bool {
        self.client & CLIENT_CERT_CONN != 0
    }

    /// Whether the client presented a certificate on this connection or earlier in its TLS session, which it resumed.
    #[must_use]
    pub fn has_session_cert(&self) -> bool {
        self.client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0
    }

    /// Whether the client presented a certificate, on this connection or earlier in its session, and the proxy verified
    /// it. Ask this before you use [`common_name`](Self::common_name).
    #[must_use]
    pub fn is_client_verified(&self) -> bool {
        // HAProxy sends the result 0 also for a client without a certificate.
        self.has_session_cert() && self.verify == 0
    }

    /// The result of the verification: 0 is success. `HAProxy` sends 0 also for a client without a certificate: use
    /// [`is_client_verified`](Self::is_client_verified).
    #[must_use]
    pub fn verify_result(&self) -> u32 {
        self.verify
    }

    /// The version of TLS, such as `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_VERSION)
    }

    /// The common name in the client's certificate.
    #[must_use]
    pub fn common_name(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_CN)
    }

    /// The cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    #[must_use]
    pub fn cipher(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_CIPHER)
    }

    /// The algorithm that signed the proxy's certificate, such as `RSA-SHA256`.
    #[must_use]
    pub fn signature_algorithm(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_SIG_ALG)
    }

    /// The algorithm of the key of the proxy's certificate, such as `RSA2048`.
    #[must_use]
    pub fn key_algorithm(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_KEY_ALG)
    }

    /// The key exchange, such as `secp256r1`.
    #[must_use]
    pub fn group(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_GROUP)
    }

    /// The algorithm with which the proxy signed the handshake, such as `rsa_pss_rsae_sha256`.
    #[must_use]
    pub fn signature_scheme(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_SIG_SCHEME)
    }

    /// The client's certificate: X.509, in DER.
    #[must_use]
    pub fn client_cert(&self) -> Option<&'a [u8]> {
        self.tlv(tlv::SSL_CLIENT_CERT)
    }

    /// All fields, in their order, also those without a method here.
    pub fn tlvs(&self) -> impl Iterator<Item = ProxyTlv<'a>> + use<'a> {
        Tlvs::new(self.tlvs).filter_map(Result::ok)
    }

    fn tlv(&self, kind: u8) -> Option<&'a [u8]> {
        Tlvs::new(self.tlvs).first(kind)
    }
}

/// Values are escaped. The certificate is left out.
impl fmt::Debug for ProxySsl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxySsl")
            .field("client", &self.client)
            .field("verify_result", &self.verify)
            .field("version", &self.version().map(Escaped))
            .field("common_name", &self.common_name().map(Escaped))
            .field("cipher", &self.cipher().map(Escaped))
            .finish_non_exhaustive()
    }
}
