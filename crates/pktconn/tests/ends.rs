//! A connection that ends without a close, while something of its peer's is undelivered, does not look like a clean close; and
//! one where nothing is lost does.
#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "common/transports.rs"]
mod transports;

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use common::{frame, numbered};
use futures::StreamExt;
use pktconn::{
    Checksum, Client, ClientConfig, ClientEvent, CodecConfig, ConnConfig, HeaderFormat, Packet, PacketConn,
    ServerConfig, SlowConsumer, TcpConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use transports::{ALL, Over, assert_within, let_it_arrive, patient, soon};

type HandlerResult = Result<(), Box<dyn StdError + Send + Sync>>;

/// How the other side finds the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finds {
    ByRecv,
    ByClose,
}

const BOTH: [Finds; 2] = [Finds::ByRecv, Finds::ByClose];

/// Receives up to the end: how many packets, and whether the end was clean.
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

/// The end of a connection of which something was not delivered, as `peer` finds it.
async fn assert_is_not_clean(peer: &mut PacketConn, finds: Finds, case: impl std::fmt::Debug) {
    let case = format!("{case:?}, {finds:?}");
    let end = match finds {
        Finds::ByRecv => soon(&case, receive_all(peer)).await.1,
        Finds::ByClose => soon(&case, peer.close()).await,
    };
    match end {
        Ok(()) => panic!("{case}: it looks like a clean close"),
        Err(error) => assert!(error.is_io(), "{case}: {error:?}"),
    }
}

/// Where the packets are that are never received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undelivered {
    InTheKernel,
    InTheBuffer,
}

