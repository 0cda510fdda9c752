//! The latency of small packets and of large ones, apart: a class for each power of two.

use hdrhistogram::Histogram;

use crate::record::histogram::MAX_LATENCY;
use crate::result::document::SizeClass;
use crate::result::latency::percentile;

/// Sizes of so many bits make up a class; an empty packet has none.
const CLASSES: usize = 33;

/// Two digits: the classes that a run uses are to stay in the cache together.
const DIGITS: u8 = 2;

#[derive(Clone, Debug, Default)]
pub(crate) struct SizeClasses {
    /// Made when the first packet of their class comes back.
    classes: Vec<Option<Histogram<u32>>>,
}

impl SizeClasses {
    pub(crate) fn record(&mut self, len: usize, latency_ns: u64) {
        let class = (usize::BITS - len.leading_zeros()) as usize;
        if self.classes.is_empty() {
            self.classes.resize(CLASSES, None);
        }
        self.classes[class.min(CLASSES - 1)].get_or_insert_with(histogram).saturating_record(latency_ns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.classes.resize(self.classes.len().max(other.classes.len()), None);
        for (class, other) in self.classes.iter_mut().zip(&other.classes) {
            if let Some(other) = other {
                *class.get_or_insert_with(histogram) += other;
            }
        }
    }

    /// Those of which there are packets, from the smallest to the largest.
    pub(crate) fn to_document(&self) -> Vec<SizeClass> {
        let classes = self.classes.iter().enumerate();
        classes
            .filter_map(|(bits, class)| {
                let (latency_ns, below) = (class.as_ref()?, 1_u64 << bits);
                Some(SizeClass {
                    from_bytes: (below / 2) as u32,
                    to_bytes: (below - 1) as u32,
                    count: latency_ns.len(),
                    p50_ns: percentile(latency_ns, 50.0),
                    p99_ns: percentile(latency_ns, 99.0),
                })
            })
            .collect()
    }
}

fn histogram() -> Histogram<u32> {
    let histogram = Histogram::new_with_bounds(1, MAX_LATENCY.as_nanos() as u64, DIGITS);
    histogram.expect("the bounds are constants that a histogram takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_in_the_class_between_two_powers_of_two() {
        let mut sizes = SizeClasses::default();
        for len in [0, 1, 2, 3, 4, 2047, 2048, u32::MAX as usize] {
            sizes.record(len, 1000);
        }
        let mut sum = SizeClasses::default();
        sum.merge(&sizes);
        sum.merge(&SizeClasses::default());
        let classes: Vec<_> =
            sum.to_document().iter().map(|class| (class.from_bytes, class.to_bytes, class.count)).collect();
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
