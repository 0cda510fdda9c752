//! Nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pktconn::{Client, ClientConfig, ConnConfig, PacketServer, Session, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::hostile::{Hello, attach, can_resume, send};
use super::{Server, client, ms, numbered, sessions, soon};

/// A session whose other side receives nothing, and whose queues are full.
async fn full(sessions_config: SessionConfig) -> (Server, Session, Client) {
    let conn = ConnConfig::new().send_high_water(16 * 1024);
    let config = sessions(sessions_config.replay_bytes(16 * 1024)).conn(conn.clone());
    let (server, mut passed) = Server::passing(config).await;
    let quick = SessionConfig::new().replay_bytes(16 * 1024).close_timeout(ms(200));
    let config = ClientConfig::new().conn(conn).session(quick);
    let client = Client::new(server.addr, config).unwrap();
    let session = soon(passed.recv()).await.unwrap();
    (server, session, client)
}

async fn fill_client(client: &Client) {
    let mut number = 0;
    while tokio::time::timeout(ms(200), client.send(numbered(number))).await.is_ok() {
        number += 1;
    }
}

#[tokio::test]
async fn a_close_of_a_client_is_bounded_while_the_server_receives_nothing() {
    let (_server, _session, client) = full(SessionConfig::new()).await;
    fill_client(&client).await;
    let error = soon(client.close()).await.unwrap_err();
    assert!(!error.unsent().is_empty(), "{error}");
}

#[tokio::test]
async fn a_sender_that_waits_for_room_learns_that_the_peer_has_closed() {
    let (_server, session, client) = full(SessionConfig::new()).await;
    let sending = tokio::spawn(async move {
        loop {
            if let Err(error) = session.send(numbered(7)).await {
                return (error, session);
            }
        }
    });
    tokio::time::sleep(ms(100)).await;
    let _ = soon(client.close()).await;
    let (error, _session) = soon(sending).await.unwrap();
    assert!(error.is_remote_close() || error.is_session(), "{error}");
}

#[tokio::test]
async fn a_receiver_learns_that_another_handle_has_closed() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let _client = client(server.addr, SessionConfig::new());
    let (sender, mut receiver) = soon(passed.recv()).await.unwrap().split();
    let receiving = tokio::spawn(async move { receiver.recv().await });
    tokio::time::sleep(ms(50)).await;
    soon(sender.close()).await.unwrap();
    let error_or_end = soon(receiving).await.unwrap();
    assert!(
        matches!(error_or_end, Err(ref error) if error.is_local_close()) || matches!(error_or_end, Ok(None))
    );
}

#[tokio::test]
async fn sessions_that_were_passed_on_end_with_their_server() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let _client = client(server.addr, SessionConfig::new());
    let mut session = soon(passed.recv()).await.unwrap();
    server.serving.abort();
    assert!(soon(session.recv()).await.unwrap_err().is_session());
    assert!(soon(session.close()).await.is_err());
}

#[tokio::test]
async fn a_server_ends_though_a_handler_hangs_if_it_is_told_so_twice() {
    let server = PacketServer::bind_with("127.0.0.1:0", sessions(SessionConfig::new())).await.unwrap();
    let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
    let serving = tokio::spawn(server.serve_sessions(|mut session| async move {
        while session.recv().await?.is_some() {}
        session.close().await?;
        std::future::pending().await
    }));
    let client = client(addr, SessionConfig::new());
    client.send(b"hello").await.unwrap();
    let mut state = client.state();
    soon(state.wait_for(pktconn::ClientState::is_connected)).await.unwrap();
    soon(client.close()).await.unwrap();
    handle.shutdown();
    tokio::time::sleep(ms(100)).await;
    assert!(!serving.is_finished());
    handle.shutdown_within(Duration::ZERO);
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn clients_do_not_hurry_to_a_server_that_drains() {
    // One session keeps the server, which takes no others.
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let (_kept, _) = attach(server.addr).await;
    server.handle.shutdown();
    let _client = client(server.addr, SessionConfig::new());
    tokio::time::sleep(ms(500)).await;
    let accepted = server.handle.stats().accepted;
    assert!((2..8).contains(&accepted), "{accepted} connections");
}

#[tokio::test]
async fn a_session_without_a_connection_makes_room_for_a_new_one() {
    let server = Server::echo(sessions(SessionConfig::new().max_sessions(2))).await;
    let (_first, _) = attach(server.addr).await;
    let (second, hello) = attach(server.addr).await;
    drop(second);
    tokio::time::sleep(ms(50)).await;
    let (_third, _) = attach(server.addr).await;
    assert!(!can_resume(server.addr, hello).await);
}

#[tokio::test]
async fn a_packet_that_arrives_slowly_is_no_silence() {
    let config = SessionConfig::new().ping_interval(ms(50)).ping_timeout(ms(300));
    let server = Server::echo(sessions(config)).await;
    let (mut stream, _) = attach(server.addr).await;
    stream.write_all(&100_u32.to_le_bytes()).await.unwrap();
    for _ in 0..100 {
        stream.write_all(&[7]).await.unwrap();
        tokio::time::sleep(ms(10)).await;
    }
    // PINGs come before the echo.
    let mut bytes = Vec::new();
    soon(async {
        while !bytes.ends_with(&[7; 100]) {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            bytes.push(byte[0]);
        }
    })
    .await;
}

/// The server closes, and the connection is cut before the client's last frames arrive.
#[tokio::test]
async fn a_server_learns_that_its_close_is_complete_over_another_connection() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new())).await;
    let proxy = super::Proxy::start(server.addr, 9).await;
    for round in 0..20 {
        let mut client = client(proxy.addr, SessionConfig::new());
        let mut session = soon(passed.recv()).await.unwrap();
        session.send(numbered(round)).await.unwrap();
        assert!(super::next_packet(&mut client).await == numbered(round));
        let closing = tokio::spawn(async move { session.close().await });
        // At any moment of the close.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        proxy.cut_all();
        soon(closing).await.unwrap().unwrap();
    }
}

/// A client whose server refuses everything does not count as healthy.
#[tokio::test]
async fn a_client_slows_down_for_a_server_that_closes_each_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (conn, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, SeqCst);
            drop(conn);
        }
    });
    let session = SessionConfig::new().mode(pktconn::SessionMode::Required);
    let _client = Client::new(addr, ClientConfig::new().session(session)).unwrap();
    tokio::time::sleep(ms(500)).await;
    assert!((1..6).contains(&count.load(SeqCst)), "{count:?} connections");
    let _ = send(addr, &Hello::NEW.bytes()).await;
}
