//! A client that keeps a connection up: over pipes in memory, which a test cuts where it wants to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pktconn::{
    Client, ClientConfig, ClientEvent, ClientState, ConnConfig, Lost, Packet, PacketConn, PacketServer,
};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

mod common;
use common::{Flood, drop_after, frame, numbered};

const SECOND: Duration = Duration::from_secs(1);

/// A client whose connections are pipes of `capacity` bytes, and their other ends.
fn piped(config: ClientConfig, capacity: usize) -> (Client, UnboundedReceiver<DuplexStream>) {
    let (made, pipes) = unbounded_channel();
    let client = Client::with_connector(config, move |config| {
        let (here, there) = tokio::io::duplex(capacity);
        let sent = made.send(there);
        async move {
            sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(PacketConn::new(here, config)?)
        }
    });
    (client.unwrap(), pipes)
}

/// A client that cannot connect, and how often it has tried.
fn refused(config: ClientConfig) -> (Client, Arc<AtomicU32>) {
    let tries = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&tries);
    let client = Client::with_connector(config, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()) }
    });
    (client.unwrap(), tries)
}

async fn packet(client: &mut Client) -> Packet {
    match client.recv().await {
        Some(ClientEvent::Packet(packet)) => packet,
        other => panic!("instead of a packet: {other:?}"),
    }
}

async fn lost(client: &mut Client) -> Lost {
    match client.recv().await {
        Some(ClientEvent::Lost(lost)) => lost,
        other => panic!("instead of a loss: {other:?}"),
    }
}

async fn connected(client: &mut Client) {
    let event = client.recv().await;
    assert!(matches!(event, Some(ClientEvent::Connected)), "{event:?}");
}

