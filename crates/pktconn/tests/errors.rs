//! Error messages: each names what was tried, the address, and why it failed.

mod common;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use common::tcp_and_raw;
use pktconn::{Addr, ConnConfig, Error, PacketConn, PacketServer};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// An address without a listener.
async fn unused_addr() -> Addr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().into()
}

/// Checks that the message is `expected`, followed by the text of the `io::Error` that is the source.
fn assert_message(error: &Error, expected: &str) {
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(error.to_string(), format!("{expected}: {source}"), "{error:?}");
}

#[tokio::test]
async fn the_error_of_a_refused_connection_names_the_address() {
    let addr = unused_addr().await;
    let error = PacketConn::connect(&addr).await.unwrap_err();
    assert!(error.is_io());
    assert_message(&error, &format!("cannot connect to {addr}"));
    assert!(error.to_string().contains("refused"), "{error}");
    let kind = error.source().unwrap().downcast_ref::<io::Error>().unwrap().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionRefused);
}

#[cfg(unix)]
#[tokio::test]
async fn the_error_for_a_missing_unix_socket_names_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let addr = Addr::unix(dir.path().join("socket"));
    let error = PacketConn::connect(&addr).await.unwrap_err();
    assert!(error.is_io());
    assert_message(&error, &format!("cannot connect to {addr}"));
    std::fs::write(dir.path().join("socket"), "a file").unwrap();
    let error = PacketServer::bind(&addr).await.unwrap_err();
    assert!(error.is_io());
    assert_message(&error, &format!("cannot listen on {addr}"));
}

#[tokio::test]
async fn the_error_for_a_host_that_does_not_resolve_names_the_host() {
    // The name of a missing interface fails without a DNS query.
    let host = "fe80::1%missing";
    let addr = Addr::from((host, 80));
    for error in [PacketConn::connect(&addr).await.unwrap_err(), PacketServer::bind(&addr).await.unwrap_err()]
    {
        assert!(error.is_io());
        assert_message(&error, &format!("cannot resolve {host:?}"));
    }
}

#[tokio::test]
async fn the_error_for_an_address_in_use_names_the_address() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    let error = PacketServer::bind(&addr).await.unwrap_err();
    assert!(error.is_io());
    assert_message(&error, &format!("cannot listen on {addr}"));
}

#[tokio::test]
async fn the_error_of_a_reset_differs_from_a_refused_connection() {
    let (mut conn, raw) = tcp_and_raw(ConnConfig::new()).await;
    SockRef::from(&raw).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    let error = conn.recv().await.unwrap_err();
    assert!(error.is_io());
    let source = error.source().unwrap().to_string();
    assert!(error.to_string().ends_with(&format!("failed: {source}")), "{error}");
}

/// A listener whose backlog is full, so that Linux drops the SYNs of further clients, and the connections that fill it.
#[cfg(target_os = "linux")]
async fn listener_with_full_backlog() -> (std::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(addr)).await
    {
        filling.push(stream.unwrap());
    }
    (listener, filling)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_error_of_a_connect_timeout_names_the_address_and_the_option() {
    let (listener, _filling) = listener_with_full_backlog().await;
    let addr = listener.local_addr().unwrap();
    let config = ConnConfig::new().connect_timeout(Duration::from_millis(50));
    let error = PacketConn::connect_with(addr, config).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.to_string(), format!("not connected to {addr} within 50ms (connect_timeout)"));
}

/// The error message of `recv` after the peer sends `bytes` and closes.
async fn error_after(bytes: &[u8]) -> String {
    let (mut conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    raw.write_all(bytes).await.unwrap();
    raw.shutdown().await.unwrap();
    conn.recv().await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_error_names_another_protocol_that_it_recognizes() {
    for (bytes, expected) in [
        (
            &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            "frame of 542393671 bytes exceeds the limit of 33554432; the bytes look like an HTTP request",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "look like an HTTP response"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "look like SSH"),
        // The answer of a TLS server to a client without TLS: an alert.
        (b"\x15\x03\x03\x00\x02\x02\x32", "look like TLS"),
        (b"\x00\x00\x00\x05hello", "in the other byte order the length is 5"),
    ] {
        let text = error_after(bytes).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_error_of_a_failed_tls_handshake_names_the_address() {
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await
    });
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, own.cert.pem()).unwrap();
    let config = ConnConfig::new().tls(pktconn::TlsClientConfig::new().ca(&ca));
    let error = PacketConn::connect_with(("localhost", addr.port()), config).await.unwrap_err();
    assert!(error.is_tls(), "{error:?}");
    assert_message(&error, &format!("the TLS handshake with localhost:{} failed", addr.port()));

    let missing = pktconn::TlsServerConfig::new("/nowhere/chain.pem", "/nowhere/key.pem");
    let error = PacketServer::bind_with("127.0.0.1:0", pktconn::ServerConfig::new().tls(missing)).await;
    let error = error.unwrap_err();
    assert!(error.is_tls() && error.to_string().contains("/nowhere/chain.pem"), "{error}");
}

#[tokio::test]
async fn the_error_of_a_reset_names_the_peer_for_every_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (conn, accepted) = tokio::join!(PacketConn::connect(addr), listener.accept());
    let (mut conn, (raw, _)) = (conn.unwrap(), accepted.unwrap());
    SockRef::from(&raw).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    let expected = format!("the connection to {addr} failed: ");
    for error in [conn.recv().await.unwrap_err(), conn.send(b"late").await.unwrap_err(), conn.closed().await]
    {
        assert!(error.is_io() && error.to_string().starts_with(&expected), "{error}");
    }
}
