//! How many parts a document from a file may have. Each part with a histogram takes time and memory that its text does not
//! show.

use super::document::Document;
use super::latency::{Latencies, Latency};
use crate::traffic::stages::MAX_STAGES;

/// The most percentiles of `--percentiles`, for each latency.
pub(crate) const MAX_PERCENTILES: usize = 100;

/// Checks a document that was read from a file. The error follows the name of the file.
pub(crate) fn check(document: &Document) -> Result<(), String> {
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
        None => Ok(()),
    }
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
