//! The client and the reference server over TLS.

#![forbid(unsafe_code)]

mod common;

use std::{fs, process::Command};

use common::Server;
use pktconn_benches::load::LoadReport;

#[test]
fn packets_come_back_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let options = ["--tls-cert", cert, "--tls-key", key];
    let server = Server::start(env!("CARGO_BIN_EXE_tokio_rustls_server"), &options);
    // Packets of many records, and more bytes outstanding than the sockets hold: writes are partial on both sides.
    for (pipeline, sizes) in [("1", "0-2048"), ("32", "0-2048"), ("16", "1000000")] {
        let output = Command::new(env!("CARGO_BIN_EXE_bare_epoll_client"))
            .args(["--connect", &server.address.to_string(), "--conns", "3", "--duration", "200ms"])
            .args(["--pipeline", pipeline, "--sizes", sizes, "--tls-ca", cert])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(serde_json::from_slice::<LoadReport>(&output.stdout).unwrap().packets >= 3);
    }
    // A certificate that the client does not trust.
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other_cert = folder.path().join("other.pem");
    fs::write(&other_cert, other.cert.pem()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bare_epoll_client"))
        .args(["--connect", &server.address.to_string(), "--tls-ca", other_cert.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the TLS handshake failed"));
}
