//! Metrics that a server records when they happen: completed handshakes and ended connections.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use crate::error::Reason;

const ENDED: &str = "pktconn_connections_ended_total";
const DURATION: &str = "pktconn_connection_duration_seconds";
const HANDSHAKE: &str = "pktconn_handshake_duration_seconds";

pub(super) fn describe() {
    describe_counter!(ENDED, Unit::Count, "Ended connections, by reason.");
    // Registers each counter at 0, so that the first connection shows as an increase.
    for reason in Reason::LABELS {
        counter!(ENDED, "reason" => reason).increment(0);
    }
    describe_histogram!(DURATION, Unit::Seconds, "Time from the accept to the end of a connection.");
    describe_histogram!(HANDSHAKE, Unit::Seconds, "Time from the accept to the end of the handshake.");
}

pub(super) fn record_conn_ended(reason: Option<Reason>, after: Duration) {
    let reason = reason.map_or("local_close", |reason| reason.label());
    counter!(ENDED, "reason" => reason).increment(1);
    histogram!(DURATION).record(after);
}

pub(super) fn record_handshake(after: Duration) {
    histogram!(HANDSHAKE).record(after);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_documentation_lists_every_metric() {
        let documentation = include_str!("../lib.rs");
        for name in [ENDED, DURATION, HANDSHAKE] {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
