//! The latencies in a document: statistics, and the complete histogram. All values are in ns.

use std::fmt;

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use crate::result::hdr_v2::{decode, encode};
use crate::result::units;

/// The percentiles that a document lists without `--percentiles`, in percent.
pub(crate) const PERCENTILES: [f64; 6] = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// A percentile with fewer samples beyond it says little about the next run: it is the latency of a few packets.
pub(crate) const ENOUGH_BEYOND: u64 = 10;

/// Without samples all statistics are `None`.
///
/// Packets that were never answered are *censored*: only a lower bound of their latency is known, their age at the end of
/// the run. They count as slower than all answers. A percentile beyond the answers, the mean and the maximum are then
/// lower bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Packets that were answered.
    pub(crate) count: u64,
    /// Packets that were not. In the response times those that were due and not sent, too.
    #[serde(default)]
    pub(crate) censored: u64,
    /// Those of them that were due and never sent.
    #[serde(default)]
    pub(crate) never_sent: u64,
    pub(crate) min: Option<u64>,
    pub(crate) mean: Option<f64>,
    pub(crate) stddev: Option<f64>,
    pub(crate) max: Option<u64>,
    /// Pairs of a percentage and the latency that this share of the samples does not exceed.
    pub(crate) percentiles: Vec<(f64, Option<u64>)>,
    /// The complete histogram of the answers in `HdrHistogram`'s V2 encoding, compressed, as base64.
    pub(crate) hdr_v2: String,
    /// The histogram of the ages of the censored packets, in the same encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) censored_hdr_v2: Option<String>,
}

/// A value that may only be a lower bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounded {
    pub(crate) ns: f64,
    pub(crate) is_lower_bound: bool,
    /// Whether it is a percentile with fewer than [`ENOUGH_BEYOND`] samples beyond it.
    pub(crate) has_few_samples: bool,
}

impl Bounded {
    /// A value that is known.
    pub(crate) fn measured(ns: f64) -> Self {
        Self { ns, is_lower_bound: false, has_few_samples: false }
    }

    /// As the percentile of `count` samples.
    pub(crate) fn among(self, percent: f64, count: u64) -> Self {
        Self { has_few_samples: count - rank(percent, count).min(count) < ENOUGH_BEYOND, ..self }
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let few = if self.has_few_samples { "~" } else { "" };
        let sign = if self.is_lower_bound { "\u{2265}" } else { "" };
        f.pad(&format!("{few}{sign}{}", units::time(self.ns)))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From sending a packet to its response.
    pub(crate) service: Latency,
    /// From the time at which a packet was due to its response. Only in an open loop.
    pub(crate) response: Option<Latency>,
}

impl Latencies {
    /// The name of [`primary`](Self::primary).
    pub(crate) fn primary_name(&self) -> &'static str {
        if self.response.is_some() { "response" } else { "service" }
    }

