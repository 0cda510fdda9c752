//! A histogram of latencies in the document: its figures, and all of it.

use anyhow::ensure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// What is worth knowing of the latency, in percent.
pub(crate) const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// A million a second for nine years.
const MAX_COUNT: u128 = 1 << 48;

/// Without a sample there are no figures, and none are made up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) min: Option<u64>,
    pub(crate) mean: Option<f64>,
    pub(crate) stddev: Option<f64>,
    pub(crate) max: Option<u64>,
    /// Percent, and the latency that so many samples do not exceed.
    pub(crate) percentiles: Vec<(f64, Option<u64>)>,
    /// All of the histogram: `HdrHistogram`'s V2 encoding, compressed, in base64.
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

    /// One of [`PERCENTILES`].
    pub(crate) fn listed(&self, percent: f64) -> Option<u64> {
        self.percentiles.iter().find(|(known, _)| *known == percent).and_then(|(_, ns)| *ns)
    }

    /// The histogram again. The error says what is wrong with it.
    pub(crate) fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        let bytes = STANDARD.decode(&self.hdr_v2)?;
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..])?;
        let count: u128 = histogram.iter_recorded().map(|step| u128::from(step.count_at_value())).sum();
        // Some are to be added, and their sum to be written again.
        ensure!(count <= MAX_COUNT, "it has {count} samples, more than any run");
        Ok(histogram)
    }
}

/// The latency that `percent` of the samples do not exceed; `None` without a sample.
pub(crate) fn percentile<C: Counter>(histogram: &Histogram<C>, percent: f64) -> Option<u64> {
    // A rank that is whole, such as 99.9 % of 4,000, is not to be rounded up for the sake of its last bit.
    let quantile = percent / 100.0 * (1.0 - f64::EPSILON);
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
}

/// HdrHistogram's V2 encoding, compressed, in base64.
pub(crate) fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("memory takes what is written, and the counts of a run are no larger than the format's");
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;

    #[test]
    fn the_whole_histogram_is_in_the_document() {
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
    fn a_rank_that_is_whole_is_that_rank() {
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
    fn a_latency_that_was_not_measured_has_no_figures() {
        let latency = Latency::of(&new_histogram());
        assert_eq!((latency.count, latency.min, latency.max, latency.mean), (0, None, None, None));
        assert!(latency.percentiles.iter().all(|(_, ns)| ns.is_none()));
        assert_eq!(latency.histogram().unwrap().len(), 0);
    }

    #[test]
    fn a_histogram_of_more_samples_than_any_run_is_an_error() {
        let mut histogram = new_histogram();
        histogram.record_n(1000, (1 << 48) + 1).unwrap();
        let latency = Latency { hdr_v2: encode(&histogram), ..Latency::of(&new_histogram()) };
        assert!(latency.histogram().unwrap_err().to_string().contains("more than any run"));
    }

    #[test]
    fn a_histogram_that_is_none_is_an_error() {
        let latency = Latency { hdr_v2: "HISTFAAAA".to_owned(), ..Latency::of(&new_histogram()) };
        assert!(latency.histogram().is_err());
    }
}
