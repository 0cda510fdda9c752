//! Shutdown of a server: handlers receive the packets that have arrived and then the end of the stream, whatever
//! clients and other handlers do.
#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "common/socket_kinds.rs"]
mod socket_kinds;

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{HOUR, frame, numbered};
use futures::StreamExt;
use pktconn::{
    Packet, PacketConn, PacketReceiver, PacketSender, PacketServer, ServerConfig, ServerHandle,
    ShutdownReport,
};
use socket_kinds::{ALL_KINDS, Route, SocketKind, assert_within, hour_deadlines, let_it_arrive, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

type HandlerResult = Result<(), Box<dyn StdError + Send + Sync>>;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn echo(mut conn: PacketConn) -> HandlerResult {
    while let Some(packet) = conn.recv().await? {
        conn.send(packet).await?;
    }
    Ok(conn.close().await?)
}

/// Starts a server whose handlers pass their connections to the returned channel and return at once.
async fn serve_and_pass_on(
    kind: SocketKind,
    config: ServerConfig,
) -> (Route, ServerHandle, JoinHandle<ShutdownReport>, mpsc::UnboundedReceiver<PacketConn>) {
    let (server, route) = kind.bind(config).await;
    let handle = server.handle();
    let (pass, passed) = mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    (route, handle, serving, passed)
}

// ---- what handlers receive

#[derive(Clone, Copy, Debug)]
enum Receives {
    Recv,
    Many,
    Stream,
    Select,
    InAnotherTask,
    OnAnotherThread,
}

const ALL_RECEIVES: [Receives; 6] = [
    Receives::Recv,
    Receives::Many,
    Receives::Stream,
    Receives::Select,
    Receives::InAnotherTask,
    Receives::OnAnotherThread,
];

async fn count_by(how: Receives, mut receiver: PacketReceiver) -> Result<usize, pktconn::Error> {
    let (mut count, mut packets) = (0, Vec::new());
    loop {
        let received = match how {
            Receives::Many => receiver.recv_many(&mut packets, 2).await?,
            Receives::Stream => usize::from(receiver.next().await.transpose()?.is_some()),
            Receives::Select => tokio::select! {
                biased;
                received = receiver.recv() => usize::from(received?.is_some()),
                () = tokio::time::sleep(ms(1)) => continue,
            },
            _ => usize::from(receiver.recv().await?.is_some()),
        };
        if received == 0 {
            return Ok(count);
        }
        count += received;
    }
}

async fn receive_by(how: Receives, conn: PacketConn) -> (usize, PacketSender) {
    let (sender, receiver) = conn.split();
    let count = match how {
        Receives::InAnotherTask => tokio::spawn(count_by(how, receiver)).await.unwrap(),
        Receives::OnAnotherThread => {
            let (result_sender, result) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = result_sender.send(runtime.block_on(count_by(how, receiver)));
            });
            result.await.unwrap()
        }
        _ => count_by(how, receiver).await,
    };
    (count.unwrap(), sender)
}

