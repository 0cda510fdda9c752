//! What clients tell the recorder of the crate `metrics`.

use metrics::{Unit, counter, describe_counter};

const CLIENT_CONNECTED: &str = "pktconn_client_connections_total";
const CLIENT_FAILED: &str = "pktconn_client_failed_tries_total";

pub(super) fn describe() {
    describe_counter!(CLIENT_CONNECTED, Unit::Count, "Connections that clients have made.");
    describe_counter!(CLIENT_FAILED, Unit::Count, "Attempts of clients to connect that failed.");
    counter!(CLIENT_CONNECTED).increment(0);
    counter!(CLIENT_FAILED).increment(0);
}

pub(super) fn connected() {
    counter!(CLIENT_CONNECTED).increment(1);
}

pub(super) fn failed() {
    counter!(CLIENT_FAILED).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_documentation_lists_every_metric() {
        let documentation = include_str!("../lib.rs");
        for name in [CLIENT_CONNECTED, CLIENT_FAILED] {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
