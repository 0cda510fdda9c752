//! Sessions of servers and clients over real sockets, through a proxy that cuts their connections.
#![cfg(feature = "session")]

#[cfg(feature = "tls")]
mod encrypted;
mod hostile;
mod legacy;
mod memory;
mod proxy;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pktconn::{
    Checksum, Client, ClientConfig, ClientEvent, CodecConfig, ConnConfig, HandlerResult, HeaderFormat, Lost,
    Packet, PacketServer, ServerConfig, ServerHandle, Session, SessionConfig, SessionState, ShutdownReport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use proxy::Proxy;

/// The time limit for a step of a test. It only ends a test that hangs.
const HANG_GUARD: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(HANG_GUARD, future).await.expect("hangs")
}

async fn echo(mut session: Session) -> HandlerResult {
    while let Some(packet) = session.recv().await? {
        session.send(packet).await?;
    }
    Ok(session.close().await?)
}

struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    serving: JoinHandle<ShutdownReport>,
    /// How many handlers were started.
    handlers: Arc<AtomicUsize>,
}

impl Server {
    /// An echo server.
    async fn echo(config: ServerConfig) -> Self {
        let handlers = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&handlers);
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
        let serving = tokio::spawn(server.serve_sessions(move |session| {
            counter.fetch_add(1, SeqCst);
            echo(session)
        }));
        Self { addr, handle, serving, handlers }
    }

    /// A server that passes its sessions on.
    async fn passing(config: ServerConfig) -> (Self, mpsc::UnboundedReceiver<Session>) {
        let handlers = Arc::<AtomicUsize>::default();
        let (pass, passed) = mpsc::unbounded_channel();
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
        let serving = tokio::spawn(server.serve_sessions(move |session| {
            let _ = pass.send(session);
            std::future::ready(Ok(()))
        }));
        (Self { addr, handle, serving, handlers }, passed)
    }
}

fn sessions(config: SessionConfig) -> ServerConfig {
    ServerConfig::new().sessions(config)
}

fn client(addr: SocketAddr, session: SessionConfig) -> Client {
    Client::new(addr, ClientConfig::new().session(session)).unwrap()
}

/// The next event that is no `Connected`.
async fn next(client: &mut Client) -> ClientEvent {
    loop {
        match soon(client.recv()).await.expect("the client has ended") {
            ClientEvent::Connected => {}
            event => return event,
        }
    }
}

async fn next_packet(client: &mut Client) -> Packet {
    match next(client).await {
        ClientEvent::Packet(packet) => packet,
        event => panic!("{event:?}"),
    }
}

async fn next_loss(client: &mut Client) -> Lost {
    match next(client).await {
        ClientEvent::Lost(lost) => lost,
        event => panic!("{event:?}"),
    }
}

/// A packet with a number, of 4 to 2,000 bytes.
fn numbered(number: u32) -> Packet {
    let len = 4 + number.wrapping_mul(2_654_435_761) as usize % 1997;
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len, number as u8);
    payload.into()
}

/// Sends numbered packets and checks their echoes: each once, in order, unaltered.
async fn exchange(client: &mut Client, range: std::ops::Range<u32>) {
    let sender = client.sender();
    let to_send = range.clone();
    let sending = tokio::spawn(async move {
        for number in to_send {
            sender.send(numbered(number)).await.unwrap();
        }
    });
    for number in range {
        assert!(next_packet(client).await == numbered(number), "packet {number}");
    }
    soon(sending).await.unwrap();
}

// ---- over lost connections

