//! Unix sockets as addresses: listening, the socket file, and closing.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::numbered;
use pktconn::{Addr, ConnConfig, PacketConn, PacketServer};

async fn echo(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while let Some(packet) = conn.recv().await? {
        conn.send(packet).await?;
    }
    Ok(conn.close().await?)
}

async fn assert_echoes(addr: &Addr) {
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_eq!((conn.local_addr(), conn.peer_addr()), (None, None));
    for number in 0..100 {
        conn.send(numbered(number)).await.unwrap();
    }
    for number in 0..100 {
        assert_eq!(conn.recv().await.unwrap(), Some(numbered(number)));
    }
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_server_listens_on_a_path_and_removes_the_socket_file_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let addr = Addr::from(format!("unix:{}", path.display()));
    let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    server.add_addr(&addr).await.unwrap();
    assert_eq!(server.local_addrs()[1], addr);
    let (tcp, handle) = (server.local_addr(), server.handle());
    let serving = tokio::spawn(server.serve(echo));
    assert_echoes(&addr).await;
    assert!(PacketConn::connect(tcp).await.is_ok(), "the server also listens on TCP");
    handle.shutdown();
    serving.await.unwrap();
    assert!(!path.exists());
    assert!(PacketConn::connect(&addr).await.unwrap_err().is_io());
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed program leaves its socket file behind");
    let addr = Addr::unix(&path);
    let server = PacketServer::bind(&addr).await.unwrap();
    assert!(PacketServer::bind(&addr).await.unwrap_err().is_io());
    let serving = tokio::spawn(server.serve(echo));
    assert_echoes(&addr).await;
    assert!(PacketServer::bind(&addr).await.unwrap_err().is_io());
    assert_echoes(&addr).await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes");
    fs::write(&path, "of value").unwrap();
    assert!(PacketServer::bind(Addr::unix(&path)).await.unwrap_err().is_io());
    assert_eq!(fs::read_to_string(&path).unwrap(), "of value");
    // Nor is a link to a socket.
    let (stale, link) = (dir.path().join("stale"), dir.path().join("link"));
    drop(UnixListener::bind(&stale).unwrap());
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    assert!(PacketServer::bind(Addr::unix(&link)).await.unwrap_err().is_io());
    assert!(stale.exists());
}

#[tokio::test]
async fn a_server_does_not_remove_the_socket_file_of_another_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let first = PacketServer::bind(Addr::unix(&path)).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _second = PacketServer::bind(Addr::unix(&path)).await.unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn a_server_does_not_remove_the_socket_file_of_a_listener_that_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = PacketServer::from_listener(listener, pktconn::ConnConfig::new()).unwrap();
    let addr = server.local_addr();
    assert_eq!(addr.unix_path(), Some(&*path));
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(echo));
    assert_echoes(&addr).await;
    handle.shutdown();
    serving.await.unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn a_close_succeeds_after_close_grace_if_the_peer_keeps_its_side_open() {
    let (here, _there) = tokio::net::UnixStream::pair().unwrap();
    let config =
        ConnConfig::new().close_grace(Duration::from_millis(50)).close_timeout(Duration::from_secs(600));
    let mut conn = PacketConn::new(here, config).unwrap();
    conn.send(b"all of it").await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), conn.close())
        .await
        .expect("the close must not wait for close_timeout: the kernel of the peer has all bytes")
        .unwrap();
}
