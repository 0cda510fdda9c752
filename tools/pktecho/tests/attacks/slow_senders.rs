//! Clients that send almost nothing: a header without its payload, or a byte per second.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use crate::client::Client;
use crate::common::Server;
use crate::healthy::{Healthy, assert_unharmed, calm_p99};
use crate::limits::{SECOND, alone, deadline};
use crate::process::resident_bytes;
use crate::streams::{connect, echo, is_gone, wait_until_gone};

#[test]
#[ignore = "needs 8 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn connections_with_a_header_and_no_payload_cost_little_memory_and_time_out() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--frame-timeout", "3s"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    let before = resident_bytes(&server);
    let header = (32_u32 * 1024 * 1024).to_le_bytes();
    let streams: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(&header).unwrap();
            stream
        })
        .collect();
    let deadline = deadline(4 * SECOND);
    // The server accepts connections in order. So when it serves this one, it has accepted all others.
    echo(&mut TcpStream::connect(&server.addr).unwrap(), 1);
    let mut grown = 0;
    for _ in 0..20 {
        healthy.expect_answers(25);
        grown = grown.max(resident_bytes(&server).saturating_sub(before));
    }
    eprintln!("1,000 headers: {grown} bytes");
    assert!(grown <= 1000 * 8 * 1024, "{grown} bytes");
    wait_until_gone(streams, deadline);
    assert_unharmed("1,000 headers", calm, healthy, 1.5);
}

#[test]
#[ignore = "needs 8 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn connections_that_send_a_byte_per_second_time_out() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--frame-timeout", "3s"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    let mut streams: Vec<_> = (0..2000).map(|_| connect(&server)).collect();
    let mut begun = None;
    let mut bytes = [0, 8, 0, 0].into_iter().cycle();
    loop {
        let byte = bytes.next().unwrap();
        // A closed connection fails the write, or shows an end of the stream.
        streams.retain_mut(|stream| stream.write(&[byte]).is_ok() && !is_gone(stream));
        let deadline = *begun.get_or_insert_with(|| deadline(4 * SECOND));
        if streams.is_empty() || Instant::now() + SECOND > deadline {
            break wait_until_gone(streams, deadline);
        }
        healthy.expect_answers(100);
        thread::sleep(SECOND);
    }
    assert_unharmed("2,000 slow connections", calm, healthy, 1.5);
}
