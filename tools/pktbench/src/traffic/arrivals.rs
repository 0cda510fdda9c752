//! The times at which the packets of a connection are due in an open loop. They do not depend on the server.
//!
//! ```text
//!   profile           0  1  2  3  4  5  6  7  8 ...    positions of all connections together
//!   connection 0 of 3 0        3        6              constant: every third position
//!   connection 0 of 3    0.8        4.1    5.0         Poisson: exponential gaps with mean 3
//! ```
//!
//! The [profile] of the rate turns positions into times. Packets that are due but not sent need no memory. The arrivals
//! of all connections together are a Poisson process, or one packet at each position if they are constant.
//!
//! [profile]: crate::traffic::profile

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::traffic::profile::{Profile, Segment};
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
    profile: &'static Profile,
    /// The distance of two packets of this connection: the number of connections.
    gap: f64,
    /// Random numbers: the seed, and how many were used.
    key: u64,
    drawn: u64,
    /// The position of the next packet, and its segment of the profile.
    position: f64,
    segment: &'static Segment,
    /// The due time of the next packet, in ns from the start.
    due_ns: u64,
}

impl Arrivals {
    /// The arrivals of connection `conn` of `conns`.
    pub(crate) fn new(
        arrival: Arrival,
        profile: &'static Profile,
        seed: u64,
        conn: usize,
        conns: usize,
    ) -> Self {
        let start = profile.first_position();
        let mut arrivals = Self {
            arrival,
            profile,
            gap: conns as f64,
            // `!seed`: the gaps must not use the random numbers of the sizes.
            key: mix(mix(!seed).wrapping_add(conn as u64)),
            drawn: 0,
            position: 0.0,
            segment: profile.locate(start).0,
            due_ns: 0,
        };
        arrivals.position = match arrival {
            // The first whole position of this connection.
            Arrival::Constant => start.ceil() + (conn as f64 - start.ceil()).rem_euclid(conns as f64),
            Arrival::Poisson => start + arrivals.gap * arrivals.draw_gap(),
        };
        arrivals.due_ns = arrivals.locate();
        arrivals
    }

    /// The due time of the next packet, in ns from the start.
    pub(crate) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Moves on to the following packet.
    pub(crate) fn advance(&mut self) {
        self.position += match self.arrival {
            Arrival::Constant => self.gap,
            Arrival::Poisson => self.gap * self.draw_gap(),
        };
        self.due_ns = match self.segment.due_ns(self.position) {
            Some(due_ns) => due_ns,
            None => self.locate(),
        };
    }

    /// Finds the segment of the position. Returns the due time.
    #[cold]
    fn locate(&mut self) -> u64 {
        let (segment, due_ns) = self.profile.locate(self.position);
        self.segment = segment;
        due_ns
    }

