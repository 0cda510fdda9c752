//! The networks of the proxies that a server trusts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::Error;
use crate::error::Reason;

/// The prefix length of IPv4-mapped IPv6 addresses: `::ffff:0:0/96`.
const IPV4_MAPPED_PREFIX_LEN: u8 = 96;

/// The networks of the proxies. The server refuses connections from other addresses, and requires a header on all that
/// it accepts.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(canonical_network).collect())
    }

    /// Refuses networks that are certainly a mistake, and an empty list. The list must not be empty even if the server
    /// listens only on Unix sockets, whose peers need no network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.0.is_empty() {
            let problem = "proxy_protocol has no trusted network; name the networks of your proxies";
            return Err(Reason::Config(problem).into());
        }
        match self.0.iter().find_map(network_problem) {
            Some(problem) => Err(Reason::BadValue(problem.into()).into()),
            None => Ok(()),
        }
    }

    /// Whether `peer` is a trusted proxy. Peers of a Unix socket (`None`) always are: the file's permissions control
    /// who connects.
    pub(crate) fn contains(&self, peer: Option<SocketAddr>) -> bool {
        let Some(peer) = peer else { return true };
        // A dual-stack listener reports IPv4 peers as IPv4-mapped IPv6 addresses.
        let ip: IpAddr = peer.ip().to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// Converts an IPv4-mapped IPv6 network to IPv4, for example `::ffff:10.0.0.0/104` to `10.0.0.0/8`.
/// [`TrustedProxies::contains`] converts the addresses of peers in the same way.
fn canonical_network(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => {
            network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(IPV4_MAPPED_PREFIX_LEN))
        }
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(addr, prefix_len)| IpNet::new(addr.into(), prefix_len).ok()).unwrap_or(network)
}

/// Describes what is wrong with a [canonical](canonical_network) network: an IPv4-mapped address with a prefix shorter
/// than 96 bits. For example, `::ffff:10.0.0.0/8` means `::/8`, 1/256 of all IPv6 addresses. It matches no IPv4 peer,
/// because peers are compared as IPv4: certainly a mistake.
fn network_problem(network: &IpNet) -> Option<String> {
    let IpNet::V6(network) = network else { return None };
    let addr = network.addr().to_ipv4_mapped()?;
    let len = network.prefix_len();
    let meant = match len {
        0..=32 => format!("{addr}/{len}"),
        _ => format!("{addr}/32"),
    };
    Some(format!(
        "proxy_protocol cannot trust {network}: the prefix of an IPv4-mapped IPv6 network has \
         {IPV4_MAPPED_PREFIX_LEN} to 128 bits; write it as IPv4, such as {meant}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_mapped_network_becomes_ipv4() {
        for (written, expected) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // These stay as they are. None of the IPv6 ones matches an IPv4 peer.
            ("::/0", "::/0"),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let network = canonical_network(written.parse().unwrap());
            assert_eq!(network.to_string(), expected, "{written}");
            assert_eq!(network_problem(&network), None);
        }
        let trusted = TrustedProxies::new(["::ffff:127.0.0.0/104".parse().unwrap()]);
        for (peer, expected) in
            [("127.0.0.1:1", true), ("[::ffff:127.9.9.9]:1", true), ("128.0.0.1:1", false)]
        {
            assert_eq!(trusted.contains(Some(peer.parse().unwrap())), expected, "{peer}");
        }
    }

    #[test]
    fn an_ipv4_mapped_network_with_a_prefix_shorter_than_96_bits_is_refused() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:127.0.0.1/0", "127.0.0.1/0"),
            ("::ffff:1.2.3.4/95", "1.2.3.4/32"),
        ] {
            let problem = network_problem(&canonical_network(written.parse().unwrap())).unwrap();
            assert!(problem.contains(written) && problem.ends_with(meant), "{problem}");
        }
    }

    #[test]
    fn the_canonical_address_of_a_peer_is_compared() {
        let trusted =
            TrustedProxies::new(["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap()));
        for (peer, expected) in [
            ("192.0.2.200:1", true),
            ("[::ffff:192.0.2.200]:1", true),
            ("192.0.3.1:1", false),
            ("[2001:db8:9::1]:1", true),
            ("[::1]:1", false),
        ] {
            assert_eq!(trusted.contains(Some(peer.parse().unwrap())), expected, "{peer}");
        }
        assert!(trusted.contains(None));
    }
}
