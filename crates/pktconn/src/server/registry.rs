//! The list of a server's connections, and its limits: total, per client network, rate, memory budget. Also the server's
//! counts.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
#[cfg(feature = "session")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::network::Network;
use super::limits::network_counts::NetworkCounts;
use super::limits::network_memory::MemoryByNetwork;
use super::limits::network_rates::NetworkRates;
use super::limits::refusal::Refusal;
use super::limits::running_handshakes::RunningHandshakes;
use super::logs::access_log::AccessLog;
use super::process_memory::ProcessMemory;
use super::shutdown_signal::ShutdownSignal;
use crate::connection::conn_core::{ConnCore, EndedConn, Membership};
use crate::connection::memory::{Account, Budget, EXEMPT_BYTES};
use crate::{ConnStats, Error, ServerConfig, ServerStats};

/// For how many connections an empty table keeps its memory: 1 KiB.
const SPARE_ENTRIES: usize = 64;

pub(crate) struct Registry {
    max_conns: Option<usize>,
    max_conns_per_ip: Option<usize>,
    /// `Some` if `conn_rate_per_ip` is set.
    conn_rates: Option<Mutex<NetworkRates>>,
    access_log: Option<AccessLog>,
    accepted: AtomicU64,
    refused: AtomicU64,
    refused_over_rate: AtomicU64,
    handshakes_failed: AtomicU64,
    budget: Option<Arc<Budget>>,
    /// `Some` if `max_process_memory` is set.
    pub(super) process_memory: Option<ProcessMemory>,
    pub(super) handshakes: Arc<RunningHandshakes>,
    /// Whether `recv` returns `None` after a shutdown.
    pub(crate) drain_on_shutdown: bool,
    /// Whether connections that are accepted after the shutdown may be for sessions, which must not be drained.
    #[cfg(feature = "session")]
    pub(crate) serves_sessions: AtomicBool,
    pub(crate) shutdown: ShutdownSignal,
    table: Mutex<ConnTable>,
    /// Notified when the table becomes empty.
    empty: Notify,
}

#[derive(Default)]
struct ConnTable {
    conns: Slab<Weak<ConnCore>>,
    /// Counted only if `max_conns_per_ip` is set.
    conns_per_network: NetworkCounts,
    /// Used only if there is a memory budget.
    memory: MemoryByNetwork,
    /// The sums of the connections that are no longer in `conns`.
    traffic_of_ended: ConnStats,
}

impl ConnTable {
    /// The connections. Drop the result without the lock: the last reference to a connection removes it from the table.
    fn conns(&self) -> Vec<Arc<ConnCore>> {
        self.conns.iter().filter_map(|(_, conn)| conn.upgrade()).collect()
    }
}

impl Registry {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, Error> {
        let ServerConfig { max_conns, max_conns_per_ip, memory_budget, drain_on_shutdown, .. } = *config;
        let conn_rates =
            config.conn_rate_per_ip.map(|rate| Mutex::new(NetworkRates::new(rate, Instant::now())));
        let access_log = config.access_log.then(AccessLog::default);
        let process_memory = config.max_process_memory.map(ProcessMemory::open).transpose()?;
        Ok(Self {
            max_conns,
            max_conns_per_ip,
            conn_rates,
            access_log,
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refused_over_rate: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            budget: memory_budget.map(|bytes| Arc::new(Budget::new(bytes))),
            process_memory,
            handshakes: Arc::new(RunningHandshakes::new(config.max_handshake_count())),
            drain_on_shutdown,
            #[cfg(feature = "session")]
            serves_sessions: AtomicBool::new(false),
            shutdown: ShutdownSignal::default(),
            table: Mutex::default(),
            empty: Notify::new(),
        })
    }

