//! TLS: trust, client certificates, what both sides learn from the handshake, timeouts, and incomplete records.
#![cfg(feature = "tls")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{frame, numbered, tcp_addr};
use pktconn::{
    Addr, Client, ClientConfig, ConnConfig, PacketConn, PacketServer, ServerConfig, TlsClientConfig,
    TlsServerConfig,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A certificate authority, and a directory with the certificates that it signs.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and the files of it and its key.
struct Identity {
    chain: PathBuf,
    key: PathBuf,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Signs a certificate for `host`, and writes it and its key to files named after `host`. It replaces existing
    /// files.
    fn identity(&self, host: &str) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key_pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key_pair, &self.issuer).unwrap();
        let (chain, key) = (self.file(&format!("{host}.pem")), self.file(&format!("{host}.key")));
        fs::write(&chain, certificate.pem()).unwrap();
        fs::write(&key, key_pair.serialize_pem()).unwrap();
        Identity { chain, key, der: certificate.der().to_vec() }
    }

    fn server(&self, identity: &Identity) -> TlsServerConfig {
        let _ = self;
        TlsServerConfig::new(&identity.chain, &identity.key)
    }

    fn client(&self) -> TlsClientConfig {
        TlsClientConfig::new().ca(self.ca())
    }
}

async fn echo(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while let Some(packet) = conn.recv().await? {
        conn.send(packet).await?;
    }
    Ok(conn.close().await?)
}

async fn serve(config: ServerConfig) -> (PacketServer, std::net::SocketAddr) {
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let addr = tcp_addr(&server);
    (server, addr)
}

async fn connect(addr: impl Into<Addr>, tls: TlsClientConfig) -> Result<PacketConn, pktconn::Error> {
    PacketConn::connect_with(addr, ConnConfig::new().tls(tls)).await
}

async fn assert_echoes(conn: &mut PacketConn) {
    conn.send(b"ping").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"ping");
}

#[tokio::test]
async fn packets_arrive_complete_and_in_order_over_tcp_and_unix_sockets() {
    let authority = Authority::new();
    let identity = authority.identity("localhost");
    let config = ServerConfig::new().tls(authority.server(&identity));
    let (mut server, tcp) = serve(config).await;
    let unix = Addr::unix(authority.file("socket"));
    server.add_addr(&unix).await.unwrap();
    tokio::spawn(server.serve(echo));
    for addr in [Addr::from(("localhost", tcp.port())), tcp.into(), unix] {
        let mut conn = connect(&addr, authority.client().server_name("localhost")).await.unwrap();
        let large = vec![7; 3_000_000];
        for number in 0..500 {
            conn.send(numbered(number)).await.unwrap();
        }
        for number in 0..500 {
            assert_eq!(conn.recv().await.unwrap(), Some(numbered(number)));
        }
        conn.send(large.clone()).await.unwrap();
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), large);
        assert_eq!(conn.peer_addr(), addr.unix_path().is_none().then_some(tcp));
        conn.close().await.unwrap();
        assert!(conn.recv().await.unwrap_err().is_local_close());
    }
}

#[tokio::test]
async fn both_sides_report_the_protocol_certificates_and_server_name_of_the_handshake() {
    let authority = Authority::new();
    let (host, device) = (authority.identity("localhost"), authority.identity("device-7"));
    let tls = authority.server(&host).client_ca(authority.ca()).alpn(["pktconn/2", "pktconn/1"]);
    let (server, addr) = serve(ServerConfig::new().tls(tls)).await;
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        report.send(conn.tls().cloned().unwrap()).unwrap();
        echo(conn)
    }));
    let tls = authority.client().client_cert(&device.chain, &device.key).alpn(["pktconn/1"]);
    let mut conn = connect(("localhost", addr.port()), tls).await.unwrap();
    assert_echoes(&mut conn).await;

    let here = conn.tls().unwrap();
    assert_eq!(here.alpn.as_deref(), Some(&b"pktconn/1"[..]));
    assert_eq!((&here.peer_certificates, &here.server_name), (&vec![host.der], &None));
    let there = reported.recv().await.unwrap();
    assert_eq!(there.alpn.as_deref(), Some(&b"pktconn/1"[..]));
    assert_eq!(
        (there.peer_certificates, there.server_name.as_deref()),
        (vec![device.der], Some("localhost"))
    );

    // A connection without TLS has no TLS information.
    let (plain, _raw) = common::tcp_and_raw(ConnConfig::new()).await;
    assert!(plain.tls().is_none());
    // The server does not support this protocol.
    let tls = authority.client().client_cert(&device.chain, &device.key).alpn(["other"]);
    assert!(connect(("localhost", addr.port()), tls).await.unwrap_err().is_tls());
}

