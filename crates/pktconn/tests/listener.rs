//! The listeners of one server: each can have its own settings; limits, counts and shutdown are shared.

mod common;

use std::time::Duration;

use common::tcp_addr;
use pktconn::{
    Addr, Checksum, CodecConfig, ConnConfig, HandlerResult, Listener, PacketConn, PacketServer, ServerConfig,
    ServerHandle,
};

fn max_payload(bytes: usize) -> ConnConfig {
    ConnConfig::new().codec(CodecConfig::new().max_payload_len(bytes))
}

fn checked_config() -> ConnConfig {
    ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32))
}

async fn echo(mut conn: PacketConn) -> HandlerResult {
    while let Some(packet) = conn.recv().await? {
        conn.send(packet).await?;
    }
    Ok(conn.close().await?)
}

async fn listener() -> Listener {
    Listener::bind("127.0.0.1:0").await.unwrap()
}

/// Serves echoes. Returns the addresses in the order of the listeners.
fn start(server: PacketServer) -> (Vec<Addr>, ServerHandle) {
    let (addrs, handle) = (server.local_addrs().to_vec(), server.handle());
    tokio::spawn(server.serve(echo));
    (addrs, handle)
}

async fn echoes(conn: &mut PacketConn, len: usize) -> bool {
    conn.send(vec![7; len]).await.is_ok()
        && matches!(conn.recv().await, Ok(Some(packet)) if packet.len() == len)
}

#[tokio::test]
async fn each_listener_has_its_own_limit_on_payloads_and_its_own_checksums() {
    let config = ServerConfig::new().conn(max_payload(100));
    let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    server.add_listener(listener().await.conn(max_payload(10_000))).unwrap();
    server.add_listener(listener().await.conn(checked_config())).unwrap();
    server.add_addr("127.0.0.1:0").await.unwrap();
    let (addrs, _) = start(server);
    let large = max_payload(100_000);
    for (addr, longest) in [(&addrs[0], 100), (&addrs[1], 10_000), (&addrs[3], 100)] {
        let mut conn = PacketConn::connect_with(addr, large.clone()).await.unwrap();
        assert!(echoes(&mut conn, longest).await, "{addr}");
        assert!(!echoes(&mut conn, longest + 1).await, "{addr}");
    }
    let mut checked = PacketConn::connect_with(&addrs[2], checked_config()).await.unwrap();
    assert!(echoes(&mut checked, 1000).await);
}

#[tokio::test]
async fn the_first_listener_can_have_its_own_settings_too() {
    let first = listener().await.conn(max_payload(10));
    let config = ServerConfig::new().conn(max_payload(1000));
    let mut server = PacketServer::from_listener(first, config).unwrap();
    server.add_addr("127.0.0.1:0").await.unwrap();
    let (addrs, _) = start(server);
    for (addr, longest) in [(&addrs[0], 10), (&addrs[1], 1000)] {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert!(echoes(&mut conn, longest).await);
        assert!(!echoes(&mut conn, longest + 1).await);
    }
}

