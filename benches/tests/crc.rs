//! The client with `--crc`, against a server that verifies checksums.

#![forbid(unsafe_code)]

use std::process::Command;

use pktconn::{Checksum, CodecConfig, ConnConfig, PacketConn};
use pktconn_benches::load::LoadReport;
use tokio::net::TcpListener;

#[tokio::test]
async fn the_client_sends_valid_checksums_and_accepts_those_of_replies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = Command::new(env!("CARGO_BIN_EXE_bare_epoll_client"));
    client.args(["--connect", &address.to_string(), "--conns", "1", "--rate", "1000", "--duration", "100ms"]);
    client.args(["--sizes", "0-70000", "--crc"]);
    let output = tokio::task::spawn_blocking(move || client.output());

    let (stream, _) = listener.accept().await.unwrap();
    let config = ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32));
    let mut conn = PacketConn::from_tcp(stream, config).unwrap();
    let mut packets = 0;
    // A wrong checksum would be an error here.
    while let Some(packet) = conn.recv().await.unwrap() {
        conn.send(packet).await.unwrap();
        packets += 1;
    }

    let output = output.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: LoadReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((packets, report.packets), (100, 100));
}