#[tokio::test]
async fn packets_arrive_exactly_once_over_connections_that_are_cut_at_any_byte() {
    for (seed, conn) in [
        ConnConfig::new(),
        ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32)),
        ConnConfig::new().codec(CodecConfig::new().header(HeaderFormat::U32Be)),
    ]
    .into_iter()
    .enumerate()
    {
        let config = sessions(SessionConfig::new()).conn(conn.clone());
        let server = Server::echo(config).await;
        let proxy = Proxy::start(server.addr, seed as u64).await;
        proxy.cut_within(60_000);
        let config = ClientConfig::new().session(SessionConfig::new()).conn(conn);
        let mut client = Client::new(proxy.addr, config).unwrap();
        exchange(&mut client, 0..3000).await;
        assert!(proxy.cuts() > 20, "{} cuts", proxy.cuts());
        proxy.cut_within(usize::MAX);
        soon(client.close()).await.unwrap();
        assert_eq!(server.handlers.load(SeqCst), 1, "one session");
        server.handle.shutdown();
        soon(server.serving).await.unwrap();
    }
}

#[tokio::test]
async fn handshakes_that_are_cut_leave_nothing_behind() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let proxy = Proxy::start(server.addr, 7).await;
    // HELLO has 70 bytes, WELCOME 81.
    proxy.cut_within(120);
    let config = ClientConfig::new().min_backoff(ms(1)).max_backoff(ms(4)).session(SessionConfig::new());
    let mut client = Client::new(proxy.addr, config).unwrap();
    client.send(numbered(0)).await.unwrap();
    while proxy.cuts() < 30 {
        tokio::time::sleep(ms(5)).await;
        // One that lived through its handshake.
        proxy.cut_all();
    }
    proxy.cut_within(usize::MAX);
    proxy.cut_all();
    assert!(next_packet(&mut client).await == numbered(0));
    soon(client.close()).await.unwrap();
    assert_eq!(server.handlers.load(SeqCst), 1, "no handler without an established session");
    server.handle.shutdown();
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn a_session_is_resumed_a_thousand_times() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let proxy = Proxy::start(server.addr, 1).await;
    let mut client = client(proxy.addr, SessionConfig::new());
    for number in 0..1000 {
        exchange(&mut client, number..number + 1).await;
        proxy.cut_all();
    }
    assert_eq!(server.handlers.load(SeqCst), 1);
    assert!(proxy.cuts() >= 999, "{} cuts", proxy.cuts());
    soon(client.close()).await.unwrap();
}

#[tokio::test]
async fn both_sides_see_the_state_of_the_connection() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let proxy = Proxy::start(server.addr, 1).await;
    let client = client(proxy.addr, SessionConfig::new());
    let session = soon(passed.recv()).await.unwrap();
    let (mut here, mut there) = (client.state(), session.state().unwrap());
    soon(there.wait_for(|state| *state == SessionState::Attached)).await.unwrap();
    soon(here.wait_for(pktconn::ClientState::is_connected)).await.unwrap();
    proxy.refuse(true);
    proxy.cut_all();
    soon(there.wait_for(|state| matches!(state, SessionState::Detached { since: Some(_) }))).await.unwrap();
    soon(here.wait_for(|state| !state.is_connected())).await.unwrap();
    proxy.refuse(false);
    soon(there.wait_for(|state| *state == SessionState::Attached)).await.unwrap();
    soon(here.wait_for(pktconn::ClientState::is_connected)).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_silent_is_given_up_and_the_session_goes_on() {
    let quick = || {
        let min = SessionConfig::new().min_ping_interval(ms(20));
        min.ping_interval(ms(50)).ping_timeout(ms(300)).hello_timeout(ms(300))
    };
    let server = Server::echo(sessions(quick())).await;
    let proxy = Proxy::start(server.addr, 1).await;
    let mut client = client(proxy.addr, quick());
    exchange(&mut client, 0..10).await;
    let mut state = client.state();
    proxy.freeze(true);
    client.send(numbered(10)).await.unwrap();
    soon(state.wait_for(|state| !state.is_connected())).await.unwrap();
    proxy.freeze(false);
    assert!(next_packet(&mut client).await == numbered(10));
    exchange(&mut client, 11..20).await;
    assert_eq!(server.handlers.load(SeqCst), 1);
}

