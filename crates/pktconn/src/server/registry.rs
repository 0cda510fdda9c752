//! The connections that a server has: how many, of whom, and which.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;
use tokio::sync::Notify;
#[cfg(feature = "metrics")]
use tokio::time::Instant;

use super::shutdown_signal::ShutdownSignal;
use crate::connection::memory::{Account, Budget};
use crate::connection::shared::{Membership, Shared};
use crate::error::Reason;
use crate::{ConnStats, ServerConfig, ServerStats};

#[derive(Default)]
pub(crate) struct Registry {
    max_conns: Option<usize>,
    max_conns_per_ip: Option<usize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    handshakes_failed: AtomicU64,
    budget: Option<Arc<Budget>>,
    /// Whether connections receive the end of the stream once the server stops.
    pub(crate) drains: bool,
    pub(crate) stop: ShutdownSignal,
    roll: Mutex<Roll>,
    /// Told when the last one has left.
    empty: Notify,
}

#[derive(Default)]
struct Roll {
    conns: Slab<Weak<Shared>>,
    /// How many there are of each; counted where that is limited.
    of_networks: HashMap<Network, usize>,
    /// What went through those that have left.
    traffic_of_left: ConnStats,
}

/// Whom an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits: the least that a customer has, who may take each address of it.
    V6([u8; 8]),
}

impl Roll {
    /// To be dropped without the lock: the last one of a connection takes it off.
    fn conns(&self) -> Vec<Arc<Shared>> {
        self.conns.iter().filter_map(|(_, conn)| conn.upgrade()).collect()
    }
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

impl Registry {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let ServerConfig { max_conns, max_conns_per_ip, memory_budget, drain_on_shutdown: drains, .. } =
            *config;
        let budget = memory_budget.map(|bytes| Arc::new(Budget::new(bytes)));
        Self { max_conns, max_conns_per_ip, budget, drains, ..Self::default() }
    }

    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.as_deref()
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection that was accepted, if there is room, and counts it for `peer`, where that is known by now.
    fn enter(&self, peer: Option<SocketAddr>) -> Option<(usize, Option<Network>)> {
        if self.budget().is_some_and(Budget::is_pressed) {
            return None;
        }
        let mut roll = self.roll();
        if self.max_conns.is_some_and(|max| roll.conns.len() >= max) {
            return None;
        }
        let network = self.counted(peer);
        if network.is_some_and(|network| !self.count(&mut roll, network)) {
            return None;
        }
        // It is none yet.
        Some((roll.conns.insert(Weak::new()), network))
    }

    /// Counts one more of `network`, if there is room.
    fn count(&self, roll: &mut Roll, network: Network) -> bool {
        let has_room = |count| self.max_conns_per_ip.is_none_or(|max| count < max);
        // None is left at 0.
        let count = roll.of_networks.get(&network).copied().unwrap_or(0);
        let is_counted = has_room(count);
        if is_counted {
            roll.of_networks.insert(network, count + 1);
        }
        is_counted
    }

    fn leave(&self, place: usize, network: Option<Network>) {
        let mut roll = self.roll();
        roll.conns.try_remove(place);
        if roll.conns.is_empty() {
            // What a rush of them took.
            roll.conns = Slab::new();
            self.empty.notify_waiters();
        }
        if let Some(network) = network {
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

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
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
        let mut conns = self.roll().conns();
        conns.retain(|conn| !conn.has_ended());
        conns
    }

    /// What went through all connections.
    pub(crate) fn traffic(&self) -> ConnStats {
        let (mut traffic, conns) = {
            let roll = self.roll();
            (roll.traffic_of_left, roll.conns())
        };
        conns.iter().for_each(|conn| traffic.add(&conn.stats()));
        traffic
    }

    pub(crate) fn stats(&self) -> ServerStats {
        // What was refused before what was accepted, of which it is a part.
        let refused = self.refused.load(Relaxed);
        let handshakes_failed = self.handshakes_failed.load(Relaxed);
        let (accepted, open) = (self.accepted.load(Relaxed), self.roll().conns.len());
        let held_bytes = self.budget().map_or(0, Budget::held);
        let closed_over_budget = self.budget().map_or(0, Budget::closed);
        ServerStats { accepted, refused, handshakes_failed, closed_over_budget, open, held_bytes }
    }
}

/// The place of a connection among those of its server, from when it was accepted.
pub(crate) struct Ticket {
    registry: Arc<Registry>,
    place: usize,
    /// Where that is limited.
    network: Option<Network>,
    #[cfg(feature = "metrics")]
    since: Instant,
}

impl Ticket {
    /// That of a connection that was accepted. `None` where there are too many.
    pub(crate) fn of(registry: &Arc<Registry>, peer: Option<SocketAddr>) -> Option<Self> {
        registry.accepted.fetch_add(1, Relaxed);
        let Some((place, network)) = registry.enter(peer) else {
            registry.refused.fetch_add(1, Relaxed);
            return None;
        };
        Some(Self {
            registry: Arc::clone(registry),
            place,
            network,
            #[cfg(feature = "metrics")]
            since: Instant::now(),
        })
    }

