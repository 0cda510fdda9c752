//! More connections than the server may open files.

use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use crate::client::Client;
use crate::common::Server;
use crate::healthy::{Healthy, assert_unharmed, calm_p99};
use crate::limits::{HANG_GUARD, SECOND, alone, asserts_times};
use crate::process::cpu_time;
use crate::streams::echo;

#[test]
#[ignore = "needs 9 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn at_the_limit_on_open_files_open_connections_are_served_without_a_busy_loop() {
    let _alone = alone();
    let server = Server::with_open_files(256, &["--threads", "1"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    healthy.expect_answers(1);
    let connected: Vec<_> = (0..1000).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    healthy.expect_answers(500);
    assert_unharmed("1,000 connections at a limit of 256 files", calm, healthy, 1.5);
    // After the healthy client has stopped, because its packets cost more CPU time than this.
    let before = cpu_time(&server);
    thread::sleep(3 * SECOND);
    let used = cpu_time(&server) - before;
    eprintln!("at the limit: {used:?} of CPU time in 3 s");
    // A busy loop would use a whole core. Otherwise the CPU time is close to zero, even on a slow machine.
    let limit = if asserts_times() { 3 * SECOND / 20 } else { 3 * SECOND / 4 };
    assert!(used < limit, "{used:?} of CPU time in 3 s");

    drop(connected);
    let free_since = Instant::now();
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
    echo(&mut stream, 1);
    let elapsed = free_since.elapsed();
    eprintln!("served {elapsed:?} after files were free again");
    assert!(!asserts_times() || elapsed < SECOND, "it took {elapsed:?} to be served again");
}
