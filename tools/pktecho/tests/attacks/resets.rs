//! Connections that are reset in the middle of frames.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use crate::common::Server;
use crate::limits::{HANG_GUARD, alone};
use crate::process::{open_files, resident_bytes, wait_for_files};
use crate::streams::{echo, numbered};

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn resets_in_the_middle_of_frames_leak_no_memory_and_no_files() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1"]);
    let frame = numbered(1);
    let reset = |number: usize| {
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        // At every position in a frame, including its beginning and end, and sometimes after a whole frame.
        let offset = number * 7919 % (frame.len() + 1);
        if number % 3 == 0 {
            stream.write_all(&frame).unwrap();
        }
        stream.write_all(&frame[..offset]).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let served = || {
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        echo(&mut stream, 1);
    };
    let files = open_files(&server);
    let resident_at_rest = || {
        // The server accepts connections in order. So when it serves this one, it has accepted all others.
        served();
        wait_for_files(&server, files);
        resident_bytes(&server)
    };
    let mut bytes = Vec::new();
    for round in 0..5 {
        for number in round * 5000..(round + 1) * 5000 {
            reset(number);
            if number % 50 == 0 {
                // The server catches up, so that only a few connections are open at once.
                served();
            }
        }
        bytes.push(resident_at_rest());
    }
    // A leak grows in each round. The allocator grows too, but not in all of them.
    let growth = bytes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min().unwrap();
    eprintln!("after each 5,000 resets: {bytes:?} bytes");
    // A leak of 13 bytes per connection would fail.
    assert!(growth < 64 * 1024, "each 5,000 resets cost {growth} bytes or more: {bytes:?}");
    // The server ends only when the task of each connection has ended.
    server.signal("TERM");
    let summary = server.finish();
    assert!(summary.contains("over 25505 connections"), "{summary}");
}
