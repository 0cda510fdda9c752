//! Unix sockets as addresses: listening, the socket file with its lock and permissions, credentials, and closing.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
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
    // The lock keeps other servers away. This program does not know it.
    assert!(PacketServer::bind(Addr::unix(&path)).await.unwrap_err().is_io());
    let _second = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

fn lock_path(path: &Path) -> PathBuf {
    format!("{}.lock", path.display()).into()
}

/// Binds a socket like a program that is starting, and does not listen.
fn bind_only(path: &Path) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    socket
}

#[tokio::test]
async fn a_socket_that_is_bound_and_does_not_listen_yet_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let addr = Addr::unix(&path);
    let starting = bind_only(&path);
    let error = PacketServer::bind(&addr).await.unwrap_err();
    assert!(error.to_string().contains("remove the file if no program uses it"), "{error}");
    assert!(!lock_path(&path).exists());
    starting.listen(1).unwrap();
    assert!(UnixStream::connect(&path).is_ok(), "its file is still there");
    let error = PacketServer::bind(&addr).await.unwrap_err();
    assert!(error.to_string().contains("another program listens there"), "{error}");
    if cfg!(target_os = "linux") {
        // Killed. The file is new, and no lock file is beside it, but Linux knows that nobody has it open.
        drop(starting);
        let server = PacketServer::bind(&addr).await.unwrap();
        let error = PacketServer::bind(&addr).await.unwrap_err();
        let holder = format!("another server (process {}) holds the lock", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(server);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "neither file is left");
    }
}

#[test]
fn one_of_many_servers_that_start_at_the_same_moment_wins() {
    const SERVERS: usize = 8;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    for round in 0..60 {
        // Nothing is there (0), or what a killed program left: of this library (1), or of another (2). Only Linux knows
        // that the new file of another is stale.
        let kinds = if cfg!(target_os = "linux") { 3 } else { 2 };
        if round % kinds > 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        if round % kinds == 1 {
            fs::write(lock_path(&path), "4711\n").unwrap();
        }
        let start = Barrier::new(SERVERS);
        let checked = Barrier::new(SERVERS + 1);
        let bound = std::thread::scope(|scope| {
            let bind = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                start.wait();
                let server = runtime.block_on(PacketServer::bind(Addr::unix(&path)));
                if let Err(error) = &server {
                    assert!(error.to_string().contains("address in use"), "{error}");
                }
                // All have tried.
                checked.wait();
                let is_bound = server.is_ok();
                // The main thread has connected.
                checked.wait();
                is_bound
            };
            let servers: Vec<_> = (0..SERVERS).map(|_| scope.spawn(bind)).collect();
            checked.wait();
            let connected = UnixStream::connect(&path);
            checked.wait();
            let bound = servers.into_iter().map(|server| server.join().unwrap());
            let bound = bound.filter(|&is_bound| is_bound).count();
            connected.unwrap();
            bound
        });
        assert_eq!(bound, 1, "round {round}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "neither file is left in round {round}");
    }
}

#[tokio::test]
async fn without_a_lock_file_the_server_does_not_start_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    fs::create_dir(lock_path(&path)).unwrap();
    let error = PacketServer::bind(Addr::unix(&path)).await.unwrap_err();
    assert!(error.is_io() && error.to_string().contains("socket.lock"), "{error}");
    assert!(!path.exists());
    fs::remove_dir(lock_path(&path)).unwrap();
    assert!(PacketServer::bind(Addr::unix(&path)).await.is_ok());
}

#[test]
fn the_mode_holds_from_the_first_connection_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (round, mode) in (0..50).flat_map(|round| [0o600, 0o666, 0o777, 0o620].map(|mode| (round, mode))) {
        let path = dir.path().join(format!("{round}-{mode}"));
        let seen = std::thread::scope(|scope| {
            let first_seen = scope.spawn(|| {
                while UnixStream::connect(&path).is_err() {
                    std::thread::yield_now();
                }
                fs::symlink_metadata(&path).unwrap().mode() & 0o777
            });
            let addr = Addr::from(format!("unix:{}?mode={mode:04o}", path.display()));
            let server = runtime.block_on(PacketServer::bind(&addr)).unwrap();
            let seen = first_seen.join().unwrap();
            assert_eq!(server.local_addr(), Addr::unix(&path), "the address to connect to has no options");
            seen
        });
        assert_eq!(seen, mode, "{seen:o} instead of {mode:o} in round {round}");
    }
}

