//! Attacks by clients on the open Internet. A healthy client runs at the same time and must be served throughout.
//!
//! The tests run one after another. The healthy client sends a packet every millisecond and checks the reply. The tests
//! assert counts: how many replies it gets during the attack. With `PKTCONN_TIMES=1`, they also compare its p99 during
//! the attack with its p99 alone; that needs an idle machine.

#![cfg(target_os = "linux")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::Server;
use common::attack::{
    HANG_GUARD, Healthy, SECOND, alone, assert_unharmed, asserts_times, calm_p99, connect, cpu_time,
    deadline, echo, is_gone, numbered, open_files, resident_bytes, wait_until_gone,
};
use common::tls::Certificate;
use pktconn::{ConnConfig, PacketConn, TlsClientConfig};
use socket2::SockRef;

#[test]
#[ignore = "needs 8 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn connections_with_a_header_and_no_payload_cost_little_memory_and_time_out() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--frame-timeout", "3s"]);
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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

#[test]
#[ignore = "needs 20 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn clients_that_never_read_cost_limited_memory_and_time_out() {
    // Each client must fill its send queue of 1 MiB within 8 s. A slow machine cannot do that for 1,000 clients.
    let clients = if asserts_times() { 1000 } else { 200 };
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--write-timeout", "8s"]);
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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

#[test]
#[ignore = "needs 15 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_thousand_clients_that_use_much_memory_stay_within_the_budget() {
    const CLIENTS: usize = 1000;
    const BUDGET: u64 = 64 << 20;
    let _alone = alone();
    let server = Server::start(&["--threads", "1", "--memory-budget", "64MiB"]);
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn a_flood_of_empty_packets_does_not_starve_other_clients() {
    let _alone = alone();
    let server = Server::start(&["--threads", "1"]);
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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

#[test]
#[ignore = "needs 9 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn at_the_limit_on_open_files_open_connections_are_served_without_a_busy_loop() {
    let _alone = alone();
    let command =
        format!("ulimit -n 256; exec {} --listen 127.0.0.1:0 --threads 1", env!("CARGO_BIN_EXE_pktecho"));
    let server = Server::spawn(Command::new("sh").args(["-c", &command]));
    let calm = calm_p99(&server);
    let healthy = Healthy::start(&server);
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
    let wait_for_files = |files: usize| {
        let give_up_at = Instant::now() + HANG_GUARD;
        while open_files(&server) != files {
            assert!(Instant::now() < give_up_at, "{} files instead of {files}", open_files(&server));
            thread::sleep(Duration::from_millis(1));
        }
    };
    let files = open_files(&server);
    let resident_at_rest = || {
        // The server accepts connections in order. So when it serves this one, it has accepted all others.
        served();
        wait_for_files(files);
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
        let summary = server.finish();
        let limit = if asserts_times() { 10 * SECOND } else { 4 * HANG_GUARD };
        assert!(stopped.elapsed() < limit, "the server took {:?} to stop", stopped.elapsed());
        let answered: u32 =
            summary.strip_prefix("echoed ").unwrap().split(' ').next().unwrap().parse().unwrap();
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

#[test]
#[ignore = "needs 9 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn clients_without_a_tls_handshake_delay_no_other_client_and_time_out() {
    let _alone = alone();
    let certificate = Certificate::new("localhost");
    let options = ["--threads", "1", "--handshake-timeout", "3s"];
    let server = Server::start(&[&options[..], &certificate.options()].concat());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        ConnConfig::new().tls(TlsClientConfig::new().ca(certificate.chain()).server_name("localhost"));
    // A new connection, a TLS handshake, and an echo.
    let time_to_reply = || {
        let started = Instant::now();
        runtime.block_on(async {
            let mut conn = PacketConn::connect_with(&server.addr, config.clone()).await.unwrap();
            conn.send(b"hello").await.unwrap();
            assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
            conn.close().await.unwrap();
        });
        started.elapsed()
    };
    let median_time = || {
        let mut times: Vec<_> = (0..101).map(|_| time_to_reply()).collect();
        times.sort();
        times[50]
    };
    let calm = median_time();
    let streams: Vec<_> = (0..1000).map(|_| connect(&server)).collect();
    let deadline = deadline(4 * SECOND);
    // At least one client is served while all silent clients are connected, even on a slow machine.
    time_to_reply();
    assert!(!streams.iter().any(is_gone), "the silent clients were closed too early");
    let attacked = median_time();
    eprintln!(
        "1,000 silent TLS clients: a new client was served in {attacked:?}, and in {calm:?} without them"
    );
    if asserts_times() {
        assert!(Instant::now() + SECOND < deadline, "the silent clients were closed too early");
        assert!(
            attacked <= (2 * calm).max(calm + 2 * SECOND / 1000),
            "the time to a reply rose from {calm:?} to {attacked:?}"
        );
    }
    wait_until_gone(streams, deadline);
    time_to_reply();
}
