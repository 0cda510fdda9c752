//! Who is at both ends, in as little memory as most connections need.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::transport::byte_stream::ByteStream;

#[derive(Default)]
pub(crate) enum Endpoints {
    /// The transport has none, or was gone too soon to tell.
    #[default]
    Unknown,
    V4 {
        local: SocketAddrV4,
        peer: SocketAddrV4,
    },
    /// Boxed: two of these take four times the memory of two of IPv4.
    Other(Box<Both>),
}

pub(crate) struct Both {
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
}

impl Endpoints {
    /// Those of `stream`. `peer` where it is known: a socket that was reset tells it no more, and one to a proxy another.
    pub(crate) fn of(stream: &ByteStream, peer: Option<SocketAddr>) -> Self {
        let local = stream.local_addr().map(canonical);
        let peer = peer.or_else(|| stream.peer_addr()).map(canonical);
        #[cfg(feature = "tls")]
        if let ByteStream::Tls(stream) = stream {
            return Self::Other(Box::new(Both { local, peer, tls: Some(TlsInfo::of(stream)) }));
        }
        Self::new(local, peer)
    }

    fn new(local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        match (local, peer) {
            (None, None) => Self::Unknown,
            (Some(SocketAddr::V4(local)), Some(SocketAddr::V4(peer))) => Self::V4 { local, peer },
            (local, peer) => Self::Other(Box::new(Both {
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
            Self::Other(both) => both.tls.as_ref(),
        }
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { local, .. } => Some((*local).into()),
            Self::Other(both) => both.local,
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { peer, .. } => Some((*peer).into()),
            Self::Other(both) => both.peer,
        }
    }
}

/// An IPv4 address as itself, also where a socket for both families has it within IPv6 (`::ffff:192.0.2.1`).
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        // As it is, with its scope.
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_come_back_whatever_is_known_of_them() {
        let addrs = [None, Some("127.0.0.1:1"), Some("192.0.2.7:65535"), Some("[2001:db8::1]:2")];
        let addrs = addrs.map(|addr| addr.map(|addr| addr.parse::<SocketAddr>().unwrap()));
        for local in addrs {
            for peer in addrs {
                let both = Endpoints::new(local, peer);
                assert_eq!((both.local(), both.peer()), (local, peer));
            }
        }
    }
}
