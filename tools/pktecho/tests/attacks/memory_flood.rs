//! Half frames from one address, until the memory budget is used up. Clients from elsewhere must be served.

use std::time::Duration;

use crate::attack::Attack;
use crate::client::Client;
use crate::common::Server;
use crate::common::tls::Certificate;
use crate::healthy::{Healthy, assert_p99, calm_p99, print_p99};
use crate::limits::{MIB, SECOND, alone, asserts_times};
use crate::new_clients::serve_new_clients;
use crate::process::peak_resident_bytes;

/// As many as one address may have.
const ATTACKERS: usize = 50;

const NEW_CLIENTS: u32 = 300;

/// The header of a frame of 32 MiB, and the first half of its payload.
fn half_frame() -> Vec<u8> {
    let mut half = vec![7; 4 + (16 << 20)];
    half[..4].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    half
}

fn flood(budget_mib: u64, mbit_per_second: u64, certificate: Option<&Certificate>) {
    let _alone = alone();
    let budget = format!("{budget_mib}MiB");
    let mut options = vec!["--threads", "1", "--max-conns-per-ip", "50", "--memory-budget", &budget];
    options.extend(certificate.iter().flat_map(|certificate| certificate.options()));
    let server = Server::start(&options);
    let attacker = Client::new(&server);
    let attacker = certificate.map_or(attacker.clone(), |certificate| attacker.tls(certificate));
    let new_client = attacker.clone().elsewhere();
    let existing_client = new_client.clone().payload_len(20_000);
    let calm = calm_p99(&existing_client);
    let mut healthy = Healthy::start(&existing_client);
    healthy.expect_answers(1);

    let bytes_per_second = mbit_per_second * 1_000_000 / 8;
    let attack = Attack { bytes_per_second, ..Attack::new(&attacker, ATTACKERS, half_frame()) }.start();
    // Until the attacker has used up the budget, or was stopped before.
    let budget_time = Duration::from_millis(budget_mib * MIB * 1000 / bytes_per_second);
    attack.wait_until_noticed(budget_mib * MIB / 10 * 11, budget_time * 8 / 5);
    healthy.restart_measurement();
    let attack_time = if asserts_times() { 10 * SECOND } else { 3 * SECOND };
    let served = serve_new_clients(&new_client, NEW_CLIENTS as usize, attack_time / NEW_CLIENTS);
    let answers = healthy.measured();
    let (peak, attacked) = (peak_resident_bytes(&server), attack.stop());
    let over_tls = if certificate.is_some() { " over TLS" } else { "" };
    let what = format!("a flood of {mbit_per_second} Mbit/s{over_tls} with a budget of {budget_mib} MiB");
    eprintln!(
        "{what}: {served}; the existing client got {answers} replies; peak of {} MiB; {attacked}",
        peak / MIB
    );
    healthy.expect_answers(1);
    let p99 = healthy.p99();
    print_p99(&what, calm, p99);
    served.assert_served(&what, 99);
    assert!(answers >= 100, "{what}: the existing client got only {answers} replies");
    assert!(peak <= (budget_mib + 32) * MIB, "{what}: peak of {peak} bytes");
    assert_p99(&what, calm, p99, |calm| 2 * calm + 5 * SECOND / 1000);
}

#[test]
#[ignore = "needs 8 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_170_mbit_per_s_from_one_address_leaves_a_budget_of_64_mib_to_others() {
    flood(64, 170, None);
}

#[test]
#[ignore = "needs 6 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_500_mbit_per_s_from_one_address_leaves_a_budget_of_64_mib_to_others() {
    flood(64, 500, None);
}

#[test]
#[ignore = "needs 18 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_170_mbit_per_s_from_one_address_leaves_a_budget_of_256_mib_to_others() {
    flood(256, 170, None);
}

#[test]
#[ignore = "needs 9 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_500_mbit_per_s_from_one_address_leaves_a_budget_of_256_mib_to_others() {
    flood(256, 500, None);
}

#[test]
#[ignore = "needs 8 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_over_tls_from_one_address_leaves_a_budget_of_64_mib_to_others() {
    flood(64, 170, Some(&Certificate::new("localhost")));
}
