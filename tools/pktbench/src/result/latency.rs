//! The latencies in a document: statistics, and the complete histogram. All values are in ns.

use anyhow::ensure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// The percentiles that a document lists, in percent.
pub(crate) const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// The most samples that a histogram from a file may have: a million per second for nine years. Several such histograms
/// can be added without overflow.
const MAX_COUNT: u128 = 1 << 48;

/// Without samples all statistics are `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) min: Option<u64>,
    pub(crate) mean: Option<f64>,
    pub(crate) stddev: Option<f64>,
    pub(crate) max: Option<u64>,
    /// Pairs of a percentage and the latency that this share of the samples does not exceed.
    pub(crate) percentiles: Vec<(f64, Option<u64>)>,
    /// The complete histogram in `HdrHistogram`'s V2 encoding, compressed, as base64.
    pub(crate) hdr_v2: String,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let some = !histogram.is_empty();
        let percentiles = PERCENTILES.map(|percent| (percent, percentile(histogram, percent)));
        Self {
            count: histogram.len(),
            min: some.then(|| histogram.min()),
            mean: some.then(|| histogram.mean()),
            stddev: some.then(|| histogram.stdev()),
            max: some.then(|| histogram.max()),
            percentiles: percentiles.to_vec(),
            hdr_v2: encode(histogram),
        }
    }

    /// The latency of a percentile that is one of [`PERCENTILES`].
    pub(crate) fn listed(&self, percent: f64) -> Option<u64> {
        self.percentiles.iter().find(|(known, _)| *known == percent).and_then(|(_, ns)| *ns)
    }

    /// Decodes the histogram.
    pub(crate) fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        let bytes = STANDARD.decode(&self.hdr_v2)?;
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..])?;
        let count: u128 = histogram.iter_recorded().map(|step| u128::from(step.count_at_value())).sum();
        ensure!(count <= MAX_COUNT, "it has {count} samples; the limit is {MAX_COUNT}");
        Ok(histogram)
    }
}

/// The latency that `percent` of the samples do not exceed; `None` without a sample.
pub(crate) fn percentile<C: Counter>(histogram: &Histogram<C>, percent: f64) -> Option<u64> {
    // Without the factor, floating-point rounding could raise an integer rank, such as 99.9 % of 4,000, by one.
    let quantile = percent / 100.0 * (1.0 - f64::EPSILON);
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
}

/// Encodes a histogram in HdrHistogram's V2 encoding, compressed, as base64.
pub(crate) fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("writing to memory does not fail, and the counts of a run fit the format");
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;

    #[test]
    fn a_document_has_the_complete_histogram() {
        let mut histogram = new_histogram();
        for ns in [1_000, 20_000, 20_001, 3_000_000_000] {
            histogram.record(ns).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!(latency.hdr_v2.starts_with("HISTFA"), "{}", latency.hdr_v2);
        assert_eq!(latency.histogram().unwrap(), histogram);
        assert_eq!((latency.count, latency.min), (4, Some(1_000)));
        assert_eq!(latency.percentiles[0].0, 50.0);
    }

    #[test]
    fn an_integer_rank_is_not_rounded_up() {
        for (percent, count, rank) in
            [(99.9, 4000, 3996), (99.0, 100, 99), (50.0, 2, 1), (100.0, 7, 7), (99.99, 4, 4)]
        {
            let mut histogram = new_histogram();
            (1..=count).for_each(|ns| histogram.record(ns / 4 + 1).unwrap());
            assert_eq!(
                percentile(&histogram, percent),
                Some(histogram.highest_equivalent(rank / 4 + 1)),
                "{percent}"
            );
        }
    }

    #[test]
    fn a_latency_without_samples_has_no_statistics() {
        let latency = Latency::of(&new_histogram());
        assert_eq!((latency.count, latency.min, latency.max, latency.mean), (0, None, None, None));
        assert!(latency.percentiles.iter().all(|(_, ns)| ns.is_none()));
        assert_eq!(latency.histogram().unwrap().len(), 0);
    }

    #[test]
    fn a_histogram_with_too_many_samples_is_an_error() {
        let mut histogram = new_histogram();
        histogram.record_n(1000, (1 << 48) + 1).unwrap();
        let latency = Latency { hdr_v2: encode(&histogram), ..Latency::of(&new_histogram()) };
        assert!(latency.histogram().unwrap_err().to_string().contains("the limit is 281474976710656"));
    }

    #[test]
    fn an_invalid_histogram_is_an_error() {
        let latency = Latency { hdr_v2: "HISTFAAAA".to_owned(), ..Latency::of(&new_histogram()) };
        assert!(latency.histogram().is_err());
    }
}
