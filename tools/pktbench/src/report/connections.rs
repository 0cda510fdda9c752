//! The rows of the text report about connections and addresses.

use pktconn_tools::printable::{self, printable};

use crate::result::connections::{AddressResult, Connections};
use crate::result::document::{Config, Document};
use crate::result::units::{self, plural};

/// The most characters of a message: half of a row.
const MAX_ERROR: usize = printable::MAX_LINE / 2;

/// The names and values of the rows.
pub(super) fn rows(document: &Document) -> Vec<(&'static str, String)> {
    let connections =
        document.connections.as_ref().filter(|connections| is_news(connections, &document.config));
    let connections = connections.map(|connections| ("connections", text(connections)));
    let addresses = document.addresses.iter().enumerate();
    let addresses =
        addresses.map(|(index, result)| (if index == 0 { "addresses" } else { "" }, address(result)));
    connections.into_iter().chain(addresses).collect()
}

/// Connections that were all opened before the start and stayed open are no news.
fn is_news(connections: &Connections, config: &Config) -> bool {
    config.conn_packets.is_some() || config.conn_lifetime_s.is_some() || connections.replaced > 0
}

fn text(connections: &Connections) -> String {
    let Connections { opened, replaced, retired, down_pct, missed, connect_ns, handshake_ns } = connections;
    let mut parts = vec![format!("{} opened", units::count(*opened))];
    let others = [(*retired, "closed by plan"), (*replaced, "replaced"), (missed.unwrap_or(0), "missed")];
    let others = others.iter().filter(|(count, _)| *count > 0);
    parts.extend(others.map(|(count, what)| format!("{} {what}", units::count(*count))));
    if let Some(down_pct) = down_pct.filter(|down_pct| *down_pct >= 0.01) {
        parts.push(format!("{} of the time without a connection", units::percent(down_pct)));
    }
    for (name, times) in [("connect", Some(connect_ns)), ("TLS handshake", handshake_ns.as_ref())] {
        let Some(times) = times else { continue };
        let [p50, p99] = times.percentiles([50.0, 99.0]);
        if let (Some(p50), Some(p99)) = (p50, p99) {
            parts.push(format!("{name} p50 {p50}, p99 {p99}"));
        }
    }
    parts.join(", ")
}

fn address(result: &AddressResult) -> String {
    let latency = result.latency_ns.primary();
    let p99 = latency.percentile(99.0).map_or_else(String::new, |p99| format!(", p99 {p99}"));
    let failed = match &result.first_error {
        Some(error) => {
            format!("; {} failed, the first: {}", units::count(result.failed), printable(error, MAX_ERROR))
        }
        None => String::new(),
    };
    let opened = plural(result.opened as usize, "connection");
    let (address, rate) = (printable::name(&result.address), units::rate(result.packets_per_s));
    format!("{address}: {opened}, {rate} packets/s{p99}{failed}")
}
