//! Handshakes that never end: a `ClientHello` or a PROXY header without its last byte.

use crate::attack::Attack;
use crate::client::Client;
use crate::common::Server;
use crate::common::tls::Certificate;
use crate::limits::{MIB, SECOND, alone, asserts_times};
use crate::new_clients::serve_new_clients;
use crate::process::{peak_resident_bytes, resident_bytes};

const ATTACKERS: usize = 3000;

const NEW_CLIENTS: usize = 50;

/// A `ClientHello` of 60 kB in TLS records, without its last byte.
///
/// ```text
///   record: 16 03 01 length | handshake: 01 length | version, random, session, ciphers, compression | extensions
/// ```
fn unfinished_client_hello() -> Vec<u8> {
    const HELLO_LEN: usize = 60_000;
    const MAX_RECORD_LEN: usize = 16 * 1024;
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let extensions_len = u16::try_from(HELLO_LEN - body.len() - 2).unwrap();
    body.extend(extensions_len.to_be_bytes());
    // The extension "padding".
    body.extend([0, 21]);
    body.extend((extensions_len - 4).to_be_bytes());
    body.resize(HELLO_LEN, 0);
    let mut handshake = vec![1];
    handshake.extend(&u32::try_from(HELLO_LEN).unwrap().to_be_bytes()[1..]);
    handshake.append(&mut body);
    let mut records = Vec::new();
    for fragment in handshake.chunks(MAX_RECORD_LEN) {
        records.extend([0x16, 3, 1]);
        records.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        records.extend(fragment);
    }
    records.pop();
    records
}

/// A PROXY header, version 2, that announces 65,535 bytes, without the last of them.
fn unfinished_proxy_header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    header.extend([192, 0, 2, 3, 192, 0, 2, 1, 0xc3, 0x50, 0x38, 0xec]);
    header.resize(16 + 65_534, 4);
    header
}

/// `client` connects while the attackers wait in their handshakes.
fn unfinished_handshakes(what: &str, server: &Server, client: &Client, script: Vec<u8>) {
    let interval = 10 * SECOND / 1000;
    let calm = serve_new_clients(client, NEW_CLIENTS, interval);
    calm.assert_served(what, 100);
    let before = resident_bytes(server);
    let attack = Attack { reconnects: false, ..Attack::new(&Client::new(server), ATTACKERS, script) }.start();
    attack.wait_until_sent(5 * SECOND);
    let served = serve_new_clients(client, NEW_CLIENTS, interval);
    let grown = peak_resident_bytes(server).saturating_sub(before);
    let attacked = attack.stop();
    eprintln!("{what}: {served}; without them: {calm}; {} MiB more memory; {attacked}", grown / MIB);
    served.assert_served(what, 99);
    assert!(grown <= 64 * MIB, "{what}: {grown} bytes");
    let (attacked, calm) = (served.median(), calm.median());
    let limit = (2 * calm).max(calm + 2 * SECOND / 1000);
    assert!(
        !asserts_times() || attacked <= limit,
        "{what}: the time to a reply rose from {calm:?} to {attacked:?}"
    );
}

fn unfinished_client_hellos(what: &str, options: &[&str]) {
    let _alone = alone();
    let certificate = Certificate::new("localhost");
    let server = Server::start(&[&["--threads", "1"], options, &certificate.options()].concat());
    let client = Client::new(&server).elsewhere().tls(&certificate);
    unfinished_handshakes(what, &server, &client, unfinished_client_hello());
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn unfinished_client_hellos_cost_little_memory() {
    unfinished_client_hellos("3,000 unfinished ClientHellos", &[]);
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn unfinished_client_hellos_leave_a_small_memory_budget_to_others() {
    let options = ["--memory-budget", "16MiB"];
    unfinished_client_hellos("3,000 unfinished ClientHellos with a budget of 16 MiB", &options);
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn unfinished_proxy_headers_cost_little_memory() {
    let _alone = alone();
    let options = ["--threads", "1", "--proxy-protocol", "--trusted-proxy", "127.0.0.0/8"];
    let server = Server::start(&options);
    let client = Client::new(&server).elsewhere().proxy_header();
    unfinished_handshakes("3,000 unfinished PROXY headers", &server, &client, unfinished_proxy_header());
}
