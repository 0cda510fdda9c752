//! TLS: who is trusted, who is told of, and that nobody waits for one who is silent.
#![cfg(feature = "tls")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{frame, numbered, tcp_addr};
use pktconn::{Addr, ConnConfig, PacketConn, PacketServer, ServerConfig, TlsClientConfig, TlsServerConfig};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An authority, and a directory of the files that it signs.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate and its key, and the certificate itself.
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

    /// Signs a certificate for `host`, into files of this name: those that were there before are replaced.
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
async fn packets_pass_whole_and_in_order_over_tcp_and_by_a_unix_socket() {
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
async fn both_sides_tell_what_the_handshake_has_shown() {
    let authority = Authority::new();
    let (host, device) = (authority.identity("localhost"), authority.identity("device-7"));
    let tls = authority.server(&host).client_ca(authority.ca()).alpn(["pktconn/2", "pktconn/1"]);
    let (server, addr) = serve(ServerConfig::new().tls(tls)).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        tell.send(conn.tls().cloned().unwrap()).unwrap();
        echo(conn)
    }));
    let tls = authority.client().client_cert(&device.chain, &device.key).alpn(["pktconn/1"]);
    let mut conn = connect(("localhost", addr.port()), tls).await.unwrap();
    assert_echoes(&mut conn).await;

    let here = conn.tls().unwrap();
    assert_eq!(here.alpn.as_deref(), Some(&b"pktconn/1"[..]));
    assert_eq!((&here.peer_certificates, &here.server_name), (&vec![host.der], &None));
    let there = told.recv().await.unwrap();
    assert_eq!(there.alpn.as_deref(), Some(&b"pktconn/1"[..]));
    assert_eq!(
        (there.peer_certificates, there.server_name.as_deref()),
        (vec![device.der], Some("localhost"))
    );

    // Without TLS there is nothing to tell.
    let (plain, _raw) = common::tcp_and_raw(ConnConfig::new()).await;
    assert!(plain.tls().is_none());
    // A protocol that the server does not speak.
    let tls = authority.client().client_cert(&device.chain, &device.key).alpn(["other"]);
    assert!(connect(("localhost", addr.port()), tls).await.unwrap_err().is_tls());
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gets_nothing() {
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
    // It is for a name, and not for that address.
    assert!(connect(addr, authority.client()).await.unwrap_err().is_tls());
    while handle.stats().handshakes_failed < 4 {
        tokio::task::yield_now().await;
    }
    assert!(connect(local, authority.client()).await.is_ok());
}

#[tokio::test]
async fn clients_show_a_certificate_where_one_is_demanded() {
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
            // In TLS 1.3 a client is done before the server has judged its certificate: the verdict comes with the reply.
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
    assert_eq!(shown(&connect(local, authority.client()).await.unwrap()), first.der, "until it is told");
    handle.set_tls(&tls).unwrap();
    assert_eq!(shown(&connect(local, authority.client()).await.unwrap()), second.der);
    assert_echoes(&mut before).await;

    fs::write(&second.chain, "no certificate").unwrap();
    let error = handle.set_tls(&tls).unwrap_err();
    assert!(error.is_tls(), "{error:?}");
    assert_eq!(shown(&connect(local, authority.client()).await.unwrap()), second.der, "it goes on");

    let plain = PacketServer::bind("127.0.0.1:0").await.unwrap();
    assert!(plain.handle().set_tls(&authority.server(&first)).unwrap_err().is_config());
}

#[tokio::test]
async fn who_is_silent_is_ended_and_keeps_nobody_waiting() {
    let authority = Authority::new();
    // Enough for the one that is not silent, on a slow machine too.
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
async fn a_client_does_not_wait_for_a_server_that_is_silent() {
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
    // What arrives is an alert, which is no frame.
    assert!(!matches!(plain.recv().await, Ok(Some(_))));
    drop(plain);
    while handle.stats().handshakes_failed == 0 {
        tokio::task::yield_now().await;
    }

    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve(echo));
    // The hello is the start of a long frame there, and both wait for more.
    let config = ConnConfig::new().tls(authority.client()).handshake_timeout(Duration::from_millis(50));
    let error = PacketConn::connect_with(("localhost", addr.port()), config).await.unwrap_err();
    assert_eq!(error.timeout(), Some(pktconn::Timeout::Handshake));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
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
async fn the_limits_count_those_in_their_handshakes() {
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

/// A cut connection looks the same: so it is not taken for the peer's close.
#[tokio::test]
async fn an_end_without_a_close_of_tls_is_no_clean_one() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |mut conn| {
        let tell = tell.clone();
        async move {
            for _ in 0..2 {
                tell.send(conn.recv().await).unwrap();
            }
            Ok(())
        }
    }));
    // A relay that ends the way there after the first packet.
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
    assert!(told.recv().await.unwrap().is_ok());
    cut.send(()).unwrap();
    assert!(told.recv().await.unwrap().unwrap_err().is_io());
}

