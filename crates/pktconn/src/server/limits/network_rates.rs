//! How fast each client network opens connections, and which connections to refuse for it. No I/O and no clock.
//!
//! Each network has two buckets of the same rate. The first one admits connections. The second one admits refusals:
//! a network that empties both goes on at more than twice its rate, and is refused altogether for the cool-down.
//! An IPv6 connection counts for its `/64`, `/56` and `/48`. Connections that a narrow network refuses do not count for
//! a wider one, so one `/64` cannot use up what its neighbours share.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::conn_rate::ConnRate;
use super::network::{Network, Prefix};
use super::token_bucket::{BucketRate, TokenBucket};

/// The largest number of networks with their own state. 50,000 take 10 MiB, and 14 MiB while the hash table grows. From
/// 57,344 on it would be twice as large.
const MAX_NETWORKS: usize = 50_000;

/// How many networks a connection forgets at most: more than the three that it may add, so that the table shrinks, and
/// few, so that no connection has to wait for it. They cost about as much as the accept.
const FORGOTTEN_AT_ONCE: usize = 64;

/// The rates of all client networks.
///
/// A network whose buckets are full again is forgotten. If the table is full, the network that would be forgotten next
/// makes room for a new one. So a new network is never refused because of others. To be forgotten, an attacker
/// needs more than `MAX_NETWORKS` other networks that have used up as much as the first one.
pub(crate) struct NetworkRates {
    rate: ConnRate,
    cool_down_ns: u64,
    max_networks: usize,
    /// The time 0 of all times in nanoseconds.
    started: Instant,
    networks: HashMap<Prefix, NetworkRate>,
    /// The same networks by the time to forget them.
    by_forget_time: BTreeSet<(u64, Prefix)>,
}

struct NetworkRate {
    admitted: TokenBucket,
    refused: TokenBucket,
    /// The end of the cool-down. In the past without one.
    refused_until_ns: u64,
    forget_at_ns: u64,
}

impl NetworkRates {
    pub(crate) fn new(rate: ConnRate, now: Instant) -> Self {
        Self {
            rate,
            cool_down_ns: nanos(rate.cool_down),
            max_networks: MAX_NETWORKS,
            started: now,
            networks: HashMap::new(),
            by_forget_time: BTreeSet::new(),
        }
    }

    /// Counts a new connection of `network`. Returns whether to admit it.
    pub(crate) fn admit(&mut self, network: Network, now: Instant) -> bool {
        let now_ns = nanos(now.saturating_duration_since(self.started));
        self.forget_idle(now_ns);
        let mut prefixes = network.prefixes();
        // First, and without a change: most connections of a flood end here, and add no network to the table.
        if prefixes.clone().any(|(prefix, _)| self.is_cooling_down(prefix, now_ns)) {
            return false;
        }
        prefixes.all(|(prefix, multiple)| self.admit_prefix(prefix, multiple, now_ns))
    }

    fn is_cooling_down(&self, prefix: Prefix, now_ns: u64) -> bool {
        self.networks.get(&prefix).is_some_and(|network| now_ns < network.refused_until_ns)
    }

    fn admit_prefix(&mut self, prefix: Prefix, multiple: u32, now_ns: u64) -> bool {
        let ConnRate { per_second, burst, .. } = self.rate;
        let rate = BucketRate::new(per_second, burst, multiple);
        if !self.networks.contains_key(&prefix) && self.networks.len() >= self.max_networks {
            self.forget_first();
        }
        let network = self.networks.entry(prefix).or_insert_with(|| {
            let full = TokenBucket::full(rate, now_ns);
            NetworkRate { admitted: full, refused: full, refused_until_ns: 0, forget_at_ns: 0 }
        });
        let is_admitted = network.admitted.take(rate, now_ns);
        if !is_admitted && !network.refused.take(rate, now_ns) {
            network.refused_until_ns = now_ns.saturating_add(self.cool_down_ns);
            // After the cool-down the network starts again.
            network.refused = TokenBucket::full(rate, now_ns);
        }
        self.by_forget_time.remove(&(network.forget_at_ns, prefix));
        let [admitted, refused] = [network.admitted, network.refused].map(|bucket| bucket.full_at_ns(rate));
        network.forget_at_ns = admitted.max(refused).max(network.refused_until_ns);
        self.by_forget_time.insert((network.forget_at_ns, prefix));
        is_admitted
    }

