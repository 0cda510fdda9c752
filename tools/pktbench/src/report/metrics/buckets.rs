//! A latency as a histogram of Prometheus: for each bound, the number of packets that were not slower.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

/// The bounds in ns: from a fast loopback to a server that almost times out, in steps of 1, 2.5, 5.
const BOUNDS_NS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

#[derive(Clone, Debug, Default)]
pub(super) struct Buckets {
    /// Packets above the bound before and up to this one.
    counts: [u64; BOUNDS_NS.len()],
    count: u64,
    sum_s: f64,
}

impl Buckets {
    /// Adds latencies in ns.
    pub(super) fn add(&mut self, latencies_ns: &Histogram<u64>) {
        for step in latencies_ns.iter_recorded() {
            let bucket = BOUNDS_NS.partition_point(|bound_ns| *bound_ns < step.value_iterated_to());
            let packets = step.count_at_value();
            if let Some(count) = self.counts.get_mut(bucket) {
                *count += packets;
            }
            self.count += packets;
            self.sum_s += step.value_iterated_to() as f64 / 1e9 * packets as f64;
        }
    }

    /// Writes the samples of the metric `name`.
    pub(super) fn write(&self, text: &mut String, name: &str) -> fmt::Result {
        let mut packets = 0;
        for (bound_ns, count) in BOUNDS_NS.iter().zip(&self.counts) {
            packets += count;
            writeln!(text, "{name}_bucket{{le=\"{}\"}} {packets}", *bound_ns as f64 / 1e9)?;
        }
        writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.count)?;
        writeln!(text, "{name}_sum {}", self.sum_s)?;
        writeln!(text, "{name}_count {}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;

    #[test]
    fn each_bound_has_the_packets_that_were_not_slower() {
        let mut latencies = new_histogram();
        latencies.record_n(8_000, 3).unwrap();
        latencies.record_n(1_000_000, 2).unwrap();
        latencies.record(60_000_000_000).unwrap();
        let mut buckets = Buckets::default();
        buckets.add(&latencies);
        buckets.add(&latencies);
        let mut text = String::new();
        buckets.write(&mut text, "x_seconds").unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "x_seconds_bucket{le=\"0.00001\"} 6");
        // A histogram has an error of 0.1 %, so the bound itself may be in the next bucket.
        assert!(lines.contains(&"x_seconds_bucket{le=\"0.0025\"} 10"), "{text}");
        assert_eq!(lines[18..20], ["x_seconds_bucket{le=\"10\"} 10", "x_seconds_bucket{le=\"+Inf\"} 12"]);
        let sum: f64 = lines[20].strip_prefix("x_seconds_sum ").unwrap().parse().unwrap();
        assert!((sum - 120.004).abs() < 0.12, "{sum}");
        assert_eq!(lines[21], "x_seconds_count 12");
    }
}
