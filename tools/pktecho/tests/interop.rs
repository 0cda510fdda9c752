//! Programs of other projects as clients, proxies and monitoring of the server.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Server, http, pktecho};

#[test]
#[ignore = "needs escript (package erlang-base): cargo test -p pktecho -- --include-ignored"]
fn erlang_packet_framing_works() {
    for (header, bytes) in [("u32be", "4"), ("u16be", "2")] {
        let server = Server::start(&["--header", header]);
        let (host, port) = server.addr.rsplit_once(':').unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/erlang_client.escript");
        let output = Command::new("escript").args([script, host, port, bytes]).output().unwrap();
        assert!(output.status.success(), "{header}: {output:?}");
    }
}

/// A certificate authority and certificates that it signed, created with openssl.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { dir: tempfile::tempdir().unwrap() };
        let ca =
            ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority"];
        certificates.openssl(&[&ca[..], &["-keyout", "ca.key", "-out", "ca.pem"]].concat());
        for (name, host) in [("server", "localhost"), ("client", "device-7")] {
            let (key, request, chain) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
            let subject = format!("/CN={host}");
            let extensions = certificates.path(&format!("{name}.ext"));
            std::fs::write(extensions, format!("subjectAltName=DNS:{host}\n")).unwrap();
            let key_type = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
            let files = ["-keyout", &key, "-out", &request, "-subj", &subject];
            certificates.openssl(&[&["req"], &key_type[..], &files].concat());
            let sign =
                ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
            let out = ["-days", "2", "-extfile", &format!("{name}.ext"), "-out", &chain];
            certificates.openssl(&[&sign[..], &out].concat());
        }
        certificates
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "openssl {args:?}: {output:?}");
    }

    fn server(&self, more: &[&str]) -> Server {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        Server::start(&[&["--tls-cert", &cert, "--tls-key", &key], more].concat())
    }

    /// Starts `openssl s_client`, and sends a frame with it. It ends when its standard input is dropped.
    fn start_s_client(&self, server: &Server, more: &[&str], frame: &[u8]) -> (Child, ChildStdin) {
        let ca = self.path("ca.pem");
        let connect = ["s_client", "-connect", &server.addr, "-servername", "localhost", "-CAfile", &ca];
        let mut client = Command::new("openssl")
            .args([&connect[..], more].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        // Fails if the client has already failed.
        let _ = stdin.write_all(frame).and_then(|()| stdin.flush());
        (client, stdin)
    }

    /// Sends a frame with `openssl s_client`. Returns the reply, which is empty if the server closed the connection.
    fn s_client(&self, server: &Server, more: &[&str]) -> Vec<u8> {
        let frame = b"\x07\0\0\0Q\nR\nend";
        let verify = ["-quiet", "-verify_return_error", "-verify_hostname", "localhost"];
        let (mut client, _stdin) = self.start_s_client(server, &[&verify[..], more].concat(), frame);
        let mut reply = Vec::new();
        let _ = client.stdout.take().unwrap().take(frame.len() as u64).read_to_end(&mut reply);
        let _ = client.kill();
        let _ = client.wait();
        assert!(reply.is_empty() || reply == frame, "{reply:?}");
        reply
    }

    /// What `openssl s_client` prints about a connection on which it echoes a frame.
    fn s_client_output(&self, server: &Server, more: &[&str]) -> String {
        let (mut client, _stdin) = self.start_s_client(server, more, b"\x09\0\0\0the reply");
        let (mut stdout, mut output) = (client.stdout.take().unwrap(), Vec::new());
        while !output.ends_with(b"the reply") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).expect("a reply");
            output.extend(byte);
        }
        let _ = client.kill();
        let _ = client.wait();
        String::from_utf8_lossy(&output).into_owned()
    }
}

