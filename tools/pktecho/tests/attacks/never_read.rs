//! Clients that send packets and never read the replies.

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
#[ignore = "needs 20 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn clients_that_never_read_cost_limited_memory_and_time_out() {
    // Each client must fill its send queue of 1 MiB within 8 s. A slow machine cannot do that for 1,000 clients.
    let clients = if asserts_times() { 1000 } else { 200 };
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--write-timeout", "8s"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    let before = resident_bytes(&server);

    let mut burst = Vec::new();
    for len in (0..2048_u32).step_by(128) {
        burst.extend_from_slice(&len.to_le_bytes());
        burst.extend(std::iter::repeat_n(7, len as usize));
    }
    let mut streams: Vec<_> = (0..clients)
        .map(|_| {
            let stream = connect(&server);
            // A small buffer, so that the replies wait in the server and not in the client's kernel.
            SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
            // The stream, and how many bytes of its burst are sent.
            (stream, 0)
        })
        .collect();
    // The clients send a burst every 80 ms, in turn: 200 KB/s each, so that all send queues are full before the first
    // connection times out.
    let (mut peak, mut first_gone, mut stuck_since) = (0, None, Instant::now());
    let started = Instant::now();
    let mut next = 0;
    let stuck_limit = if asserts_times() { 9 * SECOND } else { HANG_GUARD };
    let answered = healthy.answered();
    while !streams.is_empty() {
        for _ in 0..clients / 80 + 1 {
            next = if next < streams.len() { next } else { 0 };
            let Some((stream, sent)) = streams.get_mut(next) else { break };
            match stream.write(&burst[*sent..]) {
                Ok(count) => {
                    *sent = (*sent + count) % burst.len();
                    stuck_since = Instant::now();
                    next += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => next += 1,
                Err(_) => {
                    first_gone.get_or_insert_with(|| started.elapsed());
                    streams.swap_remove(next);
                }
            }
        }
        peak = peak.max(resident_bytes(&server));
        // The server does not read from a client whose send queue is full; its write timeout has already started.
        assert!(stuck_since.elapsed() < stuck_limit, "{} connections are still open", streams.len());
        thread::sleep(Duration::from_millis(1));
    }
    let answered = healthy.answered() - answered;
    assert!(answered >= 100, "the healthy client got only {answered} replies");
    let grown = (peak - before) / clients as u64;
    eprintln!(
        "{clients} clients that never read: {grown} bytes each, the first one closed after {first_gone:?}"
    );
    assert!(grown >= 512 * 1024, "{grown} bytes each: the send queues were never full");
    assert!(grown <= (1024 + 128) * 1024, "{grown} bytes each");
    assert_unharmed("clients that never read", calm, healthy, 2.0);
}
