//! The list of a server's connections, and its limits: total, per client network, memory budget. Also the server's
//! counts.

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
use crate::connection::conn_core::{ConnCore, Membership};
use crate::connection::memory::{Account, Budget};
use crate::error::Reason;
use crate::{ConnStats, ServerConfig, ServerStats};

/// For how many connections an empty table keeps its memory: 1 KiB.
const SPARE_ENTRIES: usize = 64;

#[derive(Default)]
pub(crate) struct Registry {
    max_conns: Option<usize>,
    max_conns_per_ip: Option<usize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    handshakes_failed: AtomicU64,
    budget: Option<Arc<Budget>>,
    /// Whether `recv` returns `None` after a shutdown.
    pub(crate) drain_on_shutdown: bool,
    pub(crate) shutdown: ShutdownSignal,
    table: Mutex<ConnTable>,
    /// Notified when the table becomes empty.
    empty: Notify,
}

#[derive(Default)]
struct ConnTable {
    conns: Slab<Weak<ConnCore>>,
    /// Counted only if `max_conns_per_ip` is set. No count is 0.
    conns_per_network: HashMap<Network, usize>,
    /// The sums of the connections that are no longer in `conns`.
    traffic_of_ended: ConnStats,
}

/// The network of a client, as `max_conns_per_ip` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits. Providers assign at least a `/64`, and the customer can use every address in it.
    V6([u8; 8]),
}

impl ConnTable {
    /// The connections. Drop the result without the lock: the last reference to a connection removes it from the table.
    fn conns(&self) -> Vec<Arc<ConnCore>> {
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
        let ServerConfig { max_conns, max_conns_per_ip, memory_budget, drain_on_shutdown, .. } = *config;
        let budget = memory_budget.map(|bytes| Arc::new(Budget::new(bytes)));
        Self { max_conns, max_conns_per_ip, budget, drain_on_shutdown, ..Self::default() }
    }

    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.as_deref()
    }

    fn table(&self) -> MutexGuard<'_, ConnTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an accepted connection if the limits allow it, and counts it for `peer` if that is known.
    fn admit(&self, peer: Option<SocketAddr>) -> Option<(usize, Option<Network>)> {
        if self.budget().is_some_and(Budget::is_under_pressure) {
            return None;
        }
        let mut table = self.table();
        if self.max_conns.is_some_and(|max| table.conns.len() >= max) {
            return None;
        }
        let network = self.limited_network(peer);
        if network.is_some_and(|network| !self.try_count(&mut table, network)) {
            return None;
        }
        // A placeholder until `register`.
        Some((table.conns.insert(Weak::new()), network))
    }

    /// Counts one more connection of `network`, if the limit allows it.
    fn try_count(&self, table: &mut ConnTable, network: Network) -> bool {
        let has_room = |count| self.max_conns_per_ip.is_none_or(|max| count < max);
        let count = table.conns_per_network.get(&network).copied().unwrap_or(0);
        let is_counted = has_room(count);
        if is_counted {
            table.conns_per_network.insert(network, count + 1);
        }
        is_counted
    }

    fn remove(&self, key: usize, network: Option<Network>) {
        let mut table = self.table();
        table.conns.try_remove(key);
        if table.conns.is_empty() {
            // Frees the memory that a peak has needed. A server with few connections would need it again soon.
            if table.conns.capacity() > SPARE_ENTRIES {
                table.conns = Slab::new();
            }
            self.empty.notify_waiters();
        }
        if let Some(network) = network {
            let Some(count) = table.conns_per_network.get_mut(&network) else { return };
            *count -= 1;
            if *count == 0 {
                table.conns_per_network.remove(&network);
                if table.conns_per_network.is_empty() {
                    table.conns_per_network = HashMap::new();
                }
            }
        }
    }

    fn limited_network(&self, peer: Option<SocketAddr>) -> Option<Network> {
        let peer = peer.filter(|_| self.max_conns_per_ip.is_some())?;
        Some(Network::of(peer.ip()))
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    /// Waits until there is no connection.
    pub(crate) async fn wait_until_empty(&self) {
        loop {
            let mut empty = pin!(self.empty.notified());
            // Before the check, so that no notification is missed.
            empty.as_mut().enable();
            if self.table().conns.is_empty() {
                return;
            }
            empty.await;
        }
    }

    /// The connections that have not ended.
    pub(crate) fn open_conns(&self) -> Vec<Arc<ConnCore>> {
        let mut conns = self.table().conns();
        conns.retain(|conn| !conn.has_ended());
        conns
    }

    /// The sums of all connections, including those that have ended.
    pub(crate) fn traffic(&self) -> ConnStats {
        let (mut traffic, conns) = {
            let table = self.table();
            (table.traffic_of_ended, table.conns())
        };
        conns.iter().for_each(|conn| traffic.add(&conn.stats()));
        traffic
    }

    pub(crate) fn stats(&self) -> ServerStats {
        // `refused` is read before `accepted`, so that it is never larger.
        let refused = self.refused.load(Relaxed);
        let handshakes_failed = self.handshakes_failed.load(Relaxed);
        let (accepted, open) = (self.accepted.load(Relaxed), self.table().conns.len());
        let held_bytes = self.budget().map_or(0, Budget::held);
        let closed_over_budget = self.budget().map_or(0, Budget::closed);
        ServerStats { accepted, refused, handshakes_failed, closed_over_budget, open, held_bytes }
    }
}

