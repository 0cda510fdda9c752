//! What a server tells the recorder of the crate `metrics` as it happens: handshakes, and the ends of connections.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use crate::error::Reason;

const ENDED: &str = "pktconn_connections_ended_total";
const DURATION: &str = "pktconn_connection_duration_seconds";
const HANDSHAKE: &str = "pktconn_handshake_duration_seconds";

pub(super) fn describe() {
    describe_counter!(ENDED, Unit::Count, "Connections that were opened and are gone, by reason.");
    // From the beginning, for the first one to be seen as a change.
    for reason in Reason::LABELS {
        counter!(ENDED, "reason" => reason).increment(0);
    }
    describe_histogram!(DURATION, Unit::Seconds, "From the accept to the end of a connection.");
    describe_histogram!(HANDSHAKE, Unit::Seconds, "From the accept to the end of the handshake.");
}

/// A connection of a server has ended.
pub(super) fn ended(reason: Option<Reason>, after: Duration) {
    let reason = reason.map_or("local_close", |reason| reason.label());
    counter!(ENDED, "reason" => reason).increment(1);
    histogram!(DURATION).record(after);
}

pub(super) fn shaken_hands(after: Duration) {
    histogram!(HANDSHAKE).record(after);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_in_the_documentation_of_the_crate() {
        let documentation = include_str!("../lib.rs");
        for name in [ENDED, DURATION, HANDSHAKE] {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
