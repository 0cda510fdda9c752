//! `max_process_memory`: while the process holds more memory, new connections are refused and the open ones served.
//! In a process of its own, because it measures the memory of the process.
#![cfg(target_os = "linux")]

mod common;

use std::hint::black_box;

use common::{HANG_GUARD, LogLines, tcp_addr};
use pktconn::{PacketConn, PacketServer, ServerConfig};
use tokio::time::{Duration, sleep, timeout};

const MIB: usize = 1024 * 1024;

/// How many lines have this level and text.
fn count(lines: &LogLines, level: &str, text: &str) -> usize {
    lines.text().lines().filter(|line| line.contains(level) && line.contains(text)).count()
}

/// The resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

async fn until(what: &str, is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG_GUARD, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Sends a packet and expects it back. Returns whether it came.
async fn echoes(conn: &mut PacketConn) -> bool {
    let _ = conn.send(b"hello").await;
    let received = timeout(HANG_GUARD, conn.recv()).await.unwrap();
    received.is_ok_and(|packet| packet.is_some_and(|packet| packet.payload() == b"hello"))
}

#[tokio::test]
async fn new_connections_are_refused_while_the_process_holds_too_much_memory() {
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // The memory that the test needs itself, and the inaccuracy of Linux's count.
    let limit = resident_bytes() + 24 * MIB;
    let config = ServerConfig::new().max_process_memory(limit);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(async |mut conn| {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(())
    }));
    let mut open = PacketConn::connect(addr).await.unwrap();
    assert!(echoes(&mut open).await);
    assert_eq!(handle.stats().process_memory_exceeded, 0);

    let touched = black_box(vec![1_u8; 64 * MIB]);
    until("the server notices", || handle.stats().process_memory_exceeded == 1).await;
    for _ in 0..3 {
        let mut refused = PacketConn::connect(addr).await.unwrap();
        assert!(!echoes(&mut refused).await);
    }
    assert!(echoes(&mut open).await);
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.open), (4, 1));
    assert_eq!((stats.refused, stats.refused_over_process_memory), (3, 3));

    // A block of this size goes back to the system.
    drop(touched);
    let served_again = async {
        while !echoes(&mut PacketConn::connect(addr).await.unwrap()).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG_GUARD, served_again).await.unwrap();
    assert_eq!(handle.stats().process_memory_exceeded, 1);
    assert!(echoes(&mut open).await);
    assert_eq!(count(&lines, "WARN", "the process holds more memory than max_process_memory"), 1);
    assert_eq!(count(&lines, "INFO", "the process holds less memory than max_process_memory again"), 1);
    assert!(count(&lines, "WARN", "the limit max_process_memory is reached") >= 1);
    drop(open);
    handle.shutdown();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_limit_below_1_mib_is_refused() {
    let config = ServerConfig::new().max_process_memory(MIB - 1);
    let error = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("max_process_memory"), "{error}");
}