#[tokio::test]
async fn a_ping_measures_the_round_trip_time() {
    let quick = || SessionConfig::new().min_ping_interval(ms(10)).ping_interval(ms(20));
    let (server, mut passed) = Server::passing(sessions(quick())).await;
    let _client = client(server.addr, quick());
    let session = soon(passed.recv()).await.unwrap();
    soon(async {
        while session.rtt().is_none() {
            tokio::time::sleep(ms(5)).await;
        }
    })
    .await;
    assert!(session.rtt().unwrap() < HANG_GUARD);
}

/// As behind a balancer, where each server has an address of its own, too.
#[tokio::test]
async fn a_session_is_resumed_at_the_address_that_its_server_names() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (balancer, own) = (Proxy::start(addr, 1).await, Proxy::start(addr, 2).await);
    let config = sessions(SessionConfig::new().resume_at(own.addr.to_string()));
    let server = PacketServer::from_listener(listener, config).unwrap();
    tokio::spawn(server.serve_sessions(echo));
    let mut client = client(balancer.addr, SessionConfig::new());
    exchange(&mut client, 0..10).await;
    balancer.refuse(true);
    balancer.cut_all();
    exchange(&mut client, 10..20).await;
    own.cut_all();
    exchange(&mut client, 20..30).await;
}

// ---- ends

#[tokio::test]
async fn a_session_without_a_connection_expires_on_both_sides_with_the_packets_in_doubt() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new().ttl(ms(300)))).await;
    let proxy = Proxy::start(server.addr, 1).await;
    let config = ClientConfig::new().max_backoff(ms(100)).session(SessionConfig::new());
    let mut client = Client::new(proxy.addr, config).unwrap();
    for number in 0..5 {
        client.send(numbered(number)).await.unwrap();
    }
    let mut session = soon(passed.recv()).await.unwrap();
    for number in 0..3 {
        assert!(soon(session.recv()).await.unwrap().unwrap() == numbered(number));
    }
    // So that the acknowledgement has arrived.
    tokio::time::sleep(ms(100)).await;
    proxy.refuse(true);
    proxy.cut_all();
    let lost = next_loss(&mut client).await;
    assert!(lost.error.is_session(), "{}", lost.error);
    assert_eq!(lost.delivery_unknown, 3..5);
    let error = soon(async {
        loop {
            match session.recv().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end"),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(error.is_session(), "{error}");
    assert!(session.ended().is_some());
    // Another session begins.
    proxy.refuse(false);
    client.send(numbered(9)).await.unwrap();
    let mut session = soon(passed.recv()).await.unwrap();
    assert!(soon(session.recv()).await.unwrap().unwrap() == numbered(9));
}

#[tokio::test]
async fn a_close_of_the_server_delivers_everything_and_the_client_begins_another_session() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let proxy = Proxy::start(server.addr, 3).await;
    let mut client = client(proxy.addr, SessionConfig::new());
    let mut session = soon(passed.recv()).await.unwrap();
    for number in 0..100 {
        session.send(numbered(number)).await.unwrap();
    }
    proxy.cut_all();
    let closing = tokio::spawn(async move { session.close().await });
    for number in 0..100 {
        assert!(next_packet(&mut client).await == numbered(number), "packet {number}");
    }
    let lost = next_loss(&mut client).await;
    assert!(lost.error.is_remote_close() && !lost.may_miss_packets, "{lost:?}");
    assert!(lost.delivery_unknown.is_empty());
    soon(closing).await.unwrap().unwrap();
    soon(passed.recv()).await.unwrap();
}

#[tokio::test]
async fn a_close_of_the_client_delivers_everything_over_another_connection() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let proxy = Proxy::start(server.addr, 3).await;
    let client = client(proxy.addr, SessionConfig::new());
    let mut session = soon(passed.recv()).await.unwrap();
    for number in 0..100 {
        client.send(numbered(number)).await.unwrap();
    }
    proxy.cut_all();
    let receiving = tokio::spawn(async move {
        for number in 0..100 {
            assert!(session.recv().await.unwrap().unwrap() == numbered(number), "packet {number}");
        }
        assert!(session.recv().await.unwrap().is_none());
        session.close().await
    });
    soon(client.close()).await.unwrap();
    soon(receiving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_close_returns_what_the_peer_has_not_received() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new().close_timeout(ms(300)))).await;
    let _client = client(server.addr, SessionConfig::new());
    let mut session = soon(passed.recv()).await.unwrap();
    // More than the client takes while its application does not receive.
    for number in 0..2000 {
        session.send(numbered(number)).await.unwrap();
    }
    let error = soon(session.close()).await.unwrap_err();
    let unsent = error.into_unsent();
    assert!(!unsent.is_empty() && unsent.len() < 2000, "{} packets", unsent.len());
    assert!(*unsent.last().unwrap() == numbered(1999));
}