    /// Whether connections may be for sessions.
    pub(crate) fn has_sessions(&self) -> bool {
        #[cfg(feature = "session")]
        return self.serves_sessions.load(Relaxed);
        #[cfg(not(feature = "session"))]
        return false;
    }

    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.as_deref()
    }

    fn table(&self) -> MutexGuard<'_, ConnTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an accepted connection if the limits allow it, and counts it for `peer` if that is known.
    fn admit(&self, network: Option<Network>, now: Instant) -> Result<Admitted, Refusal> {
        self.check_rate(network, now)?;
        if self.process_memory.as_ref().is_some_and(ProcessMemory::is_over) {
            return Err(Refusal::ProcessMemory);
        }
        if self.budget().is_some_and(Budget::is_exceeded) {
            return Err(Refusal::MemoryBudget);
        }
        let mut table = self.table();
        self.check_memory(&table, network)?;
        if self.max_conns.is_some_and(|max| table.conns.len() >= max) {
            return Err(Refusal::MaxConns);
        }
        self.try_count(&mut table, network)?;
        // A placeholder until `register`.
        let key = table.conns.insert(Weak::new());
        let account = self.budget.as_ref().map(|budget| {
            // Without an address, the connection is a network of its own.
            let memory = network.map(|network| table.memory.join(network)).unwrap_or_default();
            Box::new(Account::new(budget, memory, key as u32))
        });
        Ok(Admitted { key, network, account })
    }

    /// Refuses a connection of a network that holds more than its share of the memory budget, while memory is short.
    fn check_memory(&self, table: &ConnTable, network: Option<Network>) -> Result<(), Refusal> {
        let under_pressure = self.budget().filter(|budget| budget.is_under_pressure());
        let (Some(budget), Some(network)) = (under_pressure, network) else { return Ok(()) };
        let is_too_heavy = table.memory.get(network).is_some_and(|memory| budget.is_too_heavy(memory));
        if is_too_heavy { Err(Refusal::MemoryBudget) } else { Ok(()) }
    }

    /// Counts a new connection towards the rate of its network. First, so that a flood is refused for its rate, whatever
    /// other limits it has reached.
    fn check_rate(&self, network: Option<Network>, now: Instant) -> Result<(), Refusal> {
        let (Some(rates), Some(network)) = (&self.conn_rates, network) else { return Ok(()) };
        let is_admitted = rates.lock().unwrap_or_else(PoisonError::into_inner).admit(network, now);
        is_admitted.then_some(()).ok_or(Refusal::ConnRate)
    }

    /// Counts one more connection of `network`, if `max_conns_per_ip` allows it.
    fn try_count(&self, table: &mut ConnTable, network: Option<Network>) -> Result<(), Refusal> {
        let (Some(max), Some(network)) = (self.max_conns_per_ip, network) else { return Ok(()) };
        let is_counted = table.conns_per_network.try_add(network, max);
        is_counted.then_some(()).ok_or(Refusal::MaxConnsPerIp)
    }

    pub(super) fn count_refused(&self, refusal: Refusal) {
        self.refused.fetch_add(1, Relaxed);
        match (refusal, &self.process_memory) {
            (Refusal::ConnRate, _) => {
                self.refused_over_rate.fetch_add(1, Relaxed);
            }
            (Refusal::ProcessMemory, Some(memory)) => memory.count_refused(),
            _ => {}
        }
    }

    /// Writes a line for an accepted connection that no handler has received, if there is an access log.
    pub(crate) fn log_access_not_opened(
        &self,
        peer: Option<SocketAddr>,
        accepted_at: Instant,
        reason: &'static str,
        detail: &dyn fmt::Display,
    ) {
        if let Some(access_log) = &self.access_log {
            access_log.log_not_opened(peer, accepted_at, reason, detail);
        }
    }

    fn remove(&self, key: usize, network: Option<Network>) {
        let mut table = self.table();
        table.conns.try_remove(key);
        let is_empty = table.conns.is_empty();
        if is_empty && table.conns.capacity() > SPARE_ENTRIES {
            // Frees the memory that a peak has needed. A server with few connections would need it again soon.
            table.conns = Slab::new();
        }
        if let Some(network) = network {
            if self.max_conns_per_ip.is_some() {
                table.conns_per_network.remove(network);
            }
            if self.budget.is_some() {
                table.memory.leave(network);
            }
        }
        drop(table);
        if is_empty {
            // Without the lock, because a waker is code of the application.
            self.empty.notify_waiters();
        }
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    /// How many connections there are, also those whose handshake runs.
    pub(super) fn open(&self) -> usize {
        self.table().conns.len()
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

    /// Ends the running handshakes of networks that hold more than their share of the memory budget.
    pub(crate) fn end_handshakes_of_heavy_networks(&self) {
        let Some(budget) = self.budget() else { return };
        let networks = self.table().memory.too_heavy(budget);
        self.handshakes.end_all_of(&networks);
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
        // The parts are read before the whole, so that they are never larger.
        let refused_over_rate = self.refused_over_rate.load(Relaxed);
        let process_memory = self.process_memory.as_ref();
        let refused_over_process_memory = process_memory.map_or(0, ProcessMemory::refused);
        let refused = self.refused.load(Relaxed);
        let handshakes_failed = self.handshakes_failed.load(Relaxed);
        let (accepted, open) = (self.accepted.load(Relaxed), self.open());
        ServerStats {
            accepted,
            refused,
            refused_over_rate,
            refused_over_process_memory,
            handshakes_failed,
            handshakes_running: self.handshakes.len(),
            budget_pauses: self.budget().map_or(0, Budget::pauses),
            closed_over_budget: self.budget().map_or(0, Budget::closed),
            closed_idle_over_budget: self.budget().map_or(0, Budget::closed_idle),
            process_memory_exceeded: process_memory.map_or(0, ProcessMemory::exceeded),
            open,
            held_bytes: self.budget().map_or(0, Budget::held),
        }
    }
}

/// A connection that the limits allow.
struct Admitted {
    key: usize,
    /// The network of the client. `None` while its address is not known.
    network: Option<Network>,
    /// `Some` if there is a memory budget.
    account: Option<Box<Account>>,
}

/// The place of a connection in its server's table, from the accept on. Dropping it removes the connection.
pub(crate) struct ConnSlot {
    registry: Arc<Registry>,
    /// Its account is that of the handshake, until the connection takes it.
    admitted: Admitted,
    accepted_at: Instant,
}

impl ConnSlot {
    /// Counts an accepted connection and reserves a slot for it. Fails, and counts it as refused, if a limit is reached.
    pub(crate) fn reserve(
        registry: &Arc<Registry>,
        peer: Option<SocketAddr>,
        accepted_at: Instant,
    ) -> Result<Self, Refusal> {
        registry.accepted.fetch_add(1, Relaxed);
        let network = peer.map(|peer| Network::of(peer.ip()));
        let admitted = registry.admit(network, accepted_at);
        let admitted = admitted.inspect_err(|&refusal| registry.count_refused(refusal))?;
        Ok(Self { registry: Arc::clone(registry), admitted, accepted_at })
    }

    /// Sets the client's address, which was not known at the accept. Fails, and counts the connection as refused, if a
    /// limit for its network is reached.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) fn set_client_addr(&mut self, peer: SocketAddr) -> Result<(), Refusal> {
        let network = Network::of(peer.ip());
        self.count_for(network).inspect_err(|&refusal| self.registry.count_refused(refusal))
    }

    #[cfg(feature = "proxy-protocol")]
    fn count_for(&mut self, network: Network) -> Result<(), Refusal> {
        let registry = &self.registry;
        registry.check_rate(Some(network), Instant::now())?;
        let mut table = registry.table();
        registry.check_memory(&table, Some(network))?;
        registry.try_count(&mut table, Some(network))?;
        self.admitted.network = Some(network);
        if let Some(account) = &mut self.admitted.account {
            account.set_network(table.memory.join(network));
        }
        Ok(())
    }

    /// Updates the memory that the handshake of the connection holds. Fails if memory is short, the network holds more
    /// than its share, and this connection more than a little of it.
    pub(crate) fn note_handshake(&self, bytes: usize) -> Result<(), Refusal> {
        let Some(account) = &self.admitted.account else { return Ok(()) };
        account.note_read(bytes);
        let must_end = account.held() >= EXEMPT_BYTES && account.budget().is_too_heavy(account.network());
        if must_end { Err(Refusal::MemoryBudget) } else { Ok(()) }
    }

    pub(crate) fn accepted_at(&self) -> Instant {
        self.accepted_at
    }
}

