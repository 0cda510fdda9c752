//! Service time by payload size: a histogram for each class of sizes between two powers of two.

use hdrhistogram::Histogram;

use crate::record::histogram::MAX_LATENCY;
use crate::result::document::SizeClass;
use crate::result::latency::percentile;

/// One class for each number of bits of a size, from 0 (empty packets) to 32.
const CLASSES: usize = 33;

/// Gives an error of 1 %. A histogram then has only 18 KiB: those of all used classes together should fit into the
/// second-level cache of a core.
const SIGNIFICANT_DIGITS: u8 = 2;

#[derive(Clone, Debug)]
pub(crate) struct SizeClasses {
    /// A histogram is created when the first packet of its class comes back.
    classes: Vec<Option<Histogram<u32>>>,
    /// All packets of each class. The histograms have only some of them.
    packets: [u64; CLASSES],
}

impl Default for SizeClasses {
    fn default() -> Self {
        Self { classes: Vec::new(), packets: [0; CLASSES] }
    }
}

impl SizeClasses {
    /// Counts a packet.
    pub(crate) fn count(&mut self, len: usize) {
        self.packets[class_of(len)] += 1;
    }

    /// Records the latency of a packet.
    pub(crate) fn record(&mut self, len: usize, service_ns: u64) {
        if self.classes.is_empty() {
            self.classes.resize(CLASSES, None);
        }
        let histogram = self.classes[class_of(len)].get_or_insert_with(new_class_histogram);
        histogram.saturating_record(service_ns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.packets.iter_mut().zip(other.packets).for_each(|(sum, packets)| *sum += packets);
        self.classes.resize(self.classes.len().max(other.classes.len()), None);
        for (class, other) in self.classes.iter_mut().zip(&other.classes) {
            if let Some(other) = other {
                *class.get_or_insert_with(new_class_histogram) += other;
            }
        }
    }

    /// The classes that have packets, from the smallest sizes to the largest.
    pub(crate) fn to_document(&self) -> Vec<SizeClass> {
        let classes = self.packets.iter().enumerate().filter(|(_, packets)| **packets > 0);
        classes
            .map(|(bits, packets)| {
                let below = 1_u64 << bits;
                // A class may have packets, and no sample among them.
                let service_ns = self.classes.get(bits).and_then(Option::as_ref);
                let time = |percent| service_ns.and_then(|service_ns| percentile(service_ns, percent));
                SizeClass {
                    from_bytes: (below / 2) as u32,
                    to_bytes: (below - 1) as u32,
                    count: *packets,
                    samples: Some(service_ns.map_or(0, Histogram::len)),
                    p50_ns: time(50.0),
                    p99_ns: time(99.0),
                }
            })
            .collect()
    }
}

/// The number of bits of a size.
fn class_of(len: usize) -> usize {
    ((usize::BITS - len.leading_zeros()) as usize).min(CLASSES - 1)
}

fn new_class_histogram() -> Histogram<u32> {
    let histogram = Histogram::new_with_bounds(1, MAX_LATENCY.as_nanos() as u64, SIGNIFICANT_DIGITS);
    histogram.expect("the bounds are constants and valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_covers_the_sizes_between_two_powers_of_two() {
        let mut sizes = SizeClasses::default();
        for len in [0, 1, 2, 3, 4, 2047, 2048, u32::MAX as usize] {
            sizes.record(len, 1000);
            // Of packets that are read together, one is recorded.
            sizes.count(len);
            sizes.count(len);
        }
        let mut sum = SizeClasses::default();
        sum.merge(&sizes);
        sum.merge(&SizeClasses::default());
        let classes: Vec<_> = sum
            .to_document()
            .iter()
            .map(|class| (class.from_bytes, class.to_bytes, class.samples.unwrap()))
            .collect();
        assert!(
            sum.to_document()
                .iter()
                .all(|class| Some(class.count) == class.samples.map(|samples| 2 * samples))
        );
        let expected = [
            (0, 0, 1),
            (1, 1, 1),
            (2, 3, 2),
            (4, 7, 1),
            (1024, 2047, 1),
            (2048, 4095, 1),
            (1 << 31, u32::MAX, 1),
        ];
        assert_eq!(classes, expected);
    }
}
