//! TLS on the server's side: revocation lists, versions, session tickets, subjects, and what a reload accepts.
#![cfg(feature = "tls")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::{frame, tcp_addr};
use pktconn::{
    ConnConfig, PacketConn, PacketServer, ServerConfig, ServerHandle, TlsClientConfig, TlsInfo,
    TlsServerConfig, TlsVersion,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::rustls::{self, HandshakeKind};

/// A certificate authority with a name, and a directory for its files.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

#[derive(Clone)]
struct Identity {
    chain: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate for `host` with this serial number, and overwrites its files. `change` changes it.
    fn identity_with(
        &self,
        host: &str,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, host);
        change(&mut params);
        let key_pair = KeyPair::generate().unwrap();
        let identity =
            Identity { chain: self.file(&format!("{host}.pem")), key: self.file(&format!("{host}.key")) };
        fs::write(&identity.chain, params.signed_by(&key_pair, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&identity.key, key_pair.serialize_pem()).unwrap();
        identity
    }

    fn identity(&self, host: &str, serial: u64) -> Identity {
        self.identity_with(host, serial, |_| {})
    }

    /// A revocation list as PEM. The next one is due in this year.
    fn crl(&self, serials: &[u64], next_update: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 6, 17),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 6, 17),
            next_update: date_time_ymd(next_update, 6, 17),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.file(name), text).unwrap();
        self.file(name)
    }

    fn server(&self) -> TlsServerConfig {
        let Identity { chain, key } = self.identity("localhost", 1);
        TlsServerConfig::new(chain, key)
    }

    /// A client that trusts this authority.
    fn client(&self, identity: Option<&Identity>) -> TlsClientConfig {
        let config = TlsClientConfig::new().ca(self.file("ca.pem")).server_name("localhost");
        match identity {
            Some(Identity { chain, key }) => config.client_cert(chain, key),
            None => config,
        }
    }
}

/// A server that echoes, and what its connections found out in their handshakes.
struct Server {
    addr: std::net::SocketAddr,
    handle: ServerHandle,
    infos: UnboundedReceiver<TlsInfo>,
}

impl Server {
    async fn start(tls: &TlsServerConfig) -> Self {
        let config = ServerConfig::new().tls(tls.clone());
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (tcp_addr(&server), server.handle());
        let (report, infos) = unbounded_channel();
        tokio::spawn(server.serve(move |mut conn| {
            let _ = report.send(conn.tls().cloned().unwrap());
            async move {
                while let Some(packet) = conn.recv().await? {
                    conn.send(packet).await?;
                }
                Ok(conn.close().await?)
            }
        }));
        Self { addr, handle, infos }
    }

    /// Whether a client is served. With TLS 1.3, the server refuses a certificate after the handshake of the client.
    async fn serves(&self, tls: TlsClientConfig) -> bool {
        let echo = async {
            let mut conn = PacketConn::connect_with(self.addr, ConnConfig::new().tls(tls)).await?;
            conn.send(b"ping").await?;
            conn.recv().await
        };
        matches!(echo.await, Ok(Some(packet)) if packet.payload() == b"ping")
    }

    /// Connects with rustls alone, and echoes a frame. Returns the kind of the handshake; `None` if it is refused.
    async fn handshake(&self, config: &Arc<rustls::ClientConfig>) -> Option<HandshakeKind> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
        stream.write_all(&frame(b"ping")).await.ok()?;
        stream.read_exact(&mut [0; 8]).await.ok()?;
        stream.get_ref().1.handshake_kind()
    }
}

#[tokio::test]
async fn revoked_client_certificates_are_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let both = [ours.file("ca.pem"), theirs.file("ca.pem")].map(|file| fs::read_to_string(file).unwrap());
    let ca = ours.write("both.pem", &both.concat());
    let clients = [
        (ours.identity("good", 2), true),
        (ours.identity("revoked", 3), false),
        (theirs.identity("good", 2), true),
        (theirs.identity("revoked", 4), false),
        // The serial number belongs to the authority.
        (theirs.identity("same-serial", 3), true),
    ];
    let (our_crl, their_crl) = (ours.crl(&[3, 99], 4000), theirs.crl(&[4], 4000));
    let one_file = ours.write("crls.pem", &[&our_crl[..], &their_crl].concat());
    let (first, second) = (ours.write("first.pem", &our_crl), ours.write("second.pem", &their_crl));
    for tls in [
        ours.server().client_ca(&ca).crl(&one_file),
        ours.server().crl(&first).client_ca(&ca).crl(&second),
        ours.server().optional_client_ca(&ca).crl(&one_file),
    ] {
        let server = Server::start(&tls).await;
        for (number, (identity, is_served)) in clients.iter().enumerate() {
            assert_eq!(server.serves(ours.client(Some(identity))).await, *is_served, "client {number}");
        }
        while server.handle.stats().handshakes_failed < 2 {
            tokio::task::yield_now().await;
        }
    }
}

