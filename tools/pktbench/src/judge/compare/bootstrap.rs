//! The confidence interval of the difference of two series, by a moving block bootstrap.
//!
//! ```text
//!   base  a b c d e f g h  --resample-->  c d e | g h a | d e      metric  --.
//!   new   k l m n o p q r  --resample-->  q r k | l m n | o p      metric  ----> difference, 2000 times
//! ```
//!
//! A resample draws blocks of neighboring intervals, because neighbors are alike: a slow machine stays slow for
//! seconds. The differences of the resamples vary like those of many measurements, with two corrections. A resample of
//! few intervals varies less than a new measurement would (the factor of [`expansion`]). And two runs of one build
//! differ by more than the variation within each run (`run_to_run`).

use std::f64::consts::SQRT_2;

use crate::judge::compare::series::{Series, Sum};
use crate::traffic::random::{GOLDEN, mix};

/// The confidence of each interval. With four metrics, at most 1 of 25 pairs of runs of one build differ by chance.
pub(crate) const CONFIDENCE_PCT: f64 = 99.0;

/// With fewer intervals in one of the runs there is no estimate: no correction replaces missing data.
pub(crate) const MIN_INTERVALS: usize = 5;

const RESAMPLES: usize = 2000;

/// The 0.995 quantile of the normal distribution: the upper end of a 99 % interval.
const Z: f64 = 2.5758;

/// A fixed seed: the same two documents give the same comparison on every machine.
const SEED: u64 = 1;

/// The logarithm of NEW/BASE, and the ends of its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) log: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The difference of two series. `run_to_run` is the standard deviation of the logarithm from run to run of one build.
/// `None` if a series has fewer than [`MIN_INTERVALS`] intervals.
pub(crate) fn estimate(base: &Series, new: &Series, run_to_run: f64) -> Option<Estimate> {
    if base.len().min(new.len()) < MIN_INTERVALS {
        return None;
    }
    let (base_blocks, new_blocks) = (Blocks::of(base), Blocks::of(new));
    let mut random = Random(SEED);
    let log = new.log() - base.log();
    let mut deviation = || random.resample(&new_blocks) - random.resample(&base_blocks) - log;
    let mut deviations: Vec<f64> = (0..RESAMPLES).map(|_| deviation()).collect();
    let tail = (RESAMPLES as f64 * (1.0 - CONFIDENCE_PCT / 100.0) / 2.0) as usize;
    let mut at = |rank: usize| *deviations.select_nth_unstable_by(rank, f64::total_cmp).1;
    let (low, high) = (at(tail), at(RESAMPLES - 1 - tail));
    let factor = expansion(&base_blocks, &new_blocks);
    // The variation between two runs is independent of the variation within them, so the variances add up.
    let between = Z * run_to_run * SQRT_2;
    Some(Estimate {
        log,
        low: log - (low * factor).hypot(between),
        high: log + (high * factor).hypot(between),
    })
}

/// All blocks of neighboring intervals. Blocks wrap around at the end of the series.
struct Blocks<'a> {
    series: &'a Series,
    /// The sum of each block.
    sums: Vec<Sum>,
    /// The cube root of the number of intervals, the optimal order of magnitude for a block bootstrap.
    block_len: usize,
}

impl<'a> Blocks<'a> {
    fn of(series: &'a Series) -> Self {
        let len = series.len();
        let block_len = (len as f64).cbrt().ceil() as usize;
        let block = |begin| (begin..begin + block_len).map(|index| series.part(index % len)).sum();
        Self { series, sums: (0..len).map(block).collect(), block_len }
    }

    /// As many blocks as give about the original number of intervals.
    fn blocks_per_resample(&self) -> usize {
        self.sums.len().div_ceil(self.block_len)
    }

    /// The ratio of the variance of a measurement to the variance of a resample.
    fn variance_correction(&self) -> f64 {
        let (len, block_len) = (self.sums.len() as f64, self.block_len as f64);
        self.blocks_per_resample() as f64 * block_len / (len - block_len)
    }

    fn degrees_of_freedom(&self) -> f64 {
        self.sums.len() as f64 / self.block_len as f64 - 1.0
    }
}

/// The factor by which a measurement varies more than a resample.
fn expansion(base: &Blocks<'_>, new: &Blocks<'_>) -> f64 {
    base.variance_correction().max(new.variance_correction()).sqrt()
        * student_quantile(base.degrees_of_freedom() + new.degrees_of_freedom())
        / Z
}