#[tokio::test]
async fn owner_and_group_are_numbers_or_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let own = fs::metadata(dir.path()).unwrap();
    let bind = async |options: &str| {
        PacketServer::bind(format!("unix:{}?{options}", path.display())).await.map(|server| {
            let file = fs::symlink_metadata(&path).unwrap();
            drop(server);
            (file.uid(), file.gid(), file.mode() & 0o777)
        })
    };
    let (uid, gid) = (own.uid(), own.gid());
    let options = format!("owner={uid}&mode=0640&group={gid}");
    assert_eq!(bind(&options).await.unwrap(), (uid, gid, 0o640));
    let error = bind("group=no-such-group").await.unwrap_err();
    assert!(error.to_string().contains("/etc/group has no group no-such-group; write its number"), "{error}");
    assert!(bind("owner=no-such-user").await.unwrap_err().to_string().contains("/etc/passwd"));
    if uid == 0 {
        assert_eq!(bind("owner=12345&group=54321&mode=0600").await.unwrap(), (12_345, 54_321, 0o600));
        assert_eq!(bind("owner=root&group=root").await.unwrap().0, 0);
        let daemon =
            fs::read_to_string("/etc/group").unwrap().lines().any(|line| line.starts_with("daemon:x:1:"));
        assert!(!daemon || bind("group=daemon").await.unwrap().1 == 1);
    } else {
        assert!(bind("owner=0").await.unwrap_err().to_string().contains("cannot set the owner"));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a failed bind leaves no file");
}

#[tokio::test]
async fn options_are_for_listening_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let addr = Addr::from(format!("unix:{}?mode=0600", path.display()));
    let _server = PacketServer::bind(&addr).await.unwrap();
    let error = PacketConn::connect(&addr).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("only for listening"), "{error}");
    assert!(addr.check_listen().is_ok() && addr.check_connect().is_err());
    assert!(PacketConn::connect(Addr::unix(&path)).await.is_ok());
}

#[tokio::test]
async fn a_path_may_contain_a_question_mark() {
    let dir = tempfile::tempdir().unwrap();
    let addr = Addr::unix(dir.path().join("a?mode=0600"));
    let server = PacketServer::bind(&addr).await.unwrap();
    assert!(addr.unix_path().unwrap().exists());
    assert_eq!(server.local_addr(), addr);
    // As text, and back.
    assert!(PacketConn::connect(addr.to_string()).await.is_ok());
    assert!(PacketServer::bind(addr.to_string().trim_end_matches('?')).await.is_ok());
    assert!(dir.path().join("a").parent().unwrap().exists());
}

#[tokio::test]
async fn the_credentials_of_the_peer_are_those_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let own = fs::metadata(dir.path()).unwrap();
    let mut server = PacketServer::bind(Addr::unix(dir.path().join("socket"))).await.unwrap();
    server.add_addr("127.0.0.1:0").await.unwrap();
    let (unix, tcp) = (server.local_addrs()[0].clone(), server.local_addrs()[1].clone());
    tokio::spawn(server.serve(async |mut conn| {
        let credentials = format!("{:?}", conn.peer_credentials());
        conn.send(credentials).await?;
        Ok(conn.close().await?)
    }));
    let mut conn = PacketConn::connect(&unix).await.unwrap();
    let peer = conn.peer_credentials().unwrap();
    assert_eq!((peer.uid(), peer.gid()), (own.uid(), own.gid()));
    // This process is on both sides.
    let seen = conn.recv().await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(seen.payload()), format!("{:?}", Some(peer)));
    assert_eq!(conn.sender().peer_credentials(), Some(peer));
    if cfg!(target_os = "linux") {
        assert_eq!(peer.pid(), Some(std::process::id()));
    }
    let mut conn = PacketConn::connect(&tcp).await.unwrap();
    assert_eq!(conn.peer_credentials(), None);
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"None");
    let (here, _there) = tokio::net::UnixStream::pair().unwrap();
    assert_eq!(PacketConn::new(here, ConnConfig::new()).unwrap().peer_credentials(), Some(peer));
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