/// The documented choices: a list that comes too late must not refuse every client.
#[tokio::test]
async fn an_outdated_revocation_list_applies_and_an_authority_without_one_has_all_accepted() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (good, revoked) = (ours.identity("good", 2), ours.identity("revoked", 3));
    let tls = ours.server().client_ca(ours.file("ca.pem"));
    let server = Server::start(&tls.clone().crl(ours.write("old.pem", &ours.crl(&[3], 2025)))).await;
    assert!(server.serves(ours.client(Some(&good))).await);
    assert!(!server.serves(ours.client(Some(&revoked))).await);
    let server = Server::start(&tls.crl(ours.write("other.pem", &other.crl(&[2, 3], 4000)))).await;
    assert!(server.serves(ours.client(Some(&revoked))).await);
}

#[tokio::test]
async fn a_revocation_list_with_a_wrong_signature_refuses_the_clients_of_its_authority() {
    let (ours, forger) = (Authority::new("ours"), Authority::new("ours"));
    let good = ours.identity("good", 2);
    let crl = ours.write("forged.pem", &forger.crl(&[], 4000));
    let server = Server::start(&ours.server().client_ca(ours.file("ca.pem")).crl(crl)).await;
    assert!(!server.serves(ours.client(Some(&good))).await);
}

#[tokio::test]
async fn unusable_revocation_lists_are_errors_that_name_the_file() {
    let ours = Authority::new("ours");
    let tls = ours.server().client_ca(ours.file("ca.pem"));
    let (empty, not_crl) = (ours.write("empty.pem", ""), ours.file("ca.pem"));
    let garbage = ours.write("garbage.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let large = ours.write("large.pem", &" ".repeat((16 << 20) + 1));
    for (file, expected) in [
        (empty, "empty.pem: the file contains no certificate revocation list"),
        (not_crl, "ca.pem: the file contains no certificate revocation list"),
        (garbage, "garbage.pem: a certificate revocation list is invalid"),
        (large, "large.pem: the file is larger than 16 MiB"),
        (ours.file("missing.pem"), "missing.pem: No such file"),
    ] {
        let error = tls.clone().crl(file).load().await.unwrap_err();
        assert!(error.is_tls() && error.to_string().contains(expected), "{error}");
    }
    let crl = ours.write("crl.pem", &ours.crl(&[], 4000));
    let error = ours.server().crl(crl).load().await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("client_ca"), "{error}");
}

/// The client's versions, and the session cache of the client.
fn only(version: &'static rustls::SupportedProtocolVersion, ca: &Authority) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(ca.file("ca.pem")).unwrap();
    let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(&pem);
    roots.add(certificate.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn clients_of_older_versions_than_the_minimum_are_refused() {
    let ours = Authority::new("ours");
    for (tls, serves_tls12) in [
        (ours.server(), true),
        (ours.server().min_version(TlsVersion::Tls12), true),
        (ours.server().min_version(TlsVersion::Tls13), false),
    ] {
        let server = Server::start(&tls).await;
        let served = server.handshake(&only(&rustls::version::TLS12, &ours)).await;
        assert_eq!(served.is_some(), serves_tls12);
        assert!(server.handshake(&only(&rustls::version::TLS13, &ours)).await.is_some());
    }
}

#[tokio::test]
async fn clients_resume_sessions_at_every_server_of_one_load_and_never_after_a_reload() {
    let ours = Authority::new("ours");
    let tls = ours.server();
    let loaded = tls.load().await.unwrap();
    let (first, second) = (Server::start(&loaded).await, Server::start(&loaded).await);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = only(version, &ours);
        assert_eq!(first.handshake(&client).await, Some(HandshakeKind::Full));
        assert_eq!(first.handshake(&client).await, Some(HandshakeKind::Resumed));
        assert_eq!(second.handshake(&client).await, Some(HandshakeKind::Resumed));
        first.handle.set_tls(&tls).await.unwrap();
        assert_eq!(first.handshake(&client).await, Some(HandshakeKind::Full));
        assert_eq!(first.handshake(&client).await, Some(HandshakeKind::Resumed));
        assert_eq!(second.handshake(&client).await, Some(HandshakeKind::Full));
        first.handle.set_tls(&loaded).await.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_client_cannot_resume_its_session_after_the_reload() {
    let ours = Authority::new("ours");
    let crl = ours.write("crl.pem", &ours.crl(&[], 4000));
    let tls = ours.server().client_ca(ours.file("ca.pem")).crl(crl);
    let mut server = Server::start(&tls).await;
    let device = ours.identity("device-7", 7);
    let client = ours.client(Some(&device)).to_rustls().unwrap();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        assert_eq!(server.handshake(&client).await, Some(kind));
        // The handler finds the certificate of a resumed session, too.
        let info = server.infos.recv().await.unwrap();
        assert_eq!(info.peer_subject.as_deref(), Some("CN=device-7"));
        assert_eq!(info.peer_certificates.len(), 1);
    }
    ours.write("crl.pem", &ours.crl(&[7], 4000));
    server.handle.set_tls(&tls).await.unwrap();
    assert_eq!(server.handshake(&client).await, None);
}

#[tokio::test]
async fn the_handler_gets_the_subject_of_the_client_as_one_safe_line() {
    let ours = Authority::new("ours");
    let mut server = Server::start(&ours.server().optional_client_ca(ours.file("ca.pem"))).await;
    let hostile = ours.identity_with("hostile", 8, |params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "admin\n\u{1b}[2J,O=Other\u{202e}");
    });
    let empty = ours.identity_with("empty", 9, |params| params.distinguished_name = DistinguishedName::new());
    for (identity, subject) in [
        (Some(ours.identity("device-7", 7)), Some("CN=device-7")),
        (Some(hostile), Some("CN=admin\\0A\\1B[2J\\,O=Other\\E2\\80\\AE,O=Example\\, Inc.")),
        (Some(empty), None),
        (None, None),
    ] {
        assert!(server.serves(ours.client(identity.as_ref())).await);
        let info = server.infos.recv().await.unwrap();
        assert_eq!(info.peer_subject.as_deref(), subject);
        assert_eq!(info.peer_certificates.is_empty(), identity.is_none());
    }
}

