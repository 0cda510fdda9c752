//! How sure the difference of two series is: its interval of confidence, by drawing them again and again.
//!
//! ```text
//!   base  a b c d e f g h  --draw-->  c d e | g h a | d e      metric of the draw  --.
//!   new   k l m n o p q r  --draw-->  q r k | l m n | o p      metric of the draw  ----> difference, 2000 times
//! ```
//!
//! What is drawn are runs of neighbours, since an interval is like the one before: a machine that is slow is so for
//! seconds. The differences of the draws are as far apart as those of many measurements would be, but for two things
//! that are made up for: so few intervals vary less than all that there could be (the factor of [`expansion`]), and two
//! runs of one build differ by more than what varies within each of them (`run_to_run`).

use std::f64::consts::SQRT_2;

use crate::judge::compare::series::{Series, Sum};
use crate::traffic::random::{GOLDEN, mix};

/// Of each metric. With four of them, two runs of one build are told apart by chance in 1 of 25 pairs at most.
pub(crate) const CONFIDENCE_PCT: f64 = 99.0;

/// Below so many intervals of either run nothing is said: no correction makes up for what was not seen.
pub(crate) const MIN_INTERVALS: usize = 5;

const RESAMPLES: usize = 2000;

/// The quantile of the normal distribution at the upper end of the interval.
const Z: f64 = 2.5758;

/// The same documents compare the same on every machine.
const SEED: u64 = 1;

/// Of the logarithm of NEW/BASE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) log: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// `None` where there are too few intervals. `run_to_run` is by how much one build differs from run to run, as a standard
/// deviation of the logarithm.
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
    // Of the difference of two runs, and independent of what varies within them.
    let between = Z * run_to_run * SQRT_2;
    Some(Estimate {
        log,
        low: log - (low * factor).hypot(between),
        high: log + (high * factor).hypot(between),
    })
}

/// All runs of neighbours, which go round at the end.
struct Blocks<'a> {
    series: &'a Series,
    /// What each of them adds up to.
    sums: Vec<Sum>,
    /// The cube root of the number of intervals, which is what the theory of such draws finds to be best.
    block_len: usize,
}

impl<'a> Blocks<'a> {
    fn of(series: &'a Series) -> Self {
        let len = series.len();
        let block_len = (len as f64).cbrt().ceil() as usize;
        let block = |begin| (begin..begin + block_len).map(|index| series.part(index % len)).sum();
        Self { series, sums: (0..len).map(block).collect(), block_len }
    }

    /// How many make a draw: about as many intervals as there are.
    fn blocks_per_resample(&self) -> usize {
        self.sums.len().div_ceil(self.block_len)
    }

    /// The variance of what is measured, in that of what is drawn.
    fn variance_correction(&self) -> f64 {
        let (len, block_len) = (self.sums.len() as f64, self.block_len as f64);
        self.blocks_per_resample() as f64 * block_len / (len - block_len)
    }

    fn degrees_of_freedom(&self) -> f64 {
        self.sums.len() as f64 / self.block_len as f64 - 1.0
    }
}

/// By how much a draw varies less than a measurement would.
fn expansion(base: &Blocks<'_>, new: &Blocks<'_>) -> f64 {
    base.variance_correction().max(new.variance_correction()).sqrt()
        * student_quantile(base.degrees_of_freedom() + new.degrees_of_freedom())
        / Z
}

/// The quantile of Student's distribution that is [`Z`] for the normal one: the expansion of Cornish and Fisher, off by
/// less than 2 % from 3 degrees of freedom on.
fn student_quantile(freedom: f64) -> f64 {
    let z = |power| Z.powi(power);
    Z + (z(3) + Z) / (4.0 * freedom)
        + (5.0 * z(5) + 16.0 * z(3) + 3.0 * Z) / (96.0 * freedom.powi(2))
        + (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * Z) / (384.0 * freedom.powi(3))
}

/// Pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(GOLDEN);
        (((mix(self.0) >> 32) * bound as u64) >> 32) as usize
    }

    /// The metric of blocks that were drawn with replacement.
    fn resample(&mut self, blocks: &Blocks<'_>) -> f64 {
        let sum = (0..blocks.blocks_per_resample()).map(|_| blocks.sums[self.below(blocks.sums.len())]).sum();
        blocks.series.log_of(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a metric that is around its mean by up to so much.
    fn noisy(len: usize, mean: f64, by: f64) -> Series {
        let mut draws = Random(7);
        let mut fraction = || draws.below(1000) as f64 / 500.0 - 1.0;
        Series::Logs((0..len).map(|_| mean + by * fraction()).collect())
    }

    #[test]
    fn series_that_do_not_vary_differ_by_just_so_much() {
        let estimate = estimate(&noisy(10, 1.0, 0.0), &noisy(10, 1.5, 0.0), 0.0).unwrap();
        for log in [estimate.log, estimate.low, estimate.high] {
            assert!((log - 0.5).abs() < 1e-9, "{estimate:?}");
        }
    }

    #[test]
    fn an_interval_is_wider_for_what_varies_more_and_for_fewer_intervals_and_from_run_to_run() {
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
    fn too_few_intervals_of_either_run_are_no_estimate() {
        let (few, enough) = (noisy(MIN_INTERVALS - 1, 0.0, 0.1), noisy(MIN_INTERVALS, 0.0, 0.1));
        assert_eq!(estimate(&few, &enough, 0.0), None);
        assert_eq!(estimate(&enough, &few, 0.0), None);
        let estimate = estimate(&enough, &enough, 0.0).unwrap();
        assert!(estimate.low.is_finite() && estimate.high.is_finite());
    }

    #[test]
    fn the_quantile_is_that_of_the_tables() {
        // At 0.995, from the tables of the distribution.
        for (freedom, expected) in [(3.0, 5.841), (4.0, 4.604), (10.0, 3.169), (30.0, 2.750), (1e6, 2.576)] {
            let error = student_quantile(freedom) / expected - 1.0;
            assert!(error.abs() < 0.05, "{freedom}: {}", student_quantile(freedom));
        }
    }

    #[test]
    fn every_interval_is_drawn_and_the_estimate_is_the_same_each_time() {
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