#[tokio::test]
async fn a_client_refuses_a_server_that_it_does_not_trust() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    let handle = server.handle();
    tokio::spawn(server.serve(echo));
    let local = ("localhost", addr.port());
    for tls in [other.client(), authority.client().server_name("example.org"), TlsClientConfig::new()] {
        let error = connect(local, tls).await.unwrap_err();
        assert!(error.is_tls(), "{error:?}");
    }
    // The certificate is for a name, not for this IP address.
    assert!(connect(addr, authority.client()).await.unwrap_err().is_tls());
    while handle.stats().handshakes_failed < 4 {
        tokio::task::yield_now().await;
    }
    assert!(connect(local, authority.client()).await.is_ok());
}

#[tokio::test]
async fn a_server_may_require_client_certificates_or_make_them_optional() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (host, known, stranger) =
        (authority.identity("localhost"), authority.identity("known"), other.identity("stranger"));
    for (is_required, tls) in [
        (true, authority.server(&host).client_ca(authority.ca())),
        (false, authority.server(&host).optional_client_ca(authority.ca())),
    ] {
        let (server, addr) = serve(ServerConfig::new().tls(tls)).await;
        tokio::spawn(server.serve(echo));
        let local = ("localhost", addr.port());
        let try_echo = async |tls| {
            // In TLS 1.3 the handshake of the client ends before the server checks its certificate, so the error comes
            // later.
            let mut conn = connect(local, tls).await?;
            conn.send(b"ping").await?;
            conn.recv().await
        };
        let with = |identity: &Identity| authority.client().client_cert(&identity.chain, &identity.key);
        assert!(try_echo(with(&known)).await.is_ok());
        assert!(!matches!(try_echo(with(&stranger)).await, Ok(Some(_))));
        assert_eq!(matches!(try_echo(authority.client()).await, Ok(Some(_))), !is_required);
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let authority = Authority::new();
    let first = authority.identity("localhost");
    let tls = authority.server(&first);
    let (server, addr) = serve(ServerConfig::new().tls(tls.clone())).await;
    let handle = server.handle();
    tokio::spawn(server.serve(echo));
    let local = ("localhost", addr.port());
    let shown = |conn: &PacketConn| conn.tls().unwrap().peer_certificates[0].clone();
    let mut before = connect(local, authority.client()).await.unwrap();
    assert_eq!(shown(&before), first.der);

    let second = authority.identity("localhost");
    let shown_before = shown(&connect(local, authority.client()).await.unwrap());
    assert_eq!(shown_before, first.der, "the server reads the files only in `set_tls`");
    handle.set_tls(&tls).await.unwrap();
    assert_eq!(shown(&connect(local, authority.client()).await.unwrap()), second.der);
    assert_echoes(&mut before).await;

    fs::write(&second.chain, "no certificate").unwrap();
    let error = handle.set_tls(&tls).await.unwrap_err();
    assert!(error.is_tls(), "{error:?}");
    let shown_after = shown(&connect(local, authority.client()).await.unwrap());
    assert_eq!(shown_after, second.der, "after an error the server keeps its certificate");

    let plain = PacketServer::bind("127.0.0.1:0").await.unwrap();
    assert!(plain.handle().set_tls(&authority.server(&first)).await.unwrap_err().is_config());
}

