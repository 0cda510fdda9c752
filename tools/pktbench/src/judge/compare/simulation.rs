//! Tests the comparison on simulated runs, whose true difference is known and whose noise is like that of real runs.

use std::f64::consts::TAU;
use std::path::Path;

use crate::judge::compare::{Comparison, Limits};
use crate::result::document::tests::{document, interval};
use crate::result::document::{Document, Interval};
use crate::result::verdict::Verdict;
use crate::traffic::random::{GOLDEN, mix};

/// The noise of the metrics of a run.
#[derive(Clone, Copy)]
struct Noise {
    intervals: usize,
    /// Standard deviations of the logarithms.
    rate: f64,
    p99: f64,
    /// The correlation of an interval with the one before.
    memory: f64,
    /// The standard deviation from run to run, for the rate. The p99 has twice as much.
    between: f64,
}

const NOISE: Noise = Noise { intervals: 30, rate: 0.04, p99: 0.10, memory: 0.0, between: 0.0 };

/// Pairs of runs in each simulation.
const PAIRS: u64 = 200;

struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        ((mix(self.0) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A normally distributed number, by the Box-Muller method.
    fn draw(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }

    /// An autoregressive series around a common shift. `noise.memory` is the correlation of neighbors.
    fn series(&mut self, noise: Noise, deviation: f64, between: f64) -> Vec<f64> {
        let shift = between * self.draw();
        let mut last = self.draw();
        let mut next = || {
            let value = shift + deviation * last;
            last = noise.memory * last + (1.0 - noise.memory.powi(2)).sqrt() * self.draw();
            value
        };
        (0..noise.intervals).map(|_| next()).collect()
    }
}

/// A run of a server that is slower by the factor `slowdown`.
fn run(noise: Noise, slowdown: f64, seed: u64) -> Document {
    let mut normal = Normal(mix(seed));
    let rate = normal.series(noise, noise.rate, noise.between);
    let p50 = normal.series(noise, noise.rate, noise.between);
    let p99 = normal.series(noise, noise.p99, 2.0 * noise.between);
    let p999 = normal.series(noise, 2.0 * noise.p99, 4.0 * noise.between);
    let of = |index: usize| {
        let ns = |typical: f64, log: f64| Some((typical * slowdown * log.exp()) as u64);
        let received = (100_000.0 / slowdown * rate[index].exp()) as u64;
        Interval {
            p50_ns: ns(400e3, p50[index]),
            p99_ns: ns(900e3, p99[index]),
            p999_ns: ns(2e6, p999[index]),
            ..interval((index + 1) as f64, received)
        }
    };
    Document { intervals: (0..noise.intervals).map(of).collect(), ..document() }
}

/// The percentage of pairs for which `is_so` is true.
fn share(noise: Noise, slowdown: f64, is_so: impl Fn(&Comparison) -> bool) -> f64 {
    let compared = |pair: u64| {
        let (base, new) = (run(noise, 1.0, 2 * pair), run(noise, slowdown, 2 * pair + 1));
        is_so(&Comparison::of(&base, Path::new("base.json"), &new, &Limits::default()))
    };
    (0..PAIRS).filter(|pair| compared(*pair)).count() as f64 * 100.0 / PAIRS as f64
}

fn verdict_is(verdict: Verdict) -> impl Fn(&Comparison) -> bool {
    move |comparison| comparison.verdict == verdict
}

/// The two kinds of noise that the tests use: independent intervals, and intervals and runs that are related.
fn noises(intervals: usize, scale: f64) -> [Noise; 2] {
    let noise = Noise { intervals, rate: NOISE.rate * scale, p99: NOISE.p99 * scale, ..NOISE };
    [noise, Noise { memory: 0.3, between: 0.01, ..noise }]
}

#[test]
fn two_runs_of_one_build_are_a_regression_in_at_most_1_of_100_pairs() {
    for intervals in [10, 30] {
        for noise in noises(intervals, 1.0).into_iter().chain(noises(intervals, 0.5)) {
            let regressions = share(noise, 1.0, verdict_is(Verdict::Regression));
            assert!(regressions <= 1.0, "{intervals} intervals, noise {}: {regressions} %", noise.rate);
        }
    }
}

#[test]
fn two_runs_of_one_build_pass_if_there_are_30_intervals_and_the_machine_is_quiet() {
    for (scale, expected) in [(0.25, 99.0), (0.5, 98.0)] {
        for noise in noises(30, scale) {
            let passed = share(noise, 1.0, verdict_is(Verdict::Pass));
            assert!(passed >= expected, "noise {}: {passed} %", noise.rate);
        }
    }
}

#[test]
fn a_server_that_is_a_tenth_slower_is_found_in_95_of_100_pairs() {
    for noise in noises(30, 0.5).into_iter().chain(noises(30, 1.0)) {
        let regressions = share(noise, 1.1, verdict_is(Verdict::Regression));
        assert!(regressions >= 95.0, "noise {}, memory {}: {regressions} %", noise.rate, noise.memory);
    }
}

#[test]
fn a_server_that_is_half_as_fast_again_never_passes_whatever_the_noise() {
    for intervals in [5, 10, 30] {
        for scale in [1.0, 3.0, 8.0, 20.0] {
            for noise in noises(intervals, scale) {
                let passed = share(noise, 1.5, verdict_is(Verdict::Pass));
                assert_eq!(passed, 0.0, "{intervals} intervals, noise {}", noise.rate);
            }
        }
    }
}

#[test]
fn noise_that_hides_any_difference_is_inconclusive() {
    for noise in noises(10, 8.0) {
        let inconclusive = share(noise, 1.0, verdict_is(Verdict::Inconclusive));
        assert!(inconclusive >= 95.0, "{inconclusive} %");
    }
}
