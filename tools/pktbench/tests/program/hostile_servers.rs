//! Servers that try to take memory, time or the terminal of the load generator. Each run ends, within 64 MiB of memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, SanType};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Ran, bounded};

/// Ends a test that hangs. The runs have timeouts of 1 s.
const HANG_GUARD: Duration = Duration::from_secs(60);

/// What a server does with a connection. An error ends the connection.
type Behaviour = fn(TcpStream) -> std::io::Result<()>;

fn server(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_write_timeout(Some(HANG_GUARD)).unwrap();
            stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
            thread::spawn(move || behaviour(stream));
        }
    });
    addr
}

/// The hostile behaviours, before and after the first bytes of the client.
const BEHAVIOURS: [(&str, Behaviour); 6] = [
    ("zeros without end", |mut stream| {
        loop {
            stream.write_all(&[0; 65_536])?;
        }
    }),
    ("an enormous length", |mut stream| {
        stream.write_all(&[0xff; 4])?;
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    }),
    ("a long frame without end", |mut stream| {
        stream.write_all(&(32_u32 << 20).to_le_bytes())?;
        loop {
            stream.write_all(b"x")?;
            thread::sleep(Duration::from_millis(1));
        }
    }),
    ("a byte from time to time", |mut stream| {
        stream.read_exact(&mut [0; 4])?;
        for byte in [8, 0, 0, 0].into_iter().cycle() {
            stream.write_all(&[byte])?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }),
    ("resets", |stream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }),
    ("text for a terminal", |mut stream| {
        stream.write_all("HTTP/1.1 400 \u{1b}[31m\u{9b}\r\n\r\n".as_bytes())?;
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    }),
];

#[track_caller]
fn assert_plain(what: &str, ran: &Ran) {
    let output = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!output.chars().any(|symbol| symbol != '\n' && symbol.is_control()), "{what}: {ran:?}");
    assert!(output.lines().all(|line| line.chars().count() <= 4100), "{what}: {ran:?}");
    assert!(!output.contains("panicked"), "{what}: {ran:?}");
}

#[test]
fn a_load_on_a_hostile_server_ends_within_its_memory() {
    for (what, behaviour) in BEHAVIOURS {
        let (addr, started) = (server(behaviour).to_string(), Instant::now());
        let load = ["--connect", &addr, "--conns", "4", "--duration", "1s", "--timeout", "1s"];
        let ran = bounded(&load);
        assert!(started.elapsed() < HANG_GUARD, "{what}: {:?}", started.elapsed());
        assert!(matches!(ran.code, Some(1 | 3 | 5)), "{what}: {ran:?}");
        assert_plain(what, &ran);
    }
}

#[test]
fn a_test_of_a_hostile_server_ends_within_its_memory() {
    for (what, behaviour) in BEHAVIOURS {
        let addr = server(behaviour).to_string();
        let started = Instant::now();
        let ran = bounded(&["conform", &addr, "--max-payload", "1MiB", "--timeout", "50ms"]);
        assert!(started.elapsed() < HANG_GUARD, "{what}: {:?}", started.elapsed());
        assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
        assert_plain(what, &ran);
    }
}

/// A TLS server whose certificate has these names, signed by itself.
fn tls_server(names: Vec<String>, chain_len: usize) -> (SocketAddr, String) {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        names.into_iter().map(|name| SanType::DnsName(name.try_into().unwrap())).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone(); chain_len];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    (addr, certificate.pem())
}

#[test]
fn a_certificate_with_many_names_or_a_long_chain_is_one_plain_line() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let names =
        |count: usize| (0..count).map(|index| format!("\u{1b}[31m{index}.example")).collect::<Vec<_>>();
    let many = (0..2000).map(|index| format!("a{index}.example")).collect::<Vec<_>>();
    for (what, names, chain_len) in
        [("escapes", names(3), 1), ("many names", many, 1), ("a long chain", names(1), 100)]
    {
        let (addr, pem) = tls_server(names, chain_len);
        std::fs::write(&ca, pem).unwrap();
        let addr = addr.to_string();
        let load =
            ["--connect", &addr, "--packets", "10", "--conns", "2", "--timeout", "5s", "--tls", "--tls-ca"];
        let ran = bounded(&[&load[..], &[ca.to_str().unwrap()]].concat());
        assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
        assert!(ran.stderr.contains("certificate"), "{what}: {ran:?}");
        assert_plain(what, &ran);
    }
}