#[tokio::test]
async fn silent_clients_time_out_and_do_not_delay_others() {
    let authority = Authority::new();
    // Long enough for the handshake of the other client, even on a slow machine.
    let timeout = Duration::from_secs(2);
    let config = ServerConfig::new()
        .tls(authority.server(&authority.identity("localhost")))
        .conn(ConnConfig::new().handshake_timeout(timeout));
    let (server, addr) = serve(config).await;
    let handle = server.handle();
    tokio::spawn(server.serve(echo));
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut conn = connect(("localhost", addr.port()), authority.client()).await.unwrap();
    assert_echoes(&mut conn).await;
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert_eq!((handle.stats().handshakes_failed, handle.stats().open), (20, 1));
    assert_echoes(&mut conn).await;
}

#[tokio::test]
async fn connecting_to_a_silent_server_times_out() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ConnConfig::new().tls(authority.client()).handshake_timeout(Duration::from_millis(50));
    let error = PacketConn::connect_with(listener.local_addr().unwrap(), config).await.unwrap_err();
    assert_eq!(error.timeout(), Some(pktconn::Timeout::Handshake));
}

#[tokio::test]
async fn one_side_without_tls_is_an_error_on_both() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    let handle = server.handle();
    tokio::spawn(server.serve(echo));
    let mut plain = PacketConn::connect(addr).await.unwrap();
    plain.send(b"hello").await.unwrap();
    // The server answers with a TLS alert, which is no valid frame.
    assert!(!matches!(plain.recv().await, Ok(Some(_))));
    drop(plain);
    while handle.stats().handshakes_failed == 0 {
        tokio::task::yield_now().await;
    }

    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve(echo));
    // To the server, the ClientHello looks like the start of a long frame, so both sides wait for more.
    let config = ConnConfig::new().tls(authority.client()).handshake_timeout(Duration::from_millis(50));
    let error = PacketConn::connect_with(("localhost", addr.port()), config).await.unwrap_err();
    assert_eq!(error.timeout(), Some(pktconn::Timeout::Handshake));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_tls_handshakes() {
    let authority = Authority::new();
    let config = ServerConfig::new()
        .tls(authority.server(&authority.identity("localhost")))
        .conn(ConnConfig::new().handshake_timeout(None));
    let (server, addr) = serve(config).await;
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(echo));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    while handle.stats().open == 0 {
        tokio::task::yield_now().await;
    }
    handle.shutdown();
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len(), handle.stats().open), (0, 0, 0));
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn connection_limits_include_connections_during_their_tls_handshake() {
    let authority = Authority::new();
    let config =
        ServerConfig::new().tls(authority.server(&authority.identity("localhost"))).max_conns_per_ip(2);
    let (server, addr) = serve(config).await;
    let handle = server.handle();
    tokio::spawn(server.serve(echo));
    let _silent = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    let mut third = TcpStream::connect(addr).await.unwrap();
    assert!(!matches!(third.read(&mut [0; 1]).await, Ok(1..)));
    assert_eq!((handle.stats().refused, handle.stats().open), (1, 2));
}

/// A connection that an attacker cuts looks the same, so it must not count as a clean close.
#[tokio::test]
async fn the_end_of_the_stream_without_a_tls_close_notify_is_an_error() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |mut conn| {
        let report = report.clone();
        async move {
            for _ in 0..2 {
                report.send(conn.recv().await).unwrap();
            }
            Ok(())
        }
    }));
    // A relay that shuts down the stream to the server after the first packet.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = relay.local_addr().unwrap().port();
    let (cut, cutting) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = TcpStream::connect(addr).await.unwrap();
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut client, &mut server) => { copied.unwrap(); }
            _ = cutting => server.shutdown().await.unwrap(),
        }
        std::future::pending::<()>().await;
    });
    let conn = connect(("localhost", port), authority.client()).await.unwrap();
    conn.send(b"first").await.unwrap();
    assert!(reported.recv().await.unwrap().is_ok());
    cut.send(()).unwrap();
    assert!(reported.recv().await.unwrap().unwrap_err().is_io());
}

