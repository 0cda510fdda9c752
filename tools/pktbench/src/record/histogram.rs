//! Creates the histograms of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer latencies are counted as this one.
pub(crate) const MAX_LATENCY: Duration = Duration::from_secs(60 * 60);

/// Significant digits. The error of 0.1 % is far below the noise of a run. With more digits the histogram would not fit
/// into the cache.
const DIGITS: u8 = 3;

/// A histogram of latencies in ns.
pub(crate) fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, MAX_LATENCY.as_nanos() as u64, DIGITS);
    histogram.expect("the bounds are constants and valid")
}
