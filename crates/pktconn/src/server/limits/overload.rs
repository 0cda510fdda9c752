//! Which connections to close when the memory budget is exceeded: those of the network that holds the most. No I/O.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What one connection holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    /// Identifies the network of the client.
    pub(crate) network: usize,
    pub(crate) bytes: usize,
    /// Whether the connection may be closed. Its bytes count for its network in any case.
    pub(crate) can_close: bool,
}

/// The indices of the connections to close, so that the others hold at most `target` bytes. Each time, the network that
/// holds the most loses its largest connection that may be closed. So a network loses nothing while another one holds
/// more, unless that one has none to close.
pub(crate) fn choose(holdings: &[Holding], target: usize) -> Vec<usize> {
    let mut total: usize = holdings.iter().map(|holding| holding.bytes).sum();
    let mut networks = HashMap::<usize, (usize, Vec<usize>)>::new();
    for (index, holding) in holdings.iter().enumerate() {
        let (sum, closable) = networks.entry(holding.network).or_default();
        *sum += holding.bytes;
        if holding.can_close && holding.bytes > 0 {
            closable.push(index);
        }
    }
    let bytes = |index: &usize| holdings[*index].bytes;
    let mut heaviest_first: BinaryHeap<_> = networks
        .into_values()
        .map(|(sum, mut closable)| {
            // The largest one last, where `pop` finds it.
            closable.sort_unstable_by_key(|index| (bytes(index), Reverse(*index)));
            (sum, closable)
        })
        .collect();
    let mut chosen = Vec::new();
    while total > target {
        let Some((sum, mut closable)) = heaviest_first.pop() else { break };
        let Some(index) = closable.pop() else { continue };
        chosen.push(index);
        total -= bytes(&index);
        heaviest_first.push((sum - bytes(&index), closable));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding((network, bytes): (usize, usize)) -> Holding {
        Holding { network, bytes, can_close: true }
    }

    #[test]
    fn the_heaviest_network_loses_its_largest_connection_first() {
        // Network 1 holds 9 in small parts, network 2 holds 8 in one connection.
        let holdings = [(1, 3), (1, 4), (1, 2), (2, 8), (3, 1)].map(holding);
        assert_eq!(choose(&holdings, 18), []);
        assert_eq!(choose(&holdings, 17), [1]);
        // Network 2 is the heaviest then.
        assert_eq!(choose(&holdings, 13), [1, 3]);
        assert_eq!(choose(&holdings, 0), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn connections_that_may_not_be_closed_count_for_their_network() {
        let mut holdings = [(1, 10), (1, 1), (2, 5)].map(holding);
        holdings[0].can_close = false;
        assert_eq!(choose(&holdings, 15), [1]);
        assert_eq!(choose(&holdings, 0), [1, 2]);
    }

    proptest! {
        #[test]
        fn no_network_loses_a_connection_while_another_one_holds_more(
            holdings in prop::collection::vec((0..6_usize, 0..1000_usize), 0..40),
            target in 0..20_000_usize,
        ) {
            let holdings: Vec<_> = holdings.into_iter().map(holding).collect();
            let held = |network: usize, without: &[usize]| -> usize {
                let left = holdings.iter().enumerate().filter(|(index, _)| !without.contains(index));
                left.filter(|(_, holding)| holding.network == network).map(|(_, holding)| holding.bytes).sum()
            };
            let chosen = choose(&holdings, target);
            for (count, index) in chosen.iter().enumerate() {
                let before = &chosen[..count];
                let total: usize = (0..6).map(|network| held(network, before)).sum();
                prop_assert!(total > target, "closed without need");
                let network = holdings[*index].network;
                prop_assert!((0..6).all(|other| held(other, before) <= held(network, before)));
            }
            prop_assert!((0..6).map(|network| held(network, &chosen)).sum::<usize>() <= target);
        }
    }
}
