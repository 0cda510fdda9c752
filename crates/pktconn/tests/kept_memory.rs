//! What a connection keeps of its handshakes counts in `held_bytes`, until the connection ends.
#![cfg(all(feature = "tls", feature = "proxy-protocol"))]

mod common;

use std::fs;

use common::{HANG_GUARD, frame, serve_echo};
use pktconn::{ConnConfig, PacketConn, ServerConfig, ServerHandle, TlsClientConfig, TlsServerConfig};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};

const KIB: usize = 1024;

/// The buffers of an idle connection, in the steps in which the server counts.
const BUFFERS: usize = 8 * KIB;

/// An echo server that counts its memory.
async fn serve(config: ServerConfig) -> (std::net::SocketAddr, ServerHandle) {
    serve_echo(config.memory_budget(1024 * KIB)).await
}

async fn until_nothing_is_held(handle: &ServerHandle) {
    let wait = async {
        while handle.stats().open > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(HANG_GUARD, wait).await.unwrap();
    assert_eq!(handle.stats().held_bytes, 0);
}

#[tokio::test]
async fn a_proxy_header_is_counted() {
    let (addr, handle) = serve(ServerConfig::new().proxy_protocol(["127.0.0.1/32".parse().unwrap()])).await;
    for tlv_len in [0, 15_000] {
        let tlv = if tlv_len > 0 {
            [&[0xe0, (tlv_len >> 8) as u8, tlv_len as u8][..], &vec![7; tlv_len]].concat()
        } else {
            Vec::new()
        };
        let addrs = [192, 0, 2, 7, 127, 0, 0, 1, 31, 144, 0, 80];
        let body_len = ((addrs.len() + tlv.len()) as u16).to_be_bytes();
        let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &body_len, &addrs, &tlv].concat();
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(&header).await.unwrap();
        client.write_all(&frame(b"hello")).await.unwrap();
        let mut echo = [0; 9];
        timeout(HANG_GUARD, client.read_exact(&mut echo)).await.unwrap().unwrap();
        let held = handle.stats().held_bytes;
        assert!((tlv.len()..=tlv.len() + BUFFERS).contains(&held), "{held} B for a header with {tlv_len} B");
        drop(client);
        until_nothing_is_held(&handle).await;
    }
}

#[tokio::test]
async fn client_certificates_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(file("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    let write_identity = |name: &str, extension_len: usize| {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        if extension_len > 0 {
            // Private enterprise number 99999, which means nothing to the server.
            let oid = [1, 3, 6, 1, 4, 1, 99_999, 1];
            params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, vec![7; extension_len])];
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().len()
    };
    write_identity("server", 0);
    let certificate_len = write_identity("client", 20_000);
    assert!(certificate_len > 20_000);
    let tls = TlsServerConfig::new(file("server.pem"), file("server.key")).optional_client_ca(file("ca.pem"));
    let (addr, handle) = serve(ServerConfig::new().tls(tls)).await;
    let client_tls = TlsClientConfig::new().ca(file("ca.pem")).server_name("localhost");
    let with_certificate = client_tls.clone().client_cert(file("client.pem"), file("client.key"));
    for (tls, kept) in [(client_tls, 0), (with_certificate, 2 * certificate_len)] {
        let mut client = PacketConn::connect_with(addr, ConnConfig::new().tls(tls)).await.unwrap();
        client.send(b"hello").await.unwrap();
        timeout(HANG_GUARD, client.recv()).await.unwrap().unwrap();
        let held = handle.stats().held_bytes;
        // rustls keeps the certificate, and so does what the handler gets from `tls`.
        assert!((kept..=kept + BUFFERS).contains(&held), "{held} B for a certificate of {certificate_len} B");
        drop(client);
        until_nothing_is_held(&handle).await;
    }
}
