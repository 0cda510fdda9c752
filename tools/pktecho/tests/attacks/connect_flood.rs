//! Connections from one address, as many as one core can make, each closed by a reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::client::Client;
use crate::common::Server;
use crate::common::tls::Certificate;
use crate::healthy::{Healthy, assert_p99, calm_p99, print_p99};
use crate::limits::{HANG_GUARD, MIB, SECOND, alone, asserts_times};
use crate::metrics::scrape;
use crate::new_clients::{Served, serve_new_clients};
use crate::process::{open_files, resident_bytes, wait_for_files};

/// Connects and resets until `stop` is set. Returns the number of connections.
fn connect_and_reset(addr: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut conns = 0;
    while !stop.load(Relaxed) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        // Without blocking, because a full backlog would slow the attacker down. On loopback the handshake is complete
        // when the call returns.
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&addr.into());
        conns += 1;
    }
    conns
}

/// The value of a metric.
fn metric(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// How clients were served during a flood.
struct Flooded {
    /// Connections of the attacker per second.
    rate: f64,
    served: Served,
    /// Number of replies that the healthy client got.
    answers: u32,
    p99: Duration,
}

/// Floods `addr` while a healthy client echoes and new clients connect as `client`.
fn flood(addr: SocketAddr, client: &Client) -> Flooded {
    let mut healthy = Healthy::start(client);
    healthy.expect_answers(100);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let attacker = thread::spawn(move || connect_and_reset(addr, &stopped));
    healthy.restart_measurement();
    let started = Instant::now();
    let new_clients = if asserts_times() { 100 } else { 40 };
    let served = serve_new_clients(client, new_clients, SECOND / 20);
    let answers = healthy.measured();
    let attack_time = started.elapsed();
    stop.store(true, Relaxed);
    let rate = attacker.join().unwrap() as f64 / attack_time.as_secs_f64();
    Flooded { rate, served, answers, p99: healthy.p99() }
}

fn connect_flood(certificate: Option<&Certificate>) {
    let _alone = alone();
    let mut options = vec!["--threads", "1", "--metrics", "127.0.0.1:0", "--memory-budget", "64MiB"];
    options.extend(["--conn-rate-per-ip", "100"]);
    options.extend(certificate.iter().flat_map(|certificate| certificate.options()));
    let mut server = Server::start(&options);
    let scraper = Client::of_addr(&server.metrics_addr()).elsewhere();
    let other = Client::new(&server).elsewhere();
    let other = certificate.map_or(other.clone(), |certificate| other.tls(certificate));
    let calm = calm_p99(&other);
    // The flood alone keeps two cores busy: one with the attacker, one with what accepts. So compare also with a flood
    // of another server on the same machine.
    let elsewhere = asserts_times().then(|| {
        let flooded = Server::start(&options);
        flood(flooded.addr.parse().unwrap(), &other).p99
    });
    let warm_up = Healthy::start(&other);
    warm_up.expect_answers(100);
    // Without the connection of this client, which ends.
    let (files, before) = (open_files(&server) - 1, resident_bytes(&server));
    warm_up.p99();

    let Flooded { rate, served, answers, p99 } = flood(server.addr.parse().unwrap(), &other);
    wait_for_files(&server, files);

    let over_tls = if certificate.is_some() { " over TLS" } else { "" };
    let what = format!("a flood of connections{over_tls}");
    eprintln!("{what}: {rate:.0}/s; {served}; the existing client got {answers} replies");
    print_p99(&what, calm, p99);
    if let Some(elsewhere) = elsewhere {
        eprintln!("{what}: the healthy client's p99 was {elsewhere:.1?} with the flood on another server");
    }
    let give_up_at = Instant::now() + HANG_GUARD;
    // The metrics are updated once per second.
    let [accepted, over_rate] = loop {
        let metrics = scrape(&scraper).expect("the metrics are served");
        let counts = ["pktconn_connections_open ", "pktconn_held_bytes "].map(|name| metric(&metrics, name));
        if counts == [Some(0.0); 2] {
            let totals = ["pktconn_connections_accepted_total ", "pktconn_connections_over_rate_total "];
            break totals.map(|name| metric(&metrics, name).expect("the metric exists"));
        }
        assert!(Instant::now() < give_up_at, "{what}: open connections and held bytes: {counts:?}");
        thread::sleep(SECOND / 10);
    };
    let grown = resident_bytes(&server).saturating_sub(before);
    eprintln!("{what}: {} KiB more memory afterwards", grown / 1024);

    eprintln!("{what}: {over_rate} of {accepted} connections were refused for their rate");
    served.assert_served(&what, 99);
    assert!(over_rate >= 0.8 * accepted, "{what}: only {over_rate} of {accepted} connections were refused");
    assert!(answers >= 100, "{what}: the existing client got only {answers} replies");
    assert!(grown <= 8 * MIB, "{what}: {grown} bytes more memory afterwards");
    assert!(!asserts_times() || rate >= 5000.0, "{what}: the attacker made only {rate:.0} connections/s");
    assert_p99(&what, calm, p99, |calm| 2 * calm);
    if let Some(elsewhere) = elsewhere {
        let limit = 2 * elsewhere;
        assert!(p99 <= limit, "{what}: the healthy client's p99 was {p99:?}, above the limit of {limit:?}");
    }
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_connections_from_one_address_does_not_harm_others() {
    connect_flood(None);
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_connections_from_one_address_over_tls_does_not_harm_others() {
    connect_flood(Some(&Certificate::new("localhost")));
}
