//! Sessions over TLS.

use pktconn::{Client, ClientConfig, ConnConfig, SessionConfig, TlsClientConfig, TlsServerConfig};

use super::{Proxy, SeqCst, Server, exchange, sessions, soon};

#[tokio::test]
async fn packets_arrive_exactly_once_over_encrypted_connections_that_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&chain, identity.cert.pem()).unwrap();
    std::fs::write(&key, identity.signing_key.serialize_pem()).unwrap();

    let config = sessions(SessionConfig::new()).tls(TlsServerConfig::new(&chain, &key));
    let server = Server::echo(config).await;
    let proxy = Proxy::start(server.addr, 11).await;
    proxy.cut_within(100_000);
    let conn = ConnConfig::new().tls(TlsClientConfig::new().ca(&chain));
    let config = ClientConfig::new().conn(conn).session(SessionConfig::new());
    let mut client = Client::new(proxy.addr, config).unwrap();
    exchange(&mut client, 0..2000).await;
    assert!(proxy.cuts() > 10, "{} cuts", proxy.cuts());
    proxy.cut_within(usize::MAX);
    soon(client.close()).await.unwrap();
    assert_eq!(server.handlers.load(SeqCst), 1);
}
