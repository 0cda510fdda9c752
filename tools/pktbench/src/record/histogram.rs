//! Creates the histograms of latencies and of schedule lag. A worker has several: those of latencies are new in each
//! interval. `size_classes` makes smaller histograms.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::result::hdr_v2::{MAX_NS, SIGNIFICANT_DIGITS};

/// The upper bound of all histograms. Use `saturating_record`, which counts longer times at about this value: `record`
/// can fail for them.
pub(crate) const MAX_LATENCY: Duration = Duration::from_nanos(MAX_NS);

/// A histogram of times in ns.
pub(crate) fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, MAX_NS, SIGNIFICANT_DIGITS);
    histogram.expect("the bounds are constants and valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_beyond_the_bounds_is_counted_at_about_the_bound() {
        let mut histogram = new_histogram();
        histogram.saturating_record(5 * MAX_LATENCY.as_nanos() as u64);
        histogram.saturating_record(0);
        assert_eq!(histogram.len(), 2);
        let max = Duration::from_nanos(histogram.max());
        assert!(max >= MAX_LATENCY && max < MAX_LATENCY + Duration::from_secs(4), "{max:?}");
    }

    #[test]
    fn a_histogram_has_264_kib() {
        assert_eq!(new_histogram().distinct_values() * size_of::<u64>(), 264 * 1024);
    }
}