#[tokio::test]
async fn listeners_share_limits_counts_and_shutdown() {
    let config = ServerConfig::new().max_conns(2).max_conns_per_ip(2);
    let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    server.add_listener(listener().await.conn(checked_config())).unwrap();
    let (addrs, handle) = start(server);
    let mut plain = PacketConn::connect(&addrs[0]).await.unwrap();
    let mut checked = PacketConn::connect_with(&addrs[1], checked_config()).await.unwrap();
    assert!(echoes(&mut plain, 5).await && echoes(&mut checked, 5).await);
    let mut refused = PacketConn::connect(&addrs[0]).await.unwrap();
    assert!(!echoes(&mut refused, 5).await);
    assert_eq!((handle.stats().open, handle.stats().refused), (2, 1));
    assert_eq!(handle.traffic().packets_received, 2);
    handle.shutdown();
    assert!(plain.recv().await.unwrap().is_none() && checked.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn invalid_settings_of_a_listener_are_refused_and_the_server_stays_as_it_was() {
    let invalid = ConnConfig::new().idle_timeout(Duration::ZERO);
    let server = PacketServer::from_listener(listener().await.conn(invalid.clone()), ServerConfig::new());
    assert!(server.unwrap_err().is_config());
    let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    assert!(server.add_listener(listener().await.conn(invalid)).unwrap_err().is_config());
    assert_eq!(server.local_addrs(), [server.local_addr()]);
    let addr = tcp_addr(&server);
    start(server);
    assert!(echoes(&mut PacketConn::connect(addr).await.unwrap(), 5).await);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_listener_with_an_abstract_name_reports_an_address_to_connect_to() {
    let name = |number| Addr::unix(format!("\0pktconn-test-{}-{number}", std::process::id()));
    let bind = |number| tokio::net::UnixListener::bind(name(number).unix_path().unwrap()).unwrap();
    let mut server = PacketServer::from_listener(bind(1), ServerConfig::new()).unwrap();
    server.add_listener(bind(2)).unwrap();
    assert_eq!(server.local_addrs(), [name(1), name(2)]);
    let (addrs, _) = start(server);
    for addr in &addrs {
        assert!(echoes(&mut PacketConn::connect(addr).await.unwrap(), 5).await);
    }
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use pktconn::{TlsClientConfig, TlsServerConfig};
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// The files of a certificate for `localhost`, which is its own authority.
    struct Certificate(TempDir);

    impl Certificate {
        fn new() -> Self {
            let certificate = Self(tempfile::tempdir().unwrap());
            certificate.renew();
            certificate
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn renew(&self) {
            let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(self.file("chain.pem"), certificate.cert.pem()).unwrap();
            std::fs::write(self.file("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        }

        fn server(&self) -> TlsServerConfig {
            TlsServerConfig::new(self.file("chain.pem"), self.file("key.pem"))
        }

        /// Connects, and trusts this certificate as it is now.
        async fn connect(&self, addr: &Addr) -> Result<PacketConn, pktconn::Error> {
            let port = addr.socket_addr().unwrap().port();
            let tls = TlsClientConfig::new().ca(self.file("chain.pem"));
            PacketConn::connect_with(("localhost", port), ConnConfig::new().tls(tls)).await
        }
    }

    async fn is_plain(addr: &Addr) -> bool {
        echoes(&mut PacketConn::connect(addr).await.unwrap(), 3000).await
    }

    #[tokio::test]
    async fn one_server_listens_with_and_without_tls() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = Certificate::new();
        let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        server.add_listener(listener().await.tls(certificate.server())).unwrap();
        server.add_addr(Addr::unix(dir.path().join("socket"))).await.unwrap();
        let (addrs, handle) = start(server);
        assert!(is_plain(&addrs[0]).await && is_plain(&addrs[2]).await);
        assert!(!is_plain(&addrs[1]).await);
        let mut conn = certificate.connect(&addrs[1]).await.unwrap();
        assert!(conn.tls().is_some() && echoes(&mut conn, 5).await);
        assert_eq!(handle.stats().handshakes_failed, 1);
    }

    #[tokio::test]
    async fn a_listener_without_tls_ignores_the_tls_of_the_server() {
        let certificate = Certificate::new();
        let config = ServerConfig::new().tls(certificate.server());
        let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        server.add_listener(listener().await.without_tls()).unwrap();
        let (addrs, _) = start(server);
        assert!(echoes(&mut certificate.connect(&addrs[0]).await.unwrap(), 5).await);
        assert!(is_plain(&addrs[1]).await);
    }

    #[tokio::test]
    async fn each_certificate_is_replaced_alone() {
        let (shared, own) = (Certificate::new(), Certificate::new());
        let config = ServerConfig::new().tls(shared.server());
        let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        server.add_addr("127.0.0.1:0").await.unwrap();
        server.add_listener(listener().await.tls(own.server())).unwrap();
        let (addrs, handle) = start(server);
        for (certificate, addr) in [(&shared, &addrs[0]), (&shared, &addrs[1]), (&own, &addrs[2])] {
            assert!(certificate.connect(addr).await.is_ok());
        }
        own.renew();
        handle.set_tls(&shared.server()).await.unwrap();
        assert!(own.connect(&addrs[2]).await.is_err(), "the listener still has its old certificate");
        handle.set_tls_at(&addrs[2], &own.server()).await.unwrap();
        assert!(own.connect(&addrs[2]).await.is_ok());
        shared.renew();
        assert!(shared.connect(&addrs[0]).await.is_err());
        handle.set_tls(&shared.server()).await.unwrap();
        for addr in &addrs[..2] {
            assert!(shared.connect(addr).await.is_ok());
        }
        for addr in [&addrs[0], &"127.0.0.1:1".into()] {
            assert!(handle.set_tls_at(addr, &own.server()).await.unwrap_err().is_config());
        }
        std::fs::write(own.file("key.pem"), "no key").unwrap();
        assert!(handle.set_tls_at(&addrs[2], &own.server()).await.unwrap_err().is_tls());
        assert!(own.connect(&addrs[2]).await.is_ok(), "it keeps its certificate");
    }

    /// As sockets for one accept queue per thread, or a listener that is replaced without a gap.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn listeners_with_the_same_address_get_the_new_certificate_together() {
        let certificate = Certificate::new();
        let bind = |addr: std::net::SocketAddr| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseport(true).unwrap();
            socket.bind(addr).unwrap();
            Listener::from(socket.listen(10).unwrap()).tls(certificate.server())
        };
        let first = bind("127.0.0.1:0".parse().unwrap());
        let mut server = PacketServer::from_listener(first, ServerConfig::new()).unwrap();
        let addr = tcp_addr(&server);
        (0..3).for_each(|_| server.add_listener(bind(addr)).unwrap());
        let (addrs, handle) = start(server);
        certificate.renew();
        handle.set_tls_at(addr, &certificate.server()).await.unwrap();
        // The kernel distributes the connections among the sockets.
        for _ in 0..30 {
            assert!(certificate.connect(&addrs[0]).await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_listener_with_an_unusable_certificate_is_refused() {
        let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        let missing = TlsServerConfig::new("missing.pem", "missing.key");
        assert!(server.add_listener(listener().await.tls(missing)).unwrap_err().is_tls());
        assert_eq!(server.local_addrs().len(), 1);
    }
}

#[cfg(feature = "proxy-protocol")]
mod proxy_protocol {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n";
    /// Longer than the shortest header, so that a server that expects a header does not wait for more.
    const FRAME: &[u8] = b"\x14\0\0\0twenty bytes of data";

    /// Whether a server answers a packet that follows these bytes.
    async fn answers(addr: &Addr, start: &[u8]) -> bool {
        let mut stream = TcpStream::connect(addr.socket_addr().unwrap()).await.unwrap();
        stream.write_all(&[start, FRAME].concat()).await.unwrap();
        let mut reply = [0; FRAME.len()];
        stream.read_exact(&mut reply).await.is_ok() && reply == FRAME
    }

    #[tokio::test]
    async fn only_the_listener_of_the_proxies_expects_a_header() {
        let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        let trusted = "127.0.0.0/8".parse().unwrap();
        server.add_listener(listener().await.proxy_protocol([trusted])).unwrap();
        let (addrs, _) = start(server);
        assert!(answers(&addrs[0], b"").await && answers(&addrs[1], HEADER).await);
        assert!(!answers(&addrs[0], HEADER).await && !answers(&addrs[1], b"").await);
    }

    #[tokio::test]
    async fn a_listener_for_health_checks_expects_no_header() {
        let config = ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
        let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        server.add_listener(listener().await.without_proxy_protocol()).unwrap();
        let (addrs, _) = start(server);
        assert!(answers(&addrs[0], HEADER).await && answers(&addrs[1], b"").await);
        assert!(!answers(&addrs[0], b"").await);
    }

    #[tokio::test]
    async fn a_listener_that_trusts_no_network_is_refused() {
        let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        let untrusting = listener().await.proxy_protocol([]);
        assert!(server.add_listener(untrusting).unwrap_err().is_config());
    }
}
