//! The page of `--metrics` beside hostile clients: which of their connections end, and that a scrape is served.
//! `attacks/metrics.rs` measures what such clients cost the echo server.

#![cfg(unix)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::scrape::{REQUEST, read_page};
use common::{Server, asserts_times, socket_from};
use socket2::SockRef;

/// Ends a test that hangs. A scrape takes milliseconds, and 1 s under attack: see `asserts_times`.
const HANG_GUARD: Duration = Duration::from_secs(20);

fn server() -> (Server, String) {
    let mut server = Server::start(&["--metrics", "127.0.0.1:0", "--threads", "1"]);
    let addr = server.metrics_addr();
    (server, addr)
}

/// Scrapes from the address of the attacker, and from another one.
fn assert_served(addr: &str) {
    // macOS has only one address on the loopback.
    let elsewhere = if cfg!(target_os = "linux") { 2 } else { 1 };
    for from in [1, elsewhere].into_iter().cycle().take(20) {
        let started = Instant::now();
        let socket = socket_from(Ipv4Addr::new(127, 0, 0, from)).unwrap();
        socket.connect_timeout(&addr.parse::<SocketAddr>().unwrap().into(), HANG_GUARD).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        read_page(&mut stream).expect("the page is served");
        let elapsed = started.elapsed();
        assert!(!asserts_times() || elapsed < Duration::from_secs(1), "served after {elapsed:?}");
    }
}

/// Connections that send `bytes`, and read nothing.
fn open(count: usize, addr: &str, bytes: &[u8]) -> Vec<TcpStream> {
    let conns = (0..count).map(|_| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_nonblocking(true).unwrap();
        // May be refused halfway.
        let _ = stream.write(bytes);
        stream
    });
    conns.collect()
}

/// Waits until the server has closed at least `count` of `conns`.
fn wait_until_closed(conns: &[TcpStream], count: usize) {
    let is_closed = |mut stream: &TcpStream| {
        let read = stream.read(&mut [0; 4096]);
        !matches!(&read, Ok(1..)) && !read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let give_up_at = Instant::now() + HANG_GUARD;
    loop {
        let closed = conns.iter().filter(|conn| is_closed(conn)).count();
        if closed >= count {
            return;
        }
        assert!(Instant::now() < give_up_at, "{closed} of {count} connections are closed");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn beyond_64_connections_the_oldest_are_closed() {
    let (_server, addr) = server();
    let conns = open(200, &addr, b"");
    assert_served(&addr);
    wait_until_closed(&conns[..200 - 64], 200 - 64);
}

#[test]
fn clients_that_send_their_head_slowly_are_closed() {
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
    wait_until_closed(&conns, 64);
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