#[tokio::test]
async fn files_that_are_no_good_are_named() {
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

/// A setter must not replace what the caller has pinned.
#[tokio::test]
async fn a_configuration_of_rustls_is_used_as_it_is() {
    let authority = Authority::new();
    let (server, addr) =
        serve(ServerConfig::new().tls(authority.server(&authority.identity("localhost")))).await;
    tokio::spawn(server.serve(echo));
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let trusts_nobody = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tokio_rustls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let tls = TlsClientConfig::from_rustls(std::sync::Arc::new(trusts_nobody)).ca(authority.ca()).alpn(["x"]);
    assert!(connect(("localhost", addr.port()), tls).await.unwrap_err().is_tls());
}

#[tokio::test]
async fn tls_where_nothing_connects_contradicts_itself() {
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

/// For a stream of TLS that was made elsewhere, `PacketConn::new` does.
#[tokio::test]
async fn a_frame_cut_anywhere_arrives_over_tls() {
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
    assert_eq!(raw.read(&mut [0; 1]).await.unwrap(), 0, "closed with all that TLS asks for");
}

/// A record that was altered, or an alert, may come in the same read as what stands before it.
#[tokio::test]
async fn what_arrives_before_a_bad_record_is_received() {
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

/// The records of a frame of `len` bytes, as a client of `connector` sends it to the server at `addr`, and its socket.
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

/// Nothing can be read of a record that is not whole, which may be as long as 16 KiB.
#[tokio::test]
async fn a_part_of_a_record_is_a_part_of_a_frame_and_is_counted() {
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
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("it is not counted");
        let end = tokio::time::timeout(Duration::from_secs(20), receiving).await.expect("it waits for ever");
        let (received, _conn) = end.unwrap();
        assert_eq!(received.unwrap_err().timeout(), Some(pktconn::Timeout::Frame), "{part} bytes");
    }
}

#[tokio::test]
async fn a_peer_whose_record_drips_is_not_idle() {
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

/// How many bytes the kernel holds of what `from` has written to `to`, which has read nothing: those that are on their way when
/// it is asked may be counted twice, or not at all.
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

/// How many bytes of packets TLS has taken and not given to the kernel, by what it has `written` since the kernel held `before`:
/// records of `record_len` bytes at most, each with 22 bytes of its own.
#[cfg(target_os = "linux")]
async fn held_by_tls(conn: &PacketConn, record_len: usize, before: usize) -> usize {
    let (from, to) = (conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    let look = || {
        let written = conn.stats().bytes_sent as usize;
        (before + written + 22 * written.div_ceil(record_len)).saturating_sub(in_kernel(from, to))
    };
    let (mut last, mut held) = (usize::MAX, look());
    // Until nothing is on its way.
    while held > 0 && held != last {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (last, held) = (held, look());
    }
    held
}

/// A server's connection with TLS, and its client, which has read nothing but what belongs to the handshake.
#[cfg(target_os = "linux")]
async fn unread(config: ConnConfig) -> (PacketConn, tokio_rustls::client::TlsStream<TcpStream>) {
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

/// One packet at a time, each of which was received, goes from its own memory past the send queue.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_tls_holds_back_is_not_flushed_and_leaves_when_there_is_room() {
    let (mut conn, mut raw) = unread(ConnConfig::new()).await;
    raw.write_all(&frame(&[7; 8188])).await.unwrap();
    let packet = conn.recv().await.unwrap().unwrap();
    let before = in_kernel(conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    let mut sent = 0;
    while held_by_tls(&conn, 8192, before).await == 0 {
        conn.send_many(&mut vec![packet.clone()]).await.unwrap();
        sent += 1;
        assert!(sent < 10_000, "the kernel takes everything");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), conn.flush()).await.is_err());
    let reading = async {
        let mut received = vec![0; sent * 8192];
        raw.read_exact(&mut received).await.unwrap();
        assert!(received.chunks(8192).all(|chunk| chunk == frame(&[7; 8188])));
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the last packets stay behind");
    conn.flush().await.unwrap();
}

/// What is in there cannot be dropped for what is newer.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn where_packets_may_be_dropped_tls_holds_back_one_record() {
    let config = ConnConfig::new().slow_consumer(pktconn::SlowConsumer::DropOldest);
    let (conn, _raw) = unread(config).await;
    let before = in_kernel(conn.local_addr().unwrap(), conn.peer_addr().unwrap());
    // Until the kernel takes no more for good.
    let (mut last, mut held) = (u64::MAX, 0);
    while conn.stats().packets_dropped == 0 || conn.stats().bytes_sent != last {
        last = conn.stats().bytes_sent;
        for _ in 0..100 {
            conn.send(vec![7; 8188]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        held = held_by_tls(&conn, 16 * 1024, before).await;
    }
    assert!((1..=17 * 1024).contains(&held), "it holds {held} bytes");
}
