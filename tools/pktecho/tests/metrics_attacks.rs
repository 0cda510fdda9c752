//! Attacks on the page of `--metrics`. A scrape must be served beside each of them.

#![cfg(unix)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Server;
use socket2::{Domain, SockRef, Socket, Type};

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

/// Ends a test that hangs. A scrape takes milliseconds, and 1 s under attack: see `asserts_times`.
const HANG_GUARD: Duration = Duration::from_secs(20);

const OPTIONS: [&str; 4] = ["--metrics", "127.0.0.1:0", "--threads", "1"];

/// Whether to assert times of the real clock, as in `attack.rs`.
fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

fn server() -> (Server, String) {
    let mut server = Server::start(&OPTIONS);
    let addr = server.metrics_addr();
    (server, addr)
}

/// Scrapes from an address of the loopback, and checks that the page is complete.
fn scrape_from(from: [u8; 4], addr: &str) -> String {
    let started = Instant::now();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // macOS has only one address on the loopback.
    if cfg!(target_os = "linux") {
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    }
    let to: SocketAddr = addr.parse().unwrap();
    socket.connect_timeout(&to.into(), HANG_GUARD).expect("the connection is accepted");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("the page is served");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("pktconn_connections_open ") && response.ends_with('\n'), "{response}");
    if asserts_times() {
        assert!(started.elapsed() < Duration::from_secs(1), "served after {:?}", started.elapsed());
    }
    response
}

/// Scrapes from the address of the attacker, and from another one.
fn assert_served(addr: &str) {
    for from in [[127, 0, 0, 1], [127, 0, 0, 2]].into_iter().cycle().take(20) {
        scrape_from(from, addr);
    }
}

/// Connections that send `bytes`, and read nothing.
fn open(count: usize, addr: &str, bytes: &[u8]) -> Vec<TcpStream> {
    let conns = (0..count).map(|_| {
        let mut stream = TcpStream::connect(addr).unwrap();
        // A small buffer: the page waits in the server.
        SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        stream.set_nonblocking(true).unwrap();
        // May be refused halfway.
        let _ = stream.write(bytes);
        stream
    });
    conns.collect()
}

/// How many of these connections the server has closed.
fn closed(conns: &[TcpStream]) -> usize {
    let is_closed = |stream: &&TcpStream| {
        let mut buffer = [0; 4096];
        loop {
            match (&**stream).read(&mut buffer) {
                Ok(1..) => {}
                Ok(0) => return true,
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    };
    conns.iter().filter(is_closed).count()
}

#[test]
fn a_scrape_is_served_beside_clients_that_pipeline_and_never_read() {
    let (_server, addr) = server();
    for count in [16, 200] {
        let conns = open(count, &addr, &REQUEST.repeat(1000));
        assert_served(&addr);
        drop(conns);
    }
}

#[test]
fn a_scrape_is_served_beside_idle_clients_and_the_oldest_are_closed() {
    let (_server, addr) = server();
    let conns = open(200, &addr, b"");
    assert_served(&addr);
    let started = Instant::now();
    // At most 64 connections are open at the same time.
    while closed(&conns) < 200 - 64 {
        assert!(started.elapsed() < HANG_GUARD, "{} are closed", closed(&conns));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_scrape_is_served_beside_clients_that_send_their_head_slowly() {
    let (_server, addr) = server();
    let mut conns = open(64, &addr, &REQUEST[..1]);
    for byte in &REQUEST[1..4] {
        for conn in &mut conns {
            // The server may have closed it.
            let _ = conn.write(&[*byte]);
        }
        assert_served(&addr);
        thread::sleep(Duration::from_secs(1));
    }
    let started = Instant::now();
    while closed(&conns) < 64 {
        assert!(started.elapsed() < HANG_GUARD, "{} are closed", closed(&conns));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_scrape_is_served_beside_a_flood_of_connections_and_resets() {
    let (_server, addr) = server();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let attacker = thread::spawn({
        let (stop, count, addr) = (Arc::clone(&stop), Arc::clone(&count), addr.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                // Fails when the system has no ports left.
                let Ok(mut stream) = TcpStream::connect(&addr) else { continue };
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                let number = count.fetch_add(1, Ordering::Relaxed);
                // Every second one asks for the page first.
                let _ = if number % 2 == 0 {
                    stream.write(REQUEST).map(drop)
                } else {
                    stream.shutdown(Shutdown::Write)
                };
            }
        }
    });
    let started = Instant::now();
    while count.load(Ordering::Relaxed) < 2000 {
        assert_served(&addr);
        assert!(started.elapsed() < 3 * HANG_GUARD, "{count:?} connections");
    }
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert_served(&addr);
}

#[test]
fn a_scrape_is_served_at_the_limit_on_open_files() {
    // The shell sets the limit of the server alone.
    let script = format!("ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0 {}", OPTIONS.join(" "));
    let mut server = Server::spawn(
        Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_pktecho")]).env_remove("RUST_LOG"),
    );
    let addr = server.metrics_addr();
    // More connections than the server can accept. The others wait in the backlog.
    let mut conns: Vec<_> = (0..60).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    let idle = open(70, &addr, b"");
    assert_served(&addr);
    drop(idle);
    assert_served(&addr);
    // The connections are served, too.
    conns[0].write_all(b"\x01\0\0\0x").unwrap();
    conns[0].read_exact(&mut [0; 5]).unwrap();
    drop(conns);
    assert_served(&addr);
}

#[test]
fn a_request_with_a_long_head_is_refused() {
    let (_server, addr) = server();
    let mut stream = TcpStream::connect(&addr).unwrap();
    stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
    // Fails when the server closes before it has read everything.
    let _ = stream.write_all(&[b"GET /metrics HTTP/1.1\r\nHost: ", &[b'x'; 1 << 20][..]].concat());
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    assert!(!response.starts_with(b"HTTP/1.1 200 "));
    assert_served(&addr);
}
