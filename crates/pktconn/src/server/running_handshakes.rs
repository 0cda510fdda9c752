//! The places of running handshakes. A handshake that must end for a newer one learns it through its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::handshakes::{HandshakeId, Handshakes};
use super::network::Network;

/// The running handshakes of a server.
#[derive(Debug)]
pub(super) struct RunningHandshakes(Mutex<Table>);

#[derive(Debug)]
struct Table {
    handshakes: Handshakes<Option<Network>>,
    /// Dropping the sender ends the handshake.
    places: HashMap<HandshakeId, oneshot::Sender<()>>,
}

/// The place of a running handshake. Dropping it frees the place.
pub(super) struct HandshakePlace {
    running: Arc<RunningHandshakes>,
    network: Option<Network>,
    id: HandshakeId,
}

/// Completes when the handshake must end for a newer one.
pub(super) type MustEnd = oneshot::Receiver<()>;

impl RunningHandshakes {
    pub(super) fn new(max: usize) -> Self {
        Self(Mutex::new(Table { handshakes: Handshakes::new(max), places: HashMap::new() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.table().handshakes.len()
    }

    /// Begins a handshake of `network`. Connections without an address count as one network.
    pub(super) fn begin(self: &Arc<Self>, network: Option<Network>) -> (HandshakePlace, MustEnd) {
        let (end, must_end) = oneshot::channel();
        let id = self.insert(network, end);
        (HandshakePlace { running: Arc::clone(self), network, id }, must_end)
    }

    fn insert(&self, network: Option<Network>, end: oneshot::Sender<()>) -> HandshakeId {
        let mut table = self.table();
        let (id, oldest) = table.handshakes.begin(network);
        table.places.insert(id, end);
        let oldest = oldest.and_then(|oldest| table.places.remove(&oldest));
        drop(table);
        // Wakes the task of that handshake.
        drop(oldest);
        id
    }

    fn remove(&self, network: Option<Network>, id: HandshakeId) -> Option<oneshot::Sender<()>> {
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
    pub(super) fn set_network(&mut self, network: Option<Network>) {
        // Without a sender the handshake must end, and does not count any more.
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
        assert_eq!(first_ends.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(second_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(second);
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
        assert_eq!(flood_ends[0].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop((flood, honest));
        assert_eq!(running.len(), 1);
    }
}