impl Membership for ConnSlot {
    fn take_account(&mut self) -> Option<Box<Account>> {
        self.admitted.account.take()
    }

    fn register(&self, conn: &Arc<ConnCore>) -> bool {
        if let Some(entry) = self.registry.table().conns.get_mut(self.admitted.key) {
            *entry = Arc::downgrade(conn);
        }
        self.registry.drain_on_shutdown
            && self.registry.shutdown.is_triggered()
            && !self.registry.has_sessions()
    }

    fn record_end(&self, conn: EndedConn<'_>) {
        self.registry.table().traffic_of_ended.add(&ConnStats { queued_bytes: 0, ..conn.traffic });
        if let Some(access_log) = &self.registry.access_log {
            access_log.log_ended(&conn, self.accepted_at);
        }
        #[cfg(feature = "metrics")]
        super::metric_events::record_conn_ended(conn.reason, self.accepted_at.elapsed());
    }
}

impl Drop for ConnSlot {
    fn drop(&mut self) {
        // First, because the network is removed with its last connection.
        drop(self.admitted.account.take());
        self.registry.remove(self.admitted.key, self.admitted.network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerConfig, ServerHandle};

    fn server(config: &ServerConfig) -> ServerHandle {
        ServerHandle::new(config).unwrap()
    }

    fn slot(server: &ServerHandle, ip: &str) -> Result<ConnSlot, Refusal> {
        let peer = SocketAddr::new(ip.parse().unwrap(), 1);
        ConnSlot::reserve(&server.state().registry, Some(peer), Instant::now())
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
            assert_eq!(slot(&server, ip).is_ok(), admitted, "{ip}");
        }
        assert_eq!(server.stats().refused, 2);
        drop(first);
        assert!(slot(&server, "2001:db8:1:2:ffff::9").is_ok());
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
        assert_eq!(slot(&server, "192.0.2.2").err(), Some(Refusal::MaxConns));
        drop(first);
        assert!(slot(&server, "192.0.2.2").is_ok());
    }

    #[cfg(feature = "proxy-protocol")]
    #[test]
    fn a_client_behind_a_proxy_counts_once_its_address_is_known() {
        let server = server(&ServerConfig::new().max_conns_per_ip(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let reserve = || ConnSlot::reserve(&server.state().registry, None, Instant::now()).unwrap();
        let [mut first, mut second] = [reserve(), reserve()];
        assert_eq!(first.set_client_addr(client), Ok(()));
        assert_eq!(second.set_client_addr(client), Err(Refusal::MaxConnsPerIp));
        drop(second);
        drop(first);
        assert!(slot(&server, "192.0.2.1").is_ok());
        assert_eq!(server.stats().refused, 1);
    }
}