/// The clients have sent packets and wait. Their handlers already receive, or start to receive after the shutdown.
#[tokio::test]
async fn packets_that_arrived_before_the_shutdown_are_received_and_then_the_end() {
    for kind in ALL_KINDS {
        for begins_late in [false, true] {
            let (route, handle, serving, mut passed) =
                serve_and_pass_on(kind, ServerConfig::from(hour_deadlines())).await;
            let mut peers = Vec::new();
            for how in ALL_RECEIVES {
                let mut peer = route.connect(hour_deadlines()).await;
                let conn = soon("a connection", passed.recv()).await.unwrap();
                if !begins_late {
                    // The receive call is pending when the server stops.
                    let (done, finished) = tokio::sync::oneshot::channel();
                    tokio::spawn(async move {
                        let (count, sender) = receive_by(how, conn).await;
                        let _ = done.send((count, sender));
                    });
                    peer.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
                    peer.flush().await.unwrap();
                    peers.push((peer, how, Err(finished)));
                } else {
                    peer.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
                    peer.flush().await.unwrap();
                    peers.push((peer, how, Ok(conn)));
                }
                peer = route.connect(hour_deadlines()).await;
                drop((peer, soon("a connection", passed.recv()).await.unwrap()));
            }
            let_it_arrive().await;
            handle.shutdown_within(HOUR);
            tokio::task::yield_now().await;
            let all = peers.len();
            for (mut peer, how, conn) in peers {
                let case = format!("{kind:?} {how:?}, late: {begins_late}");
                let (count, sender) = match conn {
                    Ok(conn) => soon(&case, receive_by(how, conn)).await,
                    Err(finished) => soon(&case, finished).await.unwrap(),
                };
                assert_eq!(count, 5, "{case}");
                // The handler can still reply, and dropping its last handle then counts as a close.
                sender.send(b"goodbye").await.unwrap();
                drop(sender);
                assert_eq!(soon(&case, peer.recv()).await.unwrap().unwrap().payload(), b"goodbye", "{case}");
                assert!(soon(&case, peer.recv()).await.unwrap().is_none(), "{case}");
            }
            let report = soon("the report", serving).await.unwrap();
            assert_eq!((report.drained, report.cut.len()), (all, 0), "{kind:?}");
        }
    }
}

