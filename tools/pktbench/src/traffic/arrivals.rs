//! The times at which the packets of a connection are due in an open loop. They do not depend on the server.
//!
//! ```text
//!   position, in packets   0.3   1.3   2.3   3.3  ...     constant: gaps of 1, each connection at its own offset
//!                          0.2 0.9     2.8  3.1   ...     Poisson: exponential gaps with mean 1
//!   due time, with a ramp  |.   .  . . ...........        the rate grows to its full value, and stays there
//! ```
//!
//! Each connection has a share of the rate and its own schedule. Packets that are due but not sent need no memory. The
//! arrivals of all connections together are a Poisson process, or evenly spaced if they are constant.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::traffic::random::{GOLDEN, mix};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arrival {
    /// Equal gaps between packets.
    Constant,
    /// Random, independent gaps, like those of many users (a Poisson process).
    Poisson,
}

#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    arrival: Arrival,
    /// Packets per ns on this connection.
    rate: f64,
    ramp_ns: f64,
    /// Random numbers: the seed, and how many were used.
    key: u64,
    drawn: u64,
    /// The position of the next packet, in packets of the full rate.
    position: f64,
    /// The due time of the next packet, in ns from the start.
    due_ns: u64,
}

impl Arrivals {
    /// The arrivals of connection `conn` of `conns`. All connections together have `rate` packets per second after the
    /// ramp.
    pub(crate) fn new(
        arrival: Arrival,
        rate: f64,
        ramp_ns: u64,
        seed: u64,
        conn: usize,
        conns: usize,
    ) -> Self {
        let mut arrivals = Self {
            arrival,
            rate: rate / conns as f64 / 1e9,
            ramp_ns: ramp_ns as f64,
            // `!seed`: the gaps must not use the random numbers of the sizes.
            key: mix(mix(!seed).wrapping_add(conn as u64)),
            drawn: 0,
            position: conn as f64 / conns as f64,
            due_ns: 0,
        };
        if arrival == Arrival::Poisson {
            arrivals.position = arrivals.draw_gap();
        }
        arrivals.due_ns = arrivals.ns_at(arrivals.position);
        arrivals
    }

    /// The due time of the next packet, in ns from the start.
    pub(crate) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Moves on to the following packet.
    pub(crate) fn advance(&mut self) {
        self.position += match self.arrival {
            Arrival::Constant => 1.0,
            Arrival::Poisson => self.draw_gap(),
        };
        self.due_ns = self.ns_at(self.position);
    }

    /// How many packets are due from the next one until `end_ns`. For Poisson arrivals it is the expected number.
    /// Computed without a loop, because there may be very many.
    pub(crate) fn count_until(&self, end_ns: u64) -> u64 {
        if end_ns <= self.due_ns {
            return 0;
        }
        let packets = self.position_at(end_ns) - self.position;
        match self.arrival {
            // The next packet itself is due before `end_ns`, even if rounding says otherwise.
            Arrival::Constant => packets.ceil().max(1.0) as u64,
            Arrival::Poisson => packets.round() as u64 + 1,
        }
    }

