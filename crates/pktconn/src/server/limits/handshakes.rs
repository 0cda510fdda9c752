//! The running handshakes of a server, limited in number. At the limit, a new one ends the oldest one of the network
//! that has the most. So one network cannot keep the others from connecting, however many handshakes it begins and never
//! completes. No I/O.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

/// Identifies a running handshake.
pub(crate) type HandshakeId = u64;

/// The running handshakes by network. `K` identifies a network.
#[derive(Debug)]
pub(crate) struct Handshakes<K> {
    max: usize,
    next_id: HandshakeId,
    len: usize,
    /// The handshakes of each network, the oldest one first. No list is empty.
    by_network: HashMap<K, VecDeque<HandshakeId>>,
}

impl<K: Copy + Eq + std::hash::Hash> Handshakes<K> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, next_id: 0, len: 0, by_network: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Begins a handshake. Returns its identifier, and the handshake to end in exchange.
    pub(crate) fn begin(&mut self, network: K) -> (HandshakeId, Option<HandshakeId>) {
        let ended = if self.len < self.max { None } else { self.end_oldest_of_most(network) };
        let id = self.next_id;
        self.next_id += 1;
        self.by_network.entry(network).or_default().push_back(id);
        self.len += 1;
        (id, ended)
    }

    /// Ends the oldest handshake of the network that has the most. Of networks that have as many, `newcomer` comes first,
    /// then the one with the oldest handshake.
    fn end_oldest_of_most(&mut self, newcomer: K) -> Option<HandshakeId> {
        let running = |network: &K| self.by_network.get(network).map_or(0, VecDeque::len);
        let weight = |ids: &VecDeque<HandshakeId>| (ids.len(), ids.front().copied().map(Reverse));
        let (&most, _) = self.by_network.iter().max_by_key(|(_, ids)| weight(ids))?;
        let network = if running(&newcomer) == running(&most) { newcomer } else { most };
        let oldest = *self.by_network.get(&network)?.front()?;
        self.end(network, oldest);
        Some(oldest)
    }

    /// Removes all handshakes of a network, and returns them.
    pub(crate) fn end_all(&mut self, network: K) -> VecDeque<HandshakeId> {
        let ended = self.by_network.remove(&network).unwrap_or_default();
        self.len -= ended.len();
        self.free_if_empty();
        ended
    }

    /// Removes a handshake. Does nothing if it was removed before.
    pub(crate) fn end(&mut self, network: K, id: HandshakeId) {
        let Some(ids) = self.by_network.get_mut(&network) else { return };
        // Identifiers grow, so the list is sorted.
        let Ok(index) = ids.binary_search(&id) else { return };
        ids.remove(index);
        self.len -= 1;
        if ids.is_empty() {
            self.by_network.remove(&network);
        }
        self.free_if_empty();
    }

    /// Frees the memory that a peak has needed.
    fn free_if_empty(&mut self) {
        if self.len == 0 {
            self.by_network = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn at_the_limit_the_oldest_handshake_of_the_network_with_the_most_ends() {
        let mut handshakes = Handshakes::new(4);
        let ids = ['a', 'b', 'b', 'a'].map(|network| handshakes.begin(network));
        assert_eq!(ids.map(|(_, ended)| ended), [None; 4]);
        // Both have two: the newcomer's own network pays.
        assert_eq!(handshakes.begin('b'), (4, Some(1)));
        assert_eq!(handshakes.begin('c'), (5, Some(0)));
        assert_eq!(handshakes.begin('c'), (6, Some(2)));
        assert_eq!(handshakes.len(), 4);
        handshakes.end('c', 5);
        handshakes.end('c', 5);
        assert_eq!(handshakes.begin('d'), (7, None));
    }

    /// Otherwise handshakes that attackers in many networks have stalled would stay, and new ones would end in their
    /// place.
    #[test]
    fn of_networks_with_as_many_handshakes_the_one_with_the_oldest_loses_it() {
        let mut handshakes = Handshakes::new(100);
        for network in 0..1000_u64 {
            assert_eq!(handshakes.begin(network), (network, network.checked_sub(100)));
        }
    }

    #[test]
    fn a_limit_of_one_lets_the_newest_handshake_run() {
        let mut handshakes = Handshakes::new(1);
        assert_eq!(handshakes.begin('a'), (0, None));
        assert_eq!(handshakes.begin('b'), (1, Some(0)));
        handshakes.end('b', 1);
        assert!(handshakes.len() == 0 && handshakes.by_network.is_empty());
    }

    #[test]
    fn all_handshakes_of_a_network_end_and_no_other() {
        let mut handshakes = Handshakes::new(10);
        for network in ['a', 'b', 'a'] {
            handshakes.begin(network);
        }
        assert_eq!((handshakes.end_all('a'), handshakes.end_all('c')), ([0, 2].into(), [].into()));
        handshakes.end('a', 0);
        assert_eq!((handshakes.len(), handshakes.end_all('b')), (1, [1].into()));
        assert_eq!(handshakes.len(), 0);
    }

    proptest! {
        /// A network that runs few handshakes keeps them, whatever another network begins.
        #[test]
        fn a_flood_ends_only_handshakes_of_its_own_network(
            max in 2..50_usize,
            others in 1..10_usize,
            flood in 1..300_usize,
        ) {
            prop_assume!(2 * others <= max);
            let mut handshakes = Handshakes::new(max);
            let kept: Vec<_> = (0..others).map(|_| handshakes.begin("other").0).collect();
            for _ in 0..flood {
                let (_, ended) = handshakes.begin("flood");
                prop_assert!(ended.is_none_or(|id| !kept.contains(&id)));
                prop_assert!(handshakes.len() <= max);
            }
            for id in kept {
                handshakes.end("other", id);
            }
            prop_assert_eq!(handshakes.len(), flood.min(max - others));
        }
    }
}
