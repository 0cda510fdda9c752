//! Invalid addresses: `connect`, `Client::new` and `bind` return an error at once, and the message says what to write.

use pktconn::{Addr, Client, ClientConfig, Error, PacketConn, PacketServer};

/// Invalid addresses, and a part of the error message for each.
fn invalid_addrs() -> Vec<(Addr, &'static str)> {
    let texts = [
        ("", "write HOST:PORT, such as localhost:14572"),
        ("localhost", "\"localhost\" has no port: write localhost:14572"),
        ("localhost:", "\"localhost:\" has no port: write localhost:14572"),
        ("example.org", "write example.org:14572"),
        ("127.0.0.1", "write 127.0.0.1:14572"),
        ("::1", "write [::1]:14572"),
        ("::1:80", "or [::1]:80"),
        ("[::1]", "write [::1]:14572"),
        ("[::1]80", "write [::1]:14572"),
        ("[::1", "write it as in [::1]:14572"),
        ("[::1:80", "write it as in [::1]:14572"),
        ("[localhost]:80", "write it as in [::1]:14572"),
        ("[]:80", "write it as in [::1]:14572"),
        ("14572", "write localhost:14572"),
        ("localhost:65536", "the maximum is 65535"),
        ("127.0.0.1:99999", "the maximum is 65535"),
        ("localhost:http", "write localhost:14572"),
        ("localhost:-1", "write localhost:14572"),
        (":80", ":80"),
        (":", ":14572"),
        ("tcp://localhost:80", "HOST:PORT"),
        ("/run/app.sock", "write unix:/run/app.sock"),
        ("./app.sock", "write unix:./app.sock"),
        ("a b:80", "no host"),
        ("a\0b:80", "no host"),
        ("localhost/:80", "no host"),
        ("a:b:80", "no host"),
        (".:80", "no host"),
        ("a..b:80", "no host"),
        ("localhost..:80", "no host"),
        ("${HOST}:80", "no host"),
        ("<host>:80", "no host"),
        ("'localhost':80", "no host"),
        ("one.example,two.example:80", "no host"),
        ("*:80", "no host"),
        ("127.0.0.256:80", "no host"),
        ("127.0.0.0.1:80", "no host"),
        ("unix:", "write unix:/run/app.sock"),
        ("unix:a\0b", "NUL"),
        ("unix:?mode=0660", "write unix:/run/app.sock"),
        ("unix:/a?mode=9", "mode \"9\" is not an octal number from 0000 to 0777, such as 0660"),
        ("unix:/a?b", "if the path contains the question mark, write unix:/a?b?"),
        ("unix:/a?mode=0660&", "\"\" is not an option"),
        ("unix:/a?backlog=1", "the options are mode=0660, owner=NAME and group=NAME, joined by &"),
    ];
    let mut all: Vec<_> = texts.map(|(text, message)| (Addr::from(text), message)).into();
    all.push((Addr::unix("a".repeat(108)), "108 bytes"));
    all.push((Addr::unix(""), "write unix:/run/app.sock"));
    all.push((("", 80).into(), ":80"));
    all.push((("localhost:80", 81).into(), "no host"));
    all
}

fn assert_refused(error: &Error, addr: &Addr, message: &str) {
    assert!(error.is_config(), "{addr:?}: {error:?}");
    assert!(error.to_string().contains(message), "{addr:?}: {error}");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_address_is_refused_at_once() {
    for (addr, message) in invalid_addrs() {
        assert_refused(&PacketConn::connect(&addr).await.unwrap_err(), &addr, message);
        assert_refused(&Client::new(&addr, ClientConfig::new()).unwrap_err(), &addr, message);
        let server = PacketServer::bind(&addr).await;
        if message == "write localhost:14572" && addr.to_string() == "14572" {
            assert_refused(&server.unwrap_err(), &addr, "write 0.0.0.0:14572");
        } else {
            assert_refused(&server.unwrap_err(), &addr, message);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn port_0_is_refused_except_for_listening() {
    for addr in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
        let addr = Addr::from(addr);
        for error in [
            PacketConn::connect(&addr).await.unwrap_err(),
            Client::new(&addr, ClientConfig::new()).unwrap_err(),
        ] {
            assert_refused(&error, &addr, "port 0");
        }
    }
    for addr in ["127.0.0.1:0", "localhost:0"] {
        assert!(PacketServer::bind(addr).await.is_ok(), "{addr}");
    }
}

#[tokio::test]
async fn every_valid_form_of_a_host_is_accepted() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().socket_addr().unwrap().port();
    for addr in
        [Addr::from(format!("localhost:{port}")), ("localhost", port).into(), ("127.0.0.1", port).into()]
    {
        assert!(PacketConn::connect(&addr).await.is_ok(), "{addr}");
    }
    for addr in [
        "example.org:1",
        "[fe80::1%lo]:1",
        "[fe80::1%1]:1",
        "xn--bcher-kva.example:1",
        "a_b:65535",
        "127.1:1",
        "0:1",
        "a.:1",
        "unix:a",
    ] {
        assert!(Client::new(addr, ClientConfig::new()).is_ok(), "{addr}");
    }
    assert!(Client::new(("fe80::1%lo", 1), ClientConfig::new()).is_ok());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn clients_connect_to_abstract_socket_names_and_servers_refuse_to_bind_them() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    let name = format!("pktconn-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let addr = Addr::unix(format!("\0{name}"));
    assert!(PacketConn::connect(&addr).await.is_ok());
    let other = Addr::unix(format!("\0{name}-other"));
    assert_refused(&PacketServer::bind(&other).await.unwrap_err(), &other, "from_listener");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_tls_client_refuses_an_address_without_a_valid_server_name() {
    use pktconn::{ConnConfig, TlsClientConfig};

    let with = |tls| ClientConfig::new().conn(ConnConfig::new().tls(tls));
    let error = Client::new("unix:/run/app.sock", with(TlsClientConfig::new())).unwrap_err();
    assert!(error.is_config() && error.to_string().contains("server_name"), "{error}");
    assert!(Client::new("-a.b:1", with(TlsClientConfig::new())).unwrap_err().is_tls());
    let named = TlsClientConfig::new().server_name("localhost");
    assert!(Client::new("unix:/run/app.sock", with(named)).is_ok());
}
