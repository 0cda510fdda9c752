//! Clients that never begin a TLS handshake.

use std::time::Instant;

use pktconn::{ConnConfig, PacketConn, TlsClientConfig};

use crate::common::Server;
use crate::common::tls::Certificate;
use crate::limits::{SECOND, alone, asserts_times, deadline};
use crate::streams::{connect, is_gone, wait_until_gone};

#[test]
#[ignore = "needs 9 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn clients_without_a_tls_handshake_delay_no_other_client_and_time_out() {
    let _alone = alone();
    let certificate = Certificate::new("localhost");
    let options = ["--threads", "1", "--handshake-timeout", "3s"];
    let server = Server::start(&[&options[..], &certificate.options()].concat());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        ConnConfig::new().tls(TlsClientConfig::new().ca(certificate.chain()).server_name("localhost"));
    // A new connection, a TLS handshake, and an echo.
    let time_to_reply = || {
        let started = Instant::now();
        runtime.block_on(async {
            let mut conn = PacketConn::connect_with(&server.addr, config.clone()).await.unwrap();
            conn.send(b"hello").await.unwrap();
            assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
            conn.close().await.unwrap();
        });
        started.elapsed()
    };
    let median_time = || {
        let mut times: Vec<_> = (0..101).map(|_| time_to_reply()).collect();
        times.sort();
        times[50]
    };
    let calm = median_time();
    let streams: Vec<_> = (0..1000).map(|_| connect(&server)).collect();
    let deadline = deadline(4 * SECOND);
    // At least one client is served while all silent clients are connected, even on a slow machine.
    time_to_reply();
    assert!(!streams.iter().any(is_gone), "the silent clients were closed too early");
    let attacked = median_time();
    eprintln!(
        "1,000 silent TLS clients: a new client was served in {attacked:?}, and in {calm:?} without them"
    );
    if asserts_times() {
        assert!(Instant::now() + SECOND < deadline, "the silent clients were closed too early");
        assert!(
            attacked <= (2 * calm).max(calm + 2 * SECOND / 1000),
            "the time to a reply rose from {calm:?} to {attacked:?}"
        );
    }
    wait_until_gone(streams, deadline);
    time_to_reply();
}
