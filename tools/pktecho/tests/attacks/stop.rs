//! A server that is stopped under load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Server, summary};
use crate::limits::{HANG_GUARD, SECOND, alone, asserts_times};
use crate::streams::numbered;

#[test]
#[ignore = "needs 10 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn stopping_under_full_load_corrupts_and_truncates_no_packet() {
    let _alone = alone();
    let (mut echoed, mut clean) = (0, 0);
    for round in 0..50 {
        let threads = if round % 2 == 0 { "1" } else { "2" };
        let server = Server::start(&["--threads", threads]);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                // Connects before the thread starts, so that the server is not stopped earlier.
                let stream = TcpStream::connect(&server.addr).unwrap();
                thread::spawn(move || load_until_the_end(stream))
            })
            .collect();
        thread::sleep(Duration::from_millis(20 + round));
        server.signal("TERM");
        let stopped = Instant::now();
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let received: u32 = ends.iter().map(|(received, _)| received).sum();
        // Fails unless the server exits with 0.
        let output = server.finish();
        let limit = if asserts_times() { 10 * SECOND } else { 4 * HANG_GUARD };
        assert!(stopped.elapsed() < limit, "the server took {:?} to stop", stopped.elapsed());
        let answered: u32 =
            summary(&output).strip_prefix("echoed ").unwrap().split(' ').next().unwrap().parse().unwrap();
        // All packets that the server echoed have come back, unless a connection was reset.
        assert!(received <= answered, "{received} replies received, {answered} packets echoed");
        if ends.iter().all(|(_, clean)| *clean) {
            assert_eq!(received, answered);
            clean += 1;
        }
        echoed += u64::from(received);
    }
    eprintln!("stopped 50 times: {echoed} packets came back; {clean} times without a reset");
    assert!(clean > 0, "every stop had a reset");
}

/// Sends packets as fast as possible until the connection ends, and checks that the replies are the packets in order.
/// Returns the number of replies, and whether the connection ended without a reset.
fn load_until_the_end(mut sending: TcpStream) -> (u32, bool) {
    let mut reading = sending.try_clone().unwrap();
    let writer = thread::spawn(move || {
        let mut number = 0;
        loop {
            let frames: Vec<u8> = (number..number + 16).flat_map(numbered).collect();
            if sending.write_all(&frames).is_err() {
                return;
            }
            number += 16;
        }
    });
    let (mut number, mut bytes, mut buffer) = (0, Vec::new(), vec![0; 64 * 1024]);
    let clean = loop {
        match reading.read(&mut buffer) {
            Ok(0) => break true,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(_) => break false,
        }
        let mut whole = bytes.chunks_exact(516);
        for frame in &mut whole {
            assert_eq!(frame, numbered(number));
            number += 1;
        }
        bytes = whole.remainder().to_vec();
    };
    assert!(!clean || bytes.is_empty(), "the stream ended in the middle of a frame");
    // Ends the writer.
    let _ = reading.shutdown(std::net::Shutdown::Both);
    writer.join().unwrap();
    (number, clean)
}
