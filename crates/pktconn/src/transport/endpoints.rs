//! The addresses of a connection and the facts about its peer, in as little memory as possible.

use std::net::{SocketAddr, SocketAddrV4};

use super::peer_credentials::PeerCredentials;
#[cfg(feature = "proxy-protocol")]
use super::proxy_protocol::ProxyHeader;
#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::transport::byte_stream::ByteStream;
use crate::transport::canonical::canonical;

#[derive(Default)]
pub(crate) enum Endpoints {
    /// The transport has no addresses, or was reset before they were read.
    #[default]
    Unknown,
    V4 {
        local: SocketAddrV4,
        peer: SocketAddrV4,
    },
    Unix(PeerCredentials),
    /// Boxed because two such addresses take four times the memory of two IPv4 addresses.
    Other(Box<EndpointDetails>),
    /// Apart from `Other`, so that IPv6 and TLS connections have no room for facts that they never have.
    WithPeerFacts(Box<(EndpointDetails, PeerFacts)>),
}

pub(crate) struct EndpointDetails {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
}

/// What the kernel and a proxy say about the peer.
pub(crate) struct PeerFacts {
    credentials: Option<PeerCredentials>,
    #[cfg(feature = "proxy-protocol")]
    proxy_header: Option<Box<ProxyHeader>>,
}

/// What a server knows about a peer beside its stream.
#[derive(Default)]
pub(crate) struct KnownPeer {
    /// A socket that was reset no longer reports its peer, and a socket to a proxy reports the proxy.
    pub(crate) addr: Option<SocketAddr>,
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy_header: Option<Box<ProxyHeader>>,
}

impl From<Option<SocketAddr>> for KnownPeer {
    fn from(addr: Option<SocketAddr>) -> Self {
        Self {
            addr,
            #[cfg(feature = "proxy-protocol")]
            proxy_header: None,
        }
    }
}

impl Endpoints {
    /// The endpoints of `stream`, of which `known` is known already.
    #[cfg_attr(
        not(feature = "proxy-protocol"),
        expect(clippy::needless_pass_by_value, reason = "with the feature, the header moves")
    )]
    pub(crate) fn of(stream: &ByteStream, known: KnownPeer) -> Self {
        let local = stream.local_addr().map(canonical);
        let peer = known.addr.or_else(|| stream.peer_addr()).map(canonical);
        let facts = PeerFacts {
            credentials: stream.peer_credentials(),
            #[cfg(feature = "proxy-protocol")]
            proxy_header: known.proxy_header,
        };
        #[cfg(feature = "tls")]
        let tls = match stream {
            ByteStream::Tls(stream) => Some(TlsInfo::of(stream)),
            ByteStream::Plain(_) => None,
        };
        let details = EndpointDetails {
            local,
            peer,
            #[cfg(feature = "tls")]
            tls,
        };
        Self::new(details, facts)
    }

    /// Of a Unix socket without TLS, or unknown.
    pub(crate) fn of_credentials(credentials: Option<PeerCredentials>) -> Self {
        credentials.map_or(Self::Unknown, Self::Unix)
    }

    fn new(details: EndpointDetails, facts: PeerFacts) -> Self {
        #[cfg(feature = "tls")]
        let has_tls = details.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        #[cfg(feature = "proxy-protocol")]
        let has_header = facts.proxy_header.is_some();
        #[cfg(not(feature = "proxy-protocol"))]
        let has_header = false;
        match (details.local, details.peer) {
            (None, None) if !has_tls && !has_header => Self::of_credentials(facts.credentials),
            _ if has_header || facts.credentials.is_some() => Self::WithPeerFacts(Box::new((details, facts))),
            (Some(SocketAddr::V4(local)), Some(SocketAddr::V4(peer))) if !has_tls => Self::V4 { local, peer },
            _ => Self::Other(Box::new(details)),
        }
    }

    fn details(&self) -> Option<&EndpointDetails> {
        match self {
            Self::Unknown | Self::V4 { .. } | Self::Unix(_) => None,
            Self::Other(details) => Some(details),
            Self::WithPeerFacts(both) => Some(&both.0),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&TlsInfo> {
        self.details()?.tls.as_ref()
    }

    /// The memory, in bytes, that the connection keeps until its end for what the peer sent in its handshakes: the PROXY
    /// header and the certificates.
    pub(crate) fn kept_bytes(&self) -> usize {
        #[cfg(feature = "proxy-protocol")]
        let of_header = self.proxy_header().map_or(0, ProxyHeader::kept_bytes);
        #[cfg(not(feature = "proxy-protocol"))]
        let of_header = 0;
        #[cfg(feature = "tls")]
        let of_tls = self.tls().map_or(0, TlsInfo::kept_bytes);
        #[cfg(not(feature = "tls"))]
        let of_tls = 0;
        of_header + of_tls
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::V4 { local, .. } => Some((*local).into()),
            _ => self.details()?.local,
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::V4 { peer, .. } => Some((*peer).into()),
            _ => self.details()?.peer,
        }
    }

    pub(crate) fn peer_credentials(&self) -> Option<PeerCredentials> {
        match self {
            Self::Unix(credentials) => Some(*credentials),
            Self::WithPeerFacts(both) => both.1.credentials,
            Self::Unknown | Self::V4 { .. } | Self::Other(_) => None,
        }
    }

    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn proxy_header(&self) -> Option<&ProxyHeader> {
        match self {
            Self::WithPeerFacts(both) => both.1.proxy_header.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_come_back_for_every_combination() {
        let addrs = [None, Some("127.0.0.1:1"), Some("192.0.2.7:65535"), Some("[2001:db8::1]:2")];
        let addrs = addrs.map(|addr| addr.map(|addr| addr.parse::<SocketAddr>().unwrap()));
        for local in addrs {
            for peer in addrs {
                for has_credentials in [false, true] {
                    let endpoints = Endpoints::new(details(local, peer), facts(has_credentials));
                    assert_eq!((endpoints.local(), endpoints.peer()), (local, peer));
                    assert_eq!(endpoints.peer_credentials().is_some(), has_credentials);
                }
            }
        }
    }

    /// Each connection has them, also an idle one.
    #[test]
    fn the_endpoints_of_a_plain_connection_take_16_bytes_and_no_allocation() {
        assert_eq!(size_of::<Endpoints>(), 16);
        let addr = Some("127.0.0.1:1".parse().unwrap());
        assert!(matches!(Endpoints::new(details(addr, addr), facts(false)), Endpoints::V4 { .. }));
        assert!(matches!(Endpoints::new(details(None, None), facts(false)), Endpoints::Unknown));
        assert!(matches!(Endpoints::new(details(None, None), facts(true)), Endpoints::Unix(_)));
        let ipv6 = Some("[::1]:1".parse().unwrap());
        assert!(matches!(Endpoints::new(details(ipv6, ipv6), facts(false)), Endpoints::Other(_)));
    }

    fn details(local: Option<SocketAddr>, peer: Option<SocketAddr>) -> EndpointDetails {
        EndpointDetails {
            local,
            peer,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    fn facts(has_credentials: bool) -> PeerFacts {
        PeerFacts {
            credentials: has_credentials.then(PeerCredentials::for_test),
            #[cfg(feature = "proxy-protocol")]
            proxy_header: None,
        }
    }
}