    /// A random number with exponential distribution and mean 1.
    fn draw_gap(&mut self) -> f64 {
        self.drawn += 1;
        let draw = mix(self.key.wrapping_add(self.drawn.wrapping_mul(GOLDEN)));
        // In (0, 1]: 0 has no logarithm.
        let uniform = ((draw >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln()
    }

    /// The inverse of [`ns_at`](Self::ns_at).
    fn position_at(&self, ns: u64) -> f64 {
        let (ns, in_ramp) = (ns as f64, self.rate * self.ramp_ns / 2.0);
        if ns < self.ramp_ns {
            self.rate * ns * ns / self.ramp_ns / 2.0
        } else {
            in_ramp + (ns - self.ramp_ns) * self.rate
        }
    }

    /// The time at which `position` is reached. In the ramp the position grows with the square of the time.
    fn ns_at(&self, position: f64) -> u64 {
        let in_ramp = self.rate * self.ramp_ns / 2.0;
        let ns = if position < in_ramp {
            (2.0 * position * self.ramp_ns / self.rate).sqrt()
        } else {
            self.ramp_ns + (position - in_ramp) / self.rate
        };
        ns as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn due(arrivals: &mut Arrivals, count: usize) -> Vec<u64> {
        let next = || {
            let due_ns = arrivals.due_ns();
            arrivals.advance();
            due_ns
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn constant_arrivals_of_all_connections_are_evenly_spaced() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|conn| due(&mut Arrivals::new(Arrival::Constant, 1000.0, 0, 1, conn, 4), 250))
            .collect();
        all.sort_unstable();
        let expected = (0..1000).map(|number| number * SECOND_NS / 1000);
        assert!(all.iter().zip(expected).all(|(due_ns, expected)| due_ns.abs_diff(expected) <= 1), "{all:?}");
    }

    #[test]
    fn a_constant_schedule_does_not_drift_in_a_day() {
        let mut arrivals = Arrivals::new(Arrival::Constant, 300.0, 0, 1, 0, 1);
        let (day_ns, packets) = (24 * 60 * 60 * SECOND_NS, 24 * 60 * 60 * 300);
        assert_eq!(arrivals.count_until(day_ns), packets);
        (0..packets).for_each(|_| arrivals.advance());
        assert!(arrivals.due_ns().abs_diff(day_ns) < 1000);
    }

    #[test]
    fn a_ramp_grows_to_the_rate_and_sends_half_of_it_on_the_way() {
        let arrivals = Arrivals::new(Arrival::Constant, 1000.0, 2 * SECOND_NS, 1, 0, 1);
        let counts = [1, 2, 3].map(|seconds| arrivals.count_until(seconds * SECOND_NS));
        assert_eq!(counts, [250, 1000, 2000]);
    }

    #[test]
    fn the_count_matches_the_number_of_advances() {
        for (arrival, ramp_ns) in
            [(Arrival::Constant, 0), (Arrival::Constant, SECOND_NS), (Arrival::Poisson, SECOND_NS)]
        {
            let mut arrivals = Arrivals::new(arrival, 900.0, ramp_ns, 1, 1, 3);
            for end_ns in [0, 1, 7_000_000, 500_000_000, 3_000_000_000, 30_000_000_000] {
                let counted = arrivals.count_until(end_ns);
                let mut exact = 0;
                while arrivals.due_ns() < end_ns {
                    arrivals.advance();
                    exact += 1;
                }
                // Five standard deviations of a Poisson count, and 1 for rounding.
                let spread =
                    if arrival == Arrival::Poisson { 5.0 * (exact as f64).sqrt() + 1.0 } else { 0.0 };
                assert!(
                    counted.abs_diff(exact) as f64 <= spread,
                    "{arrival:?}: counted {counted}, found {exact}"
                );
                assert_eq!(arrivals.count_until(end_ns), 0);
            }
        }
    }

    /// The Kolmogorov-Smirnov distance of `gaps` from the exponential distribution with this mean.
    fn distance_from_exponential(gaps: &mut [f64], mean: f64) -> f64 {
        gaps.sort_by(f64::total_cmp);
        let count = gaps.len() as f64;
        let distances = gaps.iter().enumerate().map(|(index, gap)| {
            let expected = 1.0 - (-gap / mean).exp();
            f64::max(expected - index as f64 / count, (index + 1) as f64 / count - expected)
        });
        distances.fold(0.0, f64::max)
    }

    #[test]
    fn poisson_gaps_are_exponential_on_one_connection_and_on_all_together() {
        let count = 20_000;
        let mut one = due(&mut Arrivals::new(Arrival::Poisson, 1000.0, 0, 1, 0, 1), count);
        let mut all: Vec<u64> = (0..10)
            .flat_map(|conn| due(&mut Arrivals::new(Arrival::Poisson, 1000.0, 0, 1, conn, 10), count / 5))
            .collect();
        all.sort_unstable();
        // The connections end at different times.
        all.truncate(count);
        for due in [&mut one, &mut all] {
            let mut gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let distance = distance_from_exponential(&mut gaps, 1e6);
            // 1 of 1,000 samples of this size exceeds this distance.
            assert!(distance < 1.95 / (count as f64).sqrt(), "{distance}");
        }
    }

    #[test]
    fn the_schedule_depends_on_the_seed_and_the_connection() {
        let first = |seed, conn| due(&mut Arrivals::new(Arrival::Poisson, 1000.0, 0, seed, conn, 2), 5);
        assert_eq!(first(1, 0), first(1, 0));
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(1, 0), first(1, 1));
    }
}
