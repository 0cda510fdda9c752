//! What a server counts, for the recorder of the crate `metrics`: the names stand in this crate's documentation.
//!
//! What servers and connections count for themselves is read once a second, and what is new is added: so the servers of
//! a process make one sum, and no packet pays for it.

use std::pin::pin;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::registry::Registry;
use crate::{ConnStats, ServerStats};

const INTERVAL: Duration = Duration::from_secs(1);

/// A name, what it counts, and where that is read.
type Figure = (&'static str, Unit, &'static str, fn(&ServerStats, &ConnStats) -> u64);

const COUNTERS: [Figure; 11] = [
    ("pktconn_connections_accepted_total", Unit::Count, "Connections accepted.", |stats, _| stats.accepted),
    (
        "pktconn_connections_refused_total",
        Unit::Count,
        "Connections closed at once: there were too many.",
        |stats, _| stats.refused,
    ),
    (
        "pktconn_handshakes_failed_total",
        Unit::Count,
        "Handshakes of TLS or the PROXY protocol that failed.",
        |stats, _| stats.handshakes_failed,
    ),
    (
        "pktconn_connections_over_budget_total",
        Unit::Count,
        "Connections closed for the memory budget.",
        |stats, _| stats.closed_over_budget,
    ),
    ("pktconn_packets_received_total", Unit::Count, "Packets received.", |_, traffic| {
        traffic.packets_received
    }),
    ("pktconn_packets_sent_total", Unit::Count, "Packets accepted to be sent.", |_, traffic| {
        traffic.packets_sent
    }),
    ("pktconn_packets_dropped_total", Unit::Count, "Packets dropped for want of room.", |_, traffic| {
        traffic.packets_dropped
    }),
    ("pktconn_received_bytes_total", Unit::Bytes, "Bytes read.", |_, traffic| traffic.bytes_received),
    ("pktconn_sent_bytes_total", Unit::Bytes, "Bytes written.", |_, traffic| traffic.bytes_sent),
    ("pktconn_reads_total", Unit::Count, "Reads that returned bytes.", |_, traffic| traffic.reads),
    ("pktconn_writes_total", Unit::Count, "Writes that took bytes.", |_, traffic| traffic.writes),
];

const GAUGES: [Figure; 3] = [
    ("pktconn_connections_open", Unit::Count, "Connections that are there.", |stats, _| stats.open as u64),
    ("pktconn_queued_bytes", Unit::Bytes, "Bytes that wait for peers to take them.", |_, traffic| {
        traffic.queued_bytes
    }),
    (
        "pktconn_held_bytes",
        Unit::Bytes,
        "What connections hold in memory, where there is a budget.",
        |stats, _| stats.held_bytes as u64,
    ),
];

fn describe_server() {
    for (name, unit, text, _) in COUNTERS {
        describe_counter!(name, unit, text);
    }
    for (name, unit, text, _) in GAUGES {
        describe_gauge!(name, unit, text);
    }
    super::metric_events::describe();
}

/// Runs what a server does, and has its figures told meanwhile and at the end.
pub(crate) async fn told<T>(registry: &Registry, serving: impl Future<Output = T>) -> T {
    describe_server();
    let mut told = Told { registry, counters: [0; COUNTERS.len()], gauges: [0; GAUGES.len()] };
    let mut serving = pin!(serving);
    loop {
        told.bring_up_to_date();
        tokio::select! {
            // The time first: who accepts without a pause leaves it none of his turn.
            biased;
            () = tokio::time::sleep(INTERVAL) => {}
            served = &mut serving => return served,
        }
    }
}

/// What was told of a server. When that is over, for the last time.
struct Told<'a> {
    registry: &'a Registry,
    counters: [u64; COUNTERS.len()],
    gauges: [u64; GAUGES.len()],
}

impl Told<'_> {
    fn bring_up_to_date(&mut self) {
        let (stats, traffic) = (self.registry.stats(), self.registry.traffic());
        for ((name, _, _, read), told) in COUNTERS.into_iter().zip(&mut self.counters) {
            // Of a connection that ends at this moment something may be missing, until the next time.
            let new = read(&stats, &traffic).saturating_sub(*told);
            counter!(name).increment(new);
            *told += new;
        }
        for ((name, _, _, read), told) in GAUGES.into_iter().zip(&mut self.gauges) {
            let now = read(&stats, &traffic);
            gauge!(name).increment(now as f64 - *told as f64);
            *told = now;
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.bring_up_to_date();
        // Connections that live on without their server are nobody's to look at.
        for ((name, ..), told) in GAUGES.into_iter().zip(self.gauges) {
            gauge!(name).decrement(told as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_in_the_documentation_of_the_crate() {
        let documentation = include_str!("../lib.rs");
        let figures = COUNTERS.into_iter().chain(GAUGES).map(|(name, ..)| name);
        for name in figures {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