#[tokio::test]
async fn the_error_for_an_invalid_file_names_the_file() {
    let authority = Authority::new();
    let (identity, other) = (authority.identity("localhost"), authority.identity("other"));
    let empty = authority.file("empty.pem");
    fs::write(&empty, "").unwrap();
    let missing = authority.file("missing.pem");
    let server = |chain: &Path, key: &Path| TlsServerConfig::new(chain, key);
    for (tls, named) in [
        (server(&missing, &identity.key), "missing.pem"),
        (server(&empty, &identity.key), "empty.pem"),
        (server(&identity.chain, &identity.chain), "localhost.pem"),
        (server(&identity.chain, &other.key), "other.key"),
        (server(&identity.chain, &identity.key).client_ca(&empty), "empty.pem"),
    ] {
        let bound = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().tls(tls)).await;
        let error = bound.unwrap_err();
        assert!(error.is_tls(), "{error:?}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(named), "{named:?} is not in {source}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for tls in [authority.client().ca(&missing), authority.client().client_cert(&empty, &identity.key)] {
        assert!(connect(addr, tls).await.unwrap_err().is_tls());
    }
}

/// The other setters must not change the trust or protocols of a given rustls configuration.
#[tokio::test]
async fn a_configuration_of_rustls_is_used_unchanged() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    tokio::spawn(server.serve(echo));
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let empty_roots = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tokio_rustls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let tls = TlsClientConfig::from_rustls(std::sync::Arc::new(empty_roots)).ca(authority.ca()).alpn(["x"]);
    assert!(connect(("localhost", addr.port()), tls).await.unwrap_err().is_tls());
}

#[tokio::test]
async fn a_client_configuration_of_tls_is_refused_where_it_cannot_be_used() {
    let authority = Authority::new();
    let config = ConnConfig::new().tls(authority.client());
    let (here, _there) = tokio::io::duplex(64);
    assert!(PacketConn::new(here, config.clone()).unwrap_err().is_config());
    assert!(PacketServer::bind_with("127.0.0.1:0", config.clone()).await.unwrap_err().is_config());
    let path = authority.file("socket");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let error = PacketConn::connect_with(Addr::unix(path), config).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("server_name"), "{error}");
}

/// Each byte of the frame is a separate TLS record.
#[tokio::test]
async fn a_frame_in_records_of_single_bytes_arrives() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    tokio::spawn(server.serve(echo));
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let ca = <tokio_rustls::rustls::pki_types::CertificateDer<'_> as tokio_rustls::rustls::pki_types::pem::PemObject>::from_pem_file(authority.ca());
    roots.add(ca.unwrap()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut raw = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let frame = frame(b"byte by byte");
    for byte in &frame {
        raw.write_all(&[*byte]).await.unwrap();
        raw.flush().await.unwrap();
    }
    let mut reply = vec![0; frame.len()];
    raw.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, frame);
    raw.shutdown().await.unwrap();
    assert_eq!(raw.read(&mut [0; 1]).await.unwrap(), 0, "the server must send close_notify");
}

/// A corrupted record, or an alert, may arrive in the same read as valid records before it.
#[tokio::test]
async fn packets_before_a_corrupted_record_are_received() {
    use std::io::Write;

    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        pass.send(conn).unwrap();
        async { Ok(()) }
    }));
    let connector = tokio_rustls::TlsConnector::from(authority.client().to_rustls().unwrap());
    for len in [3, 1000, 100_000] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let mut raw = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let mut conn = passed.recv().await.unwrap();
        let payload = vec![7; len];
        let (socket, session) = raw.get_mut();
        let mut records = Vec::new();
        for _ in 0..2 {
            for part in frame(&payload).chunks(1000) {
                session.writer().write_all(part).unwrap();
                session.write_tls(&mut records).unwrap();
            }
        }
        records.extend([&[0x17, 3, 3, 0, 32][..], &[0; 32]].concat());
        socket.write_all(&records).await.unwrap();
        for number in 0..2 {
            let packet = conn.recv().await.unwrap_or_else(|error| panic!("{number} of {len} bytes: {error}"));
            assert!(packet.unwrap().payload() == payload, "{number} of {len} bytes");
        }
        let end = tokio::time::timeout(Duration::from_secs(20), conn.recv()).await.expect("no end");
        assert!(end.unwrap_err().is_io());
    }
}