    /// Forgets some of the networks whose buckets are full again.
    fn forget_idle(&mut self, now_ns: u64) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            if self.by_forget_time.first().is_none_or(|&(at_ns, _)| at_ns > now_ns) {
                break;
            }
            self.forget_first();
        }
        if self.networks.is_empty() {
            // Frees the memory that a peak has needed.
            self.networks = HashMap::new();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, prefix)) = self.by_forget_time.pop_first() {
            self.networks.remove(&prefix);
        }
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rates(per_second: u32, burst: u32, cool_down: Duration) -> NetworkRates {
        NetworkRates::new(ConnRate { per_second, burst, cool_down }, Instant::now())
    }

    fn v4(number: u32) -> Network {
        Network::of(std::net::Ipv4Addr::from(number).into())
    }

    fn v6(bits: u64) -> Network {
        Network::V6(bits.to_be_bytes())
    }

    impl NetworkRates {
        /// How many of `count` connections are admitted at a time after the start.
        fn admitted(&mut self, network: Network, count: usize, after: Duration) -> usize {
            let now = self.started + after;
            (0..count).filter(|_| self.admit(network, now)).count()
        }
    }

    #[test]
    fn a_network_that_goes_on_above_its_rate_is_refused_for_the_cool_down_and_then_starts_again() {
        let mut rates = rates(10, 20, 30 * SECOND);
        assert_eq!(rates.admitted(v4(1), 20, Duration::ZERO), 20, "the burst");
        assert_eq!(rates.admitted(v4(1), 20, Duration::ZERO), 0, "as many refusals, without a cool-down");
        assert_eq!(rates.admitted(v4(1), 20, SECOND), 10, "the rate, and 10 refusals");
        assert_eq!(rates.admitted(v4(1), 11, SECOND), 0, "one refusal more than the second bucket holds");
        assert_eq!(rates.admitted(v4(1), 1000, 31 * SECOND - Duration::from_nanos(1)), 0, "the cool-down");
        assert_eq!(rates.admitted(v4(2), 20, 31 * SECOND), 20, "another network is not affected");
        assert_eq!(rates.admitted(v4(1), 40, 31 * SECOND), 20, "it starts again");
    }

    #[test]
    fn a_network_a_little_above_its_rate_gets_its_rate() {
        let mut rates = rates(10, 10, 1000 * SECOND);
        // 19 per second for 100 s.
        let admitted: usize = (0..1900).map(|number| rates.admitted(v4(1), 1, SECOND * number / 19)).sum();
        assert_eq!(admitted, 10 + 10 * 100 - 1);
    }

    #[test]
    fn without_a_cool_down_a_flood_gets_the_rate() {
        let mut rates = rates(10, 10, Duration::ZERO);
        let admitted: Vec<_> = (0..5).map(|second| rates.admitted(v4(1), 1000, SECOND * second)).collect();
        assert_eq!(admitted, [10; 5]);
    }

    #[test]
    fn networks_of_one_48_share_16_rates_and_one_of_them_cannot_use_them_up() {
        let mut rates = rates(1, 10, 1000 * SECOND);
        let own = 0x2001_0db8_0001_0000;
        // A flood from one /64 of the same /56: 10 are admitted, and the others do not count for the /56.
        assert_eq!(rates.admitted(v6(own), 100_000, Duration::ZERO), 10);
        let mut admitted_of = |networks: std::ops::Range<u64>, step: u64| {
            let each = networks.map(|number| rates.admitted(v6(own + number * step), 10, Duration::ZERO));
            each.sum::<usize>()
        };
        assert_eq!(admitted_of(1..256, 1), 30, "together the networks of the /56 get 4 rates");
        assert_eq!(admitted_of(1..256, 256), 120, "those of the /48 get 16");
        assert_eq!(admitted_of(1..2, 65_536), 10, "another /48");
    }

    /// The owner of one IPv6 `/48` has 65,536 networks.
    #[test]
    fn a_48_in_its_cool_down_adds_no_network_to_the_table() {
        let mut rates = rates(1, 2, 1000 * SECOND);
        let admitted: usize = (0..65_536).map(|bits| rates.admitted(v6(bits), 1, Duration::ZERO)).sum();
        assert_eq!(admitted, 32);
        assert!(rates.networks.len() < 200, "{} networks", rates.networks.len());
    }

    #[test]
    fn a_full_table_forgets_no_flood_and_refuses_no_new_network() {
        let mut rates = rates(1, 10, 1000 * SECOND);
        rates.max_networks = 100;
        assert_eq!(rates.admitted(v4(0), 1000, Duration::ZERO), 10);
        for number in 1..10_000 {
            assert_eq!(rates.admitted(v4(number), 9, Duration::ZERO), 9, "a new network");
        }
        assert_eq!(rates.admitted(v4(0), 1, Duration::ZERO), 0, "the flood is still refused");
        assert_eq!((rates.networks.len(), rates.by_forget_time.len()), (100, 100));
    }

    #[test]
    fn networks_that_are_quiet_are_forgotten_with_their_memory() {
        let mut rates = rates(10, 20, SECOND);
        for number in 0..10_000 {
            rates.admitted(v4(number), 1, Duration::ZERO);
        }
        assert_eq!(rates.networks.len(), 10_000);
        for number in 0..3000 {
            rates.admitted(v4(number), 1, 10 * SECOND);
        }
        assert!(rates.networks.len() <= 3000, "{} networks", rates.networks.len());
        for _ in 0..3000 {
            rates.admitted(v4(0), 1, 20 * SECOND);
        }
        assert_eq!((rates.networks.len(), rates.by_forget_time.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn no_network_gets_more_than_its_burst_and_its_rate_and_none_within_them_is_refused(
            steps in prop::collection::vec((0_u64..3, 0_u64..3_000_000_000, 0_usize..30), 1..60),
            per_second in 1_u32..10,
            burst in 1_u32..10,
            cool_down_s in 0_u64..3,
        ) {
            let mut rates = rates(per_second, burst, SECOND * cool_down_s as u32);
            let mut now = Duration::ZERO;
            // A model per network: each may be in its own /48.
            let mut times: [Vec<Duration>; 3] = Default::default();
            // A network that keeps to its rate, in the /48 of network 2.
            let mut patient = TokenBucket::full(BucketRate::new(per_second, burst, 1), 0);
            for (number, gap_ns, count) in steps {
                now += Duration::from_nanos(gap_ns);
                let network = v6(number << 16);
                for _ in 0..count {
                    if rates.admit(network, rates.started + now) {
                        times[number as usize].push(now);
                    }
                }
                if patient.take(BucketRate::new(per_second, burst, 1), nanos(now)) {
                    prop_assert!(rates.admit(v6(2 << 16 | 7), rates.started + now), "it is within its rate");
                }
            }
            for times in times {
                for (first, &from) in times.iter().enumerate() {
                    for (last, &to) in times.iter().enumerate().skip(first) {
                        let allowed = f64::from(burst) + f64::from(per_second) * (to - from).as_secs_f64();
                        prop_assert!((last - first + 1) as f64 <= allowed + 1e-6);
                    }
                }
            }
        }

        #[test]
        fn both_views_of_the_table_match(
            steps in prop::collection::vec((0_u64..1_000_000, 0_u64..100_000_000), 1..300),
        ) {
            let mut rates = rates(5, 3, SECOND);
            rates.max_networks = 20;
            let mut now = Duration::ZERO;
            for (bits, gap_ns) in steps {
                now += Duration::from_nanos(gap_ns);
                rates.admit(v6(bits), rates.started + now);
                prop_assert!(rates.networks.len() <= 20);
                prop_assert_eq!(rates.networks.len(), rates.by_forget_time.len());
                for (prefix, network) in &rates.networks {
                    prop_assert!(rates.by_forget_time.contains(&(network.forget_at_ns, *prefix)));
                }
            }
        }
    }
}
