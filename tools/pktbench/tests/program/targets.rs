//! Servers under load: over TLS, over Unix sockets, and several at once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{count, frame, pktbench, start};
use pktconn::{Addr, ServerConfig, TlsServerConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const LOAD: &str = "--conns 4 --packets 400 --json";

/// A certificate authority and two certificates that it has signed, in files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        for (file, name) in [("server", "echo.test"), ("client", "device-7")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(dir.path().join(format!("{file}.pem")), certificate.pem()).unwrap();
            fs::write(dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn server(&self) -> TlsServerConfig {
        TlsServerConfig::new(self.path("server.pem"), self.path("server.key"))
    }

    /// The options of a client that trusts the server.
    fn trusting(&self) -> String {
        format!("--tls --tls-ca {} --tls-server-name echo.test", self.path("ca.pem").display())
    }
}

#[test]
fn a_server_is_loaded_over_tls() {
    let certificates = Certificates::new();
    let (addr, _) = start("127.0.0.1:0", ServerConfig::new().tls(certificates.server()));
    // Also frames that are larger than a TLS write accepts.
    for load in [LOAD, "--conns 1 --sizes 300000 --packets 400 --json"] {
        let ran = pktbench(&format!("--connect {addr} {} {load}", certificates.trusting()));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let document = ran.document();
        assert_eq!(document["config"]["tls"], true);
        assert_eq!(count(&document, "integrity", "verified"), 400);
    }
}

#[test]
fn over_tls_more_may_be_outstanding_than_both_sides_buffer() {
    let certificates = Certificates::new();
    let dir = tempfile::tempdir().unwrap();
    let (addr, _) = start(unix(dir.path()), ServerConfig::new().tls(certificates.server()));
    let load = "--conns 1 --pipeline 400 --sizes 0-100000 --packets 1000 --timeout 5s --json";
    let ran = pktbench(&format!("--connect {addr} {} {load}", certificates.trusting()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_server_may_require_a_client_certificate() {
    let certificates = Certificates::new();
    let tls = certificates.server().client_ca(certificates.path("ca.pem"));
    let (addr, _) = start("127.0.0.1:0", ServerConfig::new().tls(tls));
    let (tls, cert, key) =
        (certificates.trusting(), certificates.path("client.pem"), certificates.path("client.key"));
    let shown = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    assert_eq!(pktbench(&format!("--connect {addr} {tls} {shown} {LOAD}")).code, Some(0));
    // With TLS 1.3 a client learns of the rejection only after it has sent packets.
    let ran = pktbench(&format!("--connect {addr} {tls} {LOAD}"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(count(&ran.document(), "errors", "io") > 0, "{ran:?}");
}

#[test]
fn any_certificate_is_accepted_if_the_user_asks_for_it() {
    let certificates = Certificates::new();
    let tls = certificates.server().client_ca(certificates.path("ca.pem"));
    let (with_client_ca, _) = start("127.0.0.1:0", ServerConfig::new().tls(tls));
    let (addr, _) = start("127.0.0.1:0", ServerConfig::new().tls(certificates.server()));
    let (cert, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let shown = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    for (addr, options) in [(addr, String::new()), (with_client_ca, shown)] {
        let ran = pktbench(&format!("{addr} --tls --tls-insecure {options} {LOAD}"));
        let document = ran.document();
        assert_eq!((ran.code, &document["config"]["tls_insecure"]), (Some(0), &true.into()), "{ran:?}");
        assert!(ran.stderr.starts_with("warning: --tls-insecure accepts any certificate"), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    for (options, expected) in [
        ("--tls-insecure", "add --tls"),
        ("--tls --tls-insecure --tls-ca x", "'--tls-insecure' cannot be used with '--tls-ca <FILE>'"),
        ("--tls --tls-insecure --tls-cert /nowhere/x --tls-key y --timeout 1", "cannot use /nowhere/x: "),
    ] {
        let ran = pktbench(&format!("127.0.0.1:1 {options}"));
        assert!(ran.stderr.contains(expected) && ran.code != Some(0), "{ran:?}");
    }
}

#[test]
fn a_tls_error_is_one_line_that_says_what_to_do() {
    let certificates = Certificates::new();
    let (with_tls, _) = start("127.0.0.1:0", ServerConfig::new().tls(certificates.server()));
    let without = crate::common::serve(|| |_, _| crate::common::Answer::Last(frame(b"no TLS")));
    let ca = certificates.path("ca.pem").display().to_string();
    let strangers = Certificates::new();
    let other = strangers.path("ca.pem").display().to_string();
    for (options, expected) in [
        (
            format!("--connect {with_tls} --tls --tls-ca {ca}"),
            ["its certificate is for echo.test, not for 127.0.0.1; ", "--tls-server-name"],
        ),
        (
            format!("--connect {with_tls} --tls --tls-ca {other} --tls-server-name echo.test"),
            ["its certificate is not signed by the trusted authority of that name; ", "--tls-ca"],
        ),
        (format!("--connect {without} {}", certificates.trusting()), ["cannot speak TLS with", "speaks TLS"]),
        (format!("--connect {with_tls} --tls --tls-ca nowhere.pem"), ["cannot use nowhere.pem", ""]),
        (
            format!("--connect {with_tls} --tls --tls-ca {ca} --tls-server-name a:b"),
            ["\"a:b\" is not a valid server name", ""],
        ),
    ] {
        let ran = pktbench(&format!("{options} --conns 1 --timeout 2s"));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let line = ran.error_line();
        assert!(expected.iter().all(|part| line.contains(part)), "{expected:?} in {line}");
    }
}

fn unix(dir: &Path) -> Addr {
    Addr::unix(dir.join("socket"))
}

#[test]
fn a_server_is_loaded_over_a_unix_socket_with_and_without_tls() {
    let certificates = Certificates::new();
    for (config, tls) in [
        (ServerConfig::new(), String::new()),
        (ServerConfig::new().tls(certificates.server()), certificates.trusting()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (addr, _) = start(unix(dir.path()), config);
        let ran = pktbench(&format!("--connect {addr} {tls} {LOAD} --pipeline 64"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.document()["config"]["server"], addr);
    }
    let ran = pktbench("--connect unix:/nowhere/socket --conns 1");
    assert!(ran.error_line().contains("cannot connect to unix:/nowhere/socket: "), "{ran:?}");
}

#[test]
fn connections_are_spread_evenly_over_several_servers() {
    let dir = tempfile::tempdir().unwrap();
    let servers: Vec<_> = [Addr::from("127.0.0.1:0"), unix(dir.path()), Addr::from("127.0.0.1:0")]
        .into_iter()
        .map(|addr| start(addr, ServerConfig::new()))
        .collect();
    let connects: Vec<_> = servers.iter().map(|(addr, _)| format!("--connect {addr}")).collect();
    let ran = pktbench(&format!("{} --threads 2 --conns 7 --packets 700 --json", connects.join(" ")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(count(&ran.document(), "integrity", "verified"), 700);
    let accepted: Vec<_> = servers.iter().map(|(_, handle)| handle.stats().accepted).collect();
    assert_eq!(accepted, [3, 2, 2]);
}