#[tokio::test]
async fn a_partly_arrived_frame_does_not_delay_the_shutdown() {
    for kind in [SocketKind::Tcp, SocketKind::Unix] {
        for how in ALL_RECEIVES {
            let (route, handle, serving, mut passed) =
                serve_and_pass_on(kind, ServerConfig::from(hour_deadlines())).await;
            let bytes = [frame(b"whole"), frame(b"never whole")[..9].to_vec()].concat();
            let raw: Box<dyn std::any::Any> = match kind {
                SocketKind::Unix => {
                    let mut raw = UnixStream::connect(route.addr.unix_path().unwrap()).await.unwrap();
                    raw.write_all(&bytes).await.unwrap();
                    Box::new(raw)
                }
                _ => {
                    let mut raw = TcpStream::connect(route.addr.socket_addr().unwrap()).await.unwrap();
                    raw.write_all(&bytes).await.unwrap();
                    Box::new(raw)
                }
            };
            let conn = passed.recv().await.unwrap();
            let receiving = tokio::spawn(receive_by(how, conn));
            let_it_arrive().await;
            let began = Instant::now();
            handle.shutdown();
            let (count, sender) = soon("the end", receiving).await.unwrap();
            assert_eq!(count, 1, "{kind:?} {how:?}");
            assert_within(ms(1500), began.elapsed(), (kind, how));
            drop(raw);
            drop(sender);
            soon("the report", serving).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_keep_sending_do_not_prevent_the_shutdown() {
    for kind in ALL_KINDS {
        // Unix sockets do not report that the peer has received everything, so the close would wait for its timeout.
        let (server, route) = kind.bind(hour_deadlines().close_timeout(ms(2000)).into()).await;
        let handle = server.handle();
        let called = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&called);
        let serving = tokio::spawn(server.serve(move |mut conn| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move {
                while conn.recv().await?.is_some() {}
                Ok(())
            }
        }));
        let mut floods = Vec::new();
        for _ in 0..2 {
            let peer = route.connect(hour_deadlines().write_timeout(None)).await;
            floods.push(tokio::spawn(async move {
                let packet = Packet::from(vec![7; 1000]);
                while peer.send(packet.clone()).await.is_ok() {
                    tokio::task::consume_budget().await;
                }
            }));
        }
        while called.load(Ordering::Relaxed) < 2 || handle.traffic().packets_received < 1000 {
            tokio::time::sleep(ms(1)).await;
        }
        handle.shutdown();
        let report = soon("the report", serving).await.unwrap();
        assert_eq!(report.drained, 2, "{kind:?}");
        for flood in floods {
            soon("the end of a flood", flood).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_accepted_during_the_shutdown_receive_the_end() {
    for kind in ALL_KINDS {
        for run in 0..20 {
            let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
            let handle = server.handle();
            let called = Arc::new(AtomicUsize::new(0));
            let calls = Arc::clone(&called);
            let serving = tokio::spawn(server.serve(move |mut conn| {
                calls.fetch_add(1, Ordering::Relaxed);
                async move {
                    while conn.recv().await?.is_some() {}
                    Ok(())
                }
            }));
            let clients: Vec<_> = (0..6)
                .map(|_| {
                    let route = route.clone();
                    tokio::spawn(async move {
                        let config = route.config(hour_deadlines());
                        if let Ok(mut conn) = PacketConn::connect_with(&route.addr, config).await {
                            let _ = conn.send(b"hello").await;
                            let _ = soon("the end", conn.recv()).await;
                        }
                    })
                })
                .collect();
            while called.load(Ordering::Relaxed) < run % 4 {
                tokio::task::yield_now().await;
            }
            handle.shutdown();
            soon("the report", serving).await.unwrap();
            for client in clients {
                soon("a client", client).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn tls_handshakes_in_progress_do_not_delay_the_shutdown() {
    let (server, route) = SocketKind::Tls.bind(ServerConfig::from(hour_deadlines())).await;
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(echo));
    let addr = route.addr.socket_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    // One of them has sent a part of its TLS ClientHello.
    silent[0].write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    while handle.stats().open < 3 {
        tokio::time::sleep(ms(1)).await;
    }
    let began = Instant::now();
    handle.shutdown();
    let report = soon("the report", serving).await.unwrap();
    assert_within(ms(500), began.elapsed(), "handshakes");
    assert_eq!((report.drained, report.cut.len()), (0, 0));
    for stream in &mut silent {
        let _ = soon("the end", stream.read(&mut [0; 1])).await;
    }
}

#[tokio::test]
async fn drain_on_shutdown_can_be_turned_off() {
    for kind in ALL_KINDS {
        let (server, route) = kind.bind(ServerConfig::from(hour_deadlines()).drain_on_shutdown(false)).await;
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(echo));
        let mut peer = route.connect(hour_deadlines()).await;
        peer.send(b"before").await.unwrap();
        assert!(peer.recv().await.unwrap().is_some());
        handle.shutdown();
        let_it_arrive().await;
        for number in 0..3 {
            peer.send(numbered(number)).await.unwrap();
            assert_eq!(soon("an echo", peer.recv()).await.unwrap(), Some(numbered(number)), "{kind:?}");
        }
        peer.close().await.unwrap();
        assert_eq!(soon("the report", serving).await.unwrap().drained, 1);
    }
}

// ---- the shutdown report

#[tokio::test]
async fn connections_that_end_before_the_deadline_are_drained_and_the_others_are_cut() {
    let (route, handle, serving, mut passed) =
        serve_and_pass_on(SocketKind::Tcp, ServerConfig::from(hour_deadlines())).await;
    let mut peers = Vec::new();
    let mut conns = Vec::new();
    for _ in 0..3 {
        peers.push(route.connect(hour_deadlines()).await);
        conns.push(passed.recv().await.unwrap());
    }
    let stays = conns.pop().unwrap();
    let (ends, ends_late) = (conns.pop().unwrap(), conns.pop().unwrap());
    handle.shutdown_within(HOUR);
    tokio::spawn(echo(ends));
    tokio::spawn(async move {
        tokio::time::sleep(ms(200)).await;
        echo(ends_late).await.unwrap();
    });
    let peers: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            tokio::spawn(async move {
                let end = peer.recv().await;
                let _ = peer.close().await;
                end
            })
        })
        .collect();
    // Two connections end. Then a second shutdown brings the deadline of the third one forward.
    while handle.stats().open > 1 {
        tokio::time::sleep(ms(1)).await;
    }
    assert!(!serving.is_finished());
    handle.shutdown_within(ms(50));
    let report = soon("the report", serving).await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (2, 1));
    drop(stays);
    for peer in peers {
        soon("the end", peer).await.unwrap().unwrap();
    }
}

/// An application may keep all senders in a map.
#[tokio::test]
async fn a_connection_that_has_ended_counts_as_drained_even_if_a_sender_still_exists() {
    for cut in [None, Some(ms(300))] {
        let (server, route) = SocketKind::Tcp.bind(ServerConfig::from(hour_deadlines())).await;
        let handle = server.handle();
        let (keep, mut kept) = mpsc::unbounded_channel();
        let serving = tokio::spawn(server.serve(move |conn| {
            let (sender, mut receiver) = conn.split();
            keep.send(sender.clone()).unwrap();
            async move {
                while receiver.recv().await?.is_some() {}
                Ok(sender.close().await?)
            }
        }));
        let mut peer = route.connect(hour_deadlines()).await;
        let sender = kept.recv().await.unwrap();
        let peer = tokio::spawn(async move {
            assert!(peer.recv().await.unwrap().is_none());
            let _ = peer.close().await;
        });
        handle.shutdown();
        if let Some(timeout) = cut {
            // Waits until the connection has ended, however slow the machine is.
            soon("the end", sender.closed()).await;
            handle.shutdown_within(timeout);
        }
        let report = soon("the report", serving).await.unwrap();
        assert_eq!((report.drained, report.cut.len()), (1, 0), "{cut:?}");
        peer.await.unwrap();
        drop(sender);
    }
}

/// The echo server of the README, with a client that neither sends nor closes.
#[tokio::test]
async fn an_echo_server_with_an_idle_client_stops_well_before_the_deadline() {
    for in_mid_frame in [false, true] {
        let server = PacketServer::bind_with("127.0.0.1:0", hour_deadlines()).await.unwrap();
        let (addr, handle) = (common::tcp_addr(&server), server.handle());
        let serving = tokio::spawn(server.serve(echo));
        let mut idle = TcpStream::connect(addr).await.unwrap();
        let sent = frame(b"hello");
        idle.write_all(&sent).await.unwrap();
        idle.read_exact(&mut [0; 9]).await.unwrap();
        if in_mid_frame {
            idle.write_all(&sent[..6]).await.unwrap();
            let_it_arrive().await;
        }
        let began = Instant::now();
        handle.shutdown_within(HOUR);
        let report = soon("the report", serving).await.unwrap();
        assert_within(ms(2000), began.elapsed(), in_mid_frame);
        assert_eq!((report.drained, report.cut.len()), (1, 0));
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

/// An application may stop without a deadline at its first signal, and end everything at the second one.
#[tokio::test]
async fn a_second_shutdown_ends_connections_that_are_still_closing() {
    for kind in ALL_KINDS {
        for explicitly in [false, true] {
            let config = hour_deadlines().send_high_water(64 << 20);
            let (server, route) = kind.bind(config.into()).await;
            let handle = server.handle();
            let is_done = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&is_done);
            let serving = tokio::spawn(server.serve(move |mut conn| {
                let done = Arc::clone(&done);
                async move {
                    while let Some(packet) = conn.recv().await? {
                        conn.send(packet).await?;
                        conn.send(vec![7; 32 << 20]).await?;
                    }
                    done.store(true, Ordering::Relaxed);
                    if explicitly {
                        conn.close().await?;
                    }
                    Ok(())
                }
            }));
            // This peer does not read.
            let peer = route.connect(hour_deadlines()).await;
            peer.send(b"hello").await.unwrap();
            peer.flush().await.unwrap();
            while handle.traffic().packets_sent < 2 {
                tokio::time::sleep(ms(1)).await;
            }
            handle.shutdown();
            while !is_done.load(Ordering::Relaxed) {
                tokio::time::sleep(ms(1)).await;
            }
            let_it_arrive().await;
            let began = Instant::now();
            handle.shutdown_within(Duration::ZERO);
            let report = soon("the report", serving).await.unwrap();
            assert_within(ms(1500), began.elapsed(), (kind, explicitly));
            assert_eq!((report.drained, report.cut.len()), (0, 1), "{kind:?} {explicitly}");
            assert_eq!(report.cut[0].unsent.len(), 1, "{kind:?} {explicitly}");
        }
    }
}

/// A peer that reads gets all packets that a handler sends after it has received the end.
#[tokio::test]
async fn replies_that_are_queued_during_the_shutdown_are_delivered() {
    for kind in ALL_KINDS {
        let (server, route) = kind.bind(hour_deadlines().send_high_water(16 << 20).into()).await;
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(|mut conn| async move {
            while conn.recv().await?.is_some() {}
            conn.send(vec![7; 8 << 20]).await?;
            Ok(())
        }));
        let mut peer = route.connect(hour_deadlines()).await;
        peer.send(b"hello").await.unwrap();
        peer.flush().await.unwrap();
        while handle.traffic().packets_received == 0 {
            tokio::time::sleep(ms(1)).await;
        }
        handle.shutdown();
        let_it_arrive().await;
        let reply =
            soon("the reply", peer.recv()).await.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        assert_eq!(reply.unwrap().len(), 8 << 20);
        assert!(soon("the end", peer.recv()).await.unwrap().is_none(), "{kind:?}");
        drop(peer);
        assert_eq!(soon("the report", serving).await.unwrap().drained, 1);
    }
}

/// The memory budget has paused reading, but packets that have arrived are still received.
#[tokio::test]
async fn connections_paused_by_the_memory_budget_receive_the_end() {
    let config = ServerConfig::from(hour_deadlines())
        .memory_budget(1 << 20)
        .conn(hour_deadlines().send_high_water(8 << 20));
    let (route, handle, serving, mut passed) = serve_and_pass_on(SocketKind::Tcp, config).await;
    let slow = route.connect(hour_deadlines()).await;
    let held = passed.recv().await.unwrap();
    let mut peer = route.connect(hour_deadlines()).await;
    let conn = passed.recv().await.unwrap();
    held.send(vec![7; 7 << 20]).await.unwrap();
    peer.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
    peer.flush().await.unwrap();
    let_it_arrive().await;
    handle.shutdown();
    tokio::task::yield_now().await;
    let (count, sender) = soon("the end", receive_by(Receives::Recv, conn)).await;
    assert_eq!(count, 5);
    drop(sender);
    assert!(soon("the end", peer.recv()).await.unwrap().is_none());
    drop((slow, held));
    soon("the report", serving).await.unwrap();
}

/// With several threads, one of them may poll the sockets while another one handles the shutdown.
#[test]
fn packets_that_arrive_just_before_the_shutdown_are_received_on_a_multi_thread_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in ALL_KINDS {
            for run in 0..100 {
                let (route, handle, serving, mut passed) =
                    serve_and_pass_on(kind, ServerConfig::from(hour_deadlines())).await;
                let (peer, mut peer_receiver) = route.connect(hour_deadlines()).await.split();
                let conn = soon("a connection", passed.recv()).await.unwrap();
                let receiving = tokio::spawn(receive_by(Receives::Recv, conn));
                tokio::time::sleep(ms(1)).await;
                peer.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
                peer.flush().await.unwrap();
                handle.shutdown();
                let (count, sender) = soon("the end", receiving).await.unwrap();
                assert_eq!(count, 5, "{kind:?}, run {run}");
                drop(sender);
                assert!(
                    soon("the end", peer_receiver.recv()).await.unwrap().is_none(),
                    "{kind:?}, run {run}"
                );
                drop((peer, peer_receiver));
                soon("the report", serving).await.unwrap();
            }
        }
    });
}
