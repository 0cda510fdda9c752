//! Connections that end without a close. If packets of the peer were not received, or queued packets are lost, the peer
//! sees an error (an unclean end). If nothing is lost, the peer sees a clean end.
#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "common/socket_kinds.rs"]
mod socket_kinds;

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use common::{frame, numbered};
use futures::StreamExt;
use pktconn::{
    Checksum, Client, ClientConfig, ClientEvent, CodecConfig, ConnConfig, HeaderFormat, Packet, PacketConn,
    ServerConfig, SlowConsumer, TcpConfig,
};
use socket_kinds::{ALL_KINDS, SocketKind, assert_within, hour_deadlines, let_it_arrive, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

type HandlerResult = Result<(), Box<dyn StdError + Send + Sync>>;

/// The call that tells the peer how the connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerCall {
    Recv,
    Close,
}

const PEER_CALLS: [PeerCall; 2] = [PeerCall::Recv, PeerCall::Close];

/// Receives until the end. Returns the number of packets, and the error of an unclean end.
async fn receive_all(conn: &mut PacketConn) -> (usize, Result<(), pktconn::Error>) {
    let mut count = 0;
    loop {
        match conn.recv().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, Ok(())),
            Err(error) => return (count, Err(error)),
        }
    }
}

/// Checks that `peer` sees an unclean end: an I/O error.
async fn assert_unclean_end(peer: &mut PacketConn, peer_call: PeerCall, case: impl std::fmt::Debug) {
    let case = format!("{case:?}, {peer_call:?}");
    let end = match peer_call {
        PeerCall::Recv => soon(&case, receive_all(peer)).await.1,
        PeerCall::Close => soon(&case, peer.close()).await,
    };
    match end {
        Ok(()) => panic!("{case}: the end looks like a clean close"),
        Err(error) => assert!(error.is_io(), "{case}: {error:?}"),
    }
}

/// Where the unreceived packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreceived {
    InTheKernel,
    InTheBuffer,
}

