//! `held_bytes` includes what rustls holds for a connection, and what connections keep of their handshakes.
//!
//! Allocations are counted per thread, so the server runs on one thread and its clients on another.
#![cfg(feature = "tls")]

use std::cell::Cell;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pktconn::{
    ConnConfig, PacketConn, PacketServer, ServerConfig, ServerHandle, TcpConfig, TlsClientConfig,
    TlsServerConfig,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// The time limit for a step of a test. It only ends a test that hangs.
const HANG_GUARD: Duration = Duration::from_secs(60);

const CLIENTS: usize = 20;

/// All of the client's bytes reach the server.
const UNLIMITED: usize = usize::MAX;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The files of a server and of clients that trust it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("chain.pem"), signed.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), signed.signing_key.serialize_pem()).unwrap();
        Self(dir)
    }

    fn server(&self) -> TlsServerConfig {
        TlsServerConfig::new(self.0.path().join("chain.pem"), self.0.path().join("key.pem"))
    }

    fn client(&self) -> TlsClientConfig {
        TlsClientConfig::new().ca(self.0.path().join("chain.pem")).server_name("localhost")
    }
}

/// What each client does after the handshake and one packet in each direction.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    /// The client sends packets of this length without pause. 0: it sends nothing.
    sends: usize,
    /// How many of the client's encrypted bytes reach the server.
    arrive: usize,
    /// How many of the client's packets the handler receives before it stops.
    receives: usize,
    /// The length and the number of packets that the handler sends, and that the client does not read.
    replies: (usize, usize),
}

const IDLE: Scenario = Scenario { sends: 0, arrive: UNLIMITED, receives: 0, replies: (0, 0) };

/// What a connection may hold beyond what is reported.
const UNCOUNTED: usize = 4 * KIB;

/// Connects a client through a relay that passes on `arrive` bytes after the first packet in each direction.
async fn client(addr: SocketAddr, tls: TlsClientConfig, scenario: Scenario) -> (PacketConn, TcpListener) {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay_addr = relay.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(UNLIMITED));
    let relaying = Arc::clone(&left);
    let (conn, ()) = tokio::join!(
        PacketConn::connect_with(relay_addr, ConnConfig::new().tls(tls).write_timeout(None)),
        async {
            let (from_client, _) = relay.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            if scenario.replies.1 > 0 {
                socket.set_recv_buffer_size(16 * KIB as u32).unwrap();
            }
            let to_server = socket.connect(addr).await.unwrap();
            to_server.set_nodelay(true).unwrap();
            let reads = scenario.replies.1 == 0;
            tokio::spawn(pass_on(from_client, to_server, relaying, reads));
        }
    );
    let mut conn = conn.unwrap();
    conn.send(b"hello").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"ready");
    // A limit also stops the other direction, if it is not to be read.
    left.store(scenario.arrive.min(UNLIMITED - 1), SeqCst);
    if scenario.sends > 0 {
        let sender = conn.sender();
        tokio::spawn(async move {
            let payload = vec![7; scenario.sends];
            while sender.send(payload.clone()).await.is_ok() && sender.flush().await.is_ok() {}
        });
    }
    (conn, relay)
}

/// Passes on the bytes of both directions, `left` of those from the client. Without `reads`, it reads only the handshake
/// and the first packet of the server.
async fn pass_on(client: TcpStream, server: TcpStream, left: Arc<AtomicUsize>, reads: bool) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let seen = Arc::clone(&left);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4 * KIB];
        while reads || seen.load(SeqCst) == UNLIMITED {
            let count = from_server.read(&mut buffer).await.unwrap_or(0);
            if count == 0 || to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        pending::<()>().await;
        drop((from_server, to_client));
    });
    let mut buffer = vec![0; 32 * KIB];
    loop {
        // Before the limit is set, each read is small.
        let count = from_client.read(&mut buffer).await.unwrap_or(0).min(left.load(SeqCst));
        if count == 0 || to_server.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        if left.load(SeqCst) != UNLIMITED {
            left.fetch_sub(count, SeqCst);
        }
    }
    // The connection stays open, because the server would see an end otherwise.
    pending::<()>().await;
    drop((from_client, to_server));
}

/// Runs `clients` on a thread of their own until the result is dropped.
fn clients(files: &Files, scenario: Scenario, addr: Receiver<SocketAddr>) -> impl Drop {
    struct Running(Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>);
    impl Drop for Running {
        fn drop(&mut self) {
            let (done, thread) = self.0.take().unwrap();
            drop(done);
            thread.join().unwrap();
        }
    }
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let tls = files.client();
    let thread = std::thread::spawn(move || {
        let addr = addr.recv().unwrap();
        runtime().block_on(async {
            let mut conns = Vec::new();
            for _ in 0..CLIENTS {
                conns.push(client(addr, tls.clone(), scenario).await);
            }
            let _ = is_done.await;
        });
    });
    Running(Some((done, thread)))
}