/// Has packets of `there` arrive at `here` that are not received.
async fn leave_undelivered(place: Undelivered, here: &mut PacketConn, there: &PacketConn) {
    if place == Undelivered::InTheBuffer {
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

// ---- dropping

#[derive(Clone, Copy, Debug)]
enum Drops {
    Whole,
    SenderFirst,
    ReceiverFirst,
    CloneLast,
    InATask,
}

#[tokio::test]
async fn dropping_the_last_handle_with_undelivered_packets_is_no_clean_end() {
    for over in ALL {
        for place in [Undelivered::InTheBuffer, Undelivered::InTheKernel] {
            if over == Over::Unix && place == Undelivered::InTheBuffer {
                // A Unix socket has no reset of its own: the kernel makes one of what it holds.
                continue;
            }
            for drops in
                [Drops::Whole, Drops::SenderFirst, Drops::ReceiverFirst, Drops::CloneLast, Drops::InATask]
            {
                for finds in BOTH {
                    let (mut here, mut there) = over.pair(patient()).await;
                    leave_undelivered(place, &mut here, &there).await;
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
                    assert_is_not_clean(&mut there, finds, (over, place, drops)).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_arrives_after_the_receiver_was_dropped_is_undelivered_when_the_last_sender_goes() {
    for over in ALL {
        for finds in BOTH {
            let (here, mut there) = over.pair(patient()).await;
            let (sender, receiver) = here.split();
            drop(receiver);
            there.send(b"to nobody").await.unwrap();
            there.flush().await.unwrap();
            let_it_arrive().await;
            drop(sender);
            assert_is_not_clean(&mut there, finds, over).await;
        }
    }
}

#[tokio::test]
async fn packets_of_a_batch_that_was_not_taken_whole_are_undelivered() {
    for over in [Over::Tcp, Over::Tls] {
        for as_stream in [false, true] {
            let (mut here, mut there) = over.pair(patient()).await;
            there.send_many(&mut (0..10).map(numbered).collect()).await.unwrap();
            if as_stream {
                let (_sender, mut receiver) = here.split();
                assert_eq!(receiver.next().await.unwrap().unwrap(), numbered(0));
            } else {
                let mut packets = Vec::new();
                assert_eq!(here.recv_many(&mut packets, 3).await.unwrap(), 3);
                drop(here);
            }
            assert_is_not_clean(&mut there, Finds::ByRecv, (over, as_stream)).await;
        }
    }
}

/// A frame of which a part has arrived is undelivered too.
#[tokio::test]
async fn dropping_a_connection_in_the_middle_of_a_frame_is_no_clean_end() {
    let (mut here, mut raw) = common::tcp_and_raw(patient()).await;
    raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
    let_it_arrive().await;
    assert!(timeout(Duration::from_millis(20), here.recv()).await.is_err());
    drop(here);
    let error = soon("the end", raw.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

// ---- handlers

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handler {
    Fails,
    Panics,
    Returns,
    IsCut,
    IsDroppedWithItsServer,
}

/// A handler that takes one packet, says so, and ends in its way.
async fn end(way: Handler, mut conn: PacketConn, took: mpsc::UnboundedSender<()>) -> HandlerResult {
    let first = conn.recv().await?.ok_or("nothing came")?;
    assert_eq!(first.payload(), b"one");
    conn.send(b"a reply").await?;
    let_it_arrive().await;
    let _ = took.send(());
    match way {
        Handler::Fails => Err("as it was made to".into()),
        Handler::Panics => panic!("as it was made to"),
        Handler::Returns => Ok(()),
        Handler::IsCut | Handler::IsDroppedWithItsServer => std::future::pending().await,
    }
}

#[tokio::test]
async fn a_handler_that_ends_with_undelivered_packets_ends_its_connection_uncleanly() {
    for over in ALL {
        for way in [
            Handler::Fails,
            Handler::Panics,
            Handler::Returns,
            Handler::IsCut,
            Handler::IsDroppedWithItsServer,
        ] {
            for finds in BOTH {
                let (server, route) = over.bind(ServerConfig::from(patient())).await;
                let handle = server.handle();
                let (took, mut taken) = mpsc::unbounded_channel();
                let serving = tokio::spawn(server.serve(move |conn| end(way, conn, took.clone())));
                let mut peer = route.connect(patient()).await;
                peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                if over == Over::Unix {
                    // In the kernel.
                    tokio::task::yield_now().await;
                    while handle.traffic().packets_received == 0 {
                        tokio::task::yield_now().await;
                    }
                    peer.send(b"three").await.unwrap();
                    peer.flush().await.unwrap();
                }
                taken.recv().await.unwrap();
                match way {
                    Handler::IsCut => handle.shutdown_within(Duration::ZERO),
                    Handler::IsDroppedWithItsServer => serving.abort(),
                    _ => {}
                }
                assert_is_not_clean(&mut peer, finds, (over, way)).await;
                if finds == Finds::ByRecv {
                    assert_eq!(peer.stats().packets_received, 1, "{over:?} {way:?}: the reply");
                }
            }
        }
    }
}

/// The same as a `Client` on the other side tells it.
#[tokio::test]
async fn a_client_is_told_of_an_unclean_end_and_of_what_was_written() {
    for over in ALL {
        for way in [
            Handler::Fails,
            Handler::Panics,
            Handler::Returns,
            Handler::IsCut,
            Handler::IsDroppedWithItsServer,
        ] {
            let (server, route) = over.bind(ServerConfig::from(patient())).await;
            let handle = server.handle();
            let (took, mut taken) = mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| end(way, conn, took.clone())));
            let config = ClientConfig::new().conn(route.config(patient()));
            let mut client = Client::new(&route.addr, config.max_tries(1)).unwrap();
            client.send(b"one").await.unwrap();
            assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
            while handle.traffic().packets_received == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..9 {
                client.send(b"undelivered").await.unwrap();
            }
            taken.recv().await.unwrap();
            match way {
                Handler::IsCut => handle.shutdown_within(Duration::ZERO),
                Handler::IsDroppedWithItsServer => serving.abort(),
                _ => {}
            }
            match soon("the reply", client.recv()).await {
                Some(ClientEvent::Packet(packet)) => assert_eq!(packet.payload(), b"a reply"),
                other => panic!("{over:?} {way:?}: {other:?}"),
            }
            match soon("the end", client.recv()).await {
                Some(ClientEvent::Lost(lost)) => {
                    assert!(lost.error.is_io(), "{over:?} {way:?}: {:?}", lost.error);
                    assert_eq!(lost.delivery_unknown, 0..10, "{over:?} {way:?}");
                    assert!(!lost.may_miss_packets);
                }
                other => panic!("{over:?} {way:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_runtime_that_is_shut_down_with_undelivered_packets_ends_them_uncleanly() {
    let rt = runtime();
    for over in ALL {
        for finds in BOTH {
            for multi_thread in [false, true] {
                let (route_out, route_in) = std::sync::mpsc::channel();
                let (stop, stopped) = std::sync::mpsc::channel::<()>();
                let (took, mut taken) = mpsc::unbounded_channel();
                let theirs = std::thread::spawn(move || {
                    let theirs = if multi_thread {
                        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
                    } else {
                        runtime()
                    };
                    theirs.block_on(async {
                        let (server, route) = over.bind(ServerConfig::from(patient())).await;
                        route_out.send(route).unwrap();
                        let serving = server
                            .serve(move |conn| end(Handler::IsDroppedWithItsServer, conn, took.clone()));
                        tokio::select! {
                            _ = serving => {}
                            () = async {
                                while stopped.try_recv().is_err() {
                                    tokio::time::sleep(Duration::from_millis(1)).await;
                                }
                            } => {}
                        }
                    });
                    drop(theirs);
                });
                let route = route_in.recv().unwrap();
                rt.block_on(async {
                    let mut peer = route.connect(patient()).await;
                    peer.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                    taken.recv().await.unwrap();
                    peer.send(b"three").await.unwrap();
                    peer.flush().await.unwrap();
                    let_it_arrive().await;
                    stop.send(()).unwrap();
                    assert_is_not_clean(&mut peer, finds, (over, multi_thread)).await;
                });
                theirs.join().unwrap();
            }
        }
    }
}

/// A connection whose runtime is gone can still be used, and dropped, elsewhere.
#[test]
fn a_connection_that_outlives_its_runtime_with_undelivered_packets_ends_uncleanly() {
    let rt = runtime();
    for (sends, finds) in [(false, Finds::ByRecv), (true, Finds::ByRecv), (true, Finds::ByClose)] {
        let theirs = runtime();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut peer = rt.block_on(PacketConn::connect(addr)).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let here = theirs.block_on(async {
            let stream = TcpStream::from_std(accepted).unwrap();
            let mut here = PacketConn::from_tcp(stream, patient()).unwrap();
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
        drop(theirs);
        if sends {
            let _ = here.try_send(b"too late");
        }
        drop(here);
        rt.block_on(assert_is_not_clean(&mut peer, finds, sends));
    }
}

// ---- what the peer has done wrong

#[test]
fn a_packet_that_finds_its_runtime_gone_is_lost_and_the_end_is_not_clean() {
    for over in [Over::Tcp, Over::Tls] {
        for closes in [false, true] {
            let (mine, others) = (runtime(), runtime());
            let (server, route) = others.block_on(over.bind(ServerConfig::new()));
            let (pass, mut passed) = mpsc::unbounded_channel();
            others.spawn(server.serve(move |conn| {
                pass.send(conn).unwrap();
                async { Ok(()) }
            }));
            let connecting = mine.spawn(async move { route.connect(ConnConfig::new()).await });
            let (mut here, mut there) = others.block_on(async {
                let driven = std::thread::spawn(move || {
                    let here = mine.block_on(connecting).unwrap();
                    mine.shutdown_background();
                    here
                });
                let there = passed.recv().await.unwrap();
                (driven.join().unwrap(), there)
            });
            let case = format!("{over:?}, closes: {closes}");
            others.block_on(async {
                // It is written at once, or the end says that it was not.
                let _ = here.send(vec![7; 1 << 20]).await;
                if closes {
                    soon(&case, here.close()).await.unwrap_err();
                }
                drop(here);
                let end = soon(&case, there.recv()).await;
                assert!(end.is_err(), "{case}: it looks like a clean close");
            });
        }
    }
}

#[tokio::test]
async fn a_frame_that_is_not_acceptable_ends_the_connection_uncleanly_with_the_reply_before_it() {
    let too_long = (CodecConfig::new().max_payload_len(1000), CodecConfig::new());
    let bad_checksum = (CodecConfig::new().checksum(Checksum::Crc32), CodecConfig::new());
    for over in [Over::Tcp, Over::Tls] {
        for (name, (codec, peers)) in [("too long", too_long), ("bad checksum", bad_checksum)] {
            for kept in [false, true] {
                for finds in BOTH {
                    let case = (over, name, kept);
                    let configs = (patient().codec(codec), patient().codec(peers));
                    let (here, mut there) = over.pair_with(configs.0, configs.1).await;
                    let (sender, mut receiver) = here.split();
                    sender.send(b"a reply").await.unwrap();
                    there.send(vec![0; 2000]).await.unwrap();
                    there.send(vec![0; 2000]).await.unwrap();
                    there.flush().await.unwrap();
                    let error = soon("the error", receiver.recv()).await.unwrap_err();
                    assert!(error.is_protocol(), "{case:?}: {error:?}");
                    // Kept and not polled, or dropped at once.
                    let kept = kept.then_some((sender, receiver));
                    let began = Instant::now();
                    if finds == Finds::ByRecv && name == "too long" {
                        assert!(soon("the reply", there.recv()).await.unwrap().is_some(), "{case:?}");
                        assert_is_not_clean(&mut there, finds, case).await;
                    } else if finds == Finds::ByClose {
                        assert_is_not_clean(&mut there, finds, case).await;
                    }
                    assert_within(Duration::from_millis(1500), began.elapsed(), case);
                    drop(kept);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_frame_that_was_cut_short_ends_with_a_reset_after_the_reply() {
    for kept in [false, true] {
        let (here, mut raw) = common::tcp_and_raw(patient()).await;
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
async fn a_frame_that_came_too_late_ends_with_a_reset_after_the_reply() {
    for kept in [false, true] {
        let config = patient().frame_timeout(Duration::from_millis(50));
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
async fn a_peer_that_was_silent_for_too_long_sees_a_clean_end() {
    for kept in [false, true] {
        let config = patient().idle_timeout(Duration::from_millis(50));
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
async fn a_client_that_is_dropped_with_packets_in_its_inbox_ends_uncleanly() {
    for over in [Over::Tcp, Over::Tls] {
        for finds in BOTH {
            let (server, route) = over.bind(ServerConfig::from(patient())).await;
            let (pass, mut passed) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |conn| {
                pass.send(conn).unwrap();
                async { Ok(()) }
            }));
            let config = ClientConfig::new().conn(route.config(patient()));
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
            assert_is_not_clean(&mut peer, finds, over).await;
        }
    }
}

// ---- the other way round: nothing is lost

#[tokio::test]
async fn dropping_a_connection_of_which_everything_was_delivered_is_a_clean_end() {
    for over in [Over::Tcp, Over::Unix] {
        for drops in [Drops::Whole, Drops::SenderFirst, Drops::ReceiverFirst] {
            for finds in BOTH {
                let (mut here, mut there) = over.pair(patient()).await;
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
                match finds {
                    Finds::ByRecv => {
                        let (count, end) = soon("the end", receive_all(&mut there)).await;
                        assert!(count == 1 && end.is_ok(), "{over:?} {drops:?}: {count}, {end:?}");
                    }
                    Finds::ByClose => soon("the end", there.close()).await.unwrap(),
                }
            }
        }
    }
}

/// As a handler does that returns when its peer has closed.
#[tokio::test]
async fn dropping_a_connection_whose_end_was_received_delivers_all_that_was_sent() {
    for over in ALL {
        for by_stream in [false, true] {
            let (mut here, there) = over.pair(patient().send_high_water(4 << 20)).await;
            let (peer, mut receiver) = there.split();
            let reading = tokio::spawn(async move {
                // It reads only when everything was handed over.
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
            // The client's close by FIN, while it reads on.
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
            soon("the close", closing).await.unwrap().unwrap_or_else(|error| panic!("{over:?}: {error:?}"));
        }
    }
}

/// A peer that half-closes, and reads its replies later.
#[tokio::test]
async fn all_replies_arrive_at_a_peer_that_half_closes_though_their_handle_is_dropped_at_once() {
    for over in [Over::Tcp, Over::Unix] {
        let config = patient().send_high_water(8 << 20);
        let (mut here, mut raw): (PacketConn, Box<dyn RawStream>) = match over {
            Over::Unix => {
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
        if over == Over::Tcp {
            // One that `connect` has made closes with its peer.
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
        assert!(bytes == frame(&large), "{over:?}: {} bytes", bytes.len());
    }
}

trait RawStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> RawStream for T {}

#[tokio::test]
async fn a_close_with_unread_input_is_clean() {
    for over in ALL {
        for place in [Undelivered::InTheBuffer, Undelivered::InTheKernel] {
            for finds in BOTH {
                let (mut here, mut there) = over.pair(patient()).await;
                leave_undelivered(place, &mut here, &there).await;
                here.send(b"goodbye").await.unwrap();
                let closing = tokio::spawn(async move { here.close().await });
                match finds {
                    Finds::ByRecv => {
                        let (count, end) = soon("the end", receive_all(&mut there)).await;
                        assert!(count == 1 && end.is_ok(), "{over:?} {place:?}: {count}, {end:?}");
                    }
                    Finds::ByClose => {
                        let closed = soon("the end", there.close()).await;
                        assert!(closed.is_ok(), "{over:?} {place:?}: {closed:?}");
                    }
                }
                drop(there);
                let closed = soon("the close", closing).await.unwrap();
                assert!(closed.is_ok(), "{over:?} {place:?} {finds:?}: {closed:?}");
            }
        }
    }
}

#[tokio::test]
async fn dropping_the_receiver_ends_nothing_while_a_sender_lives() {
    for over in ALL {
        let (mut here, mut there) = over.pair(patient()).await;
        leave_undelivered(Undelivered::InTheBuffer, &mut here, &there).await;
        let (sender, receiver) = here.split();
        drop(receiver);
        for number in 0..3 {
            sender.send(numbered(number)).await.unwrap();
            assert_eq!(soon("a packet", there.recv()).await.unwrap(), Some(numbered(number)), "{over:?}");
        }
        sender.close().await.unwrap_or_else(|error| panic!("{over:?}: {error:?}"));
        assert!(there.recv().await.unwrap().is_none(), "{over:?}");
    }
}

// ---- what is queued

#[tokio::test]
async fn a_reply_arrives_though_the_handler_returns_with_undelivered_input() {
    assert_replies_arrive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_arrives_on_several_threads_too() {
    assert_replies_arrive().await;
}

async fn assert_replies_arrive() {
    for over in ALL {
        for (runs, len) in [(100, 20), (100, 500_000)] {
            let (server, route) = over.bind(ServerConfig::from(patient())).await;
            tokio::spawn(server.serve(move |mut conn| async move {
                conn.recv().await?;
                conn.send(vec![7; len]).await?;
                Ok(())
            }));
            for run in 0..runs {
                let mut peer = route.connect(patient()).await;
                let began = Instant::now();
                peer.send_many(&mut vec![Packet::from(b"one"), b"two".into(), b"three".into()])
                    .await
                    .unwrap();
                match soon("the reply", peer.recv()).await {
                    Ok(Some(reply)) => assert_eq!(reply.len(), len),
                    // The machine was too busy for the second that a reply has, which counts as an end.
                    Err(_) if began.elapsed() >= Duration::from_secs(1) => continue,
                    other => panic!("{over:?}, {len} bytes, run {run}: {other:?}"),
                }
                let end = soon("the end", peer.recv()).await;
                assert!(end.is_err() || over == Over::Unix, "{over:?}, {len} bytes, run {run}: {end:?}");
            }
        }
    }
}

/// A peer that does not read holds up an end without a close for a second, and not longer.
#[tokio::test]
async fn a_peer_that_does_not_read_sees_the_end_within_a_second_and_a_half() {
    let config = patient()
        .send_high_water(64 << 20)
        .tcp(TcpConfig::new().send_buffer(64 * 1024).recv_buffer(64 * 1024));
    let (here, mut raw) = common::tcp_and_raw(config).await;
    here.send(vec![7; 32 << 20]).await.unwrap();
    raw.write_all(&frame(b"undelivered")).await.unwrap();
    let_it_arrive().await;
    let began = Instant::now();
    drop(here);
    // Only a write tells it: it does not read.
    let writing = async {
        while raw.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the end", writing).await;
    assert_within(Duration::from_millis(1500), began.elapsed(), "the end");
}

/// A clean end says that everything was delivered: also of what this side has queued.
#[tokio::test]
async fn a_drop_that_loses_queued_packets_is_no_clean_end() {
    let config = patient()
        .codec(CodecConfig::new().header(HeaderFormat::U16Le).max_payload_len(1000))
        .send_high_water(64 << 20)
        .tcp(TcpConfig::new().send_buffer(16 * 1024).recv_buffer(16 * 1024));
    let (here, mut there) = common::tcp_pair(config).await;
    // Frames of two bytes: wherever the kernel stops, a frame ends.
    let sent = 4 << 20;
    here.send_many(&mut vec![Packet::from(b""); sent]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(here.queued_bytes() > 0, "the kernel has taken everything");
    drop(here);
    let (count, end) = soon("the end", receive_all(&mut there)).await;
    assert!(end.is_err() || count == sent, "{count} of {sent} packets, and then {end:?}");
}

/// One that is cut while its peer does not read has its packets given back, and does not look clean either.
#[tokio::test]
async fn handles_that_are_kept_and_not_polled_do_not_hold_up_the_end_of_one_that_is_cut() {
    for over in ALL {
        for queued in [10, 4 << 20] {
            let config = patient().send_high_water(8 << 20);
            let (server, route) = over.bind(config.into()).await;
            let handle = server.handle();
            let (pass, mut passed) = mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                pass.send(conn.split()).unwrap();
                std::future::pending()
            }));
            let mut peer = route.connect(patient()).await;
            let kept = passed.recv().await.unwrap();
            kept.0.send(vec![7; queued]).await.unwrap();
            peer.send(b"undelivered").await.unwrap();
            peer.flush().await.unwrap();
            let_it_arrive().await;
            let began = Instant::now();
            handle.shutdown_within(Duration::ZERO);
            let report = soon("the report", serving).await.unwrap();
            assert_within(Duration::from_millis(1500), began.elapsed(), (over, queued));
            assert_eq!(report.cut.len(), 1);
            let (count, end) = soon("the end", receive_all(&mut peer)).await;
            assert!(end.is_err(), "{over:?}, {queued} bytes: {count} packets and a clean end");
            drop(kept);
        }
    }
}

// ---- a peer that takes nothing

#[tokio::test]
async fn a_peer_that_takes_nothing_sees_the_end_though_the_receiver_is_kept() {
    for over in ALL {
        for disconnect in [false, true] {
            let config = patient().send_high_water(16 << 20);
            let config = if disconnect {
                config.slow_consumer(SlowConsumer::Disconnect).send_max_lag(Duration::from_millis(100))
            } else {
                config.write_timeout(Duration::from_millis(100))
            };
            let (here, mut there) = over.pair_with(config, patient()).await;
            let (sender, receiver) = here.split();
            sender.send(vec![7; 14 << 20]).await.unwrap();
            let reason = soon("the end", sender.closed()).await;
            assert_eq!(reason.is_slow_consumer(), disconnect, "{over:?}: {reason:?}");
            assert_eq!(reason.timeout().is_some(), !disconnect, "{over:?}: {reason:?}");
            let (count, end) = soon("the end there", receive_all(&mut there)).await;
            assert!(count == 0 && end.is_err(), "{over:?} {disconnect}: {count}, {end:?}");
            drop((sender, receiver));
        }
    }
}

// ---- packets that have arrived before a write failed

/// How what has arrived is received.
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
async fn what_has_arrived_is_received_though_a_write_failed_first() {
    for over in ALL {
        for how in [Receives::Recv, Receives::Many, Receives::Stream, Receives::Select] {
            for busy in [false, true] {
                let (mut here, mut there) = over.pair(patient()).await;
                // So that the end of `there` comes with a reset: it has not received all.
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
                while here.try_send(b"nobody there").is_ok() {
                    // In one turn with what is received.
                    if here.send_many(&mut vec![Packet::from(b"nobody")]).await.is_err() {
                        break;
                    }
                }
                let (count, end) = soon("the end", receive_by(how, &mut here)).await;
                assert_eq!(count, 20, "{over:?} {how:?}, busy: {busy}; {end:?}");
                assert!(end.is_err(), "{over:?} {how:?}, busy: {busy}");
            }
        }
    }
}

/// The same where everything happens in one turn of the scheduler: what tokio knows of the socket is older than the packets.
#[test]
fn what_arrives_in_the_turn_of_a_failed_write_is_received() {
    for over in ALL {
        for how in [Receives::Recv, Receives::Many, Receives::Stream, Receives::Select] {
            for busy in [false, true] {
                let (pass, passed) = std::sync::mpsc::channel();
                let (go, gone) = std::sync::mpsc::channel::<()>();
                let (done, is_done) = std::sync::mpsc::channel();
                let (tell, told) = tokio::sync::oneshot::channel();
                let theirs = std::thread::spawn(move || {
                    let theirs = runtime();
                    let mut there = theirs.block_on(async {
                        // Accepted there, and connected here.
                        let (server, route) = over.bind(ServerConfig::from(patient())).await;
                        tell.send(route).ok().unwrap();
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
                    // A packet that it does not take has its end come with a reset.
                    theirs.block_on(async { assert!(there.recv().await.unwrap().is_some()) });
                    gone.recv().unwrap();
                    theirs.block_on(async {
                        there.send_many(&mut (0..20).map(numbered).collect()).await.unwrap();
                        there.flush().await.unwrap();
                        drop(there);
                        let_it_arrive().await;
                    });
                    done.send(()).unwrap();
                });
                runtime().block_on(async {
                    let route = told.await.unwrap();
                    let mut here = route.connect(patient()).await;
                    here.send_many(&mut vec![Packet::from(b"one"), b"two".into()]).await.unwrap();
                    assert!(timeout(Duration::from_millis(50), here.recv()).await.is_err());
                    if busy {
                        for _ in 0..128 {
                            tokio::task::coop::consume_budget().await;
                        }
                    }
                    go.send(()).unwrap();
                    // In place: this runtime gets no turn.
                    is_done.recv().unwrap();
                    let mut packets = vec![Packet::from(b"nobody there"); 4];
                    for _ in 0..20 {
                        let _ = tokio::task::unconstrained(here.send_many(&mut packets)).await;
                        packets.resize(4, Packet::from(b"nobody there"));
                    }
                    let (count, end) = soon("the end", receive_by(how, &mut here)).await;
                    assert_eq!(count, 20, "{over:?} {how:?}, busy: {busy}; {end:?}");
                    assert!(end.is_err(), "{over:?} {how:?}, busy: {busy}");
                });
                theirs.join().unwrap();
            }
        }
    }
}

// ---- closing

#[tokio::test]
async fn a_close_waits_a_grace_for_a_peer_that_keeps_its_side_open() {
    for over in [Over::Tcp, Over::Tls] {
        for grace in [None, Some(Duration::from_millis(100))] {
            let mut config = patient();
            if let Some(grace) = grace {
                config = config.close_grace(grace);
            }
            let grace = grace.unwrap_or(Duration::from_secs(1));
            let (mut here, mut there) = over.pair_with(config, patient()).await;
            here.send(b"the last").await.unwrap();
            let began = Instant::now();
            let closing = tokio::spawn(async move {
                here.close().await.unwrap();
                began.elapsed()
            });
            assert!(there.recv().await.unwrap().is_some());
            let took = soon("the close", closing).await.unwrap();
            // No deadline passes before its time, on any machine.
            assert!(took >= grace, "{over:?}: {took:?}");
            assert_within(grace + Duration::from_millis(900), took, over);
            assert!(there.recv().await.unwrap().is_none(), "{over:?}");
        }
    }
}

#[tokio::test]
async fn a_reset_within_the_grace_is_an_error_of_the_close() {
    for split in [false, true] {
        for late in [false, true] {
            loop {
                let (here, mut there) = common::tcp_pair(patient()).await;
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
                // A slow machine may be late for the grace of a second.
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
async fn a_close_waits_for_a_peer_that_acknowledges_nothing_until_its_timeout() {
    let config = patient()
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
async fn a_client_closes_with_its_server_and_writes_what_is_queued_first() {
    for over in ALL {
        let config = patient().send_high_water(8 << 20);
        let (here, there) = over.pair(config).await;
        let (server, mut server_receiver) = here.split();
        let (sender, mut receiver) = there.split();
        // More than a socket takes: it is queued when the close comes.
        let large = vec![7; 6_000_000];
        sender.send(large.clone()).await.unwrap();
        let closing = tokio::spawn(async move { server.close().await });
        assert!(receiver.recv().await.unwrap().is_none(), "{over:?}");
        let error = sender.send(b"too late").await.unwrap_err();
        assert!(error.is_remote_close(), "{over:?}: {error:?}");
        // Discarded there, and so taken.
        let _ = server_receiver.recv().await;
        soon("the close", closing).await.unwrap().unwrap_or_else(|error| panic!("{over:?}: {error:?}"));
        soon("the own close", sender.close()).await.unwrap_or_else(|error| panic!("{over:?}: {error:?}"));
        assert_eq!(sender.queued_bytes(), 0);
    }
}

#[tokio::test]
async fn half_close_is_what_it_was_set_to() {
    for on in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = patient().half_close(on);
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
async fn an_accepted_connection_sends_on_after_its_peer_has_closed() {
    let (mut here, mut raw) = {
        let (server, route) = Over::Tcp.bind(ServerConfig::from(patient())).await;
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

/// The server closes, and its client, which keeps its connection up, lets go of this one.
#[tokio::test]
async fn a_close_towards_a_client_of_which_everything_was_delivered_is_clean() {
    for over in ALL {
        for queued in [false, true] {
            let (server, route) = over.bind(ServerConfig::from(patient())).await;
            let (tell, mut told) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |mut conn| {
                let tell = tell.clone();
                async move {
                    conn.recv().await?;
                    conn.send(b"goodbye").await?;
                    tell.send(conn.close().await).unwrap();
                    Ok(())
                }
            }));
            let config = ClientConfig::new().conn(route.config(patient()));
            let mut client = Client::new(&route.addr, config).unwrap();
            client.send(b"hello").await.unwrap();
            assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
            if queued {
                client.send(b"more, which nobody receives").await.unwrap();
            }
            assert!(matches!(soon("goodbye", client.recv()).await, Some(ClientEvent::Packet(_))));
            match soon("the end", client.recv()).await {
                Some(ClientEvent::Lost(lost)) => assert!(lost.error.is_remote_close(), "{over:?}: {lost:?}"),
                other => panic!("{over:?}: {other:?}"),
            }
            let closed = soon("the close", told.recv()).await.unwrap();
            assert!(closed.is_ok(), "{over:?}, queued: {queued}: {closed:?}");
        }
    }
}

/// Packets that gather under a flush delay do not wait for that at the end.
#[tokio::test]
async fn what_waits_for_its_flush_delay_leaves_at_the_end() {
    for over in ALL {
        for undelivered in [false, true] {
            for told in [false, true] {
                let config = patient().flush_delay(Duration::from_secs(3600));
                let (mut here, there) = over.pair_with(config, patient()).await;
                let (peer, mut receiver) = there.split();
                if undelivered {
                    peer.send(b"undelivered").await.unwrap();
                    peer.flush().await.unwrap();
                    let_it_arrive().await;
                } else if told {
                    let peer = peer.clone();
                    tokio::spawn(async move { peer.close().await });
                    assert!(here.recv().await.unwrap().is_none());
                }
                here.send(b"the last words").await.unwrap();
                drop(here);
                if undelivered || !told {
                    let packet = soon("the last words", receiver.recv()).await;
                    assert_eq!(
                        packet.unwrap().unwrap().payload(),
                        b"the last words",
                        "{over:?} {undelivered}"
                    );
                    let end = soon("the end", receiver.recv()).await;
                    let is_clean = !undelivered && over != Over::Tls;
                    assert_eq!(end.is_ok(), is_clean, "{over:?} {undelivered}: {end:?}");
                } else {
                    // It has closed, and receives nothing more; but it learns whether that was clean.
                    drop(receiver);
                    let closed = soon("the close", peer.close()).await;
                    assert!(closed.is_ok(), "{over:?}: {closed:?}");
                }
            }
        }
    }
}
