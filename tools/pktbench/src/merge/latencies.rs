//! Adds up the latencies of several results: their histograms, never their percentiles.

use anyhow::Context;

use crate::record::histogram::new_histogram;
use crate::result::latency::{Latencies, Latency};

pub(super) fn added_latencies(parts: &[&Latencies]) -> anyhow::Result<Latencies> {
    let services: Vec<_> = parts.iter().map(|part| &part.service).collect();
    let responses: Vec<_> = parts.iter().filter_map(|part| part.response.as_ref()).collect();
    // The sum would otherwise leave out the packets of a part without response times.
    let response = match responses.len() == parts.len() {
        true => Some(added(&responses)?),
        false => None,
    };
    Ok(Latencies { service: added(&services)?, response })
}

/// Lists the percentiles of the first part. The histograms have all of them.
pub(super) fn added(latencies: &[&Latency]) -> anyhow::Result<Latency> {
    let percentiles: Vec<_> = latencies[0].percentiles.iter().map(|(percent, _)| *percent).collect();
    let (mut answered, mut ages) = (new_histogram(), new_histogram());
    for latency in latencies {
        let of_answers = latency.histogram().context("its histogram (hdr_v2) is damaged")?;
        answered.add(&of_answers).context("its histogram (hdr_v2) has latencies that are out of range")?;
        if let Some(of_ages) = latency.ages().context("its histogram (censored_hdr_v2) is damaged")? {
            ages.add(&of_ages).context("its histogram (censored_hdr_v2) has ages that are out of range")?;
        }
    }
    let never_sent = latencies.iter().fold(0_u64, |sum, latency| sum.saturating_add(latency.never_sent));
    Ok(Latency::listing(&percentiles, &answered, Some(&ages), never_sent))
}
