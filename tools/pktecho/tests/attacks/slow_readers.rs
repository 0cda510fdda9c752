//! Clients that send large packets and read the replies slowly, beside a client that reads fast.
//!
//! The replies are slices of chunks that the whole thread reads into. A queued reply must not keep a chunk in memory that
//! is much larger than itself.

use std::thread;

use crate::attack::Attack;
use crate::client::Client;
use crate::common::Server;
use crate::common::tls::Certificate;
use crate::healthy::Healthy;
use crate::limits::{MIB, SECOND, alone, asserts_times};
use crate::process::peak_resident_bytes;

const BUDGET: u64 = 64 * MIB;

/// Packets of 8 to 32 KiB.
fn packets() -> Vec<u8> {
    let mut packets = Vec::new();
    for len in (8 << 10..=32_u32 << 10).step_by(3 << 10) {
        packets.extend(len.to_le_bytes());
        packets.extend(std::iter::repeat_n(7, len as usize));
    }
    packets
}

/// `conns` connections, one of which reads fast.
fn slow_readers(conns: usize, certificate: Option<&Certificate>) {
    let _alone = alone();
    let mut options = vec!["--threads", "1", "--memory-budget", "64MiB"];
    options.extend(certificate.iter().flat_map(|certificate| certificate.options()));
    let server = Server::start(&options);
    let attacker = Client::new(&server).internet_segments();
    let attacker = certificate.map_or(attacker.clone(), |certificate| attacker.tls(certificate));
    let healthy = Healthy::start(&attacker.clone().elsewhere().payload_len(20_000));
    let attack = Attack {
        repeats: true,
        bytes_per_second: 40_000_000,
        reads_per_second: 10_000,
        ..Attack::new(&attacker, conns - 1, packets())
    };
    let attack = attack.start();
    // The queues of 60 clients are full after 2 s.
    thread::sleep(if asserts_times() { 8 * SECOND } else { 4 * SECOND });
    let answers = healthy.answered();
    healthy.expect_answers(100);
    let (sent, _) = attack.progress();
    let (peak, attacked) = (peak_resident_bytes(&server), attack.stop());
    let over_tls = if certificate.is_some() { " over TLS" } else { "" };
    eprintln!(
        "{} slow readers{over_tls}: {answers} replies to the fast one; peak of {} MiB; {attacked}",
        conns - 1,
        peak / MIB
    );
    // Otherwise the server read so little that the test shows nothing.
    assert!(sent >= 16 * MIB, "only {sent} bytes were sent");
    assert!(peak <= BUDGET + 32 * MIB, "peak of {peak} bytes");
    healthy.p99();
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn sixty_slow_readers_of_large_packets_stay_within_the_memory_budget() {
    slow_readers(61, None);
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn two_hundred_and_forty_slow_readers_of_large_packets_stay_within_the_memory_budget() {
    slow_readers(241, None);
}

#[test]
#[ignore = "needs 6 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn slow_readers_of_large_packets_over_tls_stay_within_the_memory_budget() {
    slow_readers(241, Some(&Certificate::new("localhost")));
}