    /// Counts it for `peer`, of whom it was not known when it was accepted. Whether there is room.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn count_for(&mut self, peer: SocketAddr) -> bool {
        let registry = &self.registry;
        let Some(network) = registry.counted(Some(peer)) else { return true };
        let is_counted = registry.count(&mut registry.roll(), network);
        if is_counted {
            self.network = Some(network);
        } else {
            registry.refused.fetch_add(1, Relaxed);
        }
        is_counted
    }

    /// When it was accepted.
    #[cfg(feature = "metrics")]
    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

impl Membership for Ticket {
    fn account(&self) -> Option<Account> {
        self.registry.budget.as_ref().map(|budget| Account::new(budget, self.place))
    }

    fn enroll(&self, conn: &Arc<Shared>) -> bool {
        if let Some(place) = self.registry.roll().conns.get_mut(self.place) {
            *place = Arc::downgrade(conn);
        }
        self.registry.drains && self.registry.stop.is_triggered()
    }

    fn leaves(&self, traffic: ConnStats, reason: Option<Reason>) {
        self.registry.roll().traffic_of_left.add(&ConnStats { queued_bytes: 0, ..traffic });
        #[cfg(feature = "metrics")]
        super::metric_events::ended(reason, self.since.elapsed());
        #[cfg(not(feature = "metrics"))]
        drop(reason);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.leave(self.place, self.network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerConfig, ServerHandle};

    fn server(config: &ServerConfig) -> ServerHandle {
        ServerHandle::new(config).unwrap()
    }

    fn ticket(server: &ServerHandle, ip: &str) -> Option<Ticket> {
        Ticket::of(&server.control().registry, Some(SocketAddr::new(ip.parse().unwrap(), 1)))
    }

    #[test]
    fn an_ipv6_customer_is_a_network_of_64_bits_and_a_mapped_address_is_what_it_maps() {
        let server = server(&ServerConfig::new().max_conns_per_ip(1));
        let first = ticket(&server, "2001:db8:1:2::1").unwrap();
        let _second = ticket(&server, "192.0.2.1").unwrap();
        for (ip, admitted) in [
            ("2001:db8:1:2:ffff::9", false),
            ("2001:db8:1:3::1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
        ] {
            assert_eq!(ticket(&server, ip).is_some(), admitted, "{ip}");
        }
        assert_eq!(server.stats().refused, 2);
        drop(first);
        assert!(ticket(&server, "2001:db8:1:2:ffff::9").is_some());
        assert_eq!((server.stats().accepted, server.stats().refused, server.stats().open), (7, 2, 1));
        assert_eq!(server.control().registry.roll().of_networks.len(), 1, "who has none takes no memory");
    }

    #[test]
    fn beyond_the_most_nobody_is_admitted() {
        let server = server(&ServerConfig::new().max_conns(2));
        let [first, _second] = [(); 2].map(|()| ticket(&server, "192.0.2.1").unwrap());
        assert!(ticket(&server, "192.0.2.2").is_none());
        drop(first);
        assert!(ticket(&server, "192.0.2.2").is_some());
    }

    #[cfg(feature = "proxy-protocol")]
    #[test]
    fn a_client_of_a_proxy_counts_once_it_is_known() {
        let server = server(&ServerConfig::new().max_conns_per_ip(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let mut first = Ticket::of(&server.control().registry, None).unwrap();
        let mut second = Ticket::of(&server.control().registry, None).unwrap();
        assert!(first.count_for(client));
        assert!(!second.count_for(client));
        drop(second);
        drop(first);
        assert!(ticket(&server, "192.0.2.1").is_some());
        assert_eq!(server.stats().refused, 1);
    }
}
