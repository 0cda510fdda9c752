//! The histograms of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
pub(crate) const MAX_LATENCY: Duration = Duration::from_secs(60 * 60);

/// Three digits: 0.1 % is far below the spread of a run. More of them would leave the cache.
const DIGITS: u8 = 3;

/// Of ns.
pub(crate) fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, MAX_LATENCY.as_nanos() as u64, DIGITS);
    histogram.expect("the bounds are constants that a histogram takes")
}
