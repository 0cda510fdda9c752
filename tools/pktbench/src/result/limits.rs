//! How many parts a document from a file may have. Each part with a histogram takes time and memory that its text does not
//! show.

use super::document::Document;
use super::hdr_v2::inflated_len;
use super::latency::{Latencies, Latency};
use crate::traffic::stages::MAX_STAGES;

/// The most percentiles of `--percentiles`, for each latency.
pub(crate) const MAX_PERCENTILES: usize = 100;

/// How long the histograms of a document may be together when they are inflated: this, and a multiple of the file's length.
/// Those of a run are up to 4 times as long as their text. 120 histograms of the longest kind fit into any file.
const MAX_INFLATED_LEN: usize = 4 << 20;
const MAX_INFLATED_RATIO: usize = 8;

/// Checks a document that was read from a file of `len` bytes. The error follows the name of the file.
pub(crate) fn check(document: &Document, len: usize) -> Result<(), String> {
    let percentiles = latencies(document).map(|latency| latency.percentiles.len()).max().unwrap_or_default();
    let search_steps = document.search.as_ref().map_or(0, |search| search.steps.len());
    let counts = [
        ("percentiles", percentiles, MAX_PERCENTILES),
        ("stages", document.stages.len(), MAX_STAGES),
        ("addresses", document.addresses.len(), 1000),
        ("size classes", document.sizes.len(), 100),
        ("thresholds", document.thresholds.len(), 1000),
        ("search steps", search_steps, 1000),
        ("labels", document.labels.len(), 1000),
        ("source addresses", document.config.source_addrs.len(), 100_000),
    ];
    match counts.into_iter().find(|(_, count, max)| count > max) {
        Some((what, count, max)) => Err(format!("has {count} {what}; the limit is {max}")),
        None => check_histograms(
            document,
            len.saturating_mul(MAX_INFLATED_RATIO).saturating_add(MAX_INFLATED_LEN),
        ),
    }
}

fn check_histograms(document: &Document, max_len: usize) -> Result<(), String> {
    let texts =
        latencies(document).flat_map(|latency| [Some(&latency.hdr_v2), latency.censored_hdr_v2.as_ref()]);
    let mut sum = 0_usize;
    for text in texts.flatten() {
        sum = sum.saturating_add(inflated_len(text));
        if sum > max_len {
            return Err(format!("has histograms of more than {max_len} bytes, too many for its length"));
        }
    }
    Ok(())
}

fn latencies(document: &Document) -> impl Iterator<Item = &Latency> {
    let all = [&document.latency_ns].into_iter();
    let all = all.chain(document.stages.iter().map(|stage| &stage.latency_ns));
    let all = all.chain(document.addresses.iter().map(|address| &address.latency_ns));
    let connections = document.connections.iter();
    let connections = connections.flat_map(|of| [Some(&of.connect_ns), of.handshake_ns.as_ref()]).flatten();
    all.flat_map(|Latencies { service, response }| [Some(service), response.as_ref()])
        .flatten()
        .chain(connections)
}