/// Sends packets from `there` to `here` that `here` does not receive, and waits until they have arrived.
async fn leave_unreceived(place: Unreceived, here: &mut PacketConn, there: &PacketConn) {
    if place == Unreceived::InTheBuffer {
        there.send_many(&mut vec![Packet::from(b"one"), b"two".into(), b"three".into()]).await.unwrap();
        assert_eq!(here.recv().await.unwrap().unwrap().payload(), b"one");
    } else {
        there.send(b"hello").await.unwrap();
        assert_eq!(here.recv().await.unwrap().unwrap().payload(), b"hello");
        there.send(b"and more").await.unwrap();
        there.flush().await.unwrap();
        let_it_arrive().await;
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

// ---- dropped handles

#[derive(Clone, Copy, Debug)]
enum Drops {
    Whole,
    SenderFirst,
    ReceiverFirst,
    CloneLast,
    InATask,
}

#[tokio::test]
async fn dropping_the_last_handle_with_unreceived_packets_is_an_unclean_end() {
    for kind in ALL_KINDS {
        for place in [Unreceived::InTheBuffer, Unreceived::InTheKernel] {
            if kind == SocketKind::Unix && place == Unreceived::InTheBuffer {
                // The kernel resets a Unix socket only if it still has unread bytes.
                continue;
            }
            for drops in
                [Drops::Whole, Drops::SenderFirst, Drops::ReceiverFirst, Drops::CloneLast, Drops::InATask]
            {
                for peer_call in PEER_CALLS {
                    let (mut here, mut there) = kind.pair(hour_deadlines()).await;
                    leave_unreceived(place, &mut here, &there).await;
                    match drops {
                        Drops::Whole => drop(here),
                        Drops::SenderFirst => {
                            let (sender, receiver) = here.split();
                            drop(sender);
                            drop(receiver);
                        }
                        Drops::ReceiverFirst => {
                            let (sender, receiver) = here.split();
                            drop(receiver);
                            drop(sender);
                        }
                        Drops::CloneLast => {
                            let (sender, receiver) = here.split();
                            let clone = sender.clone();
                            drop((sender, receiver));
                            tokio::task::yield_now().await;
                            std::thread::spawn(move || drop(clone)).join().unwrap();
                        }
                        Drops::InATask => {
                            tokio::spawn(async move { drop(here) }).await.unwrap();
                        }
                    }
                    assert_unclean_end(&mut there, peer_call, (kind, place, drops)).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn dropping_the_last_sender_is_an_unclean_end_if_packets_arrived_after_the_receiver_was_dropped() {
    for kind in ALL_KINDS {
        for peer_call in PEER_CALLS {
            let (here, mut there) = kind.pair(hour_deadlines()).await;
            let (sender, receiver) = here.split();
            drop(receiver);
            there.send(b"never received").await.unwrap();
            there.flush().await.unwrap();
            let_it_arrive().await;
            drop(sender);
            assert_unclean_end(&mut there, peer_call, kind).await;
        }
    }
}

#[tokio::test]
async fn dropping_a_connection_with_a_partly_received_batch_is_an_unclean_end() {
    for kind in [SocketKind::Tcp, SocketKind::Tls] {
        for as_stream in [false, true] {
            let (mut here, mut there) = kind.pair(hour_deadlines()).await;
            there.send_many(&mut (0..10).map(numbered).collect()).await.unwrap();
            if as_stream {
                let (_sender, mut receiver) = here.split();
                assert_eq!(receiver.next().await.unwrap().unwrap(), numbered(0));
            } else {
                let mut packets = Vec::new();
                assert_eq!(here.recv_many(&mut packets, 3).await.unwrap(), 3);
                drop(here);
            }
            assert_unclean_end(&mut there, PeerCall::Recv, (kind, as_stream)).await;
        }
    }
}

/// A frame that has only partly arrived counts as unreceived.
#[tokio::test]
async fn dropping_a_connection_in_the_middle_of_a_frame_is_an_unclean_end() {
    let (mut here, mut raw) = common::tcp_and_raw(hour_deadlines()).await;
    raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
    let_it_arrive().await;
    assert!(timeout(Duration::from_millis(20), here.recv()).await.is_err());
    drop(here);
    let error = soon("the end", raw.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

// ---- handlers

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandlerEnd {
    Fails,
    Panics,
    Returns,
    /// `shutdown_within(0)` ends it.
    IsCut,
    IsDroppedWithItsServer,
}

/// A handler that receives one packet, replies, reports that to `ready`, and ends.
async fn handler(
    ending: HandlerEnd,
    mut conn: PacketConn,
    ready: mpsc::UnboundedSender<()>,
) -> HandlerResult {
    let first = conn.recv().await?.ok_or("no packet arrived")?;
    assert_eq!(first.payload(), b"one");
    conn.send(b"a reply").await?;
    let_it_arrive().await;
    let _ = ready.send(());
    match ending {
        HandlerEnd::Fails => Err("a test handler fails on purpose".into()),
        HandlerEnd::Panics => panic!("a test handler panics on purpose"),
        HandlerEnd::Returns => Ok(()),
        HandlerEnd::IsCut | HandlerEnd::IsDroppedWithItsServer => std::future::pending().await,
    }
}

#[tokio::test]
async fn a_handler_that_ends_with_unreceived_packets_causes_an_unclean_end() {
    for kind in ALL_KINDS {
        for ending in [
            HandlerEnd::Fails,
            HandlerEnd::Panics,
            HandlerEnd::Returns,
            HandlerEnd::IsCut,
            HandlerEnd::IsDroppedWithItsServer,
        ] {
            for peer_call in PEER_CALLS {
                let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
                let handle = server.handle();
                let (ready, mut is_ready) = mpsc::unbounded_channel();
                let serving = tokio::spawn(server.serve(move |conn| handler(ending, conn, ready.clone())));
                let mut peer = route.connect(hour_deadlines()).await;
                peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                if kind == SocketKind::Unix {
                    // `three` stays in the kernel, so that it resets the Unix socket.
                    tokio::task::yield_now().await;
                    while handle.traffic().packets_received == 0 {
                        tokio::task::yield_now().await;
                    }
                    peer.send(b"three").await.unwrap();
                    peer.flush().await.unwrap();
                }
                is_ready.recv().await.unwrap();
                match ending {
                    HandlerEnd::IsCut => handle.shutdown_within(Duration::ZERO),
                    HandlerEnd::IsDroppedWithItsServer => serving.abort(),
                    _ => {}
                }
                assert_unclean_end(&mut peer, peer_call, (kind, ending)).await;
                if peer_call == PeerCall::Recv {
                    assert_eq!(
                        peer.stats().packets_received,
                        1,
                        "{kind:?} {ending:?}: the reply must arrive"
                    );
                }
            }
        }
    }
}

/// The same, if the peer is a `Client`.
#[tokio::test]
async fn a_client_reports_an_unclean_end_and_the_packets_of_unknown_delivery() {
    for kind in ALL_KINDS {
        for ending in [
            HandlerEnd::Fails,
            HandlerEnd::Panics,
            HandlerEnd::Returns,
            HandlerEnd::IsCut,
            HandlerEnd::IsDroppedWithItsServer,
        ] {
            let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
            let handle = server.handle();
            let (ready, mut is_ready) = mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| handler(ending, conn, ready.clone())));
            let config = ClientConfig::new().conn(route.config(hour_deadlines()));
            let mut client = Client::new(&route.addr, config.max_tries(1)).unwrap();
            client.send(b"one").await.unwrap();
            assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
            while handle.traffic().packets_received == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..9 {
                client.send(b"undelivered").await.unwrap();
            }
            is_ready.recv().await.unwrap();
            match ending {
                HandlerEnd::IsCut => handle.shutdown_within(Duration::ZERO),
                HandlerEnd::IsDroppedWithItsServer => serving.abort(),
                _ => {}
            }
            match soon("the reply", client.recv()).await {
                Some(ClientEvent::Packet(packet)) => assert_eq!(packet.payload(), b"a reply"),
                other => panic!("{kind:?} {ending:?}: {other:?}"),
            }
            match soon("the end", client.recv()).await {
                Some(ClientEvent::Lost(lost)) => {
                    assert!(lost.error.is_io(), "{kind:?} {ending:?}: {:?}", lost.error);
                    assert_eq!(lost.delivery_unknown, 0..10, "{kind:?} {ending:?}");
                    assert!(!lost.may_miss_packets);
                }
                other => panic!("{kind:?} {ending:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_runtime_shutdown_with_unreceived_packets_causes_an_unclean_end() {
    let rt = runtime();
    for kind in ALL_KINDS {
        for peer_call in PEER_CALLS {
            for multi_thread in [false, true] {
                let (route_out, route_in) = std::sync::mpsc::channel();
                let (stop, stopped) = std::sync::mpsc::channel::<()>();
                let (ready, mut is_ready) = mpsc::unbounded_channel();
                let other_thread = std::thread::spawn(move || {
                    let other_runtime = if multi_thread {
                        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
                    } else {
                        runtime()
                    };
                    other_runtime.block_on(async {
                        let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
                        route_out.send(route).unwrap();
                        let serving = server.serve(move |conn| {
                            handler(HandlerEnd::IsDroppedWithItsServer, conn, ready.clone())
                        });
                        tokio::select! {
                            _ = serving => {}
                            () = async {
                                while stopped.try_recv().is_err() {
                                    tokio::time::sleep(Duration::from_millis(1)).await;
                                }
                            } => {}
                        }
                    });
                    drop(other_runtime);
                });
                let route = route_in.recv().unwrap();
                rt.block_on(async {
                    let mut peer = route.connect(hour_deadlines()).await;
                    peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                    is_ready.recv().await.unwrap();
                    peer.send(b"three").await.unwrap();
                    peer.flush().await.unwrap();
                    let_it_arrive().await;
                    stop.send(()).unwrap();
                    assert_unclean_end(&mut peer, peer_call, (kind, multi_thread)).await;
                });
                other_thread.join().unwrap();
            }
        }
    }
}

/// The connection is used and dropped after its runtime has ended.
#[test]
fn a_connection_that_outlives_its_runtime_with_unreceived_packets_ends_uncleanly() {
    let rt = runtime();
    for (sends, peer_call) in [(false, PeerCall::Recv), (true, PeerCall::Recv), (true, PeerCall::Close)] {
        let other_runtime = runtime();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut peer = rt.block_on(PacketConn::connect(addr)).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let here = other_runtime.block_on(async {
            let stream = TcpStream::from_std(accepted).unwrap();
            let mut here = PacketConn::from_tcp(stream, hour_deadlines()).unwrap();
            rt.spawn(async {});
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    rt.block_on(async {
                        peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                    });
                });
            });
            assert_eq!(here.recv().await.unwrap().unwrap().payload(), b"one");
            here
        });
        drop(other_runtime);
        if sends {
            let _ = here.try_send(b"too late");
        }
        drop(here);
        rt.block_on(assert_unclean_end(&mut peer, peer_call, sends));
    }
}

#[test]
fn a_packet_sent_after_the_runtime_has_ended_is_lost_and_the_end_is_unclean() {
    for kind in [SocketKind::Tcp, SocketKind::Tls] {
        for closes in [false, true] {
            let (mine, other_runtime) = (runtime(), runtime());
            let (server, route) = other_runtime.block_on(kind.bind(ServerConfig::new()));
            let (pass, mut passed) = mpsc::unbounded_channel();
            other_runtime.spawn(server.serve(move |conn| {
                pass.send(conn).unwrap();
                async { Ok(()) }
            }));
            let connecting = mine.spawn(async move { route.connect(ConnConfig::new()).await });
            let (mut here, mut there) = other_runtime.block_on(async {
                let driven = std::thread::spawn(move || {
                    let here = mine.block_on(connecting).unwrap();
                    mine.shutdown_background();
                    here
                });
                let there = passed.recv().await.unwrap();
                (driven.join().unwrap(), there)
            });
            let case = format!("{kind:?}, closes: {closes}");
            other_runtime.block_on(async {
                // Either `send` writes all of it at once, or the end is unclean.
                let _ = here.send(vec![7; 1 << 20]).await;
                if closes {
                    soon(&case, here.close()).await.unwrap_err();
                }
                drop(here);
                let end = soon(&case, there.recv()).await;
                assert!(end.is_err(), "{case}: the end looks like a clean close");
            });
        }
    }
}

// ---- errors of the peer

#[tokio::test]
async fn an_invalid_frame_ends_the_connection_uncleanly_after_the_reply_before_it() {
    let too_long = (CodecConfig::new().max_payload_len(1000), CodecConfig::new());
    let bad_checksum = (CodecConfig::new().checksum(Checksum::Crc32), CodecConfig::new());
    for kind in [SocketKind::Tcp, SocketKind::Tls] {
        for (name, (codec, peers)) in [("too long", too_long), ("bad checksum", bad_checksum)] {
            for kept in [false, true] {
                for peer_call in PEER_CALLS {
                    let case = (kind, name, kept);
                    let configs = (hour_deadlines().codec(codec), hour_deadlines().codec(peers));
                    let (here, mut there) = kind.pair_with(configs.0, configs.1).await;
                    let (sender, mut receiver) = here.split();
                    sender.send(b"a reply").await.unwrap();
                    there.send(vec![0; 2000]).await.unwrap();
                    there.send(vec![0; 2000]).await.unwrap();
                    there.flush().await.unwrap();
                    let error = soon("the error", receiver.recv()).await.unwrap_err();
                    assert!(error.is_protocol(), "{case:?}: {error:?}");
                    // The handles are kept and not polled, or dropped at once.
                    let kept = kept.then_some((sender, receiver));
                    let began = Instant::now();
                    if peer_call == PeerCall::Recv && name == "too long" {
                        assert!(soon("the reply", there.recv()).await.unwrap().is_some(), "{case:?}");
                        assert_unclean_end(&mut there, peer_call, case).await;
                    } else if peer_call == PeerCall::Close {
                        assert_unclean_end(&mut there, peer_call, case).await;
                    }
                    assert_within(Duration::from_millis(1500), began.elapsed(), case);
                    drop(kept);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_truncated_frame_ends_the_connection_with_a_reset_after_the_reply() {
    for kept in [false, true] {
        let (here, mut raw) = common::tcp_and_raw(hour_deadlines()).await;
        let (sender, mut receiver) = here.split();
        sender.send(b"a reply").await.unwrap();
        raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
        raw.shutdown().await.unwrap();
        assert!(receiver.recv().await.unwrap_err().is_truncated());
        let kept = kept.then_some((sender, receiver));
        let mut bytes = Vec::new();
        let end = soon("the end", raw.read_to_end(&mut bytes)).await;
        assert_eq!(bytes, frame(b"a reply"));
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(kept);
    }
}

#[tokio::test]
async fn a_frame_timeout_ends_the_connection_with_a_reset_after_the_reply() {
    for kept in [false, true] {
        let config = hour_deadlines().frame_timeout(Duration::from_millis(50));
        let (here, mut raw) = common::tcp_and_raw(config).await;
        let (sender, mut receiver) = here.split();
        sender.send(b"a reply").await.unwrap();
        raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
        let error = soon("the timeout", receiver.recv()).await.unwrap_err();
        assert_eq!(error.timeout(), Some(pktconn::Timeout::Frame));
        let kept = kept.then_some((sender, receiver));
        let mut bytes = Vec::new();
        let end = soon("the end", raw.read_to_end(&mut bytes)).await;
        assert_eq!(bytes, frame(b"a reply"));
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(kept);
    }
}

#[tokio::test]
async fn after_an_idle_timeout_the_peer_sees_a_clean_end() {
    for kept in [false, true] {
        let config = hour_deadlines().idle_timeout(Duration::from_millis(50));
        let (here, mut raw) = common::tcp_and_raw(config).await;
        let (sender, mut receiver) = here.split();
        sender.send(b"goodbye").await.unwrap();
        let error = soon("the timeout", receiver.recv()).await.unwrap_err();
        assert_eq!(error.timeout(), Some(pktconn::Timeout::Idle));
        let kept = kept.then_some((sender, receiver));
        let mut bytes = Vec::new();
        soon("the end", raw.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(bytes, frame(b"goodbye"));
        drop(kept);
    }
}

// ---- clients

#[tokio::test]
async fn a_client_that_is_dropped_with_packets_in_its_receive_queue_ends_uncleanly() {
    for kind in [SocketKind::Tcp, SocketKind::Tls] {
        for peer_call in PEER_CALLS {
            let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
            let (pass, mut passed) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |conn| {
                pass.send(conn).unwrap();
                async { Ok(()) }
            }));
            let config = ClientConfig::new().conn(route.config(hour_deadlines()));
            let mut client = Client::new(&route.addr, config).unwrap();
            assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
            let mut peer = passed.recv().await.unwrap();
            peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
            match client.recv().await {
                Some(ClientEvent::Packet(packet)) => assert_eq!(packet.payload(), b"one"),
                other => panic!("{other:?}"),
            }
            client.send(b"last words").await.unwrap();
            drop(client);
            assert_unclean_end(&mut peer, peer_call, kind).await;
        }
    }
}

// ---- clean ends: nothing is lost

#[tokio::test]
async fn dropping_a_connection_after_all_packets_were_received_is_a_clean_end() {
    for kind in [SocketKind::Tcp, SocketKind::Unix] {
        for drops in [Drops::Whole, Drops::SenderFirst, Drops::ReceiverFirst] {
            for peer_call in PEER_CALLS {
                let (mut here, mut there) = kind.pair(hour_deadlines()).await;
                there.send_many(&mut (0..5).map(numbered).collect()).await.unwrap();
                for number in 0..5 {
                    assert_eq!(here.recv().await.unwrap(), Some(numbered(number)));
                }
                here.send(b"goodbye").await.unwrap();
                match drops {
                    Drops::SenderFirst => {
                        let (sender, receiver) = here.split();
                        drop(sender);
                        drop(receiver);
                    }
                    Drops::ReceiverFirst => {
                        let (sender, receiver) = here.split();
                        drop(receiver);
                        drop(sender);
                    }
                    _ => drop(here),
                }
                match peer_call {
                    PeerCall::Recv => {
                        let (count, end) = soon("the end", receive_all(&mut there)).await;
                        assert!(count == 1 && end.is_ok(), "{kind:?} {drops:?}: {count}, {end:?}");
                    }
                    PeerCall::Close => soon("the end", there.close()).await.unwrap(),
                }
            }
        }
    }
}

/// A handler does this that returns after its peer has closed.
#[tokio::test]
async fn dropping_a_connection_after_the_end_was_received_delivers_all_sent_packets() {
    for kind in ALL_KINDS {
        for by_stream in [false, true] {
            let (mut here, there) = kind.pair(hour_deadlines().send_high_water(4 << 20)).await;
            let (peer, mut receiver) = there.split();
            let reading = tokio::spawn(async move {
                // Reads only after all packets were sent.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut packets = Vec::new();
                loop {
                    match receiver.recv().await {
                        Ok(Some(packet)) => packets.push(packet),
                        Ok(None) => return Ok(packets),
                        Err(error) => return Err(error),
                    }
                }
            });
            // The client closes its side and still reads.
            peer.send(b"the last question").await.unwrap();
            let closing = tokio::spawn(async move { peer.close().await });
            assert_eq!(here.recv().await.unwrap().unwrap().payload(), b"the last question");
            drop(reading);
            if by_stream {
                assert!(here.next().await.is_none());
            } else {
                assert!(here.recv().await.unwrap().is_none());
            }
            drop(here);
            soon("the close", closing).await.unwrap().unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        }
    }
}

/// The peer half-closes and reads the replies later.
#[tokio::test]
async fn all_replies_reach_a_half_closed_peer_even_if_the_connection_is_dropped_at_once() {
    for kind in [SocketKind::Tcp, SocketKind::Unix] {
        let config = hour_deadlines().send_high_water(8 << 20);
        let (mut here, mut raw): (PacketConn, Box<dyn RawStream>) = match kind {
            SocketKind::Unix => {
                let (a, b) = UnixStream::pair().unwrap();
                (PacketConn::new(a, config).unwrap(), Box::new(b))
            }
            _ => {
                let (conn, raw) = common::tcp_and_raw(config).await;
                (conn, Box::new(raw))
            }
        };
        raw.write_all(&frame(b"question")).await.unwrap();
        raw.shutdown().await.unwrap();
        assert!(here.recv().await.unwrap().is_some());
        let large = vec![7; 6_000_000];
        if kind == SocketKind::Tcp {
            // The connection was made by `connect`, so it closes when its peer does: reply before that.
            here.send(large.clone()).await.unwrap();
            assert!(here.recv().await.unwrap().is_none());
        } else {
            assert!(here.recv().await.unwrap().is_none());
            here.send(large.clone()).await.unwrap();
        }
        drop(here);
        let_it_arrive().await;
        let mut bytes = Vec::new();
        soon("the replies", raw.read_to_end(&mut bytes)).await.unwrap();
        assert!(bytes == frame(&large), "{kind:?}: {} bytes", bytes.len());
    }
}

trait RawStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> RawStream for T {}

#[tokio::test]
async fn a_close_with_unread_input_is_clean() {
    for kind in ALL_KINDS {
        for place in [Unreceived::InTheBuffer, Unreceived::InTheKernel] {
            for peer_call in PEER_CALLS {
                let (mut here, mut there) = kind.pair(hour_deadlines()).await;
                leave_unreceived(place, &mut here, &there).await;
                here.send(b"goodbye").await.unwrap();
                let closing = tokio::spawn(async move { here.close().await });
                match peer_call {
                    PeerCall::Recv => {
                        let (count, end) = soon("the end", receive_all(&mut there)).await;
                        assert!(count == 1 && end.is_ok(), "{kind:?} {place:?}: {count}, {end:?}");
                    }
                    PeerCall::Close => {
                        let closed = soon("the end", there.close()).await;
                        assert!(closed.is_ok(), "{kind:?} {place:?}: {closed:?}");
                    }
                }
                drop(there);
                let closed = soon("the close", closing).await.unwrap();
                assert!(closed.is_ok(), "{kind:?} {place:?} {peer_call:?}: {closed:?}");
            }
        }
    }
}

#[tokio::test]
async fn dropping_the_receiver_ends_nothing_while_a_sender_lives() {
    for kind in ALL_KINDS {
        let (mut here, mut there) = kind.pair(hour_deadlines()).await;
        leave_unreceived(Unreceived::InTheBuffer, &mut here, &there).await;
        let (sender, receiver) = here.split();
        drop(receiver);
        for number in 0..3 {
            sender.send(numbered(number)).await.unwrap();
            assert_eq!(soon("a packet", there.recv()).await.unwrap(), Some(numbered(number)), "{kind:?}");
        }
        sender.close().await.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        assert!(there.recv().await.unwrap().is_none(), "{kind:?}");
    }
}

// ---- queued packets

#[tokio::test]
async fn a_reply_arrives_even_if_the_handler_returns_with_unreceived_packets() {
    assert_replies_arrive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_arrives_even_if_the_handler_returns_with_unreceived_packets_multi_thread() {
    assert_replies_arrive().await;
}

async fn assert_replies_arrive() {
    for kind in ALL_KINDS {
        for (runs, len) in [(100, 20), (100, 500_000)] {
            let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
            tokio::spawn(server.serve(move |mut conn| async move {
                conn.recv().await?;
                conn.send(vec![7; len]).await?;
                Ok(())
            }));
            for run in 0..runs {
                let mut peer = route.connect(hour_deadlines()).await;
                let began = Instant::now();
                peer.send_many(&mut vec![Packet::from(b"one"), b"two".into(), b"three".into()])
                    .await
                    .unwrap();
                match soon("the reply", peer.recv()).await {
                    Ok(Some(reply)) => assert_eq!(reply.len(), len),
                    // An end without a close waits for a second until the reply is written. The machine was too busy.
                    Err(_) if began.elapsed() >= Duration::from_secs(1) => continue,
                    other => panic!("{kind:?}, {len} bytes, run {run}: {other:?}"),
                }
                let end = soon("the end", peer.recv()).await;
                assert!(
                    end.is_err() || kind == SocketKind::Unix,
                    "{kind:?}, {len} bytes, run {run}: {end:?}"
                );
            }
        }
    }
}

/// An end without a close waits up to a second for a peer that does not read.
#[tokio::test]
async fn a_peer_that_does_not_read_delays_a_drop_by_about_a_second() {
    let config = hour_deadlines()
        .send_high_water(64 << 20)
        .tcp(TcpConfig::new().send_buffer(64 * 1024).recv_buffer(64 * 1024));
    let (here, mut raw) = common::tcp_and_raw(config).await;
    here.send(vec![7; 32 << 20]).await.unwrap();
    raw.write_all(&frame(b"undelivered")).await.unwrap();
    let_it_arrive().await;
    let began = Instant::now();
    drop(here);
    // The peer does not read, so only a failed write shows the end.
    let writing = async {
        while raw.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the end", writing).await;
    assert_within(Duration::from_millis(1500), began.elapsed(), "the end");
}

/// A clean end means that the peer has received all queued packets, too.
#[tokio::test]
async fn a_drop_that_loses_queued_packets_is_an_unclean_end() {
    let config = hour_deadlines()
        .codec(CodecConfig::new().header(HeaderFormat::U16Le).max_payload_len(1000))
        .send_high_water(64 << 20)
        .tcp(TcpConfig::new().send_buffer(16 * 1024).recv_buffer(16 * 1024));
    let (here, mut there) = common::tcp_pair(config).await;
    // Frames of two bytes, so that the bytes that the kernel accepts end with a complete frame.
    let sent = 4 << 20;
    here.send_many(&mut vec![Packet::from(b""); sent]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(here.queued_bytes() > 0, "the test needs queued bytes, but the kernel accepted all of them");
    drop(here);
    let (count, end) = soon("the end", receive_all(&mut there)).await;
    assert!(end.is_err() || count == sent, "{count} of {sent} packets, and then {end:?}");
}

/// The connection that a shutdown cuts ends uncleanly, even if its handles still exist.
#[tokio::test]
async fn handles_that_are_not_polled_do_not_delay_a_shutdown_that_cuts_their_connection() {
    for kind in ALL_KINDS {
        for queued in [10, 4 << 20] {
            let config = hour_deadlines().send_high_water(8 << 20);
            let (server, route) = kind.bind(config.into()).await;
            let handle = server.handle();
            let (pass, mut passed) = mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                pass.send(conn.split()).unwrap();
                std::future::pending()
            }));
            let mut peer = route.connect(hour_deadlines()).await;
            let kept = passed.recv().await.unwrap();
            kept.0.send(vec![7; queued]).await.unwrap();
            peer.send(b"undelivered").await.unwrap();
            peer.flush().await.unwrap();
            let_it_arrive().await;
            let began = Instant::now();
            handle.shutdown_within(Duration::ZERO);
            let report = soon("the report", serving).await.unwrap();
            assert_within(Duration::from_millis(1500), began.elapsed(), (kind, queued));
            assert_eq!(report.cut.len(), 1);
            let (count, end) = soon("the end", receive_all(&mut peer)).await;
            assert!(end.is_err(), "{kind:?}, {queued} bytes: {count} packets and a clean end");
            drop(kept);
        }
    }
}

// ---- peers that do not read

#[tokio::test]
async fn a_peer_that_does_not_read_sees_the_end_even_if_the_handles_are_kept() {
    for kind in ALL_KINDS {
        for disconnect in [false, true] {
            let config = hour_deadlines().send_high_water(16 << 20);
            let config = if disconnect {
                config.slow_consumer(SlowConsumer::Disconnect).send_max_lag(Duration::from_millis(100))
            } else {
                config.write_timeout(Duration::from_millis(100))
            };
            let (here, mut there) = kind.pair_with(config, hour_deadlines()).await;
            let (sender, receiver) = here.split();
            sender.send(vec![7; 14 << 20]).await.unwrap();
            let reason = soon("the end", sender.closed()).await;
            assert_eq!(reason.is_slow_consumer(), disconnect, "{kind:?}: {reason:?}");
            assert_eq!(reason.timeout().is_some(), !disconnect, "{kind:?}: {reason:?}");
            let (count, end) = soon("the end there", receive_all(&mut there)).await;
            assert!(count == 0 && end.is_err(), "{kind:?} {disconnect}: {count}, {end:?}");
            drop((sender, receiver));
        }
    }
}

// ---- packets that arrived before a write failed

/// How the test receives.
#[derive(Clone, Copy, Debug)]
enum Receives {
    Recv,
    Many,
    Stream,
    Select,
}

async fn receive_by(how: Receives, conn: &mut PacketConn) -> (usize, Result<(), pktconn::Error>) {
    match how {
        Receives::Recv => receive_all(conn).await,
        Receives::Many => {
            let (mut count, mut packets) = (0, Vec::new());
            loop {
                match conn.recv_many(&mut packets, 3).await {
                    Ok(0) => return (count, Ok(())),
                    Ok(some) => count += some,
                    Err(error) => return (count, Err(error)),
                }
            }
        }
        Receives::Stream => {
            let mut count = 0;
            loop {
                match conn.next().await {
                    Some(Ok(_)) => count += 1,
                    Some(Err(error)) => return (count, Err(error)),
                    None => return (count, Ok(())),
                }
            }
        }
        Receives::Select => {
            let mut count = 0;
            loop {
                tokio::select! {
                    biased;
                    received = conn.recv() => match received {
                        Ok(Some(_)) => count += 1,
                        Ok(None) => return (count, Ok(())),
                        Err(error) => return (count, Err(error)),
                    },
                    () = tokio::task::yield_now() => {}
                }
            }
        }
    }
}

#[tokio::test]
async fn packets_that_arrived_before_a_failed_write_are_received() {
    for kind in ALL_KINDS {
        for how in [Receives::Recv, Receives::Many, Receives::Stream, Receives::Select] {
            for busy in [false, true] {
                let (mut here, mut there) = kind.pair(hour_deadlines()).await;
                // `there` does not receive all packets, so its drop causes a reset.
                here.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                assert!(there.recv().await.unwrap().is_some());
                for number in 0..20 {
                    there.send(numbered(number)).await.unwrap();
                }
                there.flush().await.unwrap();
                let_it_arrive().await;
                drop(there);
                let_it_arrive().await;
                if busy {
                    for _ in 0..128 {
                        tokio::task::coop::consume_budget().await;
                    }
                }
                while here.try_send(b"never read").is_ok() {
                    // No await that waits: the task must not yield before it receives.
                    if here.send_many(&mut vec![Packet::from(b"never read")]).await.is_err() {
                        break;
                    }
                }
                let (count, end) = soon("the end", receive_by(how, &mut here)).await;
                assert_eq!(count, 20, "{kind:?} {how:?}, busy: {busy}; {end:?}");
                assert!(end.is_err(), "{kind:?} {how:?}, busy: {busy}");
            }
        }
    }
}

/// The same without a poll of tokio's I/O driver in between: tokio does not know yet that the socket is readable.
#[test]
fn packets_that_arrived_since_the_last_driver_poll_are_received_after_a_failed_write() {
    for kind in ALL_KINDS {
        for how in [Receives::Recv, Receives::Many, Receives::Stream, Receives::Select] {
            for busy in [false, true] {
                let (pass, passed) = std::sync::mpsc::channel();
                let (go, gone) = std::sync::mpsc::channel::<()>();
                let (done, is_done) = std::sync::mpsc::channel();
                let (route_sender, route_receiver) = tokio::sync::oneshot::channel();
                let other_thread = std::thread::spawn(move || {
                    let other_runtime = runtime();
                    let mut there = other_runtime.block_on(async {
                        // This thread accepts, the test thread connects.
                        let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
                        route_sender.send(route).ok().unwrap();
                        tokio::spawn(server.serve(move |conn| {
                            pass.send(conn).unwrap();
                            async { Ok(()) }
                        }));
                        loop {
                            if let Ok(conn) = passed.try_recv() {
                                break conn;
                            }
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                    // It receives one of two packets, so its drop causes a reset.
                    other_runtime.block_on(async { assert!(there.recv().await.unwrap().is_some()) });
                    gone.recv().unwrap();
                    other_runtime.block_on(async {
                        there.send_many(&mut (0..20).map(numbered).collect()).await.unwrap();
                        there.flush().await.unwrap();
                        drop(there);
                        let_it_arrive().await;
                    });
                    done.send(()).unwrap();
                });
                runtime().block_on(async {
                    let route = route_receiver.await.unwrap();
                    let mut here = route.connect(hour_deadlines()).await;
                    here.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                    assert!(timeout(Duration::from_millis(50), here.recv()).await.is_err());
                    if busy {
                        for _ in 0..128 {
                            tokio::task::coop::consume_budget().await;
                        }
                    }
                    go.send(()).unwrap();
                    // Blocks the thread, so that this runtime does not poll its driver.
                    is_done.recv().unwrap();
                    let mut packets = vec![Packet::from(b"never read"); 4];
                    for _ in 0..20 {
                        let _ = tokio::task::unconstrained(here.send_many(&mut packets)).await;
                        packets.resize(4, Packet::from(b"never read"));
                    }
                    let (count, end) = soon("the end", receive_by(how, &mut here)).await;
                    assert_eq!(count, 20, "{kind:?} {how:?}, busy: {busy}; {end:?}");
                    assert!(end.is_err(), "{kind:?} {how:?}, busy: {busy}");
                });
                other_thread.join().unwrap();
            }
        }
    }
}

// ---- closing

#[tokio::test]
async fn a_close_waits_for_close_grace_if_the_peer_keeps_its_side_open() {
    for kind in [SocketKind::Tcp, SocketKind::Tls] {
        for grace in [None, Some(Duration::from_millis(100))] {
            let mut config = hour_deadlines();
            if let Some(grace) = grace {
                config = config.close_grace(grace);
            }
            let grace = grace.unwrap_or(Duration::from_secs(1));
            let (mut here, mut there) = kind.pair_with(config, hour_deadlines()).await;
            here.send(b"the last").await.unwrap();
            let began = Instant::now();
            let closing = tokio::spawn(async move {
                here.close().await.unwrap();
                began.elapsed()
            });
            assert!(there.recv().await.unwrap().is_some());
            let took = soon("the close", closing).await.unwrap();
            // Holds on any machine: no deadline passes too early.
            assert!(took >= grace, "{kind:?}: {took:?}");
            assert_within(grace + Duration::from_millis(900), took, kind);
            assert!(there.recv().await.unwrap().is_none(), "{kind:?}");
        }
    }
}

#[tokio::test]
async fn a_reset_within_close_grace_is_an_error_of_the_close() {
    for split in [false, true] {
        for late in [false, true] {
            loop {
                let (here, mut there) = common::tcp_pair(hour_deadlines()).await;
                let (sender, receiver) = here.split();
                let receiver = split.then_some(receiver);
                sender.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                assert!(there.recv().await.unwrap().is_some());
                let began = Instant::now();
                let closing = tokio::spawn(async move { sender.close().await });
                if late {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                drop(there);
                // On a slow machine the default grace of a second may be kind. Then try again.
                let is_in_time = began.elapsed() < Duration::from_millis(900);
                let closed = soon("the close", closing).await.unwrap();
                drop(receiver);
                if is_in_time {
                    assert!(
                        closed.as_ref().is_err_and(pktconn::Error::is_io),
                        "split {split}, late {late}: {closed:?}"
                    );
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_close_times_out_if_the_peer_does_not_acknowledge() {
    let config = hour_deadlines()
        .send_high_water(32 << 20)
        .close_timeout(Duration::from_millis(1500))
        .close_grace(Duration::from_millis(10));
    let (mut here, raw) = common::tcp_and_raw(config).await;
    for _ in 0..20 {
        here.send(vec![7; 1 << 20]).await.unwrap();
    }
    let began = Instant::now();
    let error = soon("the close", here.close()).await.unwrap_err();
    assert_eq!(error.timeout(), Some(pktconn::Timeout::Close));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    assert_within(Duration::from_millis(2000), took, "the close");
    let unsent = error.into_unsent();
    assert!(!unsent.is_empty() && unsent.iter().all(|packet| packet.len() == 1 << 20));
    drop(raw);
}

#[tokio::test]
async fn a_connection_that_closes_because_its_peer_did_writes_its_queue_first() {
    for kind in ALL_KINDS {
        let config = hour_deadlines().send_high_water(8 << 20);
        let (here, there) = kind.pair(config).await;
        let (server, mut server_receiver) = here.split();
        let (sender, mut receiver) = there.split();
        // More than the socket buffers hold, so a part is still queued when the peer closes.
        let large = vec![7; 6_000_000];
        sender.send(large.clone()).await.unwrap();
        let closing = tokio::spawn(async move { server.close().await });
        assert!(receiver.recv().await.unwrap().is_none(), "{kind:?}");
        let error = sender.send(b"too late").await.unwrap_err();
        assert!(error.is_remote_close(), "{kind:?}: {error:?}");
        // Receiving discards the packet, so that the other side can write all of it.
        let _ = server_receiver.recv().await;
        soon("the close", closing).await.unwrap().unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        soon("the second close", sender.close()).await.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        assert_eq!(sender.queued_bytes(), 0);
    }
}

#[tokio::test]
async fn the_half_close_setting_decides_whether_sending_works_after_the_peer_closed() {
    for on in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = hour_deadlines().half_close(on);
        let (conn, accepted) = tokio::join!(PacketConn::connect_with(addr, config), listener.accept());
        let (mut conn, mut raw) = (conn.unwrap(), accepted.unwrap().0);
        raw.shutdown().await.unwrap();
        assert!(conn.recv().await.unwrap().is_none());
        assert_eq!(conn.send(b"more").await.is_ok(), on);
        if on {
            conn.close().await.unwrap();
        }
        let mut bytes = Vec::new();
        soon("the end", raw.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(bytes, if on { frame(b"more") } else { Vec::new() });
    }
}

#[tokio::test]
async fn an_accepted_connection_can_send_after_a_half_close_by_default() {
    let (mut here, mut raw) = {
        let (server, route) = SocketKind::Tcp.bind(ServerConfig::from(hour_deadlines())).await;
        let (pass, mut passed) = mpsc::unbounded_channel();
        tokio::spawn(server.serve(move |conn| {
            pass.send(conn).unwrap();
            async { Ok(()) }
        }));
        let raw = TcpStream::connect(route.addr.socket_addr().unwrap()).await.unwrap();
        (passed.recv().await.unwrap(), raw)
    };
    raw.shutdown().await.unwrap();
    assert!(here.recv().await.unwrap().is_none());
    let_it_arrive().await;
    here.send(b"after the end").await.unwrap();
    drop(here);
    let mut bytes = Vec::new();
    soon("the end", raw.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, frame(b"after the end"));
}

/// The server closes, and its `Client` drops this connection and would reconnect.
#[tokio::test]
async fn a_close_by_the_server_is_clean_for_both_sides_if_the_peer_is_a_client() {
    for kind in ALL_KINDS {
        for queued in [false, true] {
            let (server, route) = kind.bind(ServerConfig::from(hour_deadlines())).await;
            let (report, mut reports) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |mut conn| {
                let report = report.clone();
                async move {
                    conn.recv().await?;
                    conn.send(b"goodbye").await?;
                    report.send(conn.close().await).unwrap();
                    Ok(())
                }
            }));
            let config = ClientConfig::new().conn(route.config(hour_deadlines()));
            let mut client = Client::new(&route.addr, config).unwrap();
            client.send(b"hello").await.unwrap();
            assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
            if queued {
                client.send(b"never received").await.unwrap();
            }
            assert!(matches!(soon("goodbye", client.recv()).await, Some(ClientEvent::Packet(_))));
            match soon("the end", client.recv()).await {
                Some(ClientEvent::Lost(lost)) => assert!(lost.error.is_remote_close(), "{kind:?}: {lost:?}"),
                other => panic!("{kind:?}: {other:?}"),
            }
            let closed = soon("the close", reports.recv()).await.unwrap();
            assert!(closed.is_ok(), "{kind:?}, queued: {queued}: {closed:?}");
        }
    }
}

/// A drop writes queued packets without waiting for the flush delay.
#[tokio::test]
async fn a_drop_writes_packets_that_wait_for_the_flush_delay() {
    for kind in ALL_KINDS {
        for undelivered in [false, true] {
            for peer_closed in [false, true] {
                let config = hour_deadlines().flush_delay(Duration::from_secs(3600));
                let (mut here, there) = kind.pair_with(config, hour_deadlines()).await;
                let (peer, mut receiver) = there.split();
                if undelivered {
                    peer.send(b"undelivered").await.unwrap();
                    peer.flush().await.unwrap();
                    let_it_arrive().await;
                } else if peer_closed {
                    let peer = peer.clone();
                    tokio::spawn(async move { peer.close().await });
                    assert!(here.recv().await.unwrap().is_none());
                }
                here.send(b"the last words").await.unwrap();
                drop(here);
                if undelivered || !peer_closed {
                    let packet = soon("the last words", receiver.recv()).await;
                    assert_eq!(
                        packet.unwrap().unwrap().payload(),
                        b"the last words",
                        "{kind:?} {undelivered}"
                    );
                    let end = soon("the end", receiver.recv()).await;
                    let is_clean = !undelivered && kind != SocketKind::Tls;
                    assert_eq!(end.is_ok(), is_clean, "{kind:?} {undelivered}: {end:?}");
                } else {
                    // The peer has closed, so it receives nothing. Its `close` reports whether the end was clean.
                    drop(receiver);
                    let closed = soon("the close", peer.close()).await;
                    assert!(closed.is_ok(), "{kind:?}: {closed:?}");
                }
            }
        }
    }
}
