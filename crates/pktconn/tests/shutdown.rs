//! A server that stops: what has arrived is received, and then the end, whatever its clients and handlers do.
#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "common/transports.rs"]
mod transports;

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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transports::{ALL, Over, Route, assert_within, let_it_arrive, patient, soon};

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

/// A server whose connections come out here. Their handlers have returned.
async fn passing_on(
    over: Over,
    config: ServerConfig,
) -> (Route, ServerHandle, JoinHandle<ShutdownReport>, mpsc::UnboundedReceiver<PacketConn>) {
    let (server, route) = over.bind(config).await;
    let handle = server.handle();
    let (pass, passed) = mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    (route, handle, serving, passed)
}

// ---- what is received

#[derive(Clone, Copy, Debug)]
enum Receives {
    Recv,
    Many,
    Stream,
    Select,
    InAnotherTask,
    OnAnotherThread,
}

const WAYS: [Receives; 6] = [
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
            let (told, tell) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = told.send(runtime.block_on(count_by(how, receiver)));
            });
            tell.await.unwrap()
        }
        _ => count_by(how, receiver).await,
    };
    (count.unwrap(), sender)
}

/// Clients that have sent something and wait, with handlers that have begun to receive, or begin after the stop.
#[tokio::test]
async fn what_has_arrived_is_received_and_then_the_end() {
    for over in ALL {
        for begins_late in [false, true] {
            let (route, handle, serving, mut passed) = passing_on(over, ServerConfig::from(patient())).await;
            let mut peers = Vec::new();
            for how in WAYS {
                let mut peer = route.connect(patient()).await;
                let conn = soon("a connection", passed.recv()).await.unwrap();
                if !begins_late {
                    // It is in the middle of waiting when the server stops.
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
                peer = route.connect(patient()).await;
                drop((peer, soon("a connection", passed.recv()).await.unwrap()));
            }
            let_it_arrive().await;
            handle.shutdown_within(HOUR);
            tokio::task::yield_now().await;
            let all = peers.len();
            for (mut peer, how, conn) in peers {
                let case = format!("{over:?} {how:?}, late: {begins_late}");
                let (count, sender) = match conn {
                    Ok(conn) => soon(&case, receive_by(how, conn)).await,
                    Err(finished) => soon(&case, finished).await.unwrap(),
                };
                assert_eq!(count, 5, "{case}");
                // It may still answer, and that counts as a close.
                sender.send(b"goodbye").await.unwrap();
                drop(sender);
                assert_eq!(soon(&case, peer.recv()).await.unwrap().unwrap().payload(), b"goodbye", "{case}");
                assert!(soon(&case, peer.recv()).await.unwrap().is_none(), "{case}");
            }
            let report = soon("the report", serving).await.unwrap();
            assert_eq!((report.drained, report.cut.len()), (all, 0), "{over:?}");
        }
    }
}

#[tokio::test]
async fn a_client_in_the_middle_of_a_frame_holds_nothing_up() {
    for over in [Over::Tcp, Over::Unix] {
        for how in WAYS {
            let (route, handle, serving, mut passed) = passing_on(over, ServerConfig::from(patient())).await;
            let bytes = [frame(b"whole"), frame(b"never whole")[..9].to_vec()].concat();
            let raw: Box<dyn std::any::Any> = match over {
                Over::Unix => {
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
            assert_eq!(count, 1, "{over:?} {how:?}");
            assert_within(ms(1500), began.elapsed(), (over, how));
            drop(raw);
            drop(sender);
            soon("the report", serving).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_flood_are_received_from_for_a_bounded_time() {
    for over in ALL {
        // A Unix socket does not tell that its peer has everything.
        let (server, route) = over.bind(patient().close_timeout(ms(2000)).into()).await;
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
            let peer = route.connect(patient().write_timeout(None)).await;
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
        assert_eq!(report.drained, 2, "{over:?}");
        for flood in floods {
            soon("the end of a flood", flood).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_accepted_at_the_same_moment_receive_the_end_too() {
    for over in ALL {
        for run in 0..20 {
            let (server, route) = over.bind(ServerConfig::from(patient())).await;
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
                        let config = route.config(patient());
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
async fn handshakes_in_progress_hold_nothing_up() {
    let (server, route) = Over::Tls.bind(ServerConfig::from(patient())).await;
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(echo));
    let addr = route.addr.socket_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    // In the middle of a record of its hello.
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
    for over in ALL {
        let (server, route) = over.bind(ServerConfig::from(patient()).drain_on_shutdown(false)).await;
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(echo));
        let mut peer = route.connect(patient()).await;
        peer.send(b"before").await.unwrap();
        assert!(peer.recv().await.unwrap().is_some());
        handle.shutdown();
        let_it_arrive().await;
        for number in 0..3 {
            peer.send(numbered(number)).await.unwrap();
            assert_eq!(soon("an echo", peer.recv()).await.unwrap(), Some(numbered(number)), "{over:?}");
        }
        peer.close().await.unwrap();
        assert_eq!(soon("the report", serving).await.unwrap().drained, 1);
    }
}

// ---- what is reported

#[tokio::test]
async fn those_that_ended_by_themselves_are_drained_and_the_others_are_cut() {
    let (route, handle, serving, mut passed) = passing_on(Over::Tcp, ServerConfig::from(patient())).await;
    let mut peers = Vec::new();
    let mut conns = Vec::new();
    for _ in 0..3 {
        peers.push(route.connect(patient()).await);
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
    // The two end before their deadline, and for the third it is put forward.
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

/// As where a map of senders is kept beside the handlers.
#[tokio::test]
async fn one_that_has_ended_is_drained_though_a_handle_of_it_is_kept() {
    for cut in [None, Some(ms(300))] {
        let (server, route) = Over::Tcp.bind(ServerConfig::from(patient())).await;
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
        let mut peer = route.connect(patient()).await;
        let sender = kept.recv().await.unwrap();
        let peer = tokio::spawn(async move {
            assert!(peer.recv().await.unwrap().is_none());
            let _ = peer.close().await;
        });
        handle.shutdown();
        if let Some(timeout) = cut {
            // It has ended by then, however slow the machine is.
            soon("the end", sender.closed()).await;
            handle.shutdown_within(timeout);
        }
        let report = soon("the report", serving).await.unwrap();
        assert_eq!((report.drained, report.cut.len()), (1, 0), "{cut:?}");
        peer.await.unwrap();
        drop(sender);
    }
}

/// The echo server of the README, and a client that has gone to sleep.
#[tokio::test]
async fn an_echo_server_with_an_idle_client_ends_well_before_its_deadline() {
    for in_mid_frame in [false, true] {
        let server = PacketServer::bind_with("127.0.0.1:0", patient()).await.unwrap();
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

/// The second signal may end at once what the first one has granted time, or all the time that it takes.
#[tokio::test]
async fn a_second_shutdown_ends_at_once_those_that_are_still_closing() {
    for over in ALL {
        for explicitly in [false, true] {
            let config = patient().send_high_water(64 << 20);
            let (server, route) = over.bind(config.into()).await;
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
            // A peer that does not read.
            let peer = route.connect(patient()).await;
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
            assert_within(ms(1500), began.elapsed(), (over, explicitly));
            assert_eq!((report.drained, report.cut.len()), (0, 1), "{over:?} {explicitly}");
            assert_eq!(report.cut[0].unsent.len(), 1, "{over:?} {explicitly}");
        }
    }
}

/// What a handler sends after the end goes out, however much it is, to a peer that reads.
#[tokio::test]
async fn replies_that_are_queued_at_the_end_are_delivered() {
    for over in ALL {
        let (server, route) = over.bind(patient().send_high_water(16 << 20).into()).await;
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(|mut conn| async move {
            while conn.recv().await?.is_some() {}
            conn.send(vec![7; 8 << 20]).await?;
            Ok(())
        }));
        let mut peer = route.connect(patient()).await;
        peer.send(b"hello").await.unwrap();
        peer.flush().await.unwrap();
        while handle.traffic().packets_received == 0 {
            tokio::time::sleep(ms(1)).await;
        }
        handle.shutdown();
        let_it_arrive().await;
        let reply =
            soon("the reply", peer.recv()).await.unwrap_or_else(|error| panic!("{over:?}: {error:?}"));
        assert_eq!(reply.unwrap().len(), 8 << 20);
        assert!(soon("the end", peer.recv()).await.unwrap().is_none(), "{over:?}");
        drop(peer);
        assert_eq!(soon("the report", serving).await.unwrap().drained, 1);
    }
}

/// The memory budget has stopped reading: what has arrived is received all the same.
#[tokio::test]
async fn connections_that_wait_for_memory_receive_the_end_too() {
    let config =
        ServerConfig::from(patient()).memory_budget(1 << 20).conn(patient().send_high_water(8 << 20));
    let (route, handle, serving, mut passed) = passing_on(Over::Tcp, config).await;
    let greedy = route.connect(patient()).await;
    let held = passed.recv().await.unwrap();
    let mut peer = route.connect(patient()).await;
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
    drop((greedy, held));
    soon("the report", serving).await.unwrap();
}

/// On several threads, one of which may just be waiting for sockets while the other one looks.
#[test]
fn what_arrives_just_before_the_stop_is_received_on_several_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for over in ALL {
            for run in 0..100 {
                let (route, handle, serving, mut passed) =
                    passing_on(over, ServerConfig::from(patient())).await;
                let (peer, mut peer_receiver) = route.connect(patient()).await.split();
                let conn = soon("a connection", passed.recv()).await.unwrap();
                let receiving = tokio::spawn(receive_by(Receives::Recv, conn));
                tokio::time::sleep(ms(1)).await;
                peer.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
                peer.flush().await.unwrap();
                handle.shutdown();
                let (count, sender) = soon("the end", receiving).await.unwrap();
                assert_eq!(count, 5, "{over:?}, run {run}");
                drop(sender);
                assert!(
                    soon("the end", peer_receiver.recv()).await.unwrap().is_none(),
                    "{over:?}, run {run}"
                );
                drop((peer, peer_receiver));
                soon("the report", serving).await.unwrap();
            }
        }
    });
}
