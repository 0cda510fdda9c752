//! Attacks on `/metrics`. Scrapes from elsewhere must be served, and the echo server must not suffer.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::attack::Attack;
use crate::client::Client;
use crate::common::Server;
use crate::common::scrape::{REQUEST, read_page};
use crate::healthy::{Healthy, assert_p99, calm_p99, print_p99};
use crate::limits::{SECOND, alone, asserts_times};

/// Time in which a scrape must be served. Without `PKTCONN_TIMES=1`, a slow machine gets more.
fn scrape_limit() -> Duration {
    if asserts_times() { SECOND } else { 5 * SECOND }
}

/// Scrapes the metrics. A connection that the server closes is tried again. Returns `None` after `scrape_limit`.
pub(crate) fn scrape(client: &Client) -> Option<String> {
    let give_up_at = Instant::now() + scrape_limit();
    loop {
        let left = give_up_at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        if let Ok(page) = client.connect(left).and_then(|mut stream| read_page(&mut *stream)) {
            return Some(page).filter(|_| Instant::now() <= give_up_at);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The attack of `what`, which starts after the healthy client.
fn under_attack<A>(what: &str, server: &mut Server, attack: impl FnOnce(&Client, &Server) -> A) {
    let metrics = Client::of_addr(&server.metrics_addr());
    let echo_client = Client::new(server).elsewhere();
    let calm = calm_p99(&echo_client);
    let mut healthy = Healthy::start(&echo_client);
    healthy.expect_answers(1);
    let attack = attack(&metrics, server);
    // Until the attack has all its connections.
    thread::sleep(SECOND / 2);
    healthy.restart_measurement();
    let scraper = metrics.elsewhere();
    let mut times = Vec::new();
    let scrapes = if asserts_times() { 8 } else { 3 };
    for _ in 0..scrapes {
        let started = Instant::now();
        times.extend(scrape(&scraper).map(|_| started.elapsed()));
        thread::sleep(SECOND / 4);
    }
    healthy.expect_answers(100);
    let p99 = healthy.p99();
    drop(attack);
    let slowest = times.iter().max().map_or_else(String::new, |time| format!(", the slowest in {time:.1?}"));
    eprintln!("{what}: {} of {scrapes} scrapes served{slowest}", times.len());
    print_p99(what, calm, p99);
    assert_eq!(times.len(), scrapes, "{what}: scrapes served");
    assert_p99(what, calm, p99, |calm| calm.mul_f64(1.5));
}

const OPTIONS: [&str; 4] = ["--threads", "1", "--metrics", "127.0.0.1:0"];

fn pipelined(conns: usize) {
    let _alone = alone();
    under_attack(
        &format!("{conns} metrics clients that never read"),
        &mut Server::start(&OPTIONS),
        |metrics, _| {
            let requests = REQUEST.repeat(100);
            // 10,000 requests per second of all connections together.
            let bytes_per_second = 10_000 * REQUEST.len() as u64;
            Attack { repeats: true, bytes_per_second, ..Attack::new(metrics, conns, requests) }.start()
        },
    );
}

#[test]
#[ignore = "needs 2 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn sixteen_metrics_clients_that_never_read_do_not_stop_a_scrape() {
    pipelined(16);
}

#[test]
#[ignore = "needs 2 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn two_hundred_metrics_clients_that_never_read_do_not_stop_a_scrape() {
    pipelined(200);
}

#[test]
#[ignore = "needs 2 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn idle_metrics_clients_do_not_stop_a_scrape() {
    let _alone = alone();
    under_attack("200 idle metrics clients", &mut Server::start(&OPTIONS), |metrics, _| {
        Attack::new(metrics, 200, Vec::new()).start()
    });
}

#[test]
#[ignore = "needs 2 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn slow_headers_of_metrics_clients_do_not_stop_a_scrape() {
    let _alone = alone();
    under_attack("200 metrics clients with slow headers", &mut Server::start(&OPTIONS), |metrics, _| {
        let request = [&REQUEST[..REQUEST.len() - 2], b"X-Slow: ", &[b'a'; 4096]].concat();
        // 10 bytes per second of each connection.
        Attack { bytes_per_second: 2000, write_len: 1, ..Attack::new(metrics, 200, request) }.start()
    });
}

#[test]
#[ignore = "needs 2 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn at_the_limit_on_open_files_a_scrape_is_served() {
    let _alone = alone();
    let mut server = Server::with_open_files(256, &OPTIONS);
    under_attack("1,000 connections at a limit of 256 files", &mut server, |_, server| {
        (0..1000).map(|_| TcpStream::connect(&server.addr).unwrap()).collect::<Vec<_>>()
    });
}
