//! The local address, the peer address and the TLS facts of a connection, in as little memory as possible.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::transport::byte_stream::ByteStream;

#[derive(Default)]
pub(crate) enum Endpoints {
    /// The transport has no addresses, or was reset before they were read.
    #[default]
    Unknown,
    V4 {
        local: SocketAddrV4,
        peer: SocketAddrV4,
    },
    /// Boxed because two such addresses take four times the memory of two IPv4 addresses.
    Other(Box<EndpointDetails>),
}

pub(crate) struct EndpointDetails {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
}

impl Endpoints {
    /// The endpoints of `stream`. Pass `peer` if it is known: a socket that was reset no longer reports its peer, and a
    /// socket to a proxy reports the proxy.
    pub(crate) fn of(stream: &ByteStream, peer: Option<SocketAddr>) -> Self {
        let local = stream.local_addr().map(canonical);
        let peer = peer.or_else(|| stream.peer_addr()).map(canonical);
        #[cfg(feature = "tls")]
        if let ByteStream::Tls(stream) = stream {
            return Self::Other(Box::new(EndpointDetails { local, peer, tls: Some(TlsInfo::of(stream)) }));
        }
        Self::new(local, peer)
    }

    fn new(local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        match (local, peer) {
            (None, None) => Self::Unknown,
            (Some(SocketAddr::V4(local)), Some(SocketAddr::V4(peer))) => Self::V4 { local, peer },
            (local, peer) => Self::Other(Box::new(EndpointDetails {
                local,
                peer,
                #[cfg(feature = "tls")]
                tls: None,
            })),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&TlsInfo> {
        match self {
            Self::Unknown | Self::V4 { .. } => None,
            Self::Other(details) => details.tls.as_ref(),
        }
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { local, .. } => Some((*local).into()),
            Self::Other(details) => details.local,
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { peer, .. } => Some((*peer).into()),
            Self::Other(details) => details.peer,
        }
    }
}

/// Converts an IPv4-mapped IPv6 address to IPv4. A dual-stack socket reports `::ffff:192.0.2.1` for `192.0.2.1`.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        // Unchanged, so that it keeps its scope.
        IpAddr::V6(_) => addr,
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
                let endpoints = Endpoints::new(local, peer);
                assert_eq!((endpoints.local(), endpoints.peer()), (local, peer));
            }
        }
    }
}
