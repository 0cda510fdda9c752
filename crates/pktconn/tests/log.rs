//! The log lines of a server: failures as warnings, every end of a connection at DEBUG, and limits on repeated lines.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{LogLines, frame, tcp_addr};
use pktconn::{PacketConn, PacketServer, ServerConfig, ServerHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;

/// Runs `scenario`. Returns the log lines at `level` and above, and the result.
fn log_of<T>(level: Level, scenario: impl Future<Output = T>) -> (String, T) {
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = tracing::subscriber::with_default(subscriber, || runtime.block_on(scenario));
    (lines.text(), result)
}

/// Starts a server whose handlers receive until the end. The packets `fail` and `connect` make a handler fail.
async fn serve(config: ServerConfig) -> (SocketAddr, ServerHandle) {
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    tokio::spawn(server.serve(|mut conn: PacketConn| async move {
        while let Some(packet) = conn.recv().await? {
            match packet.payload() {
                b"fail" => return Err("the client asked for it".into()),
                b"connect" => drop(PacketConn::connect("127.0.0.1:1").await?),
                _ => {}
            }
        }
        Ok(conn.close().await?)
    }));
    (addr, handle)
}

/// Sends `bytes` from a new client, and waits until the server has closed the connection. Returns the client's address.
async fn send(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let client = stream.local_addr().unwrap().to_string();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    // If the server has not read all bytes, this is a reset.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    client
}

/// Waits until the server has accepted `accepted` connections and all of them have ended.
async fn emptied(handle: &ServerHandle, accepted: u64) {
    while handle.stats().accepted < accepted || handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
}

/// Serves a client that closes, one that closes in the middle of a frame, and one whose handler fails. Returns the log
/// lines at `level` and above, and the addresses of the clients.
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
fn at_debug_level_the_end_of_each_connection_is_logged_with_its_peer_and_reason() {
    let (lines, clients) = logged(Level::DEBUG);
    let ends = [
        "the peer closed the connection\" packets_received=1",
        "in the middle of a frame: the stream ended after 5 of the 7 bytes of a frame\" packets_received=0",
        "the connection was closed on this side\" packets_received=1",
    ];
    for (client, end) in clients.iter().zip(ends) {
        let span = format!(" peer={client}}}");
        let is_end = |line: &&str| line.contains(&span) && line.contains("has finished");
        let line = lines.lines().find(is_end).filter(|line| line.contains("connection{id="));
        assert!(line.is_some_and(|line| line.contains(end)), "{client}: {end:?} is not in {lines}");
    }
}

#[test]
fn at_info_level_only_failed_connections_and_handlers_are_logged() {
    let (lines, clients) = logged(Level::INFO);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for (line, parts) in lines.lines().zip([
        ["WARN", "the connection failed", "after 5 of the 7 bytes", &clients[1]],
        ["WARN", "the connection's handler failed", "the client asked for it", &clients[2]],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}

#[test]
fn bytes_of_another_protocol_are_logged_as_a_warning() {
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
fn a_warning_is_logged_once_per_second_with_the_number_of_suppressed_ones() {
    let scenario = async {
        let (addr, handle) = serve(ServerConfig::new()).await;
        // Paused time stands still while a task is ready to run.
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
fn a_failure_that_the_handler_ignores_is_still_logged_as_a_warning() {
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
fn an_error_of_another_connection_is_logged_as_a_failure_of_the_handler() {
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
fn a_refused_connection_is_logged_as_a_warning_with_the_number_of_open_ones() {
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
    assert!(lines.contains("refused") && lines.contains("the limit max_conns is reached, open=1"), "{lines}");
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn a_failed_handshake_is_logged_as_a_warning() {
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

/// A line of the access log with each of `parts`, and without a part of `without`.
fn assert_line(line: &str, parts: &[&str], without: &[&str]) {
    assert!(line.contains(" INFO pktconn::access: "), "{line}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    for part in without {
        assert!(!line.contains(part), "{part:?} is in {line}");
    }
}

#[test]
fn the_access_log_has_one_line_for_each_connection_that_has_ended() {
    let (lines, (clean, torn)) = log_of(Level::INFO, async {
        let (addr, handle) = serve(ServerConfig::new().access_log(true)).await;
        let clean = send(addr, &[frame(b"abc"), frame(b"")].concat()).await;
        emptied(&handle, 1).await;
        let torn = send(addr, &frame(b"0123456789")[..9]).await;
        emptied(&handle, 2).await;
        (clean, torn)
    });
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("pktconn::access")).collect();
    let [first, second] = lines[..] else { panic!("{lines:#?}") };
    let parts = [
        &format!("peer={clean} id="),
        "duration_ms=",
        "packets_received=2 bytes_received=11 packets_sent=0 bytes_sent=0",
        "reason=\"remote_close\" detail=\"the peer closed the connection\"",
    ];
    assert_line(first, &parts, &["suppressed", "server_name"]);
    let parts = [
        &format!("peer={torn} id="),
        "packets_received=0 bytes_received=9",
        "reason=\"truncated\" detail=\"the peer closed the connection in the middle of a frame",
    ];
    assert_line(second, &parts, &["suppressed"]);
}

#[test]
fn the_access_log_has_refused_connections_with_the_limit() {
    let (lines, clients) = log_of(Level::INFO, async {
        let rate = pktconn::ConnRate::per_second(1).burst(4);
        let (addr, handle) =
            serve(ServerConfig::new().access_log(true).max_conns_per_ip(1).conn_rate_per_ip(rate)).await;
        let first = TcpStream::connect(addr).await.unwrap();
        let refused = send(addr, &[]).await;
        // Above the rate, also on a slow machine.
        while handle.stats().refused_over_rate == 0 {
            let _ = TcpStream::connect(addr).await;
            tokio::task::yield_now().await;
        }
        drop(first);
        emptied(&handle, 5).await;
        refused
    });
    let access: Vec<_> = lines.lines().filter(|line| line.contains("pktconn::access")).collect();
    let line =
        |part: &str| *access.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{lines}"));
    let parts = [&format!("peer={clients} "), "packets_received=0", "reason=\"refused\""];
    assert_line(line("the limit max_conns_per_ip is reached"), &parts, &["id="]);
    assert_line(line("the limit conn_rate_per_ip is reached"), &["reason=\"refused\""], &["id="]);
    // Other kinds of refusals do not hide a flood in the warnings.
    let warnings: Vec<_> = lines.lines().filter(|line| line.contains("WARN")).collect();
    for limit in ["max_conns_per_ip", "conn_rate_per_ip"] {
        assert!(warnings.iter().any(|line| line.contains(limit)), "{warnings:#?}");
    }
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn the_access_log_has_failed_handshakes() {
    let (lines, client) = log_of(Level::INFO, async {
        let config = ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
        let (addr, handle) = serve(config.access_log(true)).await;
        let client = send(addr, &frame(b"no header, but some packet")).await;
        emptied(&handle, 1).await;
        client
    });
    let access: Vec<_> = lines.lines().filter(|line| line.contains("pktconn::access")).collect();
    let [line] = access[..] else { panic!("{lines}") };
    let parts = [&format!("peer={client} "), "reason=\"handshake\"", "no acceptable PROXY header"];
    assert_line(line, &parts, &["id="]);
}

/// The proxy is the same for all of them: only the client's address tells an attacker.
#[cfg(all(feature = "proxy-protocol", feature = "tls"))]
#[test]
fn a_handshake_that_fails_behind_a_proxy_is_logged_with_the_address_of_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&chain, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let config = ServerConfig::new()
        .proxy_protocol(["127.0.0.0/8".parse().unwrap()])
        .tls(pktconn::TlsServerConfig::new(chain, key))
        .max_handshakes(1)
        .access_log(true);
    let (lines, ()) = log_of(Level::INFO, async {
        let (addr, handle) = serve(config).await;
        send(addr, b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\nno TLS at all").await;
        emptied(&handle, 1).await;
        let mut silent = TcpStream::connect(addr).await.unwrap();
        silent.write_all(b"PROXY TCP4 203.0.113.10 127.0.0.1 4711 80\r\n").await.unwrap();
        // Its header has been read when it is no longer a connection of the proxy's address.
        while handle.stats().accepted < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        send(addr, b"PROXY TCP4 203.0.113.11 127.0.0.1 4711 80\r\nno TLS at all").await;
        emptied(&handle, 3).await;
    });
    let access: Vec<_> = lines.lines().filter(|line| line.contains("pktconn::access")).collect();
    let [failed, ended, _] = access[..] else { panic!("{lines}") };
    assert_line(failed, &["peer=203.0.113.9:4711 ", "reason=\"handshake\""], &[]);
    assert_line(ended, &["peer=203.0.113.10:4711 ", "reason=\"refused\"", "max_handshakes"], &[]);
    let warnings: Vec<_> = lines.lines().filter(|line| line.contains("WARN pktconn::server")).collect();
    assert!(!warnings.is_empty(), "{lines}");
    assert!(warnings.iter().all(|line| line.contains("peer=203.0.113.")), "{warnings:#?}");
}
