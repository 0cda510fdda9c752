//! Peers without sessions.

use std::time::{Duration, Instant};

use pktconn::{Client, ClientConfig, ClientEvent, PacketConn, PacketServer, SessionConfig, SessionMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Server, ms, next, next_packet, numbered, sessions, soon};

#[tokio::test]
async fn a_client_without_sessions_is_served_if_that_is_allowed() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let mut conn = PacketConn::connect(server.addr).await.unwrap();
    for number in 0..10 {
        conn.send(numbered(number)).await.unwrap();
        assert!(soon(conn.recv()).await.unwrap().unwrap() == numbered(number));
    }
    soon(conn.close()).await.unwrap();
    server.handle.shutdown();
    soon(server.serving).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_silent_gets_a_handler_after_a_while() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new().hello_wait(ms(50)))).await;
    let mut conn = PacketConn::connect(server.addr).await.unwrap();
    let session = soon(passed.recv()).await.unwrap();
    assert!(!session.is_resumable() && session.id().is_none() && session.state().is_none());
    session.send(b"the server speaks first").await.unwrap();
    assert_eq!(soon(conn.recv()).await.unwrap().unwrap().payload(), b"the server speaks first");
}

#[tokio::test]
async fn a_client_without_sessions_is_refused_if_they_are_required() {
    let server = Server::echo(sessions(SessionConfig::new().mode(SessionMode::Required))).await;
    let mut conn = PacketConn::connect(server.addr).await.unwrap();
    conn.send(b"hello").await.unwrap();
    assert!(matches!(soon(conn.recv()).await, Ok(None) | Err(_)));
    assert_eq!(server.handlers.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// HELLO of a new session, little-endian.
pub(crate) fn hello() -> Vec<u8> {
    let mut hello = vec![0x00, 0xFF, 0xFF, 0xFF, 61, 0, 1];
    hello.extend([0; 4 + 16 + 16]);
    hello.extend(1_u32.to_le_bytes());
    hello.extend([0; 8 + 8]);
    hello.extend((1024_u32 * 1024).to_le_bytes());
    hello
}

#[tokio::test]
async fn a_hello_that_comes_too_late_is_told_to_try_again() {
    let server = Server::echo(sessions(SessionConfig::new().hello_wait(ms(50)))).await;
    let mut raw = TcpStream::connect(server.addr).await.unwrap();
    tokio::time::sleep(ms(200)).await;
    raw.write_all(&hello()).await.unwrap();
    let mut answer = Vec::new();
    soon(raw.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, [0x02, 0xFF, 0xFF, 0xFF, 5, 0, 4, 0, 0, 0, 0], "REJECT busy");
}

#[tokio::test]
async fn a_client_falls_back_for_a_server_that_closes_on_the_over_long_length() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(|mut conn| async move {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(conn.close().await?)
    }));
    let started = Instant::now();
    let mut client = Client::new(addr, ClientConfig::new().session(SessionConfig::new())).unwrap();
    client.send(numbered(0)).await.unwrap();
    assert!(matches!(next(&mut client).await, ClientEvent::WithoutSession));
    assert!(next_packet(&mut client).await == numbered(0));
    assert!(started.elapsed() < Duration::from_secs(10), "twice the hello_timeout");
    soon(client.close()).await.unwrap();
}

/// It waits for the rest of a packet of 4 GiB.
#[tokio::test]
async fn a_client_falls_back_for_a_server_that_stays_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut raw, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut header = [0; 4];
                while raw.read_exact(&mut header).await.is_ok() {
                    let mut payload = vec![0; (u32::from_le_bytes(header) as usize).min(1 << 20)];
                    if raw.read_exact(&mut payload).await.is_err() {
                        return;
                    }
                    raw.write_all(&[&header[..], &payload].concat()).await.unwrap();
                }
            });
        }
    });
    let config = ClientConfig::new().session(SessionConfig::new().hello_timeout(ms(200)));
    let mut client = Client::new(addr, config).unwrap();
    client.send(numbered(0)).await.unwrap();
    assert!(matches!(next(&mut client).await, ClientEvent::WithoutSession));
    assert!(next_packet(&mut client).await == numbered(0));
}

#[tokio::test]
async fn a_client_that_requires_sessions_never_falls_back() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(|mut conn| async move {
        while conn.recv().await?.is_some() {}
        Ok(())
    }));
    let session = SessionConfig::new().mode(SessionMode::Required);
    let config = ClientConfig::new().min_backoff(ms(1)).max_backoff(ms(2)).max_tries(20).session(session);
    let mut client = Client::new(addr, config).unwrap();
    client.send(numbered(0)).await.unwrap();
    assert!(soon(client.recv()).await.is_none(), "no event: there was never a session");
    assert_eq!(soon(client.close()).await.unwrap_err().into_unsent(), [numbered(0)]);
}

/// A server with sessions is never taken for one without, however often its connections are cut.
#[tokio::test]
async fn a_client_that_was_answered_once_never_falls_back() {
    let server = Server::echo(sessions(SessionConfig::new().ttl(ms(200)))).await;
    let proxy = super::Proxy::start(server.addr, 5).await;
    let config = ClientConfig::new().min_backoff(ms(1)).max_backoff(ms(5)).session(SessionConfig::new());
    let mut client = Client::new(proxy.addr, config).unwrap();
    super::exchange(&mut client, 0..10).await;
    // HELLO never arrives whole.
    proxy.cut_within(60);
    proxy.cut_all();
    assert!(super::next_loss(&mut client).await.error.is_session());
    while proxy.cuts() < 50 {
        tokio::time::sleep(ms(5)).await;
    }
    proxy.cut_within(usize::MAX);
    super::exchange(&mut client, 10..20).await;
}
