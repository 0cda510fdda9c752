//! A server outlives its handlers' failures, and stops when it is told to.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{frame, numbered};
use pktconn::{ConnConfig, PacketConn, PacketServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Echoes, except for two payloads.
async fn moody(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while let Some(packet) = conn.recv().await? {
        match packet.payload() {
            b"fail" => return Err("as it was asked to".into()),
            b"panic" => panic!("as it was asked to"),
            _ => conn.send(packet).await?,
        }
    }
    Ok(conn.close().await?)
}

async fn assert_echoes(conn: &mut PacketConn) {
    conn.send(b"ping").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"ping");
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_ends_its_own_connection_alone() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(moody));
    let mut bystander = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut bystander).await;
    for trigger in [b"fail" as &[u8], b"panic"] {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conn.send(trigger).await.unwrap();
        assert!(conn.recv().await.unwrap().is_none(), "its connection is closed");
        assert_echoes(&mut bystander).await;
    }
    let mut next = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut next).await;
}

#[tokio::test]
async fn a_shutdown_accepts_no_more_and_lets_the_handlers_finish() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (server.local_addr(), server.handle());
    let serving = tokio::spawn(server.serve(moody));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut conn).await;

    handle.shutdown();
    handle.stopping().await;
    while PacketConn::connect(addr).await.is_ok() {
        // Until the server's task has run.
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        assert_echoes(&mut conn).await;
    }
    assert!(!serving.is_finished());
    conn.close().await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn handlers_learn_of_the_shutdown() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (server.local_addr(), server.handle());
    let watching = handle.clone();
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let watching = watching.clone();
        async move {
            conn.send(b"welcome").await?;
            watching.stopping().await;
            conn.send(b"goodbye").await?;
            Ok(conn.close().await?)
        }
    }));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"welcome");
    handle.shutdown();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"goodbye");
    conn.close().await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn dropping_the_server_ends_its_handlers() {
    struct Gone(Arc<AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicUsize::new(0));
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    let counter = Arc::clone(&gone);
    let serving = tokio::spawn(server.serve(move |conn| {
        let guard = Gone(Arc::clone(&counter));
        async move {
            let _guard = guard;
            moody(conn).await
        }
    }));
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conns.push(conn);
    }
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    for conn in &mut conns {
        assert!(conn.recv().await.unwrap().is_none());
    }
    assert_eq!(gone.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_port_in_use_is_an_io_error() {
    let first = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let error = PacketServer::bind(first.local_addr()).await.unwrap_err();
    assert!(error.is_io());
    let config = ConnConfig::new().send_high_water(0);
    assert!(PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err().is_config());
}

#[tokio::test]
async fn a_peer_that_half_closes_still_gets_its_replies() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(moody));
    let mut raw = tokio::net::TcpStream::connect(addr).await.unwrap();
    // More than the outbox and the sockets' buffers hold, so that the server has to wait for this side to read.
    let requests: Vec<u8> = (0..40_000).flat_map(|number| frame(numbered(number).payload())).collect();
    let (mut reader, mut writer) = raw.split();
    let sending = async {
        writer.write_all(&requests).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut replies = Vec::new();
    let (received, ()) = tokio::join!(reader.read_to_end(&mut replies), sending);
    received.unwrap();
    assert!(replies == requests);
}
