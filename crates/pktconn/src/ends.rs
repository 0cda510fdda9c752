//! The addresses of both ends, in as little memory as most connections need.

use std::net::{SocketAddr, SocketAddrV4};

#[derive(Default)]
pub(crate) enum Ends {
    /// The transport has none, or was gone too soon to tell.
    #[default]
    Unknown,
    V4 {
        local: SocketAddrV4,
        peer: SocketAddrV4,
    },
    /// Boxed: two of these take four times the memory of two of IPv4.
    Other(Box<(Option<SocketAddr>, Option<SocketAddr>)>),
}

impl Ends {
    pub(crate) fn new(local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        match (local, peer) {
            (None, None) => Self::Unknown,
            (Some(SocketAddr::V4(local)), Some(SocketAddr::V4(peer))) => Self::V4 { local, peer },
            other => Self::Other(Box::new(other)),
        }
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { local, .. } => Some((*local).into()),
            Self::Other(addrs) => addrs.0,
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { peer, .. } => Some((*peer).into()),
            Self::Other(addrs) => addrs.1,
        }
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
                let both = Ends::new(local, peer);
                assert_eq!((both.local(), both.peer()), (local, peer));
            }
        }
    }
}
