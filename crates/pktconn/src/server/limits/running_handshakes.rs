//! The places of running handshakes. A handshake that must end learns it through its place: for a newer one, or because
//! memory is short.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::handshakes::{HandshakeId, Handshakes};
use super::network::Network;
use super::refusal::Refusal;

/// The running handshakes of a server.
#[derive(Debug)]
pub(crate) struct RunningHandshakes(Mutex<Table>);

#[derive(Debug)]
struct Table {
    handshakes: Handshakes<Option<Network>>,
    places: HashMap<HandshakeId, EndHandshake>,
}

/// The place of a running handshake. Dropping it frees the place.
pub(crate) struct HandshakePlace {
    running: Arc<RunningHandshakes>,
    network: Option<Network>,
    id: HandshakeId,
}

/// Ends a handshake. Wakes its task, so do not use it under the lock.
type EndHandshake = oneshot::Sender<Refusal>;

/// Completes with a refusal when the handshake must end.
pub(crate) type MustEnd = oneshot::Receiver<Refusal>;

impl RunningHandshakes {
    pub(crate) fn new(max: usize) -> Self {
        Self(Mutex::new(Table { handshakes: Handshakes::new(max), places: HashMap::new() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.table().handshakes.len()
    }

    /// Begins a handshake of `network`. Connections without an address count as one network.
    pub(crate) fn begin(self: &Arc<Self>, network: Option<Network>) -> (HandshakePlace, MustEnd) {
        let (end, must_end) = oneshot::channel();
        let id = self.insert(network, end);
        (HandshakePlace { running: Arc::clone(self), network, id }, must_end)
    }

    /// Ends all handshakes of `networks`, because they hold more than their share of the memory.
    pub(crate) fn end_all_of(&self, networks: &[Network]) {
        let mut table = self.table();
        let ids: Vec<_> =
            networks.iter().flat_map(|&network| table.handshakes.end_all(Some(network))).collect();
        let ended: Vec<_> = ids.iter().filter_map(|id| table.places.remove(id)).collect();
        drop(table);
        for end in ended {
            let _ = end.send(Refusal::MemoryBudget);
        }
    }

    fn insert(&self, network: Option<Network>, end: EndHandshake) -> HandshakeId {
        let mut table = self.table();
        let (id, oldest) = table.handshakes.begin(network);
        table.places.insert(id, end);
        let oldest = oldest.and_then(|oldest| table.places.remove(&oldest));
        drop(table);
        if let Some(end) = oldest {
            let _ = end.send(Refusal::MaxHandshakes);
        }
        id
    }

    fn remove(&self, network: Option<Network>, id: HandshakeId) -> Option<EndHandshake> {
        let mut table = self.table();
        table.handshakes.end(network, id);
        let end = table.places.remove(&id);
        if table.places.is_empty() {
            // Frees the memory that a peak has needed.
            table.places = HashMap::new();
        }
        end
    }
}

#[cfg(feature = "proxy-protocol")]
impl HandshakePlace {
    /// Counts the handshake for another network, because the client's address has become known.
    pub(crate) fn set_network(&mut self, network: Option<Network>) {
        // Without one the handshake must end, and does not count any more.
        if let Some(end) = self.running.remove(self.network, self.id) {
            self.network = network;
            self.id = self.running.insert(network, end);
        }
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.running.remove(self.network, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ip: &str) -> Option<Network> {
        Some(Network::of(ip.parse().unwrap()))
    }

    #[test]
    fn a_handshake_learns_that_it_must_end_for_a_newer_one() {
        let running = Arc::new(RunningHandshakes::new(2));
        let (_first, mut first_ends) = running.begin(network("192.0.2.1"));
        let (second, mut second_ends) = running.begin(network("192.0.2.1"));
        assert!(first_ends.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let (_third, _) = running.begin(network("192.0.2.2"));
        assert_eq!(first_ends.try_recv(), Ok(Refusal::MaxHandshakes));
        assert_eq!(second_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(second);
        assert_eq!(running.len(), 1);
    }

    #[test]
    fn the_handshakes_of_networks_that_hold_too_much_end() {
        let running = Arc::new(RunningHandshakes::new(10));
        let [heavy, light] = ["192.0.2.1", "192.0.2.2"].map(network);
        let (_first, mut first_ends) = running.begin(heavy);
        let (_second, mut second_ends) = running.begin(light);
        running.end_all_of(&[heavy.unwrap()]);
        assert_eq!(first_ends.try_recv(), Ok(Refusal::MemoryBudget));
        assert_eq!(second_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(running.len(), 1);
    }

    #[cfg(feature = "proxy-protocol")]
    #[test]
    fn a_handshake_counts_for_its_client_once_that_is_known() {
        let running = Arc::new(RunningHandshakes::new(3));
        let proxy = network("192.0.2.1");
        let (mut flood, mut flood_ends): (Vec<_>, Vec<_>) = (0..2).map(|_| running.begin(proxy)).unzip();
        let (mut honest, mut honest_ends) = running.begin(proxy);
        honest.set_network(network("198.51.100.1"));
        flood.iter_mut().for_each(|place| place.set_network(network("203.0.113.1")));
        let (_new, _) = running.begin(proxy);
        assert_eq!(honest_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(flood_ends[0].try_recv(), Ok(Refusal::MaxHandshakes));
        drop((flood, honest));
        assert_eq!(running.len(), 1);
    }
}
