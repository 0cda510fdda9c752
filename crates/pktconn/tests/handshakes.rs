//! Handshakes that clients begin and do not complete: their number and their memory are limited, and they keep no other
//! client from connecting.
#![cfg(all(target_os = "linux", feature = "tls", feature = "proxy-protocol"))]

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use common::{HANG_GUARD, serve_echo};
use pktconn::{
    ConnConfig, PacketConn, PacketServer, ServerConfig, ServerHandle, TlsClientConfig, TlsServerConfig,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, sleep, timeout};

/// The largest number of bytes that the server reads of a handshake.
const MAX_HANDSHAKE_BYTES: usize = 32 * 1024;

/// A `ClientHello` of 60,000 bytes in TLS records, without its last byte.
fn begun_client_hello() -> Vec<u8> {
    const LEN: usize = 60_000;
    let mut hello = vec![1, 0, (LEN >> 8) as u8, LEN as u8, 3, 3];
    hello.resize(4 + LEN, 0);
    let records = hello
        .chunks(16_000)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat());
    let mut bytes: Vec<u8> = records.collect();
    bytes.pop();
    bytes
}

/// The start of a PROXY header, version 2, that announces `len` bytes.
fn begun_proxy_header(len: u16) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &len.to_be_bytes(), &[192, 0, 2, 7, 127, 0, 0, 1, 31, 144, 0, 80]]
        .concat()
}

/// An echo server with TLS.
async fn serve(config: ServerConfig) -> (SocketAddr, ServerHandle, TlsClientConfig, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&chain, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let config = config.tls(TlsServerConfig::new(&chain, &key));
    let (addr, handle) = serve_echo(config).await;
    (addr, handle, TlsClientConfig::new().ca(chain).server_name("localhost"), dir)
}

async fn connect_from(ip: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(ip), 0).into()).unwrap();
    socket.connect(addr).await.unwrap()
}

/// A TLS client from 127.0.0.2 is served.
async fn assert_serves_others(addr: SocketAddr, tls: &TlsClientConfig) {
    // The client's own socket has the source address 127.0.0.2 because a relay connects for it.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay_addr = relay.local_addr().unwrap();
    let relaying = tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = connect_from([127, 0, 0, 2], addr).await;
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let mut conn = PacketConn::connect_with(relay_addr, ConnConfig::new().tls(tls.clone())).await.unwrap();
    conn.send(b"hello").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
    conn.close().await.unwrap();
    relaying.await.unwrap();
}

