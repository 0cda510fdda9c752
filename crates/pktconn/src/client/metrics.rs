//! Metrics of all clients of a process, for the recorder of the crate `metrics`.

use metrics::{Unit, counter, describe_counter};

const CONNECTIONS: &str = "pktconn_client_connections_total";
const FAILED_TRIES: &str = "pktconn_client_failed_tries_total";

pub(super) fn describe() {
    describe_counter!(CONNECTIONS, Unit::Count, "Connections made by clients.");
    describe_counter!(FAILED_TRIES, Unit::Count, "Failed connection attempts of clients.");
    counter!(CONNECTIONS).increment(0);
    counter!(FAILED_TRIES).increment(0);
}

pub(super) fn record_connected() {
    counter!(CONNECTIONS).increment(1);
}

pub(super) fn record_failed_try() {
    counter!(FAILED_TRIES).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_documentation_lists_every_metric() {
        let documentation = include_str!("../lib.rs");
        for name in [CONNECTIONS, FAILED_TRIES] {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
