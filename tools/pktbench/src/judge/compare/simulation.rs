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
const PAIRS: u64 = 100;

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

/// Whether no metric shows a difference.
fn is_alike(comparison: &Comparison) -> bool {
    use crate::judge::compare::Finding::NoDifference;
    comparison.metrics.len() == 4 && comparison.metrics.iter().all(|metric| metric.finding == NoDifference)
}

fn is_regression(comparison: &Comparison) -> bool {
    comparison.verdict == Verdict::Regression
}

#[test]
fn two_runs_of_one_build_are_called_alike_in_19_of_20_pairs() {
    for intervals in [10, 30] {
        for (memory, between) in [(0.0, 0.0), (0.3, 0.01)] {
            let noise = Noise { intervals, memory, between, ..NOISE };
            let alike = share(noise, 1.0, is_alike);
            assert!(alike >= 95.0, "{intervals} intervals, memory {memory}, between {between}: {alike} %");
        }
    }
}

#[test]
fn a_server_that_is_a_tenth_slower_is_called_a_regression_in_18_of_20_pairs() {
    for (memory, between) in [(0.0, 0.0), (0.3, 0.01)] {
        let noise = Noise { memory, between, ..NOISE };
        let regressions = share(noise, 1.1, is_regression);
        assert!(regressions >= 90.0, "memory {memory}, between {between}: {regressions} %");
    }
}