    /// The latency that users of the server would see: the response time in an open loop. A closed loop has only the
    /// service time.
    pub(crate) fn primary(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

impl Latency {
    /// With the default percentiles.
    #[cfg(test)]
    pub(crate) fn of(answered: &Histogram<u64>, ages: Option<&Histogram<u64>>) -> Self {
        Self::listing(&PERCENTILES, answered, ages, 0)
    }

    /// The latency of the packets that were answered, and of those that were not, by their ages. `never_sent` of those were
    /// not even sent.
    pub(crate) fn listing(
        percentiles: &[f64],
        answered: &Histogram<u64>,
        ages: Option<&Histogram<u64>>,
        never_sent: u64,
    ) -> Self {
        let ages = ages.filter(|ages| !ages.is_empty());
        let mut all = answered.clone();
        ages.iter().for_each(|ages| all += *ages);
        let some = !all.is_empty();
        let percentiles = percentiles.iter().map(|&percent| {
            (percent, bounded(answered, &all, percent, never_sent).map(|value| value.ns as u64))
        });
        Self {
            count: answered.len(),
            censored: all.len() - answered.len(),
            never_sent,
            // The age of a packet that was sent just before the end is no latency.
            min: some.then(|| if answered.is_empty() { all.min() } else { answered.min() }),
            mean: some.then(|| all.mean()),
            stddev: some.then(|| all.stdev()),
            max: some.then(|| all.max()),
            percentiles: percentiles.collect(),
            hdr_v2: encode(answered),
            censored_hdr_v2: ages.map(encode),
        }
    }

    /// The latency of a percentile that the document lists.
    pub(crate) fn listed(&self, percent: f64) -> Option<u64> {
        self.percentiles.iter().find(|(known, _)| *known == percent).and_then(|(_, ns)| *ns)
    }

    /// Any percentile, from the histograms. `None` without a sample or if they are damaged.
    pub(crate) fn percentile(&self, percent: f64) -> Option<Bounded> {
        let [value] = self.percentiles([percent]);
        value
    }

    /// Several percentiles, as [`percentile`](Self::percentile): decoding the histograms takes most of the time.
    pub(crate) fn percentiles<const N: usize>(&self, percents: [f64; N]) -> [Option<Bounded>; N] {
        let (Ok(answered), Ok(ages)) = (self.histogram(), self.ages()) else { return [None; N] };
        let Some(ages) = ages else {
            return percents.map(|percent| bounded(&answered, &answered, percent, self.never_sent));
        };
        let mut all = answered.clone();
        match all.add(&ages) {
            Ok(()) => percents.map(|percent| bounded(&answered, &all, percent, self.never_sent)),
            Err(_) => [None; N],
        }
    }

    /// A percentile that the document lists.
    pub(crate) fn listed_bounded(&self, percent: f64) -> Option<Bounded> {
        let count = self.count.saturating_add(self.censored);
        let is_lower_bound = rank(percent, count) > self.count;
        let value = self.listed(percent).map(|ns| Bounded { is_lower_bound, ..Bounded::measured(ns as f64) });
        value.map(|value| value.among(percent, count))
    }

    /// Whether a percentile that the document lists has few samples beyond it.
    pub(crate) fn lists_few_samples(&self) -> bool {
        let values = self.percentiles.iter().filter_map(|(percent, _)| self.listed_bounded(*percent));
        values.into_iter().any(|value| value.has_few_samples)
    }

    pub(crate) fn mean_bounded(&self) -> Option<Bounded> {
        self.mean.map(|ns| Bounded { is_lower_bound: self.censored > 0, ..Bounded::measured(ns) })
    }

    pub(crate) fn max_bounded(&self) -> Option<Bounded> {
        self.max.map(|ns| Bounded { is_lower_bound: self.censored > 0, ..Bounded::measured(ns as f64) })
    }

    /// Decodes the histogram of the answers.
    pub(crate) fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        decode(&self.hdr_v2)
    }

    /// The histogram of all packets: the latencies of those that were answered, and the ages of the others. So it is a
    /// lower bound of the distribution.
    pub(crate) fn all(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = self.histogram()?;
        if let Some(ages) = self.ages()? {
            all.add(&ages)?;
        }
        Ok(all)
    }

    /// Decodes the histogram of the ages of the censored packets.
    pub(crate) fn ages(&self) -> anyhow::Result<Option<Histogram<u64>>> {
        self.censored_hdr_v2.as_deref().map(decode).transpose()
    }
}

/// A percentile of all packets, of which `answered` were answered. The others count as slower than all answers.
fn bounded(
    answered: &Histogram<u64>,
    all: &Histogram<u64>,
    percent: f64,
    never_sent: u64,
) -> Option<Bounded> {
    if all.is_empty() {
        return None;
    }
    let rank = rank(percent, all.len());
    let is_lower_bound = rank > answered.len();
    let histogram = if is_lower_bound { all } else { answered };
    // The middle of the rank, so that rounding does not change it.
    let quantile = (rank as f64 - 0.5) / histogram.len() as f64;
    let ns = histogram.value_at_quantile(quantile);
    // What was sent and never answered is slower than all answers, however young it is. What was not sent might have been fast.
    let is_slowest = is_lower_bound && never_sent == 0 && !answered.is_empty();
    let ns = if is_slowest { ns.max(answered.max()) } else { ns };
    let value = Bounded::measured(ns as f64);
    Some(Bounded { is_lower_bound, ..value }.among(percent, all.len()))
}

/// The rank of a percentile among `count` samples, from 1 on.
fn rank(percent: f64, count: u64) -> u64 {
    // Without the factor, floating-point rounding could raise an integer rank, such as 99.9 % of 4,000, by one.
    ((percent / 100.0 * (1.0 - f64::EPSILON) * count as f64).ceil() as u64).clamp(1, count.max(1))
}

/// The latency that `percent` of the samples do not exceed; `None` without a sample.
pub(crate) fn percentile<C: Counter>(histogram: &Histogram<C>, percent: f64) -> Option<u64> {
    // Without the factor, floating-point rounding could raise an integer rank, such as 99.9 % of 4,000, by one.
    let quantile = percent / 100.0 * (1.0 - f64::EPSILON);
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
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
        let latency = Latency::of(&histogram, None);
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

    /// 90 answers of 1 to 90 ms, and 10 packets that were 5, 10, ... 50 ms old.
    fn censored() -> Latency {
        let (mut answered, mut ages) = (new_histogram(), new_histogram());
        (1..=90).for_each(|ms| answered.record(ms * 1_000_000).unwrap());
        (1..=10).for_each(|step| ages.record(5 * step * 1_000_000).unwrap());
        Latency::of(&answered, Some(&ages))
    }

    fn about_ms(value: Option<Bounded>) -> (f64, bool) {
        let value = value.unwrap();
        ((value.ns / 1e6).round(), value.is_lower_bound)
    }

    #[test]
    fn unanswered_packets_count_as_slower_than_all_answers() {
        let latency = censored();
        assert_eq!((latency.count, latency.censored), (90, 10));
        assert_eq!(about_ms(latency.percentile(50.0)), (50.0, false));
        assert_eq!(about_ms(latency.percentile(90.0)), (90.0, false));
        // By their ages alone, rank 91 would be faster than rank 90.
        assert_eq!(about_ms(latency.percentile(91.0)), (90.0, true));
        assert_eq!(about_ms(latency.listed_bounded(99.0)), (90.0, true));
        assert_eq!(about_ms(latency.listed_bounded(50.0)), (50.0, false));
        assert_eq!(about_ms(latency.max_bounded()), (90.0, true));
        assert!(latency.mean_bounded().unwrap().is_lower_bound);
        assert_eq!(latency.listed_bounded(99.0).unwrap().to_string(), "~\u{2265}90.0 ms");
        assert_eq!(latency.ages().unwrap().unwrap().len(), 10);
    }

    #[test]
    fn a_percentile_with_fewer_than_ten_samples_beyond_it_is_marked() {
        let of = |count: u64, percent: f64| {
            let mut histogram = new_histogram();
            histogram.record_n(1_000_000, count).unwrap();
            let latency = Latency::listing(&[percent], &histogram, None, 0);
            let listed = latency.listed_bounded(percent).unwrap();
            assert_eq!(latency.percentile(percent), Some(listed), "from the histogram, too");
            assert_eq!(latency.lists_few_samples(), listed.has_few_samples);
            listed.to_string()
        };
        for (count, percent) in [(20, 50.0), (1000, 99.0), (10_000, 99.9), (100_000, 99.99), (200, 95.0)] {
            assert_eq!(of(count, percent), "1.00 ms", "p{percent} of {count}");
            assert_eq!(of(count - 1, percent), "~1.00 ms", "p{percent} of {}", count - 1);
        }
        assert_eq!(of(1, 99.99), "~1.00 ms");
    }

    #[test]
    fn packets_that_are_old_at_the_end_of_a_stalled_run_dominate_the_tail() {
        let (mut answered, mut ages) = (new_histogram(), new_histogram());
        answered.record_n(500_000, 2984).unwrap();
        // A server that freezes for 6 s: 5,991 packets wait, the oldest for 6 s.
        (1..=5991).for_each(|ms| ages.record(ms * 1_001_502).unwrap());
        let latency = Latency::of(&answered, Some(&ages));
        assert_eq!(about_ms(latency.listed_bounded(99.0)), (5914.0, true));
        assert_eq!(about_ms(latency.percentile(33.0)), (1.0, false));
        assert_eq!(about_ms(latency.max_bounded()), (6002.0, true));
    }

    #[test]
    fn a_latency_without_answers_has_lower_bounds_alone() {
        let mut ages = new_histogram();
        ages.record_n(1_000_000_000, 5).unwrap();
        let latency = Latency::of(&new_histogram(), Some(&ages));
        assert_eq!((latency.count, latency.censored), (0, 5));
        assert_eq!(about_ms(latency.percentile(50.0)), (1000.0, true));
    }

    #[test]
    fn without_unanswered_packets_nothing_is_a_lower_bound() {
        let mut answered = new_histogram();
        (1..=1000).for_each(|ns| answered.record(ns).unwrap());
        let latency = Latency::of(&answered, Some(&new_histogram()));
        assert_eq!(latency, Latency::of(&answered, None));
        assert!(!latency.max_bounded().unwrap().is_lower_bound);
        assert!(PERCENTILES.iter().all(|percent| !latency.listed_bounded(*percent).unwrap().is_lower_bound));
    }

    #[test]
    fn a_latency_without_samples_has_no_statistics() {
        let latency = Latency::of(&new_histogram(), None);
        assert_eq!((latency.count, latency.min, latency.max, latency.mean), (0, None, None, None));
        assert!(latency.percentiles.iter().all(|(_, ns)| ns.is_none()));
        assert_eq!(latency.histogram().unwrap().len(), 0);
    }

    #[test]
    fn an_invalid_histogram_is_an_error() {
        let latency = Latency { hdr_v2: "HISTFAAAA".to_owned(), ..Latency::of(&new_histogram(), None) };
        assert!(latency.histogram().is_err());
    }
}
