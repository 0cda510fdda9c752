//! Publishes the counts of a server to the recorder of the crate `metrics`. The crate documentation lists the names.
//!
//! Once per second this reads the counts that servers and connections keep anyway, and adds the differences. So all
//! servers of a process form one sum, and publishing costs nothing per packet.

use std::pin::pin;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::registry::Registry;
use crate::{ConnStats, ServerStats};

const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// Name, unit, description, and how to read the value.
type Metric = (&'static str, Unit, &'static str, fn(&ServerStats, &ConnStats) -> u64);

const COUNTERS: [Metric; 16] = [
    ("pktconn_connections_accepted_total", Unit::Count, "Connections accepted.", |stats, _| stats.accepted),
    (
        "pktconn_connections_refused_total",
        Unit::Count,
        "Connections closed at once because a limit was reached.",
        |stats, _| stats.refused,
    ),
    (
        "pktconn_connections_over_rate_total",
        Unit::Count,
        "Connections closed at once because their client opened them too fast.",
        |stats, _| stats.refused_over_rate,
    ),
    (
        "pktconn_connections_over_process_memory_total",
        Unit::Count,
        "Connections closed at once because the process held too much memory.",
        |stats, _| stats.refused_over_process_memory,
    ),
    (
        "pktconn_process_memory_exceeded_total",
        Unit::Count,
        "How often the memory of the process has come over its limit.",
        |stats, _| stats.process_memory_exceeded,
    ),
    ("pktconn_handshakes_failed_total", Unit::Count, "Failed TLS and PROXY handshakes.", |stats, _| {
        stats.handshakes_failed
    }),
    (
        "pktconn_budget_pauses_total",
        Unit::Count,
        "How often the memory budget was three quarters used, and the heaviest networks were paused.",
        |stats, _| stats.budget_pauses,
    ),
    (
        "pktconn_idle_connections_over_budget_total",
        Unit::Count,
        "Idle connections closed because of the memory budget.",
        |stats, _| stats.closed_idle_over_budget,
    ),
    (
        "pktconn_connections_over_budget_total",
        Unit::Count,
        "Connections closed because of the memory budget.",
        |stats, _| stats.closed_over_budget,
    ),
    ("pktconn_packets_received_total", Unit::Count, "Packets received.", |_, traffic| {
        traffic.packets_received
    }),
    ("pktconn_packets_sent_total", Unit::Count, "Packets accepted for sending.", |_, traffic| {
        traffic.packets_sent
    }),
    (
        "pktconn_packets_dropped_total",
        Unit::Count,
        "Packets dropped because the send queue was full.",
        |_, traffic| traffic.packets_dropped,
    ),
    ("pktconn_received_bytes_total", Unit::Bytes, "Bytes read.", |_, traffic| traffic.bytes_received),
    ("pktconn_sent_bytes_total", Unit::Bytes, "Bytes written.", |_, traffic| traffic.bytes_sent),
    ("pktconn_reads_total", Unit::Count, "Reads that returned bytes.", |_, traffic| traffic.reads),
    ("pktconn_writes_total", Unit::Count, "Writes that wrote bytes.", |_, traffic| traffic.writes),
];

const GAUGES: [Metric; 4] = [
    ("pktconn_connections_open", Unit::Count, "Open connections.", |stats, _| stats.open as u64),
    ("pktconn_handshakes_running", Unit::Count, "Running handshakes.", |stats, _| {
        stats.handshakes_running as u64
    }),
    ("pktconn_queued_bytes", Unit::Bytes, "Bytes in send queues.", |_, traffic| traffic.queued_bytes),
    (
        "pktconn_held_bytes",
        Unit::Bytes,
        "Bytes that connections hold in memory. 0 without a memory budget.",
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

/// Runs `serving`, and publishes the counts once per second and at the end.
pub(crate) async fn publish_while<T>(registry: &Registry, serving: impl Future<Output = T>) -> T {
    describe_server();
    let mut published = Published { registry, counters: [0; COUNTERS.len()], gauges: [0; GAUGES.len()] };
    let mut serving = pin!(serving);
    loop {
        published.update();
        tokio::select! {
            // The timer first: a server that accepts without a pause would otherwise never let it run.
            biased;
            () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
            served = &mut serving => return served,
        }
    }
}

/// The values of one server that were published so far. Dropping it publishes the last values.
struct Published<'a> {
    registry: &'a Registry,
    counters: [u64; COUNTERS.len()],
    gauges: [u64; GAUGES.len()],
}

impl Published<'_> {
    fn update(&mut self) {
        let (stats, traffic) = (self.registry.stats(), self.registry.traffic());
        for ((name, _, _, read), published) in COUNTERS.into_iter().zip(&mut self.counters) {
            // Counts of a connection that ends now may be missing until the next time.
            let new = read(&stats, &traffic).saturating_sub(*published);
            counter!(name).increment(new);
            *published += new;
        }
        for ((name, _, _, read), published) in GAUGES.into_iter().zip(&mut self.gauges) {
            let now = read(&stats, &traffic);
            gauge!(name).increment(now as f64 - *published as f64);
            *published = now;
        }
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.update();
        // Removes this server's share of the gauges. Connections that outlive their server are no longer observed.
        for ((name, ..), published) in GAUGES.into_iter().zip(self.gauges) {
            gauge!(name).decrement(published as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_documentation_lists_every_metric() {
        let documentation = include_str!("../lib.rs");
        let metrics = COUNTERS.into_iter().chain(GAUGES).map(|(name, ..)| name);
        for name in metrics {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