/// Connects a client to the server at `addr`. Returns the TLS records of a frame of `len` bytes, and the client's
/// stream.
async fn records(
    connector: &tokio_rustls::TlsConnector,
    addr: std::net::SocketAddr,
    len: usize,
) -> (Vec<u8>, tokio_rustls::client::TlsStream<TcpStream>) {
    use std::io::Write;

    let stream = TcpStream::connect(addr).await.unwrap();
    let mut raw = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let mut records = Vec::new();
    let (_, session) = raw.get_mut();
    session.writer().write_all(&frame(&vec![7; len])).unwrap();
    session.write_tls(&mut records).unwrap();
    (records, raw)
}

/// A record of up to 16 KiB can be decrypted only when it is complete.
#[tokio::test]
async fn an_incomplete_record_starts_the_frame_timeout_and_counts_in_held_bytes() {
    let authority = Authority::new();
    let conn = ConnConfig::new().frame_timeout(Duration::from_millis(500));
    let config = ServerConfig::new().tls(authority.server(&authority.identity("localhost"))).conn(conn);
    let (server, addr) = serve(config.memory_budget(1 << 20)).await;
    let handle = server.handle();
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        pass.send(conn).unwrap();
        async { Ok(()) }
    }));
    let connector = tokio_rustls::TlsConnector::from(authority.client().to_rustls().unwrap());
    for part in [1, 5, 100, 15_000] {
        let (records, mut raw) = records(&connector, addr, 15_000).await;
        let mut conn = passed.recv().await.unwrap();
        raw.get_mut().0.write_all(&records[..part]).await.unwrap();
        let receiving = tokio::spawn(async move { (conn.recv().await, conn) });
        let counted = async {
            while handle.stats().held_bytes < part {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("held_bytes lacks the record");
        let end = tokio::time::timeout(Duration::from_secs(20), receiving).await.expect("no frame timeout");
        let (received, _conn) = end.unwrap();
        assert_eq!(received.unwrap_err().timeout(), Some(pktconn::Timeout::Frame), "{part} bytes");
    }
}

#[tokio::test]
async fn a_peer_that_sends_a_record_byte_by_byte_is_not_idle() {
    let authority = Authority::new();
    let conn = ConnConfig::new().frame_timeout(None).idle_timeout(Duration::from_secs(2));
    let config = ServerConfig::new().tls(authority.server(&authority.identity("localhost"))).conn(conn);
    let (server, addr) = serve(config).await;
    tokio::spawn(server.serve(echo));
    let connector = tokio_rustls::TlsConnector::from(authority.client().to_rustls().unwrap());
    let (records, mut raw) = records(&connector, addr, 10).await;
    for byte in &records {
        tokio::time::sleep(Duration::from_millis(80)).await;
        raw.get_mut().0.write_all(&[*byte]).await.unwrap();
    }
    raw.read_exact(&mut [0; 14]).await.unwrap();
}

/// How many bytes the kernel holds on the way from `from` to `to`. Bytes in transit may be counted twice, or not at
/// all.
#[cfg(target_os = "linux")]
fn in_kernel(from: std::net::SocketAddr, to: std::net::SocketAddr) -> usize {
    let hex = |addr: std::net::SocketAddr| {
        let std::net::IpAddr::V4(ip) = addr.ip() else { panic!("{addr} is not IPv4") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), addr.port())
    };
    let (from, to) = (hex(from), hex(to));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let queued = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (sent, received) = fields.get(4)?.split_once(':')?;
        let waiting = match (fields[1], fields[2]) {
            (local, remote) if (local, remote) == (&from, &to) => sent,
            (local, remote) if (local, remote) == (&to, &from) => received,
            _ => return None,
        };
        usize::from_str_radix(waiting, 16).ok()
    };
    table.lines().filter_map(queued).sum()
}

