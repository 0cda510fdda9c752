//! The open connections, and which of them must end when there are too many. Pure: no socket and no task.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// The connections in the order in which they were accepted. `C` ends a connection.
pub(super) struct OpenConns<C> {
    conns: Vec<(IpAddr, C)>,
}

impl<C> OpenConns<C> {
    pub(super) fn new() -> Self {
        Self { conns: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(super) fn add(&mut self, addr: IpAddr, conn: C) {
        self.conns.push((network(addr), conn));
    }

    pub(super) fn retain(&mut self, mut is_open: impl FnMut(&C) -> bool) {
        self.conns.retain(|(_, conn)| is_open(conn));
    }

    /// Removes the connection that makes room for another one: the oldest of the network that has most. So one attacker
    /// evicts its own connections, and the scrape of another network stays.
    pub(super) fn evict(&mut self) -> Option<C> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (network, _) in &self.conns {
            *counts.entry(*network).or_default() += 1;
        }
        let most = counts.values().max()?;
        let index = self.conns.iter().position(|(network, _)| counts[network] == *most)?;
        Some(self.conns.remove(index).1)
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: a single host has a whole one.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from(u128::from(addr) >> 64 << 64).into(),
        addr @ IpAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(conns: &[(&str, u32)]) -> Vec<u32> {
        let mut open = OpenConns::new();
        conns.iter().for_each(|(addr, conn)| open.add(addr.parse().unwrap(), *conn));
        std::iter::from_fn(|| open.evict()).collect()
    }

    #[test]
    fn the_oldest_connection_of_the_network_with_most_is_evicted() {
        assert_eq!(evicted(&[("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.1", 3)]), [1, 2, 3]);
        assert_eq!(evicted(&[("10.0.0.9", 1), ("10.0.0.1", 2), ("10.0.0.1", 3)]), [2, 1, 3]);
        assert_eq!(evicted(&[("2001:db8::1", 1), ("2001:db8:0:1::1", 2), ("2001:db8:0:1::2", 3)]), [2, 1, 3]);
        assert_eq!(evicted(&[("::ffff:10.0.0.1", 1), ("10.0.0.9", 2), ("10.0.0.1", 3)]), [1, 2, 3]);
        assert_eq!(evicted(&[]), [] as [u32; 0]);
    }

    #[test]
    fn connections_that_ended_are_not_evicted() {
        let mut open = OpenConns::new();
        (1..=4).for_each(|conn| open.add("10.0.0.1".parse().unwrap(), conn));
        open.retain(|conn| conn % 2 == 0);
        assert_eq!((open.len(), open.evict()), (2, Some(2)));
    }
}
