//! Adds up the connections and the addresses of several results.

use super::latencies::{added, added_latencies};
use crate::result::connections::{AddressResult, Connections};
use crate::result::document::{Document, Window};

/// `None` if a part has none: it is of an older version.
pub(super) fn sum(documents: &[Document]) -> anyhow::Result<Option<Connections>> {
    let parts: Option<Vec<_>> = documents.iter().map(|part| part.connections.as_ref()).collect();
    let Some(parts) = parts else { return Ok(None) };
    let add =
        |count: fn(&Connections) -> u64| parts.iter().map(|part| count(part)).fold(0, u64::saturating_add);
    let connects: Vec<_> = parts.iter().map(|part| &part.connect_ns).collect();
    let handshakes: Vec<_> = parts.iter().filter_map(|part| part.handshake_ns.as_ref()).collect();
    Ok(Some(Connections {
        opened: add(|part| part.opened),
        replaced: add(|part| part.replaced),
        retired: add(|part| part.retired),
        down_pct: down_pct(documents),
        missed: parts.iter().filter_map(|part| part.missed).reduce(u64::saturating_add),
        connect_ns: added(&connects)?,
        handshake_ns: if handshakes.is_empty() { None } else { Some(added(&handshakes)?) },
    }))
}

/// Weighted by the connections of the parts. `None` if a part has none.
fn down_pct(documents: &[Document]) -> Option<f64> {
    let (mut down, mut all) = (0.0, 0.0);
    for part in documents {
        let conns = part.config.conns as f64;
        down += conns * part.connections.as_ref()?.down_pct?;
        all += conns;
    }
    Some(if all > 0.0 { down / all } else { 0.0 })
}

/// The addresses of all parts, in the order in which they are first named.
pub(super) fn addresses(parts: &[Document], window: Window) -> anyhow::Result<Vec<AddressResult>> {
    let mut groups: Vec<Vec<&AddressResult>> = Vec::new();
    for result in parts.iter().flat_map(|part| &part.addresses) {
        match groups.iter_mut().find(|group| group[0].address == result.address) {
            Some(group) => group.push(result),
            None => groups.push(vec![result]),
        }
    }
    groups.iter().map(|group| address(group, window)).collect()
}

fn address(group: &[&AddressResult], window: Window) -> anyhow::Result<AddressResult> {
    let add =
        |count: fn(&AddressResult) -> u64| group.iter().map(|part| count(part)).fold(0, u64::saturating_add);
    let latencies: Vec<_> = group.iter().map(|part| &part.latency_ns).collect();
    let received = add(|part| part.received);
    Ok(AddressResult {
        address: group[0].address.clone(),
        opened: add(|part| part.opened),
        failed: add(|part| part.failed),
        first_error: group.iter().find_map(|part| part.first_error.clone()),
        sent: add(|part| part.sent),
        received,
        packets_per_s: window.per_second(received),
        latency_ns: added_latencies(&latencies)?,
    })
}