async fn until(what: &str, is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(HANG_GUARD, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_from_connecting() {
    let (addr, handle, tls, _dir) = serve(ServerConfig::new().max_handshakes(5)).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(connect_from([127, 0, 0, 1], addr).await);
    }
    until("20 connections are accepted", || handle.stats().accepted == 20).await;
    assert_eq!((handle.stats().handshakes_running, handle.stats().refused), (5, 15));
    for _ in 0..3 {
        assert_serves_others(addr, &tls).await;
    }
    // The newest of the silent ones are still there.
    let (oldest, newest) = silent.split_at_mut(15);
    for stream in oldest {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    let open = async { newest.last_mut().unwrap().read(&mut [0]).await };
    assert!(timeout(Duration::from_millis(50), open).await.is_err(), "the newest handshake was ended");
    drop(silent);
    until("all handshakes have ended", || handle.stats().handshakes_running == 0).await;
    assert_eq!(handle.stats().open, 0);
}

#[tokio::test]
async fn a_client_hello_that_is_too_long_is_refused() {
    let (addr, handle, tls, _dir) = serve(ServerConfig::new()).await;
    let mut stream = connect_from([127, 0, 0, 1], addr).await;
    let _ = stream.write_all(&begun_client_hello()).await;
    until("the handshake fails", || handle.stats().handshakes_failed == 1).await;
    assert_serves_others(addr, &tls).await;
}

#[tokio::test]
async fn the_bytes_of_running_handshakes_count_in_the_memory_budget() {
    let config = ServerConfig::new().memory_budget(1 << 20);
    let behind_proxy = config.clone().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
    for (config, begun) in [(config, begun_client_hello()), (behind_proxy, begun_proxy_header(3000))] {
        let (addr, handle, _, _dir) = serve(config).await;
        let mut streams = Vec::new();
        let len = begun.len().min(20_000);
        for count in 1..=10 {
            let mut stream = connect_from([127, 0, 0, 1], addr).await;
            stream.write_all(&begun[..len]).await.unwrap();
            streams.push(stream);
            until("the bytes count", || handle.stats().held_bytes >= count * len).await;
        }
        assert!(handle.stats().held_bytes <= 10 * (len + MAX_HANDSHAKE_BYTES));
        drop(streams);
        until("the bytes are free", || handle.stats().held_bytes == 0).await;
    }
}

#[tokio::test]
async fn a_flood_of_begun_handshakes_stays_within_the_memory_budget() {
    const BUDGET: usize = 1 << 20;
    let (addr, handle, tls, _dir) = serve(ServerConfig::new().memory_budget(BUDGET)).await;
    let begun = begun_client_hello();
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut stream = connect_from([127, 0, 0, 1], addr).await;
        // The server may have refused the connection already.
        let _ = stream.write_all(&begun[..30_000]).await;
        streams.push(stream);
        assert!(handle.stats().held_bytes <= BUDGET, "{:?}", handle.stats());
    }
    assert!(handle.stats().refused > 0, "{:?}", handle.stats());
    assert_serves_others(addr, &tls).await;
}

#[tokio::test]
async fn handshakes_that_were_begun_before_memory_is_short_stay_within_the_memory_budget() {
    const BUDGET: usize = 1 << 20;
    let (addr, handle, tls, _dir) = serve(ServerConfig::new().memory_budget(BUDGET)).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(connect_from([127, 0, 0, 1], addr).await);
    }
    let begun = begun_client_hello();
    for stream in &mut streams {
        let _ = stream.write_all(&begun[..30_000]).await;
        assert!(handle.stats().held_bytes <= BUDGET, "{:?}", handle.stats());
    }
    until("some handshakes are refused", || handle.stats().refused > 50).await;
    assert!(handle.stats().held_bytes <= BUDGET, "{:?}", handle.stats());
    assert_serves_others(addr, &tls).await;
}

/// No network sends more after its first bytes, so none of them notices by itself that memory is short.
#[tokio::test]
async fn stalled_handshakes_of_several_networks_do_not_keep_the_memory_budget_exceeded() {
    const BUDGET: usize = 1 << 20;
    let conn = ConnConfig::new().handshake_timeout(None);
    let (addr, handle, tls, _dir) = serve(ServerConfig::new().conn(conn).memory_budget(BUDGET)).await;
    let begun = begun_client_hello();
    let mut streams = Vec::new();
    for (network, count) in [(3, 23), (4, 8), (5, 3)] {
        for _ in 0..count {
            let mut stream = connect_from([127, 0, 0, network], addr).await;
            let _ = stream.write_all(&begun[..31_000]).await;
            streams.push(stream);
            let accepted = streams.len() as u64;
            until("the bytes count, or the budget is exceeded", || {
                let stats = handle.stats();
                stats.accepted == accepted
                    && (stats.held_bytes >= 31_000 * streams.len() || stats.refused > 0)
            })
            .await;
        }
    }
    // The first of them may be refused before the server has ended a handshake.
    until("a handshake of the heaviest network is refused", || handle.stats().refused > 3).await;
    assert_serves_others(addr, &tls).await;
    // Those of the networks within their share still run.
    assert!((8..=11).contains(&handle.stats().handshakes_running), "{:?}", handle.stats());
}

#[tokio::test]
async fn a_server_without_a_place_for_a_handshake_is_refused() {
    let config = ServerConfig::new().max_handshakes(0);
    let error = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("max_handshakes"), "{error}");
}
