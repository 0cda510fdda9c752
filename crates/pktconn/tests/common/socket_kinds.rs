//! Servers and clients over TCP, TLS and Unix sockets, so that a test runs with each of them.
#![allow(dead_code, reason = "each test crate uses only some of these helpers")]

use std::sync::Arc;
use std::time::Duration;

use pktconn::{Addr, ConnConfig, PacketConn, PacketServer, ServerConfig, TlsClientConfig, TlsServerConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::common::{HANG_GUARD, HOUR, asserts_times};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Tcp,
    Tls,
    Unix,
}

pub(crate) const ALL_KINDS: [SocketKind; 3] = [SocketKind::Tcp, SocketKind::Tls, SocketKind::Unix];

/// Sets all deadlines to an hour: a call that ends within [`HANG_GUARD`] has not waited for one of them.
pub(crate) fn hour_deadlines() -> ConnConfig {
    ConnConfig::new()
        .connect_timeout(HOUR)
        .handshake_timeout(HOUR)
        .frame_timeout(HOUR)
        .write_timeout(HOUR)
        .close_timeout(HOUR)
}

/// How clients connect to a server.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) addr: Addr,
    tls: Option<TlsClientConfig>,
    _dir: Arc<TempDir>,
}

impl Route {
    /// Adds the TLS settings that the server needs.
    pub(crate) fn config(&self, config: ConnConfig) -> ConnConfig {
        match &self.tls {
            Some(tls) => config.tls(tls.clone()),
            None => config,
        }
    }

    pub(crate) async fn connect(&self, config: ConnConfig) -> PacketConn {
        PacketConn::connect_with(&self.addr, self.config(config)).await.unwrap()
    }
}

impl SocketKind {
    pub(crate) async fn bind(self, config: ServerConfig) -> (PacketServer, Route) {
        let dir = tempfile::tempdir().unwrap();
        let (addr, config, tls) = match self {
            Self::Tcp => (Addr::from("127.0.0.1:0"), config, None),
            Self::Unix => (Addr::unix(dir.path().join("socket")), config, None),
            Self::Tls => {
                let (server, client) = identity(&dir);
                (Addr::from("127.0.0.1:0"), config.tls(server), Some(client.server_name("localhost")))
            }
        };
        let server = PacketServer::bind_with(addr, config).await.unwrap();
        let route = Route { addr: server.local_addr(), tls, _dir: Arc::new(dir) };
        (server, route)
    }

    /// Both ends of a connection: the accepted one, and the connected one.
    pub(crate) async fn pair(self, config: ConnConfig) -> (PacketConn, PacketConn) {
        self.pair_with(config.clone(), config).await
    }

    pub(crate) async fn pair_with(
        self,
        accepted: ConnConfig,
        connected: ConnConfig,
    ) -> (PacketConn, PacketConn) {
        let (server, route) = self.bind(accepted.into()).await;
        let (pass, mut passed) = mpsc::unbounded_channel();
        tokio::spawn(server.serve(move |conn| {
            pass.send(conn).unwrap();
            async { Ok(()) }
        }));
        let connected = route.connect(connected).await;
        (passed.recv().await.unwrap(), connected)
    }
}

fn identity(dir: &TempDir) -> (TlsServerConfig, TlsClientConfig) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let own_key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&own_key, &Issuer::new(params, key))
        .unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let chain = write("chain.pem", certificate.pem());
    let own_key = write("key.pem", own_key.serialize_pem());
    let authority = write("ca.pem", authority);
    (TlsServerConfig::new(chain, own_key), TlsClientConfig::new().ca(authority))
}

/// Waits until bytes that were written to a local socket have arrived at its other end. No event reports that.
pub(crate) async fn let_it_arrive() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

/// Awaits `future`, and fails the test if it takes longer than [`HANG_GUARD`].
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(HANG_GUARD, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: did not finish within {HANG_GUARD:?}"),
    }
}

/// Checks that `took` is less than `limit`, if tests [assert times](asserts_times).
#[track_caller]
pub(crate) fn assert_within(limit: Duration, took: Duration, case: impl std::fmt::Debug) {
    assert!(!asserts_times() || took < limit, "{case:?}: took {took:?}; the limit is {limit:?}");
}
