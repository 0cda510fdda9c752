//! Many clients that each hold much memory, against the memory budget.

use std::io::{ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::Client;
use crate::common::Server;
use crate::healthy::{Healthy, assert_unharmed, calm_p99};
use crate::limits::{HANG_GUARD, SECOND, alone, asserts_times};
use crate::process::resident_bytes;
use crate::streams::connect;

#[test]
#[ignore = "needs 15 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_thousand_clients_that_use_much_memory_stay_within_the_budget() {
    const CLIENTS: usize = 1000;
    const BUDGET: u64 = 64 << 20;
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--memory-budget", "64MiB"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    // Half of the clients send packets and read nothing. The others send a frame of 1 MiB without its last byte.
    let packets: Vec<u8> = [0, 8, 0, 0].into_iter().chain([7; 2048]).cycle().take(2052 * 32).collect();
    let frame: Vec<u8> = (1_u32 << 20).to_le_bytes().into_iter().chain(vec![7; (1 << 20) - 1]).collect();
    let open = |number: usize| {
        let stream = connect(&server);
        SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        (stream, if number % 2 == 0 { &packets } else { &frame }, 0)
    };
    let mut streams: Vec<_> = (0..CLIENTS).map(open).collect();
    let (started, mut peak, mut gone, mut next) = (Instant::now(), 0, 0, 0);
    let answered = healthy.answered();
    // Until the budget is reached and clients were closed because of it.
    let continues = |peak, gone| match asserts_times() {
        true => started.elapsed() < 10 * SECOND,
        false => peak < BUDGET || gone < 20 || healthy.answered() < answered + 1000,
    };
    while continues(peak, gone) {
        assert!(started.elapsed() < 4 * HANG_GUARD, "peak of {peak} bytes, {gone} connections closed");
        // All clients send once per 80 ms: the attack, the server and the healthy client share two cores.
        for _ in 0..CLIENTS / 80 + 1 {
            next = (next + 1) % CLIENTS;
            let (stream, bytes, sent) = &mut streams[next];
            let left = &bytes[*sent..];
            match stream.write(&left[..left.len().min(16 * 1024)]) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    // A closed client connects again.
                    gone += 1;
                    streams[next] = open(next);
                    continue;
                }
            }
            if *sent == bytes.len() && next % 2 == 0 {
                *sent = 0;
            }
        }
        peak = peak.max(resident_bytes(&server));
        thread::sleep(Duration::from_millis(1));
    }
    eprintln!("1,000 clients that use much memory: peak of {peak} bytes, {gone} connections closed");
    assert!(peak >= BUDGET, "peak of {peak} bytes: the budget was never reached");
    assert!(peak <= BUDGET + (32 << 20), "peak of {peak} bytes");
    assert!(gone > 0, "no connection was closed");
    assert_unharmed("1,000 clients that use much memory", calm, healthy, 2.0);
}