#[tokio::test]
async fn a_client_learns_the_subject_of_the_server() {
    let ours = Authority::new("ours");
    let server = Server::start(&ours.server()).await;
    let config = ConnConfig::new().tls(ours.client(None));
    let conn = PacketConn::connect_with(server.addr, config).await.unwrap();
    assert_eq!(conn.tls().unwrap().peer_subject.as_deref(), Some("CN=localhost"));
}

fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
}

fn future(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3000, 1, 2));
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_does_not_replace_a_valid_one() {
    let ours = Authority::new("ours");
    let tls = ours.server();
    let server = Server::start(&tls).await;
    for (change, expected) in [
        (expired as fn(&mut CertificateParams), "its certificate expired on 2020-01-02 00:00:00 UTC"),
        (future, "its certificate is not valid before 3000-01-01 00:00:00 UTC"),
    ] {
        ours.identity_with("localhost", 2, change);
        let error = server.handle.set_tls(&tls).await.unwrap_err();
        assert!(error.is_tls() && error.to_string().contains(expected), "{error}");
        assert!(server.serves(ours.client(None)).await, "the valid certificate stays");
    }

    // A server starts with it, with a warning, and an invalid one may replace an invalid one.
    let server = Server::start(&tls).await;
    assert!(!server.serves(ours.client(None)).await);
    ours.identity_with("localhost", 3, expired);
    server.handle.set_tls(&tls).await.unwrap();
    ours.identity("localhost", 4);
    server.handle.set_tls(&tls).await.unwrap();
    assert!(server.serves(ours.client(None)).await);
}

#[tokio::test]
async fn a_loaded_configuration_reads_no_files() {
    let ours = Authority::new("ours");
    let crl = ours.write("crl.pem", &ours.crl(&[3], 4000));
    let (good, revoked) = (ours.identity("good", 2), ours.identity("revoked", 3));
    let loaded = ours.server().client_ca(ours.file("ca.pem")).crl(&crl).load().await.unwrap();
    for file in [ours.file("localhost.pem"), ours.file("localhost.key"), crl] {
        fs::remove_file(file).unwrap();
    }
    let server = Server::start(&loaded).await;
    server.handle.set_tls(&loaded).await.unwrap();
    server.handle.set_tls(&loaded.load().await.unwrap()).await.unwrap();
    assert!(server.serves(ours.client(Some(&good))).await);
    assert!(!server.serves(ours.client(Some(&revoked))).await);
}

#[cfg(unix)]
#[test]
fn a_file_that_hangs_or_never_ends_stops_neither_connections_nor_the_runtime() {
    let ours = Authority::new("ours");
    let tls = ours.server();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let server = first.block_on(Server::start(&tls));
    for (name, target) in [("localhost.pem", None), ("localhost.key", Some("/dev/zero"))] {
        let file = ours.file(name);
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        match target {
            Some(target) => std::os::unix::fs::symlink(target, &file).unwrap(),
            // To open it blocks until a process writes to it.
            None => assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success()),
        }
        first.block_on(async {
            let (result, is_served) =
                tokio::join!(server.handle.set_tls(&tls), server.serves(ours.client(None)));
            let error = result.unwrap_err();
            assert!(error.is_tls() && error.to_string().contains("not a regular file"), "{error}");
            assert!(error.to_string().contains(name) && is_served, "{error}");
        });
        // Neither does a server that starts hang.
        let error = runtime()
            .block_on(PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().tls(tls.clone())))
            .unwrap_err();
        assert!(error.is_tls(), "{error}");
        fs::remove_file(&file).unwrap();
        fs::write(&file, content).unwrap();
    }
}

/// The time limit for reading is of the real clock.
#[tokio::test(start_paused = true)]
async fn files_are_loaded_while_time_is_paused() {
    let ours = Authority::new("ours");
    assert!(ours.server().load().await.is_ok());
}