/// The place of a connection in its server's table, from the accept on. Dropping it removes the connection.
pub(crate) struct ConnSlot {
    registry: Arc<Registry>,
    key: usize,
    /// `Some` if the connection counts towards `max_conns_per_ip`.
    network: Option<Network>,
    #[cfg(feature = "metrics")]
    accepted_at: Instant,
}

impl ConnSlot {
    /// Counts an accepted connection and reserves a slot for it. Returns `None`, and counts it as refused, if a limit
    /// is reached.
    pub(crate) fn reserve(registry: &Arc<Registry>, peer: Option<SocketAddr>) -> Option<Self> {
        registry.accepted.fetch_add(1, Relaxed);
        let Some((key, network)) = registry.admit(peer) else {
            registry.refused.fetch_add(1, Relaxed);
            return None;
        };
        Some(Self {
            registry: Arc::clone(registry),
            key,
            network,
            #[cfg(feature = "metrics")]
            accepted_at: Instant::now(),
        })
    }

    /// Sets the client's address, which was not known at the accept. Returns `false`, and counts the connection as
    /// refused, if the limit for its network is reached.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn set_client_addr(&mut self, peer: SocketAddr) -> bool {
        let registry = &self.registry;
        let Some(network) = registry.limited_network(Some(peer)) else { return true };
        let is_counted = registry.try_count(&mut registry.table(), network);
        if is_counted {
            self.network = Some(network);
        } else {
            registry.refused.fetch_add(1, Relaxed);
        }
        is_counted
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn accepted_at(&self) -> Instant {
        self.accepted_at
    }
}

impl Membership for ConnSlot {
    fn account(&self) -> Option<Account> {
        self.registry.budget.as_ref().map(|budget| Account::new(budget, self.key))
    }

    fn register(&self, conn: &Arc<ConnCore>) -> bool {
        if let Some(entry) = self.registry.table().conns.get_mut(self.key) {
            *entry = Arc::downgrade(conn);
        }
        self.registry.drain_on_shutdown && self.registry.shutdown.is_triggered()
    }

    fn record_end(&self, traffic: ConnStats, reason: Option<Reason>) {
        self.registry.table().traffic_of_ended.add(&ConnStats { queued_bytes: 0, ..traffic });
        #[cfg(feature = "metrics")]
        super::metric_events::record_conn_ended(reason, self.accepted_at.elapsed());
        #[cfg(not(feature = "metrics"))]
        drop(reason);
    }
}

impl Drop for ConnSlot {
    fn drop(&mut self) {
        self.registry.remove(self.key, self.network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerConfig, ServerHandle};

    fn server(config: &ServerConfig) -> ServerHandle {
        ServerHandle::new(config).unwrap()
    }

    fn slot(server: &ServerHandle, ip: &str) -> Option<ConnSlot> {
        ConnSlot::reserve(&server.state().registry, Some(SocketAddr::new(ip.parse().unwrap(), 1)))
    }

    #[test]
    fn ipv6_counts_by_64_bit_network_and_ipv4_mapped_addresses_count_as_ipv4() {
        let server = server(&ServerConfig::new().max_conns_per_ip(1));
        let first = slot(&server, "2001:db8:1:2::1").unwrap();
        let _second = slot(&server, "192.0.2.1").unwrap();
        for (ip, admitted) in [
            ("2001:db8:1:2:ffff::9", false),
            ("2001:db8:1:3::1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
        ] {
            assert_eq!(slot(&server, ip).is_some(), admitted, "{ip}");
        }
        assert_eq!(server.stats().refused, 2);
        drop(first);
        assert!(slot(&server, "2001:db8:1:2:ffff::9").is_some());
        assert_eq!((server.stats().accepted, server.stats().refused, server.stats().open), (7, 2, 1));
        assert_eq!(
            server.state().registry.table().conns_per_network.len(),
            1,
            "networks without connections take no memory"
        );
    }

    #[test]
    fn no_connection_is_admitted_beyond_max_conns() {
        let server = server(&ServerConfig::new().max_conns(2));
        let [first, _second] = [(); 2].map(|()| slot(&server, "192.0.2.1").unwrap());
        assert!(slot(&server, "192.0.2.2").is_none());
        drop(first);
        assert!(slot(&server, "192.0.2.2").is_some());
    }

    #[cfg(feature = "proxy-protocol")]
    #[test]
    fn a_client_behind_a_proxy_counts_once_its_address_is_known() {
        let server = server(&ServerConfig::new().max_conns_per_ip(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let mut first = ConnSlot::reserve(&server.state().registry, None).unwrap();
        let mut second = ConnSlot::reserve(&server.state().registry, None).unwrap();
        assert!(first.set_client_addr(client));
        assert!(!second.set_client_addr(client));
        drop(second);
        drop(first);
        assert!(slot(&server, "192.0.2.1").is_some());
        assert_eq!(server.stats().refused, 1);
    }
}