async fn read(pipe: &mut DuplexStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pipe.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn eventually(mut is_true: impl FnMut() -> bool) {
    while !is_true() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn it_connects_and_echoes_over_tcp_and_ends_when_it_is_closed() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (server.local_addr(), server.handle());
    let serving = tokio::spawn(server.serve(|mut conn| async move {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(conn.close().await?)
    }));
    let mut client = Client::new(addr, ClientConfig::new()).unwrap();
    for number in 0..100 {
        assert_eq!(client.send(numbered(number)).await.unwrap(), u64::from(number));
    }
    connected(&mut client).await;
    assert!(client.state().borrow().is_connected());
    for number in 0..100 {
        assert_eq!(packet(&mut client).await, numbered(number));
    }
    client.close().await.unwrap();
    assert!(matches!(*client.state().borrow(), ClientState::Ended(None)));
    assert!(client.recv().await.is_none());
    assert!(client.send(b"late").await.unwrap_err().is_local_close());
    assert!(client.try_send(b"late").unwrap_err().is_local_close());
    client.close().await.unwrap();
    handle.shutdown();
    serving.await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_sent_before_there_is_a_server_arrives_when_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", dir.path().join("socket").display());
    let config = ClientConfig::new().max_backoff(Duration::from_millis(100));
    let mut client = Client::new(&path, config).unwrap();
    client.send(b"early").await.unwrap();
    let mut state = client.state();
    let waiting = state.wait_for(|state| matches!(state, ClientState::Waiting { .. })).await.unwrap();
    let ClientState::Waiting { failed_tries, delay, error, .. } = &*waiting else { unreachable!() };
    assert!(*failed_tries > 0 && *delay <= Duration::from_millis(100) && error.is_io(), "{waiting:?}");
    drop(waiting);

    let server = PacketServer::bind(&path).await.unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(|mut conn| async move {
        let packet = conn.recv().await?.ok_or("nothing came")?;
        conn.send(packet).await?;
        Ok(conn.close().await?)
    }));
    connected(&mut client).await;
    assert_eq!(packet(&mut client).await.payload(), b"early");
    let lost = lost(&mut client).await;
    assert!(lost.error.is_remote_close());
    assert_eq!(lost.delivery_unknown, 0..1);
    handle.shutdown();
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_not_wholly_written_is_sent_again_and_the_rest_is_told_of() {
    let (mut client, mut pipes) = piped(ClientConfig::new(), 25);
    for number in 0..5u8 {
        client.send(vec![number; 6]).await.unwrap();
    }
    let mut pipe = pipes.recv().await.unwrap();
    connected(&mut client).await;
    // Frames of 10 bytes: two are in the pipe, the third in part.
    eventually(|| client.sender().queued_bytes() == 0).await;
    sleep(SECOND).await;
    pipe.write_all(&frame(b"last words")).await.unwrap();
    drop(pipe);
    assert_eq!(packet(&mut client).await.payload(), b"last words");
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..2);

    connected(&mut client).await;
    client.send(vec![5; 6]).await.unwrap();
    let mut pipe = pipes.recv().await.unwrap();
    for number in 2..6u8 {
        assert_eq!(read(&mut pipe, 10).await, frame(&[number; 6]));
    }
    drop(pipe);
    assert_eq!(lost(&mut client).await.delivery_unknown, 2..6);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_begin_anew_after_a_connection_over_which_something_came() {
    let (client, tries) = refused(ClientConfig::new().max_backoff(4 * SECOND));
    let mut state = client.state();
    for (tried, least) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1600), (6, 2000), (7, 2000)] {
        let state = state.wait_for(|state| is_waiting(state, tried)).await.unwrap();
        let ClientState::Waiting { delay, .. } = &*state else { unreachable!() };
        let least = Duration::from_millis(least);
        assert!(*delay >= least && *delay <= 2 * least, "{delay:?} after try {tried}");
        assert_eq!(tries.load(Ordering::Relaxed), tried);
    }

    // Were these failures, the last pause would be one of half a minute.
    let (mut client, mut pipes) = piped(ClientConfig::new(), 1024);
    for _ in 0..20 {
        let mut pipe = timeout(SECOND, pipes.recv()).await.expect("a short pause").unwrap();
        pipe.write_all(&frame(b"welcome")).await.unwrap();
        drop(pipe);
        connected(&mut client).await;
        packet(&mut client).await;
        let ended = Instant::now();
        lost(&mut client).await;
        let waiting = client.state();
        assert!(matches!(*waiting.borrow(), ClientState::Waiting { failed_tries: 0, .. }), "{waiting:?}");
        client.state().wait_for(ClientState::is_connected).await.unwrap();
        assert!(ended.elapsed() >= Duration::from_millis(100));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_lasted_is_a_success_without_a_packet() {
    let (client, mut pipes) = piped(ClientConfig::new().max_tries(1), 1024);
    for _ in 0..3 {
        let pipe = pipes.recv().await.unwrap();
        sleep(30 * SECOND).await;
        drop(pipe);
    }
    drop(pipes.recv().await.unwrap());
    let mut state = client.state();
    assert!(matches!(&*state.wait_for(ClientState::is_ended).await.unwrap(), ClientState::Ended(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_can_never_work_is_not_repeated() {
    let tries = Arc::new(AtomicU32::new(0));
    let client = Client::with_connector(ClientConfig::new(), {
        let tries = Arc::clone(&tries);
        move |config| {
            tries.fetch_add(1, Ordering::Relaxed);
            // Without a port.
            async move { Ok(PacketConn::connect_with("localhost", config).await?) }
        }
    })
    .unwrap();
    client.send(b"kept").await.unwrap();
    let mut state = client.state();
    let ended = timeout(3600 * SECOND, state.wait_for(ClientState::is_ended)).await;
    assert!(matches!(&*ended.unwrap().unwrap(), ClientState::Ended(Some(error)) if error.is_config()));
    let error = client.close().await.unwrap_err();
    assert!(error.is_config() && error.unsent() == [b"kept".into()], "{error:?}");
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

fn is_waiting(state: &ClientState, tried: u32) -> bool {
    matches!(state, ClientState::Waiting { failed_tries, .. } if *failed_tries == tried)
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_at_once_are_failed_attempts() {
    let (mut client, mut pipes) = piped(ClientConfig::new().max_tries(5), 1024);
    let started = Instant::now();
    client.send(b"kept").await.unwrap();
    let taking = tokio::spawn(async move {
        let mut count = 0;
        while let Some(pipe) = pipes.recv().await {
            drop(pipe);
            count += 1;
        }
        count
    });
    while client.recv().await.is_some() {}
    // 100 + 200 + 400 + 800 ms, and up to as much again.
    assert!(started.elapsed() >= 15 * SECOND / 10 && started.elapsed() <= 3 * SECOND);
    let error = client.close().await.unwrap_err();
    assert!(error.is_io() || error.is_remote_close(), "{error:?}");
    drop(client);
    assert_eq!(taking.await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_says_why_and_gives_back_what_it_has() {
    let (mut client, tries) = refused(ClientConfig::new().max_tries(3));
    for number in 0..1000 {
        client.send(numbered(number)).await.unwrap();
    }
    client.send(vec![9; 100_000]).await.unwrap();
    assert!(client.recv().await.is_none());
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    let error = client.send(b"late").await.unwrap_err();
    assert!(error.is_io() && error.unsent()[0].payload() == b"late", "{error:?}");
    assert!(matches!(&*client.state().borrow(), ClientState::Ended(Some(error)) if error.is_io()));
    let error = client.close().await.unwrap_err();
    assert!(error.is_io(), "{error:?}");
    let unsent = error.into_unsent();
    assert!(unsent[..1000].iter().eq(&(0..1000).map(numbered).collect::<Vec<_>>()));
    assert_eq!(unsent[1000].payload(), [9; 100_000]);
    assert_eq!(unsent.len(), 1001);
    // Once.
    assert!(client.close().await.unwrap_err().into_unsent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_has_senders_wait_in_their_order_and_one_that_is_dropped_is_not_sent() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(100));
    let (mut client, mut pipes) = {
        let (made, pipes) = unbounded_channel();
        let client = Client::with_connector(config, move |config| {
            let made = made.clone();
            async move {
                sleep(10 * SECOND).await;
                let (here, there) = tokio::io::duplex(1 << 20);
                made.send(there)?;
                Ok(PacketConn::new(here, config)?)
            }
        });
        (client.unwrap(), pipes)
    };
    let sender = client.sender();
    // Frames of 50 bytes.
    sender.try_send(vec![0; 46]).unwrap();
    sender.try_send(vec![1; 46]).unwrap();
    assert_eq!(sender.queued_bytes(), 100);
    let full = sender.try_send(vec![2; 46]).unwrap_err();
    assert!(full.is_full() && full.unsent()[0].payload() == [2; 46]);
    assert!(sender.try_send(vec![]).unwrap_err().is_full());
    assert!(drop_after(1, sender.send(vec![7; 46])).await.is_none(), "there was room");
    // The large one first, which passes alone.
    let large = tokio::spawn({
        let sender = client.sender();
        async move { sender.send(vec![3; 500]).await }
    });
    tokio::task::yield_now().await;
    let small = tokio::spawn({
        let sender = client.sender();
        async move { sender.send(vec![4; 1]).await }
    });
    connected(&mut client).await;
    assert_eq!(large.await.unwrap().unwrap(), 2);
    assert_eq!(small.await.unwrap().unwrap(), 3);
    let mut pipe = pipes.recv().await.unwrap();
    let expected = [frame(&[0; 46]), frame(&[1; 46]), frame(&[3; 500]), frame(&[4])].concat();
    assert_eq!(read(&mut pipe, expected.len()).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_packet_over_the_limit_is_refused_and_nothing_else() {
    let codec = pktconn::CodecConfig::new().max_payload_len(10);
    let (client, mut pipes) = piped(ClientConfig::new().conn(ConnConfig::new().codec(codec)), 1024);
    let error = client.send(vec![1; 11]).await.unwrap_err();
    assert!(error.is_payload_too_large() && error.unsent().len() == 1, "{error:?}");
    assert!(client.try_send(vec![1; 11]).unwrap_err().is_payload_too_large());
    assert_eq!(client.send(vec![1; 10]).await.unwrap(), 0);
    let mut pipe = pipes.recv().await.unwrap();
    assert_eq!(read(&mut pipe, 14).await, frame(&[1; 10]));
}

#[tokio::test(start_paused = true)]
async fn a_close_sends_what_is_queued_over_an_attempt_that_is_under_way_or_one_more() {
    for wait_for_failure in [false, true] {
        let (made, mut pipes) = unbounded_channel();
        let fails = Arc::new(AtomicU32::new(u32::from(wait_for_failure)));
        let left = Arc::clone(&fails);
        let client = Client::with_connector(ClientConfig::new().min_backoff(20 * SECOND), move |config| {
            let (here, there) = tokio::io::duplex(1024);
            let fails =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            let made = made.clone();
            async move {
                if fails {
                    return Err("not yet".into());
                }
                sleep(SECOND).await;
                made.send(there)?;
                Ok(PacketConn::new(here, config)?)
            }
        })
        .unwrap();
        client.send(b"the last").await.unwrap();
        if wait_for_failure {
            client.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
        }
        let started = Instant::now();
        let peer = tokio::spawn(async move {
            let mut pipe = pipes.recv().await.unwrap();
            let mut all = Vec::new();
            pipe.read_to_end(&mut all).await.unwrap();
            all
        });
        client.close().await.unwrap();
        assert_eq!(started.elapsed(), SECOND);
        assert_eq!(peer.await.unwrap(), frame(b"the last"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_connection_is_over_at_once_or_gives_back_what_was_queued() {
    // Nothing is queued.
    let (client, _) = refused(ClientConfig::new());
    client.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
    let started = Instant::now();
    client.close().await.unwrap();
    assert!(started.elapsed().is_zero());

    // The one attempt more fails.
    let (client, tries) = refused(ClientConfig::new());
    client.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
    client.send(b"unsent").await.unwrap();
    let error = client.close().await.unwrap_err();
    assert!(error.is_io() && error.unsent()[0].payload() == b"unsent", "{error:?}");
    assert_eq!(tries.load(Ordering::Relaxed), 2);

    // An attempt takes too long.
    let conn = ConnConfig::new().close_timeout(3 * SECOND);
    let client = Client::with_connector(ClientConfig::new().conn(conn), |_| std::future::pending()).unwrap();
    client.send(b"unsent").await.unwrap();
    let started = Instant::now();
    let error = client.close().await.unwrap_err();
    assert!(error.is_timeout() && error.unsent().len() == 1, "{error:?}");
    assert_eq!(started.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_close_under_a_peer_that_does_not_read_gives_back_the_rest() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(30));
    let (mut client, mut pipes) = piped(config, 25);
    let pipe = pipes.recv().await.unwrap();
    connected(&mut client).await;
    let mut accepted = 0;
    while client.try_send(vec![accepted; 6]).is_ok() {
        accepted += 1;
        sleep(SECOND).await;
    }
    // Frames of 10 bytes in the pipe, in the send queue and in the queue.
    assert!(accepted >= 2 + 3 + 3, "{accepted}");
    let error = client.close().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let unsent: Vec<_> = error.unsent().iter().map(|packet| packet.payload()[0]).collect();
    assert_eq!(unsent, (2..accepted).collect::<Vec<_>>());
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..2);
    assert!(client.recv().await.is_none());
    drop(pipe);
}

#[tokio::test(start_paused = true)]
async fn packets_of_the_connector_come_first_and_are_neither_counted_nor_sent_again() {
    let (made, mut pipes) = unbounded_channel();
    let mut client = Client::with_connector(ClientConfig::new(), move |config| {
        let made = made.clone();
        async move {
            let (here, there) = tokio::io::duplex(12);
            made.send(there)?;
            let conn = PacketConn::new(here, config)?;
            conn.send(b"login 1").await?;
            conn.send(b"login 2").await?;
            Ok(conn)
        }
    })
    .unwrap();
    client.send(b"a").await.unwrap();
    client.send(b"b").await.unwrap();
    connected(&mut client).await;
    let pipe = pipes.recv().await.unwrap();
    eventually(|| client.sender().queued_bytes() == 0).await;
    // The first login is in the pipe, and a byte of the second.
    drop(pipe);
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..0);
    let mut pipe = pipes.recv().await.unwrap();
    let expected = [frame(b"login 1"), frame(b"login 2"), frame(b"a"), frame(b"b")].concat();
    assert_eq!(read(&mut pipe, expected.len()).await, expected);
    connected(&mut client).await;
    drop(pipe);
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_less_than_the_client_is_refused() {
    let config = ConnConfig::new().codec(pktconn::CodecConfig::new().max_payload_len(10));
    let client = Client::with_connector(ClientConfig::new(), move |_| {
        let (here, _) = tokio::io::duplex(1024);
        let conn = PacketConn::new(here, config.clone());
        async { Ok(conn?) }
    })
    .unwrap();
    client.state().wait_for(ClientState::is_ended).await.unwrap();
    assert!(client.close().await.unwrap_err().is_config());
}

#[tokio::test(start_paused = true)]
async fn losses_that_nobody_looks_at_are_told_as_one() {
    let (mut client, mut pipes) = piped(ClientConfig::new().max_backoff(SECOND), 1024);
    for number in 0..1000u64 {
        assert_eq!(client.send(vec![1; 6]).await.unwrap(), number);
        let mut pipe = pipes.recv().await.unwrap();
        read(&mut pipe, 10).await;
    }
    pipes.close();
    client.state().wait_for(|state| matches!(state, ClientState::Waiting { .. })).await.unwrap();
    connected(&mut client).await;
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..1000);
    assert!(drop_after(1, client.recv()).await.is_none(), "that was all");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_and_sends_without_a_pause_is_left_too() {
    let mut client = Client::with_connector(ClientConfig::new(), |config| {
        let conn = PacketConn::new(Flood, config);
        async { Ok(conn?) }
    })
    .unwrap();
    client.send(b"for nobody").await.unwrap();
    connected(&mut client).await;
    for number in 0..100_000 {
        match client.recv().await {
            Some(ClientEvent::Packet(_)) => {}
            Some(ClientEvent::Lost(lost)) => {
                assert!(lost.error.is_timeout() && lost.delivery_unknown.is_empty(), "{lost:?}");
                assert!(lost.may_miss_packets, "the peer has sent on");
                return;
            }
            other => panic!("{other:?}"),
        }
        if number == 1000 {
            tokio::time::advance(31 * SECOND).await;
        }
    }
    panic!("it is received from for ever");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_receive_holds_the_peer_up_and_a_reconnect_and_loses_nothing() {
    let (mut client, mut pipes) = piped(ClientConfig::new(), 100);
    let mut pipe = pipes.recv().await.unwrap();
    let all: Vec<u8> = (0..50).flat_map(|number| frame(&[number; 6])).collect();
    // A batch is in the client, and a read of the connection; the rest stays with the peer.
    let written = timeout(3600 * SECOND, pipe.write_all(&all)).await;
    assert!(written.is_err(), "the client took 500 bytes");
    drop(pipe);
    assert!(timeout(3600 * SECOND, pipes.recv()).await.is_err(), "it has connected again");
    connected(&mut client).await;
    let mut received = 0;
    let lost = loop {
        match client.recv().await.unwrap() {
            ClientEvent::Packet(packet) => assert_eq!(packet.payload(), [received; 6]),
            ClientEvent::Lost(lost) => break lost,
            event => panic!("{event:?}"),
        }
        received += 1;
    };
    assert!(lost.error.is_truncated() || lost.error.is_remote_close(), "{lost:?}");
    assert!(received >= 20, "{received} packets");
    connected(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_alone_keeps_the_connection_and_what_arrives_is_discarded() {
    let (client, mut pipes) = piped(ClientConfig::new(), 100);
    let mut pipe = pipes.recv().await.unwrap();
    let sender = client.sender();
    pipe.write_all(&frame(b"unread")).await.unwrap();
    sleep(SECOND).await;
    drop(client);
    for _ in 0..100 {
        pipe.write_all(&frame(b"discarded")).await.unwrap();
    }
    sender.send(b"still here").await.unwrap();
    assert_eq!(read(&mut pipe, 14).await, frame(b"still here"));
    drop(pipe);
    let mut pipe = pipes.recv().await.unwrap();
    sender.send(b"and now").await.unwrap();
    // With the last handle the connection goes, and what the transport takes before.
    drop(sender);
    let mut all = Vec::new();
    pipe.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, frame(b"and now"));
    assert!(pipes.recv().await.is_none(), "the connector is still there");
}

#[tokio::test(start_paused = true)]
async fn without_handles_attempts_and_pauses_are_given_up() {
    let (waits, _) = refused(ClientConfig::new());
    waits.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
    let connects = Client::with_connector(ClientConfig::new(), |_| std::future::pending()).unwrap();
    tokio::task::yield_now().await;
    for client in [waits, connects] {
        let (mut state, started) = (client.state(), Instant::now());
        drop(client);
        while state.changed().await.is_ok() {}
        assert!(started.elapsed().is_zero());
    }
}

#[test]
fn a_client_whose_runtime_is_gone_has_ended_and_gives_back_what_was_not_written() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, mut pipes) = runtime.block_on(async { piped(ClientConfig::new(), 25) });
    let pipe = runtime.block_on(async {
        let pipe = pipes.recv().await.unwrap();
        for number in 0..5u8 {
            client.send(vec![number; 6]).await.unwrap();
        }
        sleep(Duration::from_millis(20)).await;
        client.send(vec![5; 6]).await.unwrap();
        pipe
    });
    drop(runtime);
    let error = futures::executor::block_on(client.send(b"too late")).unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert!(matches!(&*client.state().borrow(), ClientState::Ended(Some(error)) if error.is_io()));
    let error = futures::executor::block_on(client.close()).unwrap_err();
    assert!(error.is_io(), "{error:?}");
    let unsent: Vec<_> = error.unsent().iter().map(|packet| packet.payload()[0]).collect();
    assert_eq!(unsent, [2, 3, 4, 5]);
    drop(pipe);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_ends_the_client_which_gives_back_what_was_not_written() {
    let (made, mut pipes) = unbounded_channel();
    let mut client = Client::with_connector(ClientConfig::new(), move |config| {
        let (here, there) = tokio::io::duplex(25);
        let sent = made.send(there);
        async move {
            sent.expect("a second attempt");
            Ok(PacketConn::new(here, config)?)
        }
    })
    .unwrap();
    for number in 0..5u8 {
        client.send(vec![number; 6]).await.unwrap();
    }
    let pipe = pipes.recv().await.unwrap();
    eventually(|| client.sender().queued_bytes() == 0).await;
    drop((pipe, pipes));
    connected(&mut client).await;
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..2);
    assert!(client.recv().await.is_none());
    assert!(client.state().borrow().is_ended());
    let error = client.close().await.unwrap_err();
    let unsent: Vec<_> = error.unsent().iter().map(|packet| packet.payload()[0]).collect();
    assert!(error.is_io() && unsent == [2, 3, 4], "{error:?} {unsent:?}");
}

/// What the application has given, and what panics: wakers, and the memory of packets.
struct Panics(Vec<u8>);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics, as it was made to");
    }
}

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        // A waker is dropped by the test.
        if !self.0.is_empty() && !std::thread::panicking() {
            panic!("the memory of a packet panics, as it was made to");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_does_not_end_the_client_that_wakes_it() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(100));
    let (mut client, mut pipes) = piped(config, 50);
    let waker = Waker::from(Arc::new(Panics(Vec::new())));
    let mut cx = Context::from_waker(&waker);
    let (sender, mut state) = (client.sender(), client.state());
    let mut waiting = Box::pin(async { drop(client.recv().await) });
    let mut watching = Box::pin(state.wait_for(ClientState::is_ended));
    assert!(waiting.as_mut().poll(&mut cx).is_pending() && watching.as_mut().poll(&mut cx).is_pending());
    // There is a connection, which is an event and another state.
    let mut pipe = pipes.recv().await.unwrap();
    sleep(SECOND).await;
    while sender.try_send(vec![1; 50]).is_ok() {
        sleep(SECOND).await;
    }
    let mut sending = Box::pin(sender.send(vec![2; 90]));
    assert!(sending.as_mut().poll(&mut cx).is_pending());
    let reading = tokio::spawn(async move { pipe.read_to_end(&mut Vec::new()).await });
    sleep(SECOND).await;
    drop(sending);
    assert!(sender.state().borrow().is_connected(), "{:?}", sender.state());
    sender.close().await.unwrap();
    assert!(reading.await.unwrap().unwrap() > 100);
}

#[tokio::test(start_paused = true)]
async fn memory_that_panics_does_not_end_the_client_that_frees_it() {
    for len in [40_000, 100_000, 1_000_000] {
        let (client, mut pipes) = piped(ClientConfig::new(), 2 << 20);
        let mut pipe = pipes.recv().await.unwrap();
        let sender = client.sender();
        let packet = Packet::from(bytes::Bytes::from_owner(Panics(vec![7; len])));
        // A smaller one is copied, and freed here.
        let sent = tokio::spawn(async move { sender.send(packet).await }).await;
        assert!(sent.is_ok() || len < 65_536);
        client.send(b"behind it").await.unwrap();
        pipe.read_exact(&mut vec![0; 4 + len + 4 + 9]).await.unwrap();
        client.send(b"later").await.unwrap();
        pipe.read_exact(&mut [0; 4 + 5]).await.unwrap();
    }
}

/// A pipe that panics at the first write but so many.
struct PanicsWhenWritten(DuplexStream, u32);

impl AsyncRead for PanicsWhenWritten {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PanicsWhenWritten {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.1 = self.1.checked_sub(1).expect("a transport panics, as it was made to");
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_while_a_client_closes_gives_back_what_was_not_written() {
    // Whether the close finds the packets sent already is up to chance.
    for run in 0..60 {
        let (made, mut pipes) = unbounded_channel();
        let client = Client::with_connector(ClientConfig::new().max_tries(1), move |config| {
            let (here, there) = tokio::io::duplex(2 << 20);
            made.send(there).unwrap();
            async move { Ok(PacketConn::new(PanicsWhenWritten(here, run % 3), config)?) }
        })
        .unwrap();
        for number in 0..3 {
            client.try_send(vec![number; 100_000]).unwrap();
        }
        let mut closing = Box::pin(client.close());
        // Before there is a connection.
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let unsent = closing.await.unwrap_err().into_unsent();
        let mut bytes = Vec::new();
        pipes.recv().await.unwrap().read_to_end(&mut bytes).await.unwrap();
        let written = bytes.len() / 100_004;
        let unsent: Vec<_> = unsent.iter().map(|packet| usize::from(packet.payload()[0])).collect();
        assert_eq!(unsent, (written..3).collect::<Vec<_>>(), "{} bytes were written", bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_is_a_loss_and_each_packet_is_written_or_sent_again() {
    // In their own memory as a whole; by the batch; and as soon as they are a write's worth.
    for (packets, len) in [(1, 40_000), (20, 100), (20, 30_000)] {
        for writes in 0..4 {
            let (made, mut pipes) = unbounded_channel();
            let nth = AtomicU32::new(0);
            let mut client = Client::with_connector(ClientConfig::new(), move |config| {
                let (here, there) = tokio::io::duplex(2 << 20);
                let sent = made.send(there);
                let writes = if nth.fetch_add(1, Ordering::Relaxed) == 0 { writes } else { u32::MAX };
                async move {
                    sent?;
                    Ok(PacketConn::new(PanicsWhenWritten(here, writes), config)?)
                }
            })
            .unwrap();
            let payload = |number: u8| vec![number; len];
            for number in 0..packets {
                // As it was received, with its header.
                let packet = Packet::from(payload(number));
                client.send(if packets == 1 { received(&packet).await } else { packet }).await.unwrap();
            }
            let (_first, mut second) = (pipes.recv().await.unwrap(), None);
            let mut written = 0;
            sleep(SECOND).await;
            while let Ok(Some(event)) = timeout(SECOND, client.recv()).await {
                if let ClientEvent::Lost(lost) = event {
                    assert!(lost.error.to_string().contains("panicked"), "{}", lost.error);
                    assert_eq!(lost.delivery_unknown.start, 0);
                    written = lost.delivery_unknown.end;
                    second = Some(pipes.recv().await.unwrap());
                }
            }
            let Some(mut second) = second else { continue };
            for number in written..u64::from(packets) {
                let mut bytes = vec![0; 4 + len];
                timeout(SECOND, second.read_exact(&mut bytes)).await.expect("it is missing").unwrap();
                assert_eq!(bytes[4..], payload(number as u8), "{packets} of {len}, {writes} writes");
            }
            let more = timeout(SECOND, second.read_u8()).await;
            assert!(more.is_err(), "{packets} of {len}, {writes} writes: one came twice");
        }
    }
}

/// `packet` as it comes from a peer.
async fn received(packet: &Packet) -> Packet {
    let (here, mut there) = common::piped_pair(1 << 20, ConnConfig::new());
    here.send(packet.clone()).await.unwrap();
    there.recv().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_left_at_the_deadline_also_while_nobody_receives() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(30));
    let (client, mut pipes) = piped(config, 25);
    let mut pipe = pipes.recv().await.unwrap();
    pipe.write_all(&frame(b"unread")).await.unwrap();
    sleep(SECOND).await;
    let started = Instant::now();
    // As a handler does that answers each packet before it receives the next.
    for _ in 0..20 {
        client.send(vec![1; 6]).await.unwrap();
        if let Ok(next) = pipes.try_recv() {
            pipe = next;
        }
    }
    assert!(started.elapsed() >= 30 * SECOND, "the send queue took it all");
    drop(pipe);
}

/// A peer that sends the same bytes again and again, each read from where the last one ended, and takes nothing.
struct Repeated {
    bytes: Vec<u8>,
    at: usize,
}

impl AsyncRead for Repeated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = buf.remaining().min(self.bytes.len() - self.at);
        buf.put_slice(&self.bytes[self.at..][..len]);
        self.at = (self.at + len) % self.bytes.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Repeated {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// Packets that are forwarded from another connection are slices of the chunks of 64 KiB that they came in. Here each chunk
/// brings one packet of 8 KiB to be forwarded, and four that are consumed.
#[test]
fn packets_queued_without_a_connection_hold_no_more_memory_than_the_high_water_mark_says() {
    const KIB: usize = 1024;
    const HIGH: usize = 512 * KIB;
    let mut bytes = frame(&[7; 8192]);
    bytes.extend(frame(&[1; 14_331]).repeat(4));
    assert_eq!(bytes.len(), 64 * KIB);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (mut from, client) = runtime.block_on(async {
        let mut from = PacketConn::new(Repeated { bytes, at: 0 }, ConnConfig::new()).unwrap();
        // The thread's own buffers are there before it is measured.
        for _ in 0..100 {
            from.recv().await.unwrap().unwrap();
        }
        let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(HIGH));
        let client = Client::with_connector(config, |_| std::future::pending()).unwrap();
        sleep(SECOND).await;
        (from, client)
    });
    let forward = async {
        loop {
            let packet = from.recv().await.unwrap().unwrap();
            if packet.len() == 8192 && client.try_send(packet).is_err() {
                return;
            }
        }
    };
    let most = allocation_counter::measure(|| runtime.block_on(forward)).bytes_max as usize;
    let queued = client.sender().queued_bytes();
    assert!((HIGH - 9 * KIB..=HIGH).contains(&queued), "{queued} bytes are queued");
    let limit = HIGH + 128 * KIB;
    assert!(most <= limit, "{} KiB are held, and the limit is {} KiB", most / KIB, limit / KIB);
}

#[tokio::test]
async fn what_cannot_work_is_refused() {
    let error = Client::new("127.0.0.1:1", ClientConfig::new().max_tries(0)).unwrap_err();
    assert!(error.is_config(), "{error}");
}

/// What a connection of a property test takes, before it is cut.
#[derive(Clone, Debug)]
struct Cut {
    /// Of the pipe.
    capacity: usize,
    /// What the peer takes, and then it is gone: at once or later.
    read: usize,
    linger: bool,
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = (1usize..3000, 0usize..5000, any::<bool>());
    proptest::collection::vec(cut.prop_map(|(capacity, read, linger)| Cut { capacity, read, linger }), 0..8)
}

/// Reads whole frames off `bytes`, which may end in the middle of one.
fn whole_frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let Some((payload, rest)) = rest.split_at_checked(u32::from_le_bytes(*head) as usize) else { break };
        frames.push(payload.to_vec());
        bytes = rest;
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is cut where: nothing comes twice or out of order, and what does not come was told of.
    #[test]
    fn every_packet_is_received_once_or_told_of(cuts in cuts(), packets in 1u32..60, high_water in 1usize..5000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run_cuts(cuts, packets, high_water));
    }
}

async fn run_cuts(cuts: Vec<Cut>, packets: u32, high_water: usize) {
    let (made, mut pipes) = unbounded_channel();
    let capacities: Vec<_> = cuts.iter().map(|cut| cut.capacity).collect();
    let nth = AtomicU32::new(0);
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(high_water));
    let mut client = Client::with_connector(config, move |config| {
        let nth = nth.fetch_add(1, Ordering::Relaxed) as usize;
        let (here, there) = tokio::io::duplex(capacities.get(nth).copied().unwrap_or(1 << 20));
        let sent = made.send(there);
        async move {
            sent?;
            Ok(PacketConn::new(here, config)?)
        }
    })
    .unwrap();
    let most_written: usize = cuts.iter().map(|cut| cut.capacity + cut.read).sum();
    let sender = client.sender();
    let uncut = Arc::new(Notify::new());
    let is_uncut = Arc::clone(&uncut);
    let sending = tokio::spawn(async move {
        for number in 0..packets {
            assert_eq!(sender.send(some_packet(number)).await.unwrap(), u64::from(number));
        }
        uncut.notified().await;
        sender.close().await.unwrap();
    });
    let peer = tokio::spawn(async move {
        let mut received = Vec::new();
        for cut in cuts {
            let mut pipe = pipes.recv().await.unwrap();
            let mut bytes = Vec::new();
            let mut limited = (&mut pipe).take(cut.read as u64);
            let _ = timeout(SECOND, limited.read_to_end(&mut bytes)).await;
            received.push(whole_frames(&bytes));
            if cut.linger {
                sleep(SECOND).await;
            }
        }
        let mut pipe = pipes.recv().await.unwrap();
        is_uncut.notify_one();
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).await.unwrap();
        received.push(whole_frames(&bytes));
        received
    });
    let mut told = Vec::new();
    while let Some(event) = client.recv().await {
        if let ClientEvent::Lost(lost) = event {
            told.push(lost.delivery_unknown);
        }
    }
    sending.await.unwrap();
    let received: Vec<Vec<u64>> = peer
        .await
        .unwrap()
        .into_iter()
        .map(|payloads| {
            let numbers = payloads.iter().map(|payload| {
                let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
                assert_eq!(*payload, some_packet(number).payload());
                number.into()
            });
            numbers.collect()
        })
        .collect();
    let all = received.concat();
    assert!(all.is_sorted_by(|a, b| a < b), "{received:?}");
    assert!(told.windows(2).all(|pair| pair[0].end == pair[1].start), "{told:?}");
    let is_told = |number| told.iter().any(|written| written.contains(&number));
    for number in 0..u64::from(packets) {
        assert!(is_told(number) || all.contains(&number), "packet {number} is lost without a word: {told:?}");
    }
    // Nor is anything told of that cannot have been written.
    let (_, of_cut) = received.split_last().unwrap();
    assert!(of_cut.concat().into_iter().all(is_told), "{received:?} {told:?}");
    let told_len: usize = told.into_iter().flatten().map(|number| 4 + some_packet(number as u32).len()).sum();
    assert!(told_len <= most_written, "{told_len} of {most_written} bytes");
}

/// Some are so large that the send queue does not copy them.
fn some_packet(number: u32) -> Packet {
    if number % 7 == 3 { numbered(number).payload().repeat(30).into() } else { numbered(number) }
}
