//! The connections that a server has: how many, of whom, and which.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;
use tokio::sync::Notify;

use crate::ServerStats;
use crate::shared::Shared;

#[derive(Default)]
pub(crate) struct Census {
    max_conns: Option<usize>,
    max_conns_per_ip: Option<usize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    roll: Mutex<Roll>,
    /// Told when the last one has left.
    empty: Notify,
}

#[derive(Default)]
struct Roll {
    conns: Slab<Weak<Shared>>,
    /// How many there are of each; counted where that is limited.
    of_networks: HashMap<Network, usize>,
}

/// Whom an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits: the least that a customer has, who may take each address of it.
    V6([u8; 8]),
}

impl Network {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Census {
    pub(crate) fn new(max_conns: Option<usize>, max_conns_per_ip: Option<usize>) -> Self {
        Self { max_conns, max_conns_per_ip, ..Self::default() }
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection that was accepted may stay. One at a time is asked for, and enrolled or given up.
    pub(crate) fn admits(&self, peer: Option<SocketAddr>) -> bool {
        self.accepted.fetch_add(1, Relaxed);
        let roll = self.roll();
        let has_room = |limit: Option<usize>, count| limit.is_none_or(|limit| count < limit);
        let of_network = self.counted(peer).and_then(|network| roll.of_networks.get(&network).copied());
        let admitted = has_room(self.max_conns, roll.conns.len())
            && has_room(self.max_conns_per_ip, of_network.unwrap_or(0));
        if !admitted {
            self.refused.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// Adds a connection, which is about to be made, and returns its place.
    pub(crate) fn enroll(&self, conn: &Weak<Shared>, peer: Option<SocketAddr>) -> usize {
        let mut roll = self.roll();
        if let Some(network) = self.counted(peer) {
            *roll.of_networks.entry(network).or_default() += 1;
        }
        roll.conns.insert(Weak::clone(conn))
    }

    /// Takes a connection off that is gone.
    pub(crate) fn leave(&self, place: usize, peer: Option<SocketAddr>) {
        let mut roll = self.roll();
        roll.conns.try_remove(place);
        if roll.conns.is_empty() {
            // What a rush of them took.
            roll.conns = Slab::new();
            self.empty.notify_waiters();
        }
        if let Some(network) = self.counted(peer) {
            let Some(count) = roll.of_networks.get_mut(&network) else { return };
            *count -= 1;
            if *count == 0 {
                roll.of_networks.remove(&network);
                if roll.of_networks.is_empty() {
                    roll.of_networks = HashMap::new();
                }
            }
        }
    }

    fn counted(&self, peer: Option<SocketAddr>) -> Option<Network> {
        let peer = peer.filter(|_| self.max_conns_per_ip.is_some())?;
        Some(Network::of(peer.ip()))
    }

    /// Waits until there are none.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut empty = pin!(self.empty.notified());
            // Before the look, so that none is missed.
            empty.as_mut().enable();
            if self.roll().conns.is_empty() {
                return;
            }
            empty.await;
        }
    }

    /// The connections that have not ended.
    pub(crate) fn open(&self) -> Vec<Arc<Shared>> {
        // To drop the last one of a connection takes it off: not under the lock.
        let mut conns: Vec<_> = self.roll().conns.iter().filter_map(|(_, conn)| conn.upgrade()).collect();
        conns.retain(|conn| !conn.has_ended());
        conns
    }

    pub(crate) fn stats(&self) -> ServerStats {
        // What was refused before what was accepted, of which it is a part.
        let refused = self.refused.load(Relaxed);
        ServerStats { accepted: self.accepted.load(Relaxed), refused, open: self.roll().conns.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(ip: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    #[test]
    fn an_ipv6_customer_is_a_network_of_64_bits_and_a_mapped_address_is_what_it_maps() {
        let census = Census::new(None, Some(1));
        let place = census.enroll(&Weak::new(), addr("2001:db8:1:2::1"));
        census.enroll(&Weak::new(), addr("192.0.2.1"));
        for (ip, admitted) in [
            ("2001:db8:1:2:ffff::9", false),
            ("2001:db8:1:3::1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
        ] {
            assert_eq!(census.admits(addr(ip)), admitted, "{ip}");
        }
        census.leave(place, addr("2001:db8:1:2::1"));
        assert!(census.admits(addr("2001:db8:1:2:ffff::9")));
        assert_eq!(census.stats(), ServerStats { accepted: 5, refused: 2, open: 1 });
        assert_eq!(census.roll().of_networks.len(), 1, "who has none takes no memory");
    }

    #[test]
    fn beyond_the_most_nobody_is_admitted() {
        let census = Census::new(Some(2), None);
        let places = [(); 2].map(|()| {
            assert!(census.admits(addr("192.0.2.1")));
            census.enroll(&Weak::new(), addr("192.0.2.1"))
        });
        assert!(!census.admits(addr("192.0.2.2")));
        census.leave(places[0], addr("192.0.2.1"));
        assert!(census.admits(addr("192.0.2.2")));
    }
}
