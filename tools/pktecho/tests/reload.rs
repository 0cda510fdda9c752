//! SIGHUP: it reloads the certificate files, and it never disturbs connections or ends the server.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::tls::Certificate;
use common::{Server, pktecho};
use pktconn::{ConnConfig, PacketConn, TlsClientConfig};
use tokio::runtime::Runtime;

/// Maximum time that a test waits for anything.
const GUARD: Duration = Duration::from_secs(60);

/// The lines that a server writes to standard error.
struct Log(Receiver<String>);

impl Log {
    fn of(server: &mut Server) -> Self {
        let stderr = BufReader::new(server.child.stderr.take().unwrap());
        let (sender, receiver) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self(receiver)
    }

    /// Waits for a line that contains `text`, and returns it. Skips other lines.
    fn expect(&self, text: &str) -> String {
        let give_up_at = Instant::now() + GUARD;
        let mut skipped = Vec::new();
        loop {
            match self.0.recv_timeout(give_up_at.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => skipped.push(line),
                Err(error) => panic!("no line with {text:?} ({error}): {skipped:?}"),
            }
        }
    }
}

/// A client that trusts the certificate that is now in the file, or that was in it when it was made.
struct TlsClient {
    runtime: Runtime,
    tls: TlsClientConfig,
}

impl TlsClient {
    fn of(certificate: &Certificate) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tls = TlsClientConfig::new().ca(certificate.chain()).server_name("localhost");
        tls.to_rustls().unwrap();
        Self { runtime, tls }
    }

    fn connect(&self, server: &Server) -> Option<PacketConn> {
        let config = ConnConfig::new().tls(self.tls.clone());
        self.runtime.block_on(PacketConn::connect_with(&server.addr, config)).ok()
    }

    fn echoes(&self, conn: &mut PacketConn) {
        let mut echo = async || {
            conn.send(b"hello").await.unwrap();
            assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
        };
        let in_time = self.runtime.block_on(async { tokio::time::timeout(GUARD, echo()).await });
        in_time.expect("the server does not answer");
    }
}

fn with_tls(certificate: &Certificate, threads: &str, runtimes: &str) -> (Server, Log) {
    let options = ["--threads", threads, "--runtimes", runtimes];
    let mut server = Server::start(&[&options[..], &certificate.options()].concat());
    let log = Log::of(&mut server);
    let line = log.expect("loaded the certificate");
    assert!(line.contains("INFO") && line.contains("CN=rcgen self signed cert"), "{line}");
    (server, log)
}

#[test]
fn without_tls_sighup_is_ignored_with_a_line() {
    let mut server = Server::start(&["--threads", "1"]);
    let log = Log::of(&mut server);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    for _ in 0..2 {
        server.signal("HUP");
        log.expect("SIGHUP is ignored");
        stream.write_all(b"\x01\0\0\0x").unwrap();
        stream.read_exact(&mut [0; 5]).expect("the connection stays");
    }
    server.signal("TERM");
    drop(stream);
    assert!(server.finish().contains("echoed 2 packets"));
}

#[test]
fn a_reload_is_logged_with_the_subject_and_the_end_of_the_certificate() {
    for (threads, runtimes) in [("1", "one"), ("2", "one"), ("2", "own")] {
        let certificate = Certificate::new("localhost");
        let (server, log) = with_tls(&certificate, threads, runtimes);
        let old = TlsClient::of(&certificate);
        let mut conn = old.connect(&server).unwrap();
        certificate.renew();
        let new = TlsClient::of(&certificate);
        assert!(new.connect(&server).is_none(), "the server still uses the old certificate");
        server.signal("HUP");
        let line = log.expect("loaded the certificate");
        assert!(line.contains("INFO") && line.contains("valid_until=4096-01-01 00:00:00 UTC"), "{line}");
        log.expect("reloaded the certificate");
        // Each of the threads uses it.
        for _ in 0..10 {
            assert!(new.connect(&server).is_some() && old.connect(&server).is_none());
        }
        old.echoes(&mut conn);
    }
}