/// Waits until the connections have received and sent nothing for a while.
async fn until_quiet(handle: &ServerHandle) {
    let started = Instant::now();
    let (mut last, mut since) = ((0, 0), started);
    while since.elapsed() < Duration::from_millis(300) {
        assert!(started.elapsed() < HANG_GUARD);
        sleep(Duration::from_millis(20)).await;
        let traffic = handle.traffic();
        let now = (traffic.bytes_received, traffic.packets_sent);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// The allocated bytes of a server in the scenario, and the value of `held_bytes`.
fn held(files: &Files, scenario: Scenario) -> (usize, usize) {
    let (tell_addr, addr) = channel();
    let clients = clients(files, scenario, addr);
    let (runtime, tls) = (runtime(), files.server());
    let (left, reported) = (Cell::new(0), Cell::new(0));
    let serving = Cell::new(None);
    let counted = allocation_counter::measure(|| {
        serving.set(Some(runtime.block_on(async {
            let mut conn = ConnConfig::new().write_timeout(None);
            if scenario.replies.1 > 0 {
                conn = conn.tcp(TcpConfig::new().send_buffer(16 * KIB));
            }
            let config = ServerConfig::new().conn(conn).tls(tls).memory_budget(1024 * MIB);
            let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
            tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
            let handle = server.handle();
            let (stopping, ready) = (handle.clone(), Arc::new(AtomicUsize::new(0)));
            let counting = Arc::clone(&ready);
            let serving = tokio::spawn(server.serve(move |mut conn| {
                let (stopping, ready) = (stopping.clone(), Arc::clone(&counting));
                async move {
                    drop(conn.recv().await?);
                    conn.send(b"ready").await?;
                    for _ in 0..scenario.replies.1 {
                        conn.send(vec![7; scenario.replies.0]).await?;
                        // Each packet is written alone, as long as there is room.
                        yield_now().await;
                    }
                    ready.fetch_add(1, SeqCst);
                    for _ in 0..scenario.receives {
                        drop(conn.recv().await?);
                    }
                    stopping.stopping().await;
                    Ok(())
                }
            }));
            let all_ready = async {
                while ready.load(SeqCst) < CLIENTS {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(HANG_GUARD, all_ready).await.unwrap();
            until_quiet(&handle).await;
            reported.set(handle.stats().held_bytes);
            (serving, handle)
        })));
    });
    left.set(usize::try_from(counted.bytes_current).unwrap_or(0));
    drop(clients);
    (left.get(), reported.get())
}

/// Checks that the scenarios hold at least `least` bytes for each connection, and that all but a few KiB of them are
/// reported. Prints the figures.
fn assert_counted(scenarios: &[Scenario], least: impl Fn(&Scenario) -> usize) {
    let files = Files::new();
    let (idle, _) = held(&files, Scenario { receives: 1, ..IDLE });
    for scenario in scenarios {
        let (left, reported) = held(&files, *scenario);
        let held = left.saturating_sub(idle);
        println!("{scenario:?}: {} B held, {} B reported", held / CLIENTS, reported / CLIENTS);
        assert!(held >= CLIENTS * least(scenario), "{scenario:?}: {held} B held");
        assert!(held <= reported + CLIENTS * UNCOUNTED, "{scenario:?}: {held} B held, {reported} B reported");
    }
}

#[test]
fn the_records_that_rustls_has_decrypted_for_a_handler_that_does_not_receive_are_counted() {
    let scenarios = [(100, 1), (16_000, 1), (16_000, 3), (60_000, 2)];
    assert_counted(&scenarios.map(|(sends, receives)| Scenario { sends, receives, ..IDLE }), |_| 16 * KIB);
}

#[test]
fn an_incomplete_record_is_counted_with_its_buffer() {
    let scenarios = [(1000, 500), (16_000, 9000), (16_000, 16_000), (60_000, 50_000)];
    // The buffer of an idle connection is 4 KiB.
    let least = |scenario: &Scenario| scenario.arrive.saturating_sub(4 * KIB);
    assert_counted(&scenarios.map(|(sends, arrive)| Scenario { sends, arrive, receives: 1, ..IDLE }), least);
}

#[test]
fn the_records_that_a_client_does_not_read_are_counted() {
    let scenarios = [(4, 20_000), (1000, 300), (200_000, 2)];
    assert_counted(&scenarios.map(|replies| Scenario { replies, ..IDLE }), |_| 64 * KIB);
}
