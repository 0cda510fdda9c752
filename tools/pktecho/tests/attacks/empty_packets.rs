//! A flood of packets without a payload.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use crate::client::Client;
use crate::common::Server;
use crate::healthy::{Healthy, assert_unharmed, calm_p99};
use crate::limits::{SECOND, alone};

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_empty_packets_does_not_starve_other_clients() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1"]);
    let client = Client::new(&server);
    let calm = calm_p99(&client);
    let healthy = Healthy::start(&client);
    let mut sending = TcpStream::connect(&server.addr).unwrap();
    let mut reading = sending.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let (mut buffer, mut total) = (vec![0; 256 * 1024], 0);
        while let Ok(count @ 1..) = reading.read(&mut buffer) {
            assert!(buffer[..count].iter().all(|&byte| byte == 0), "a reply was corrupted");
            total += count;
        }
        total
    });
    let started = Instant::now();
    let zeros = vec![0; 64 * 1024];
    let mut sent = 0;
    let answered = healthy.answered();
    // Until the healthy client got 500 replies. It fails after 20 s without a reply.
    while started.elapsed() < 3 * SECOND || healthy.answered() < answered + 500 {
        sending.write_all(&zeros).unwrap();
        sent += zeros.len();
    }
    assert!(healthy.answered() >= answered + 500);
    let rate = (sent / 4) as f64 / started.elapsed().as_secs_f64();
    eprintln!("a flood of empty packets: {rate:.0} packets/s");
    assert_unharmed("a flood of empty packets", calm, healthy, 3.0);
    sending.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reader.join().unwrap(), sent, "all empty packets are echoed");
}