#[test]
#[ignore = "needs openssl (package openssl): cargo test -p pktecho -- --include-ignored"]
fn openssl_s_client_works_with_and_without_a_client_certificate() {
    let certificates = Certificates::new();
    let server = certificates.server(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!certificates.s_client(&server, &[version]).is_empty(), "{version}");
    }
    let ca = certificates.path("ca.pem");
    let server = certificates.server(&["--tls-client-ca", &ca]);
    let (chain, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    assert!(!certificates.s_client(&server, &["-cert", &chain, "-key", &key]).is_empty());
    assert!(certificates.s_client(&server, &[]).is_empty(), "a client without a certificate is refused");
    let (chain, key) = (certificates.path("stranger.pem"), certificates.path("stranger.key"));
    let stranger =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stranger", "-keyout", &key];
    certificates.openssl(&[&stranger[..], &["-out", &chain]].concat());
    assert!(
        certificates.s_client(&server, &["-cert", &chain, "-key", &key]).is_empty(),
        "a certificate of an unknown authority is refused"
    );
}

#[test]
#[ignore = "needs openssl (package openssl): cargo test -p pktecho -- --include-ignored"]
fn openssl_s_client_below_the_minimum_version_is_refused() {
    let certificates = Certificates::new();
    for (minimum, serves_tls12) in [("1.2", true), ("1.3", false)] {
        let server = certificates.server(&["--tls-min-version", minimum]);
        assert_eq!(!certificates.s_client(&server, &["-tls1_2"]).is_empty(), serves_tls12, "{minimum}");
        assert!(!certificates.s_client(&server, &["-tls1_3"]).is_empty(), "{minimum}");
    }
}

#[test]
#[ignore = "needs openssl (package openssl): cargo test -p pktecho -- --include-ignored"]
fn openssl_s_client_negotiates_a_protocol_or_is_refused() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--tls-alpn", "pktconn/2", "--tls-alpn", "pktconn/1"]);
    assert!(!certificates.s_client(&server, &["-alpn", "pktconn/1"]).is_empty());
    assert!(!certificates.s_client(&server, &[]).is_empty());
    assert!(certificates.s_client(&server, &["-alpn", "h2"]).is_empty());
}

/// The session file works at each thread, because all have the same ticket keys.
#[test]
#[ignore = "needs openssl (package openssl): cargo test -p pktecho -- --include-ignored"]
fn openssl_s_client_resumes_sessions_until_the_reload() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--threads", "3", "--runtimes", "own"]);
    let session = certificates.path("session.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let kind = |options: &[&str]| {
            let output = certificates.s_client_output(&server, &[&[version], options].concat());
            let line = output.lines().find(|line| line.starts_with("New, ") || line.starts_with("Reused, "));
            line.unwrap_or_else(|| panic!("{output}")).split_once(',').unwrap().0.to_owned()
        };
        assert_eq!(kind(&["-sess_out", &session]), "New", "{version}");
        for _ in 0..10 {
            assert_eq!(kind(&["-sess_in", &session]), "Reused", "{version}");
        }
        server.signal("HUP");
        let give_up_at = Instant::now() + Duration::from_secs(60);
        while kind(&["-sess_in", &session]) == "Reused" {
            assert!(Instant::now() < give_up_at, "{version}: the ticket is still valid after a reload");
        }
    }
}