    /// How many packets are due from the next one until `end_ns`. For Poisson arrivals it is the expected number.
    pub(crate) fn count_until(&self, end_ns: u64) -> u64 {
        if end_ns <= self.due_ns {
            return 0;
        }
        match self.arrival {
            Arrival::Constant => self.profile.count_until(self.position, self.gap, end_ns),
            Arrival::Poisson => {
                let packets = (self.profile.position_at(end_ns) - self.position) / self.gap;
                (packets.round() as u64).saturating_add(1)
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::profile::tests::{piece, profile};
    use crate::traffic::profile::{ENDLESS_NS, Piece, Shape};
    use proptest::prelude::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn endless(rate: f64) -> Piece {
        Piece { shape: Shape::Constant(rate), length_ns: ENDLESS_NS }
    }

    /// The arrivals of a connection at a constant rate.
    fn at_rate(arrival: Arrival, rate: f64, seed: u64, conn: usize, conns: usize) -> Arrivals {
        Arrivals::new(arrival, profile(&[], &[endless(rate)]), seed, conn, conns)
    }

    fn due(arrivals: &mut Arrivals, count: usize) -> Vec<u64> {
        let next = || {
            let due_ns = arrivals.due_ns();
            arrivals.advance();
            due_ns
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// The sum over all connections of the packets that are due in a window.
    fn due_in(profile: &'static Profile, conns: usize, from_ns: u64, to_ns: u64) -> u64 {
        let of = |conn| Arrivals::new(Arrival::Constant, profile, 1, conn, conns);
        (0..conns).map(of).map(|arrivals| arrivals.count_until(to_ns) - arrivals.count_until(from_ns)).sum()
    }

    #[test]
    fn constant_arrivals_of_all_connections_are_evenly_spaced() {
        let mut all: Vec<u64> =
            (0..4).flat_map(|conn| due(&mut at_rate(Arrival::Constant, 1000.0, 1, conn, 4), 250)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq((0..1000).map(|number| number * SECOND_NS / 1000)));
    }

    #[test]
    fn a_constant_schedule_does_not_drift_in_a_day() {
        let mut arrivals = at_rate(Arrival::Constant, 300.0, 1, 0, 1);
        let (day_ns, packets) = (24 * 60 * 60 * SECOND_NS, 24 * 60 * 60 * 300);
        assert_eq!(arrivals.count_until(day_ns), packets);
        (0..packets).for_each(|_| arrivals.advance());
        assert_eq!(arrivals.due_ns(), day_ns);
    }

    #[test]
    fn no_packet_is_due_too_early_because_of_rounding() {
        // 120,000 * 50 µs is a little less than 6 s in the arithmetic of some computations.
        assert_eq!(due_in(profile(&[], &[endless(20_000.0)]), 1, 0, 6 * SECOND_NS), 120_000);
    }

    proptest! {
        #[test]
        fn a_constant_rate_has_rate_times_duration_packets_in_the_window(
            rate in 1..1_000_000_u64,
            decimals in 0..3_u32,
            ms in 1..4_000_000_u64,
            warmup_ms in 0..100_000_u64,
            ramp_ms in 0..100_000_u64,
            conns in 1..300_usize,
        ) {
            let divisor = 10_u64.pow(decimals);
            let per_s = rate as f64 / divisor as f64;
            let before = [
                Piece { shape: Shape::Linear { from: 0.0, to: per_s }, length_ns: ramp_ms * 1_000_000 },
                Piece { shape: Shape::Constant(per_s), length_ns: warmup_ms * 1_000_000 },
            ];
            let from_ns = (ramp_ms + warmup_ms) * 1_000_000;
            let due = due_in(profile(&before, &[endless(per_s)]), conns, from_ns, from_ns + ms * 1_000_000);
            // A packet is due at the start, so a part of a packet counts as one.
            prop_assert_eq!(due, (rate * ms).div_ceil(1000 * divisor));
        }

        #[test]
        fn the_count_is_the_number_of_advances(
            rate in 0.001..1e5_f64,
            low in 0.0..1.0_f64,
            ends_ms in proptest::collection::vec(0..12_000_u64, 1..5),
            conns in 1..50_usize,
            index in 0..50_usize,
        ) {
            let sine = Shape::Sine { low: low * rate, high: rate, period_ns: 777_000_000 };
            let stages = [
                piece(Shape::Linear { from: low * rate, to: rate }, 2.0),
                piece(Shape::Constant(0.0), 1.0),
                piece(Shape::Constant(rate), 1.0 / 3.0),
                piece(sine, 2.0),
                piece(Shape::Linear { from: rate, to: 0.0 }, 2.0),
                piece(Shape::Constant(rate / 7.0), 2.0),
            ];
            let warmup = [piece(Shape::Constant(low * rate), 1.0)];
            let profile = profile(&warmup, &stages);
            let mut arrivals = Arrivals::new(Arrival::Constant, profile, 1, index % conns, conns);
            let mut ends_ms = ends_ms;
            ends_ms.sort_unstable();
            for end_ns in ends_ms.into_iter().map(|ms| ms * 1_000_000) {
                let counted = arrivals.count_until(end_ns);
                let mut exact = 0;
                while arrivals.due_ns() < end_ns {
                    arrivals.advance();
                    exact += 1;
                }
                prop_assert_eq!(counted, exact, "until {} ns", end_ns);
                prop_assert_eq!(arrivals.count_until(end_ns), 0);
            }
        }
    }

    #[test]
    fn all_connections_together_follow_the_course() {
        let sine = Shape::Sine { low: 500.0, high: 1500.0, period_ns: 6 * SECOND_NS };
        let stages = [
            piece(Shape::Linear { from: 0.0, to: 1000.0 }, 5.0),
            piece(Shape::Constant(1000.0), 5.0),
            piece(Shape::Constant(0.0), 3.0),
            piece(Shape::Constant(5000.0), 2.0),
            piece(sine, 12.0),
            piece(Shape::Linear { from: 1000.0, to: 0.0 }, 3.0),
        ];
        let (profile, seconds) = (profile(&[piece(Shape::Constant(0.0), 1.0)], &stages), 31);
        for (arrival, conns) in
            [(Arrival::Constant, 1), (Arrival::Constant, 7), (Arrival::Constant, 1000), (Arrival::Poisson, 7)]
        {
            let mut counts = vec![0_u64; seconds];
            for conn in 0..conns {
                let mut arrivals = Arrivals::new(arrival, profile, 1, conn, conns);
                while arrivals.due_ns() < seconds as u64 * SECOND_NS {
                    counts[(arrivals.due_ns() / SECOND_NS) as usize] += 1;
                    arrivals.advance();
                }
            }
            for (second, count) in counts.into_iter().enumerate() {
                let at = |second: usize| profile.position_at(second as u64 * SECOND_NS);
                let asked = at(second + 1) - at(second);
                // Five standard deviations of a Poisson count.
                let spread = if arrival == Arrival::Poisson { 5.0 * asked.sqrt() } else { 1.0 };
                let difference = (count as f64 - asked).abs();
                assert!(
                    difference <= spread,
                    "second {second}: {count} instead of {asked}, {conns} connections"
                );
            }
        }
    }

    #[test]
    fn the_first_packet_of_a_spike_is_due_at_its_start() {
        let stages = [piece(Shape::Constant(0.0), 1.234_567_891), piece(Shape::Constant(50_000.0), 1.0)];
        let profile = profile(&[], &stages);
        let firsts: Vec<_> =
            (0..3).map(|conn| Arrivals::new(Arrival::Constant, profile, 1, conn, 3).due_ns()).collect();
        assert_eq!(firsts, [1_234_567_891, 1_234_587_891, 1_234_607_891]);
    }

    #[test]
    fn a_count_without_an_end_is_computed_at_once() {
        let arrivals = at_rate(Arrival::Constant, 1e9, 1, 0, 1);
        assert!(arrivals.count_until(u64::MAX) > u64::MAX / 2);
        let poisson = at_rate(Arrival::Poisson, 1e9, 1, 0, 1);
        assert!(poisson.count_until(u64::MAX) > u64::MAX / 2);
        let ended =
            Arrivals::new(Arrival::Constant, profile(&[], &[piece(Shape::Constant(9.0), 1.0)]), 1, 0, 1);
        assert_eq!(ended.count_until(u64::MAX), 9);
    }

    #[test]
    fn poisson_counts_are_expected_numbers() {
        let ramp = [piece(Shape::Linear { from: 0.0, to: 900.0 }, 1.0)];
        let mut arrivals = Arrivals::new(Arrival::Poisson, profile(&ramp, &[endless(900.0)]), 1, 1, 3);
        for end_ns in [0, 1, 7_000_000, 500_000_000, 3_000_000_000, 30_000_000_000] {
            let counted = arrivals.count_until(end_ns);
            let mut exact = 0;
            while arrivals.due_ns() < end_ns {
                arrivals.advance();
                exact += 1;
            }
            // Five standard deviations, and 1 for rounding.
            let spread = 5.0 * f64::from(exact).sqrt() + 1.0;
            assert!((counted as f64 - f64::from(exact)).abs() <= spread, "counted {counted}, found {exact}");
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
        let mut one = due(&mut at_rate(Arrival::Poisson, 1000.0, 1, 0, 1), count);
        let mut all: Vec<u64> = (0..10)
            .flat_map(|conn| due(&mut at_rate(Arrival::Poisson, 1000.0, 1, conn, 10), count / 5))
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
        let first = |seed, conn| due(&mut at_rate(Arrival::Poisson, 1000.0, seed, conn, 2), 5);
        assert_eq!(first(1, 0), first(1, 0));
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(1, 0), first(1, 1));
    }
}