/// The 0.995 quantile of Student's t-distribution, by the expansion of Cornish and Fisher. The error is below 2 % from
/// 3 degrees of freedom on.
fn student_quantile(freedom: f64) -> f64 {
    let z = |power| Z.powi(power);
    Z + (z(3) + Z) / (4.0 * freedom)
        + (5.0 * z(5) + 16.0 * z(3) + 3.0 * Z) / (96.0 * freedom.powi(2))
        + (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * Z) / (384.0 * freedom.powi(3))
}

/// A generator of pseudo-random numbers.
struct Random(u64);

impl Random {
    /// A number from 0 to `bound - 1`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(GOLDEN);
        (((mix(self.0) >> 32) * bound as u64) >> 32) as usize
    }

    /// Draws blocks with replacement and returns the logarithm of their metric.
    fn resample(&mut self, blocks: &Blocks<'_>) -> f64 {
        let sum = (0..blocks.blocks_per_resample()).map(|_| blocks.sums[self.below(blocks.sums.len())]).sum();
        blocks.series.log_of(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A series of logarithms within `by` of `mean`.
    fn noisy(len: usize, mean: f64, by: f64) -> Series {
        let mut draws = Random(7);
        let mut fraction = || draws.below(1000) as f64 / 500.0 - 1.0;
        Series::Logs((0..len).map(|_| mean + by * fraction()).collect())
    }

    #[test]
    fn constant_series_have_an_exact_difference() {
        let estimate = estimate(&noisy(10, 1.0, 0.0), &noisy(10, 1.5, 0.0), 0.0).unwrap();
        for log in [estimate.log, estimate.low, estimate.high] {
            assert!((log - 0.5).abs() < 1e-9, "{estimate:?}");
        }
    }

    #[test]
    fn an_interval_is_wider_with_more_noise_with_fewer_intervals_and_with_run_to_run_variation() {
        let width = |len, by, run_to_run| {
            let estimate = estimate(&noisy(len, 0.0, by), &noisy(len, 0.0, by), run_to_run).unwrap();
            assert!(estimate.low < 0.0 && estimate.high > 0.0, "{estimate:?}");
            estimate.high - estimate.low
        };
        assert!(width(30, 0.2, 0.0) > 1.5 * width(30, 0.1, 0.0));
        assert!(width(8, 0.1, 0.0) > 1.5 * width(64, 0.1, 0.0));
        assert!(width(30, 0.1, 0.1) > 1.5 * width(30, 0.1, 0.0));
    }

    #[test]
    fn too_few_intervals_in_either_run_give_no_estimate() {
        let (few, enough) = (noisy(MIN_INTERVALS - 1, 0.0, 0.1), noisy(MIN_INTERVALS, 0.0, 0.1));
        assert_eq!(estimate(&few, &enough, 0.0), None);
        assert_eq!(estimate(&enough, &few, 0.0), None);
        let estimate = estimate(&enough, &enough, 0.0).unwrap();
        assert!(estimate.low.is_finite() && estimate.high.is_finite());
    }

    #[test]
    fn student_quantiles_match_published_tables() {
        // 0.995 quantiles from published tables.
        for (freedom, expected) in [(3.0, 5.841), (4.0, 4.604), (10.0, 3.169), (30.0, 2.750), (1e6, 2.576)] {
            let error = student_quantile(freedom) / expected - 1.0;
            assert!(error.abs() < 0.05, "{freedom}: {}", student_quantile(freedom));
        }
    }

    #[test]
    fn every_interval_can_be_drawn_and_the_estimate_is_reproducible() {
        let series = Series::Rates((0..7).map(|_| (3.0, 1.0)).collect());
        assert!((Random(SEED).resample(&Blocks::of(&series)) - 3_f64.ln()).abs() < 1e-9);
        let mut draws = Random(SEED);
        let mut seen = [false; 7];
        (0..200).for_each(|_| seen[draws.below(7)] = true);
        assert_eq!(seen, [true; 7]);
        let (a, b) = (noisy(9, 0.0, 0.3), noisy(12, 0.1, 0.2));
        assert_eq!(estimate(&a, &b, 0.01), estimate(&a, &b, 0.01));
    }
}