#[tokio::test]
async fn a_handler_that_fails_ends_its_session_and_the_client_goes_on_with_another() {
    let server = PacketServer::bind_with("127.0.0.1:0", sessions(SessionConfig::new())).await.unwrap();
    let addr = server.local_addr().socket_addr().unwrap();
    tokio::spawn(server.serve_sessions(|mut session| async move {
        let packet = session.recv().await?.ok_or("the client is gone")?;
        session.send(packet).await?;
        Err("the application has failed".into())
    }));
    let mut client = client(addr, SessionConfig::new());
    for number in 0..3 {
        client.send(numbered(number)).await.unwrap();
        assert!(next_packet(&mut client).await == numbered(number));
        assert!(next_loss(&mut client).await.error.is_remote_close());
    }
}

// ---- moving

#[tokio::test]
async fn a_server_that_goes_away_loses_nothing() {
    let servers = [(); 2].map(|()| Server::echo(sessions(SessionConfig::new())));
    let [first, second] = servers;
    let (first, second) = (first.await, second.await);
    let addrs = [first.addr, second.addr];
    let connector = move |config: ConnConfig| async move {
        match pktconn::PacketConn::connect_with(addrs[0], config.clone()).await {
            Ok(conn) => Ok(conn),
            Err(_) => Ok(pktconn::PacketConn::connect_with(addrs[1], config).await?),
        }
    };
    let config = ClientConfig::new().session(SessionConfig::new());
    let mut client = Client::with_connector(config, connector).unwrap();
    exchange(&mut client, 0..100).await;
    let sender = client.sender();
    let sending = tokio::spawn(async move {
        for number in 100..1000 {
            sender.send(numbered(number)).await.unwrap();
            if number % 100 == 0 {
                tokio::time::sleep(ms(20)).await;
            }
        }
    });
    first.handle.go_away(Duration::from_secs(20), ms(100));
    let (mut number, mut moves) = (100, 0);
    while number < 1000 {
        match next(&mut client).await {
            ClientEvent::Packet(packet) => {
                assert!(packet == numbered(number), "packet {number}");
                number += 1;
            }
            ClientEvent::Moved => moves += 1,
            ClientEvent::Lost(lost) => assert!(lost.delivery_unknown.is_empty(), "{lost:?}"),
            event => panic!("{event:?}"),
        }
    }
    soon(sending).await.unwrap();
    assert!(moves >= 1);
    soon(first.serving).await.unwrap();
    assert_eq!(second.handlers.load(SeqCst), 1);
    soon(client.close()).await.unwrap();
}

// ---- memory

#[tokio::test]
async fn what_a_session_holds_is_bounded_while_the_client_does_not_receive() {
    let config = SessionConfig::new().replay_bytes(64 * 1024);
    let conn = ConnConfig::new().send_high_water(64 * 1024);
    let (server, mut passed) = Server::passing(sessions(config).conn(conn)).await;
    let mut client = client(server.addr, SessionConfig::new());
    let session = soon(passed.recv()).await.unwrap();
    let mut sent = 0;
    while timeout(ms(300), session.send(numbered(sent))).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "no backpressure");
    }
    for number in 0..sent {
        assert!(next_packet(&mut client).await == numbered(number), "packet {number}");
    }
    soon(session.send(numbered(sent))).await.unwrap();
    assert!(next_packet(&mut client).await == numbered(sent));
}