#[test]
#[ignore = "needs openssl (package openssl): cargo test -p pktecho -- --include-ignored"]
fn a_client_in_a_revocation_list_of_openssl_is_refused() {
    let certificates = Certificates::new();
    std::fs::write(certificates.path("index.txt"), "").unwrap();
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n";
    let version_2 = "crl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n";
    std::fs::write(certificates.path("ca.cnf"), [config, version_2].concat()).unwrap();
    let ca = ["ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.pem"];
    let publish = || certificates.openssl(&[&ca[..], &["-gencrl", "-out", "crl.pem"]].concat());
    publish();
    let (ca_file, crl) = (certificates.path("ca.pem"), certificates.path("crl.pem"));
    let (chain, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    for option in ["--tls-client-ca", "--tls-optional-client-ca"] {
        publish();
        let server = certificates.server(&[option, &ca_file, "--tls-crl", &crl]);
        let is_served = || !certificates.s_client(&server, &["-cert", &chain, "-key", &key]).is_empty();
        assert!(is_served(), "{option}");
        assert_eq!(
            certificates.s_client(&server, &[]).is_empty(),
            option == "--tls-client-ca",
            "without a certificate"
        );
        certificates.openssl(&[&ca[..], &["-revoke", "client.pem"]].concat());
        publish();
        server.signal("HUP");
        let give_up_at = Instant::now() + Duration::from_secs(60);
        while is_served() {
            assert!(Instant::now() < give_up_at, "{option}: the revoked client is still served");
        }
        // For the next round: nothing is revoked.
        std::fs::write(certificates.path("index.txt"), "").unwrap();
    }
    std::fs::write(certificates.path("ca.cnf"), config).unwrap();
    publish();
    let (chain, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let identity = ["--tls-cert", &chain, "--tls-key", &key, "--tls-client-ca", &ca_file, "--tls-crl", &crl];
    let output = pktecho(&["--listen", "127.0.0.1:0"]).args(identity).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("crl.pem: a certificate revocation list is of version 1"), "{stderr}");
}

/// `HAProxy` in front of a server. Dropping this kills it.
struct HaProxy {
    child: Child,
    addr: String,
    _dir: tempfile::TempDir,
}

impl HaProxy {
    fn start(server: &Server, send_proxy: &str) -> Self {
        Self::start_with(&server.addr, "", send_proxy)
    }

    /// With options of the lines `bind` and `server`, and lines after them.
    fn start_with(server_addr: &str, bind: &str, server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen test\n bind fd@3 {bind}\n server pktecho {server_addr} {server}\n",
        );
        std::fs::write(&config, text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let command = format!("exec 3<&0; exec haproxy -db -q -f {}", config.display());
        let child = Command::new("sh").args(["-c", &command]).stdin(OwnedFd::from(listener)).spawn().unwrap();
        Self { child, addr, _dir: dir }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs haproxy (package haproxy): cargo test -p pktecho -- --include-ignored"]
fn haproxy_passes_the_address_of_the_client() {
    let frame = b"\x05\0\0\0hello";
    let options = ["--proxy-protocol", "--trusted-proxy", "127.0.0.1", "--listen", "127.0.0.1:0"];
    for send_proxy in ["send-proxy", "send-proxy-v2"] {
        let mut server = Server::spawn(pktecho(&options).env("RUST_LOG", "debug"));
        let proxy = HaProxy::start(&server, send_proxy);
        let mut stream = TcpStream::connect(&proxy.addr).unwrap();
        let client = stream.local_addr().unwrap();
        stream.write_all(frame).unwrap();
        let mut reply = [0; 9];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, frame);
        drop(stream);
        // Without a PROXY header, like a client that bypasses the proxy.
        let mut direct = TcpStream::connect(&server.addr).unwrap();
        direct.write_all(&[&frame[..], frame].concat()).unwrap();
        assert!(!matches!(direct.read(&mut reply), Ok(1..)), "a connection without a header is refused");
        server.signal("TERM");
        let mut log = String::new();
        server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains(&format!("peer={client}")), "{client} is not in {log}");
        assert!(log.contains("no acceptable PROXY header"), "{log}");
    }
}

#[test]
#[ignore = "needs haproxy and openssl (packages of these names): cargo test -p pktecho -- --include-ignored"]
fn haproxy_passes_the_tls_facts_of_the_client() {
    use pktconn::{ConnConfig, PacketConn, PacketServer, ServerConfig, TlsClientConfig};

    let certificates = Certificates::new();
    let both = certificates.path("both.pem");
    let pem =
        ["server.pem", "server.key"].map(|name| std::fs::read_to_string(certificates.path(name)).unwrap());
    std::fs::write(&both, pem.concat()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (server.local_addr().to_string(), server.handle());
        let (sent, mut headers) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(server.serve(move |mut conn| {
            let _ = sent.send(conn.proxy_header().cloned().unwrap());
            async move {
                while let Some(packet) = conn.recv().await? {
                    conn.send(packet).await?;
                }
                Ok(conn.close().await?)
            }
        }));
        let bind = format!(
            "ssl crt {both} ca-file {} verify optional alpn pktconn\n unique-id-format id-%pid-%rt",
            certificates.path("ca.pem")
        );
        let options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,cert-key,cert-sig,ssl-cipher,crc32c,authority,unique-id";
        let proxy = HaProxy::start_with(&addr, &bind, &format!("{options} check inter 100ms"));
        let port: u16 = proxy.addr.rsplit_once(':').unwrap().1.parse().unwrap();
        for has_cert in [true, false] {
            let mut tls = TlsClientConfig::new().ca(certificates.path("ca.pem")).alpn(["pktconn"]);
            if has_cert {
                tls = tls.client_cert(certificates.path("client.pem"), certificates.path("client.key"));
            }
            let mut conn =
                PacketConn::connect_with(("localhost", port), ConnConfig::new().tls(tls)).await.unwrap();
            conn.send("hello").await.unwrap();
            assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
            let header = loop {
                let header = headers.recv().await.unwrap();
                if !header.is_local() {
                    break header;
                }
            };
            assert_eq!((header.source(), header.destination()), (conn.local_addr(), conn.peer_addr()));
            assert!(header.proxy_addr().is_some_and(|proxy| Some(proxy) != header.source()));
            assert_eq!((header.alpn(), header.authority()), (Some(&b"pktconn"[..]), Some(&b"localhost"[..])));
            assert!(header.unique_id().unwrap().starts_with(b"id-"), "{header:?}");
            // CRC32C.
            assert!(header.tlvs().any(|tlv| tlv.kind == 3 && tlv.value.len() == 4));
            let ssl = header.ssl().unwrap();
            assert_eq!((ssl.is_tls(), ssl.has_cert(), ssl.is_client_verified()), (true, has_cert, has_cert));
            assert_eq!(ssl.common_name(), has_cert.then_some(&b"device-7"[..]));
            assert_eq!(ssl.version(), Some(&b"TLSv1.3"[..]));
            assert!(ssl.cipher().unwrap().starts_with(b"TLS_"), "{ssl:?}");
            assert_eq!(ssl.key_algorithm(), Some(&b"EC256"[..]));
            assert!(ssl.signature_algorithm().is_some());
            conn.close().await.unwrap();
        }
        // A health check.
        while !headers.recv().await.unwrap().is_local() {}
        assert_eq!(handle.stats().handshakes_failed, 0);
    });
}

#[test]
#[ignore = "needs promtool (package prometheus): cargo test -p pktecho -- --include-ignored"]
fn promtool_accepts_the_metrics() {
    let certificates = Certificates::new();
    let mut server = certificates.server(&["--metrics", "127.0.0.1:0"]);
    let addr = server.metrics_addr();
    // A failed and a successful TLS handshake, so that every metric exists.
    drop(TcpStream::connect(&server.addr).unwrap());
    assert!(!certificates.s_client(&server, &[]).is_empty());
    let started = std::time::Instant::now();
    let figures = loop {
        let (_, body) = http(&addr, "GET /metrics");
        if ["handshakes_failed_total 1", "connections_open 0", "handshake_duration_seconds_count 1"]
            .iter()
            .all(|line| body.contains(&format!("pktconn_{line}\n")))
        {
            break body;
        }
        assert!(started.elapsed().as_secs() < 20, "{body}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(figures.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{figures}");
}
