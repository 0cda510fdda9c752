//! The memory of each client network that has connections, for the memory budget.

use std::collections::HashMap;
use std::sync::Arc;

use super::network::Network;
use crate::connection::memory::{Budget, NetworkMemory};

/// The networks, with the number of their connections. No number is 0.
#[derive(Debug, Default)]
pub(crate) struct MemoryByNetwork(HashMap<Network, (usize, Arc<NetworkMemory>)>);

impl MemoryByNetwork {
    /// Adds a connection of `network`, and returns the memory that it shares.
    pub(crate) fn join(&mut self, network: Network) -> Arc<NetworkMemory> {
        let (conns, memory) = self.0.entry(network).or_default();
        *conns += 1;
        Arc::clone(memory)
    }

    /// Removes a connection of `network`.
    pub(crate) fn leave(&mut self, network: Network) {
        let Some((conns, _)) = self.0.get_mut(&network) else { return };
        *conns -= 1;
        if *conns == 0 {
            self.0.remove(&network);
            if self.0.is_empty() {
                // Frees the memory that a peak has needed.
                self.0 = HashMap::new();
            }
        }
    }

    pub(crate) fn get(&self, network: Network) -> Option<&NetworkMemory> {
        self.0.get(&network).map(|(_, memory)| &**memory)
    }

    /// The networks that hold more than their share of `budget`, while memory is short.
    pub(crate) fn too_heavy(&self, budget: &Budget) -> Vec<Network> {
        let is_too_heavy = |(network, (_, memory)): (&Network, &(usize, Arc<NetworkMemory>))| {
            budget.is_too_heavy(memory).then_some(*network)
        };
        self.0.iter().filter_map(is_too_heavy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_network_share_its_memory_and_the_last_one_removes_it() {
        let [first, second] = ["192.0.2.1", "192.0.2.2"].map(|ip| Network::of(ip.parse().unwrap()));
        let mut networks = MemoryByNetwork::default();
        let memory = networks.join(first);
        assert!(Arc::ptr_eq(&memory, &networks.join(first)));
        assert!(!Arc::ptr_eq(&memory, &networks.join(second)));
        networks.leave(first);
        assert!(networks.get(first).is_some());
        networks.leave(first);
        networks.leave(second);
        assert!(networks.get(first).is_none() && networks.0.is_empty());
    }
}