#[test]
fn a_file_that_hangs_or_never_ends_delays_no_connection_and_the_old_certificate_stays() {
    let certificate = Certificate::new("localhost");
    for bad_file in [certificate.chain(), certificate.key()] {
        certificate.renew();
        let (server, log) = with_tls(&certificate, "1", "one");
        let client = TlsClient::of(&certificate);
        let mut conn = client.connect(&server).unwrap();
        client.echoes(&mut conn);
        std::fs::remove_file(&bad_file).unwrap();
        // To open it blocks until a process writes to it.
        assert!(Command::new("mkfifo").arg(&bad_file).status().unwrap().success());
        server.signal("HUP");
        log.expect("cannot reload the certificate");
        client.echoes(&mut conn);
        std::fs::remove_file(&bad_file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &bad_file).unwrap();
        server.signal("HUP");
        log.expect("cannot reload the certificate");
        client.echoes(&mut conn);
        assert!(client.connect(&server).is_some(), "new connections get the old certificate");
        server.signal("TERM");
        drop(conn);
        server.finish();
        std::fs::remove_file(&bad_file).unwrap();
    }
}

#[test]
fn an_expired_certificate_does_not_replace_a_valid_one_but_a_server_starts_with_it() {
    let certificate = Certificate::new("localhost");
    let (server, log) = with_tls(&certificate, "2", "one");
    let client = TlsClient::of(&certificate);
    certificate.expired();
    server.signal("HUP");
    let line = log.expect("cannot reload the certificate");
    assert!(line.contains("expired on 2020-01-02 00:00:00 UTC"), "{line}");
    assert!(client.connect(&server).is_some(), "the valid certificate stays in use");

    let (server, log) = with_tls(&certificate, "1", "one");
    let line = log.expect("expired on 2020-01-02");
    assert!(line.contains("WARN") && line.contains("chain.pem"), "{line}");
    // An expired certificate may replace an expired one: it is no worse.
    server.signal("HUP");
    log.expect("reloaded the certificate");
    certificate.renew();
    server.signal("HUP");
    log.expect("reloaded the certificate");
    assert!(TlsClient::of(&certificate).connect(&server).is_some());
}

#[test]
fn a_certificate_that_expires_soon_and_a_key_that_others_can_read_are_warnings() {
    use std::os::unix::fs::PermissionsExt;
    let certificate = Certificate::new("localhost");
    certificate.expires_in(Duration::from_secs(3 * 24 * 3600));
    std::fs::set_permissions(certificate.key(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let (server, log) = with_tls(&certificate, "1", "one");
    let line = log.expect("expires on ");
    assert!(line.contains("WARN") && line.contains("chain.pem"), "{line}");
    let line = log.expect("other users can read");
    assert!(line.contains("WARN") && line.contains("key.pem"), "{line}");
    assert!(TlsClient::of(&certificate).connect(&server).is_some());
}

#[test]
fn a_key_of_another_certificate_is_an_error_that_says_so() {
    let (certificate, other) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let (server, log) = with_tls(&certificate, "1", "one");
    let client = TlsClient::of(&certificate);
    std::fs::copy(other.key(), certificate.key()).unwrap();
    server.signal("HUP");
    let line = log.expect("cannot reload the certificate");
    assert!(line.contains("the key is not that of the first certificate"), "{line}");
    assert!(client.connect(&server).is_some());
    let output = pktecho(&["--listen", "127.0.0.1:0"]).args(certificate.options()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("key.pem") && stderr.contains("the key is not that of"), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
}

/// More signals than reloads may arrive, because the kernel merges them. The last state of the files always counts.
#[test]
fn a_sighup_during_a_reload_is_not_lost() {
    let certificate = Certificate::new("localhost");
    let (server, log) = with_tls(&certificate, "1", "one");
    for _ in 0..20 {
        server.signal("HUP");
        certificate.renew();
        server.signal("HUP");
        let client = TlsClient::of(&certificate);
        let give_up_at = Instant::now() + GUARD;
        while client.connect(&server).is_none() {
            assert!(Instant::now() < give_up_at, "the server has lost the second signal");
        }
    }
    log.expect("reloaded the certificate");
}