/// How many bytes TLS has accepted and not passed to the kernel. The kernel held `before` bytes at the start. Records
/// have up to `record_len` bytes of packets, and 22 bytes of overhead each.
#[cfg(target_os = "linux")]
async fn held_by_tls(conn: &PacketConn, record_len: usize, before: usize) -> usize {
    let (from, to) = (conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    let look = || {
        let written = conn.stats().bytes_sent as usize;
        (before + written + 22 * written.div_ceil(record_len)).saturating_sub(in_kernel(from, to))
    };
    let (mut last, mut held) = (usize::MAX, look());
    // Repeats until no bytes are in transit.
    while held > 0 && held != last {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (last, held) = (held, look());
    }
    held
}

/// A TLS connection of a server, and its client, which has read only the handshake.
#[cfg(target_os = "linux")]
async fn conn_to_unread_client(
    config: ConnConfig,
) -> (PacketConn, tokio_rustls::client::TlsStream<TcpStream>) {
    let authority = Authority::new();
    let tls = authority.server(&authority.identity("localhost"));
    let (server, addr) = serve(ServerConfig::new().tls(tls).conn(config)).await;
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        pass.send(conn).unwrap();
        std::future::pending()
    }));
    let connector = tokio_rustls::TlsConnector::from(authority.client().to_rustls().unwrap());
    let stream = TcpStream::connect(addr).await.unwrap();
    let raw = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    (passed.recv().await.unwrap(), raw)
}

/// Sends received packets one at a time, which are written without the send queue.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flush_waits_for_bytes_in_the_tls_buffer_and_they_are_written_when_there_is_room() {
    let (mut conn, mut raw) = conn_to_unread_client(ConnConfig::new()).await;
    raw.write_all(&frame(&[7; 8188])).await.unwrap();
    let packet = conn.recv().await.unwrap().unwrap();
    let before = in_kernel(conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    let mut sent = 0;
    while held_by_tls(&conn, 8192, before).await == 0 {
        conn.send_many(&mut vec![packet.clone()]).await.unwrap();
        sent += 1;
        assert!(sent < 10_000, "the kernel accepts all bytes, so TLS never holds any");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), conn.flush()).await.is_err());
    let reading = async {
        let mut received = vec![0; sent * 8192];
        raw.read_exact(&mut received).await.unwrap();
        assert!(received.chunks(8192).all(|chunk| chunk == frame(&[7; 8188])));
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the last packets were not written");
    conn.flush().await.unwrap();
}

/// Bytes in the TLS buffer can no longer be dropped for newer packets, so it must stay small.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_drop_oldest_the_tls_buffer_holds_at_most_one_record() {
    let config = ConnConfig::new().slow_consumer(pktconn::SlowConsumer::DropOldest);
    let (conn, _raw) = conn_to_unread_client(config).await;
    let before = in_kernel(conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    // Repeats until the kernel accepts no more bytes.
    let (mut last, mut held) = (u64::MAX, 0);
    while conn.stats().packets_dropped == 0 || conn.stats().bytes_sent != last {
        last = conn.stats().bytes_sent;
        for _ in 0..100 {
            conn.send(vec![7; 8188]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        held = held_by_tls(&conn, 16 * 1024, before).await;
    }
    assert!((1..=17 * 1024).contains(&held), "TLS holds {held} bytes");
}

#[tokio::test]
async fn a_client_with_an_unreadable_certificate_file_is_refused_before_it_connects() {
    let authority = Authority::new();
    let missing = authority.file("missing.pem");
    for tls in [TlsClientConfig::new().ca(&missing), authority.client().client_cert(&missing, &missing)] {
        let config = ClientConfig::new().conn(ConnConfig::new().tls(tls));
        let error = Client::new("localhost:1", config).unwrap_err();
        assert!(error.is_tls() && error.to_string().contains("missing.pem"), "{error}");
    }
}
