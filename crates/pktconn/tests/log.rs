//! What a server says of its connections, and that it is quiet unless it is asked.

mod common;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{frame, tcp_addr};
use pktconn::{PacketConn, PacketServer, ServerConfig, ServerHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged from `level` on while `scenario` runs, and what that returns.
fn log_of<T>(level: Level, scenario: impl Future<Output = T>) -> (String, T) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = tracing::subscriber::with_default(subscriber, || runtime.block_on(scenario));
    let lines = lines.0.lock().unwrap();
    (String::from_utf8(lines.clone()).unwrap(), result)
}

/// A server whose handlers receive until the end, and fail when they are asked to.
async fn serve(config: ServerConfig) -> (SocketAddr, ServerHandle) {
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    tokio::spawn(server.serve(|mut conn: PacketConn| async move {
        while let Some(packet) = conn.recv().await? {
            match packet.payload() {
                b"fail" => return Err("as it was asked to".into()),
                b"connect" => drop(PacketConn::connect("127.0.0.1:1").await?),
                _ => {}
            }
        }
        Ok(conn.close().await?)
    }));
    (addr, handle)
}

/// Sends `bytes` from a new client, and waits until the server has done with it. Returns the address of the client.
async fn send(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let client = stream.local_addr().unwrap().to_string();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    // A reset, where it has not read all of that.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    client
}

/// Waits until all of its connections are gone.
async fn emptied(handle: &ServerHandle, accepted: u64) {
    while handle.stats().accepted < accepted || handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
}

/// Serves a client that closes, one that breaks off in mid-frame and one whose handler fails; returns what was logged from
/// `level` on, and the addresses of the clients.
fn logged(level: Level) -> (String, Vec<String>) {
    log_of(level, async {
        let (addr, handle) = serve(ServerConfig::new()).await;
        let mut clients = Vec::new();
        for bytes in [frame(b"one"), frame(b"two")[..5].to_vec(), frame(b"fail")] {
            clients.push(send(addr, &bytes).await);
        }
        emptied(&handle, 3).await;
        clients
    })
}

#[test]
fn each_connection_tells_its_peer_and_the_reason_of_its_end_to_who_debugs() {
    let (lines, clients) = logged(Level::DEBUG);
    let ends = [
        "the peer closed the connection\" packets_received=1",
        "in the middle of a frame: the stream ended after 5 of the 7 bytes of a frame\" packets_received=0",
        "the connection was closed on this side\" packets_received=1",
    ];
    for (client, end) in clients.iter().zip(ends) {
        let span = format!("connection{{peer={client}}}");
        let line = lines.lines().find(|line| line.contains(&span) && line.contains("has finished"));
        assert!(line.is_some_and(|line| line.contains(end)), "{client}: {end:?} is not in {lines}");
    }
}

#[test]
fn otherwise_connections_and_handlers_that_fail_are_all_that_is_told() {
    let (lines, clients) = logged(Level::INFO);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for (line, parts) in lines.lines().zip([
        ["WARN", "the connection failed", "after 5 of the 7 bytes", &clients[1]],
        ["WARN", "the connection's handler failed", "as it was asked to", &clients[2]],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}

#[test]
fn what_a_peer_sends_instead_of_frames_is_a_warning() {
    let (lines, client) = log_of(Level::WARN, async {
        let (addr, handle) = serve(ServerConfig::new()).await;
        let client = send(addr, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        emptied(&handle, 1).await;
        client
    });
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let error = "frame of 542393671 bytes exceeds the limit of 33554432; the bytes look like an HTTP request";
    for part in ["WARN", &format!("peer={client}"), error] {
        assert!(lines.contains(part), "{part:?} is not in {lines}");
    }
}

#[test]
fn warnings_of_a_kind_come_once_a_second_and_tell_how_many_did_not() {
    let scenario = async {
        let (addr, handle) = serve(ServerConfig::new()).await;
        // As long as somebody has a turn, the clock stands.
        tokio::time::pause();
        tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..18 {
            send(addr, &[1]).await;
        }
        send(addr, b"GET / HTTP/1.1\r\n").await;
        emptied(&handle, 19).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        send(addr, &[1]).await;
        emptied(&handle, 20).await;
    };
    let (lines, ()) = log_of(Level::WARN, scenario);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    let suppressed: Vec<_> = lines.lines().map(|line| line.contains("suppressed=17")).collect();
    assert_eq!(suppressed, [false, false, true], "{lines}");
    assert_eq!(lines.matches("suppressed").count(), 1, "{lines}");
}

#[test]
fn an_end_that_the_handler_does_not_tell_is_a_warning_as_well() {
    let (lines, ()) = log_of(Level::WARN, async {
        let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        let (addr, handle) = (tcp_addr(&server), server.handle());
        tokio::spawn(server.serve(|mut conn: PacketConn| async move {
            while let Ok(Some(_)) = conn.recv().await {}
            Ok(())
        }));
        send(addr, &[1]).await;
        send(addr, &frame(b"and a clean end")).await;
        emptied(&handle, 2).await;
    });
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("after 1 of the 4 bytes"), "{lines}");
}

#[test]
fn a_failure_elsewhere_is_that_of_the_handler() {
    let (lines, _) = log_of(Level::WARN, async {
        let (addr, handle) = serve(ServerConfig::new()).await;
        let client = send(addr, &frame(b"connect")).await;
        emptied(&handle, 1).await;
        client
    });
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(
        lines.contains("the connection's handler failed") && lines.contains("cannot connect to 127.0.0.1:1"),
        "{lines}"
    );
}

#[test]
fn a_connection_that_is_refused_is_a_warning_with_how_many_there_are() {
    let (lines, _) = log_of(Level::WARN, async {
        let (addr, handle) = serve(ServerConfig::new().max_conns(1)).await;
        let first = TcpStream::connect(addr).await.unwrap();
        let client = send(addr, &[]).await;
        send(addr, &[]).await;
        drop(first);
        emptied(&handle, 3).await;
        client
    });
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("refused") && lines.contains("open=1"), "{lines}");
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn a_handshake_that_fails_is_a_warning() {
    let (lines, client) = log_of(Level::WARN, async {
        let config = ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
        let (addr, handle) = serve(config).await;
        let client = send(addr, &frame(b"no header, but some packet")).await;
        emptied(&handle, 1).await;
        client
    });
    assert_eq!(lines.lines().count(), 1, "{lines}");
    for part in [
        "the handshake failed",
        "the PROXY handshake with",
        "failed: no acceptable PROXY header",
        &format!("peer={client}"),
    ] {
        assert!(lines.contains(part), "{part:?} is not in {lines}");
    }
}
