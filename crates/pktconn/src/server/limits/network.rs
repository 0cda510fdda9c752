//! The network of a client: the unit that limits count, because a client can use every address in its network. Also the
//! wider IPv6 networks that contain it, which limits count too.

use std::net::{IpAddr, Ipv4Addr};

/// A client may own more than a `/64`: providers assign a `/56` to a household and a `/48` to a company (RFC 6177). Their
/// `/64` networks together may use this multiple of a limit, so that the owner of a `/48` gets 16 times the limit and not
/// 65,536 times, and so that some neighbours in one `/56` can each use a whole limit.
const MULTIPLE_OF_56: u32 = 4;
const MULTIPLE_OF_48: u32 = 16;

/// The network of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits. Providers assign at least a `/64`, and the customer can use every address in it.
    V6([u8; 8]),
}

/// A network that a limit counts: that of a client, or a wider one that contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Prefix {
    V4(Ipv4Addr),
    V6 { bits: u64, len: u8 },
}

impl Network {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// This network and the wider ones that contain it, the narrowest first, each with the multiple of a limit that it
    /// may use.
    pub(crate) fn prefixes(self) -> impl DoubleEndedIterator<Item = (Prefix, u32)> + Clone {
        let [own, wider, widest] = match self {
            Self::V4(ip) => [Some((Prefix::V4(ip), 1)), None, None],
            Self::V6(bytes) => {
                let bits = u64::from_be_bytes(bytes);
                let prefix = |len: u8| Prefix::V6 { bits: bits & (u64::MAX << (64 - len)), len };
                [
                    Some((prefix(64), 1)),
                    Some((prefix(56), MULTIPLE_OF_56)),
                    Some((prefix(48), MULTIPLE_OF_48)),
                ]
            }
        };
        [own, wider, widest].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_in_three_networks_and_an_ipv4_client_in_one() {
        let prefixes = |ip: &str| Network::of(ip.parse().unwrap()).prefixes().collect::<Vec<_>>();
        let bits = 0x2001_0db8_0001_02ff;
        let wide = [(bits, 64, 1), (bits & !0xff, 56, 4), (bits & !0xffff, 48, 16)];
        let wide = wide.map(|(bits, len, multiple)| (Prefix::V6 { bits, len }, multiple));
        assert_eq!(prefixes("2001:db8:1:2ff:3:4:5:6"), wide);
        let narrow = [(Prefix::V4(Ipv4Addr::new(192, 0, 2, 1)), 1)];
        assert_eq!(prefixes("192.0.2.1"), narrow);
        assert_eq!(prefixes("::ffff:192.0.2.1"), narrow);
    }
}
