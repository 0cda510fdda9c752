//! How many connections each client network has open. An IPv6 connection counts for its `/64`, `/56` and `/48`. No I/O.

use std::collections::HashMap;

use super::network::{Network, Prefix};

/// The open connections by network. A network without connections takes no memory.
#[derive(Default)]
pub(crate) struct NetworkCounts {
    /// No count is 0.
    counts: HashMap<Prefix, usize>,
}

impl NetworkCounts {
    /// Counts one more connection of `network`, unless it or a wider network that contains it has reached its limit.
    /// `max` is the limit of one network.
    pub(crate) fn try_add(&mut self, network: Network, max: usize) -> bool {
        let has_room = |(prefix, multiple)| {
            let count = self.counts.get(&prefix).copied().unwrap_or(0);
            count < max.saturating_mul(multiple as usize)
        };
        let is_counted = network.prefixes().all(has_room);
        if is_counted {
            network.prefixes().for_each(|(prefix, _)| *self.counts.entry(prefix).or_default() += 1);
        }
        is_counted
    }

    /// Removes a connection that `try_add` has counted.
    pub(crate) fn remove(&mut self, network: Network) {
        for (prefix, _) in network.prefixes() {
            let Some(count) = self.counts.get_mut(&prefix) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&prefix);
            }
        }
        if self.counts.is_empty() {
            // Frees the memory that a peak has needed.
            self.counts = HashMap::new();
        }
    }
}

#[cfg(test)]
impl NetworkCounts {
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v6(bits: u64) -> Network {
        Network::V6(bits.to_be_bytes())
    }

    #[test]
    fn the_owner_of_a_48_gets_16_limits_and_the_owner_of_a_56_gets_4() {
        let mut counts = NetworkCounts::default();
        let own = 0x2001_0db8_0001_0000;
        let mut admitted = |first: u64, networks: u64| {
            let each = (first..first + networks)
                .map(|bits| (0..10).filter(|_| counts.try_add(v6(bits), 10)).count());
            each.sum::<usize>()
        };
        assert_eq!(admitted(own, 1), 10, "a /64");
        assert_eq!(admitted(own, 256), 30, "the rest of its /56");
        assert_eq!(admitted(own, 65_536), 120, "the rest of its /48");
        assert_eq!(admitted(own + 65_536, 1), 10, "another /48");
        let left: Vec<_> = counts
            .counts
            .iter()
            .filter_map(|(prefix, &count)| match *prefix {
                Prefix::V6 { bits, len: 64 } => Some((bits, count)),
                _ => None,
            })
            .collect();
        left.into_iter().for_each(|(bits, count)| (0..count).for_each(|_| counts.remove(v6(bits))));
        assert_eq!((counts.len(), counts.counts.capacity()), (0, 0));
    }

    proptest! {
        /// Against a plain list of the open connections.
        #[test]
        fn counts_match_the_open_connections_and_return_to_zero(
            steps in prop::collection::vec((0_u64..4, 0_u64..3, 0_u64..3, any::<bool>()), 0..200),
            max in 1_usize..4,
        ) {
            let mut counts = NetworkCounts::default();
            let mut open: Vec<u64> = Vec::new();
            for (site, household, subnet, ends) in steps {
                let bits = site << 16 | household << 8 | subnet;
                if ends {
                    if let Some(at) = open.iter().position(|&other| other == bits) {
                        counts.remove(v6(open.swap_remove(at)));
                    }
                    continue;
                }
                let within = |shift: u32| open.iter().filter(|&other| other >> shift == bits >> shift).count();
                let expected = within(0) < max && within(8) < 4 * max && within(16) < 16 * max;
                prop_assert_eq!(counts.try_add(v6(bits), max), expected);
                if expected {
                    open.push(bits);
                }
            }
            open.into_iter().for_each(|bits| counts.remove(v6(bits)));
            prop_assert_eq!(counts.len(), 0);
        }
    }
}
