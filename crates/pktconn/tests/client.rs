//! `Client`: reconnecting, sending again, losses, closing and panics. Most tests use in-memory pipes that they can cut.

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

/// A client that connects over pipes of `capacity` bytes, and the other ends of these pipes.
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

/// A client that cannot connect, and its number of attempts.
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
        other => panic!("expected a packet: {other:?}"),
    }
}

async fn lost(client: &mut Client) -> Lost {
    match client.recv().await {
        Some(ClientEvent::Lost(lost)) => lost,
        other => panic!("expected a lost connection: {other:?}"),
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
async fn a_client_connects_and_echoes_over_tcp_and_ends_when_it_is_closed() {
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
async fn packets_sent_before_the_server_starts_arrive_when_it_does() {
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
        let packet = conn.recv().await?.ok_or("no packet arrived")?;
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
async fn a_partly_written_packet_is_sent_again_and_the_written_ones_are_reported_as_unknown() {
    let (mut client, mut pipes) = piped(ClientConfig::new(), 25);
    for number in 0..5u8 {
        client.send(vec![number; 6]).await.unwrap();
    }
    let mut pipe = pipes.recv().await.unwrap();
    connected(&mut client).await;
    // Frames of 10 bytes: the pipe holds two and a half.
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
async fn the_backoff_grows_and_resets_after_a_connection_that_received_a_packet() {
    let (client, tries) = refused(ClientConfig::new().max_backoff(4 * SECOND));
    let mut state = client.state();
    for (tried, least) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1600), (6, 2000), (7, 2000)] {
        let state = state.wait_for(|state| is_waiting(state, tried)).await.unwrap();
        let ClientState::Waiting { delay, .. } = &*state else { unreachable!() };
        let least = Duration::from_millis(least);
        assert!(*delay >= least && *delay <= 2 * least, "{delay:?} after try {tried}");
        assert_eq!(tries.load(Ordering::Relaxed), tried);
    }

    // If these connections counted as failures, the last delay would be 30 s.
    let (mut client, mut pipes) = piped(ClientConfig::new(), 1024);
    for _ in 0..20 {
        let mut pipe = timeout(SECOND, pipes.recv()).await.expect("a short delay").unwrap();
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
async fn the_backoff_resets_after_a_long_connection_without_a_packet() {
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
async fn a_client_ends_after_a_configuration_error_without_another_attempt() {
    let tries = Arc::new(AtomicU32::new(0));
    let client = Client::with_connector(ClientConfig::new(), {
        let tries = Arc::clone(&tries);
        move |config| {
            tries.fetch_add(1, Ordering::Relaxed);
            // This address has no port.
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
async fn connections_that_end_at_once_count_as_failed_attempts() {
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
    // 100 + 200 + 400 + 800 ms, each plus up to as much jitter.
    assert!(started.elapsed() >= 15 * SECOND / 10 && started.elapsed() <= 3 * SECOND);
    let error = client.close().await.unwrap_err();
    assert!(error.is_io() || error.is_remote_close(), "{error:?}");
    drop(client);
    assert_eq!(taking.await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_returns_the_reason_and_the_unsent_packets() {
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
    // Only the first `close` returns them.
    assert!(client.close().await.unwrap_err().into_unsent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn senders_wait_in_order_for_a_full_queue_and_a_dropped_send_sends_nothing() {
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
    // Two frames of 50 bytes fill the queue.
    sender.try_send(vec![0; 46]).unwrap();
    sender.try_send(vec![1; 46]).unwrap();
    assert_eq!(sender.queued_bytes(), 100);
    let full = sender.try_send(vec![2; 46]).unwrap_err();
    assert!(full.is_full() && full.unsent()[0].payload() == [2; 46]);
    assert!(sender.try_send(vec![]).unwrap_err().is_full());
    assert!(drop_after(1, sender.send(vec![7; 46])).await.is_none(), "the queue must be full");
    // The large packet waits first. An empty queue accepts it although it exceeds the limit.
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
async fn a_packet_over_the_limit_is_refused_and_others_are_sent() {
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
async fn close_sends_the_queued_packets_with_the_current_attempt_or_one_more() {
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
async fn close_without_a_connection_returns_the_queued_packets() {
    // Nothing is queued: `close` returns at once.
    let (client, _) = refused(ClientConfig::new());
    client.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
    let started = Instant::now();
    client.close().await.unwrap();
    assert!(started.elapsed().is_zero());

    // `close` makes one more attempt, which fails.
    let (client, tries) = refused(ClientConfig::new());
    client.state().wait_for(|state| is_waiting(state, 1)).await.unwrap();
    client.send(b"unsent").await.unwrap();
    let error = client.close().await.unwrap_err();
    assert!(error.is_io() && error.unsent()[0].payload() == b"unsent", "{error:?}");
    assert_eq!(tries.load(Ordering::Relaxed), 2);

    // The attempt takes longer than the close timeout.
    let conn = ConnConfig::new().close_timeout(3 * SECOND);
    let client = Client::with_connector(ClientConfig::new().conn(conn), |_| std::future::pending()).unwrap();
    client.send(b"unsent").await.unwrap();
    let started = Instant::now();
    let error = client.close().await.unwrap_err();
    assert!(error.is_timeout() && error.unsent().len() == 1, "{error:?}");
    assert_eq!(started.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn close_returns_the_packets_that_a_peer_did_not_read() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(30));
    let (mut client, mut pipes) = piped(config, 25);
    let pipe = pipes.recv().await.unwrap();
    connected(&mut client).await;
    let mut accepted = 0;
    while client.try_send(vec![accepted; 6]).is_ok() {
        accepted += 1;
        sleep(SECOND).await;
    }
    // Frames of 10 bytes: two in the pipe, three in the send queue, three in the queue of the client.
    assert!(accepted >= 2 + 3 + 3, "{accepted} packets were accepted");
    let error = client.close().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let unsent: Vec<_> = error.unsent().iter().map(|packet| packet.payload()[0]).collect();
    assert_eq!(unsent, (2..accepted).collect::<Vec<_>>());
    assert_eq!(lost(&mut client).await.delivery_unknown, 0..2);
    assert!(client.recv().await.is_none());
    drop(pipe);
}

#[tokio::test(start_paused = true)]
async fn packets_of_the_connector_are_sent_first_and_are_not_numbered_or_sent_again() {
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
    // The pipe of 12 bytes holds the first login and a byte of the second.
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
async fn a_connection_with_a_smaller_payload_limit_than_the_client_is_a_configuration_error() {
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
async fn losses_that_are_not_received_are_merged_into_one_event() {
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
    assert!(drop_after(1, client.recv()).await.is_none(), "there must be no further event");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_times_out_even_if_it_sends_all_the_time() {
    let mut client = Client::with_connector(ClientConfig::new(), |config| {
        let conn = PacketConn::new(Flood, config);
        async { Ok(conn?) }
    })
    .unwrap();
    client.send(b"never read").await.unwrap();
    connected(&mut client).await;
    for number in 0..100_000 {
        match client.recv().await {
            Some(ClientEvent::Packet(_)) => {}
            Some(ClientEvent::Lost(lost)) => {
                assert!(lost.error.is_timeout() && lost.delivery_unknown.is_empty(), "{lost:?}");
                assert!(lost.may_miss_packets, "the peer sent packets that were not received");
                return;
            }
            other => panic!("{other:?}"),
        }
        if number == 1000 {
            tokio::time::advance(31 * SECOND).await;
        }
    }
    panic!("the write timeout does not end the connection");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_received_from_makes_the_peer_and_the_reconnect_wait() {
    let (mut client, mut pipes) = piped(ClientConfig::new(), 100);
    let mut pipe = pipes.recv().await.unwrap();
    let all: Vec<u8> = (0..50).flat_map(|number| frame(&[number; 6])).collect();
    // The client reads a batch, and the connection one read more. The peer cannot write the rest.
    let written = timeout(3600 * SECOND, pipe.write_all(&all)).await;
    assert!(written.is_err(), "the client read all 500 bytes");
    drop(pipe);
    assert!(timeout(3600 * SECOND, pipes.recv()).await.is_err(), "the client connected again");
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
async fn a_sender_alone_keeps_the_client_connected_and_received_packets_are_discarded() {
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
    // Dropping the last handle closes the connection. The queued packet is written first, because the pipe has room.
    drop(sender);
    let mut all = Vec::new();
    pipe.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, frame(b"and now"));
    assert!(pipes.recv().await.is_none(), "the connector must be dropped");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_a_client_that_connects_or_waits() {
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
fn a_client_ends_with_its_runtime_and_returns_the_unwritten_packets() {
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
async fn a_panic_in_the_connector_ends_the_client_which_returns_the_unwritten_packets() {
    let (made, mut pipes) = unbounded_channel();
    let mut client = Client::with_connector(ClientConfig::new(), move |config| {
        let (here, there) = tokio::io::duplex(25);
        let sent = made.send(there);
        async move {
            sent.expect("the second attempt panics");
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

/// A waker or the memory of a packet, supplied by the application, that panics.
struct Panics(Vec<u8>);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a test waker panics on purpose");
    }
}

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        // A waker has an empty vector. The test drops it, so it must not panic.
        if !self.0.is_empty() && !std::thread::panicking() {
            panic!("the memory of a test packet panics on purpose");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_survives_a_panic_of_a_waker() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(100));
    let (mut client, mut pipes) = piped(config, 50);
    let waker = Waker::from(Arc::new(Panics(Vec::new())));
    let mut cx = Context::from_waker(&waker);
    let (sender, mut state) = (client.sender(), client.state());
    let mut waiting = Box::pin(async { drop(client.recv().await) });
    let mut watching = Box::pin(state.wait_for(ClientState::is_ended));
    assert!(waiting.as_mut().poll(&mut cx).is_pending() && watching.as_mut().poll(&mut cx).is_pending());
    // The client connects, which wakes both futures.
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
async fn a_client_survives_a_panic_while_it_frees_a_packet() {
    for len in [40_000, 100_000, 1_000_000] {
        let (client, mut pipes) = piped(ClientConfig::new(), 2 << 20);
        let mut pipe = pipes.recv().await.unwrap();
        let sender = client.sender();
        let packet = Packet::from(bytes::Bytes::from_owner(Panics(vec![7; len])));
        // A smaller packet is copied, so the memory is freed, and panics, in `send`.
        let sent = tokio::spawn(async move { sender.send(packet).await }).await;
        assert!(sent.is_ok() || len < 65_536);
        client.send(b"behind it").await.unwrap();
        pipe.read_exact(&mut vec![0; 4 + len + 4 + 9]).await.unwrap();
        client.send(b"later").await.unwrap();
        pipe.read_exact(&mut [0; 4 + 5]).await.unwrap();
    }
}

/// A pipe that panics after the given number of writes.
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
        self.1 = self.1.checked_sub(1).expect("a test transport panics on purpose");
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
async fn a_panic_of_the_transport_during_close_returns_the_unwritten_packets() {
    // Several runs: it depends on chance whether the packets are already sent when `close` runs.
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
        // The first poll of `close` is before the client has connected.
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
async fn a_panic_of_the_transport_is_a_lost_connection_and_unwritten_packets_are_sent_again() {
    // A packet that is written without a copy; a batch in one write; and packets that need several writes.
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
                // A received packet keeps its header, so it is written without a copy.
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
                timeout(SECOND, second.read_exact(&mut bytes)).await.expect("a packet is missing").unwrap();
                assert_eq!(bytes[4..], payload(number as u8), "{packets} of {len}, {writes} writes");
            }
            let more = timeout(SECOND, second.read_u8()).await;
            assert!(more.is_err(), "{packets} of {len}, {writes} writes: a packet is duplicated");
        }
    }
}

/// Sends `packet` over a connection, and returns the received packet.
async fn received(packet: &Packet) -> Packet {
    let (here, mut there) = common::piped_pair(1 << 20, ConnConfig::new());
    here.send(packet.clone()).await.unwrap();
    there.recv().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_times_out_even_if_the_client_is_not_received_from() {
    let config = ClientConfig::new().conn(ConnConfig::new().send_high_water(30));
    let (client, mut pipes) = piped(config, 25);
    let mut pipe = pipes.recv().await.unwrap();
    pipe.write_all(&frame(b"unread")).await.unwrap();
    sleep(SECOND).await;
    let started = Instant::now();
    // Sends without receiving, like a handler that answers a packet before it receives the next one.
    for _ in 0..20 {
        client.send(vec![1; 6]).await.unwrap();
        if let Ok(next) = pipes.try_recv() {
            pipe = next;
        }
    }
    assert!(started.elapsed() >= 30 * SECOND, "the send queue accepted all packets without the timeout");
    drop(pipe);
}

/// A peer that sends the same bytes in a loop and never reads.
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

/// A packet that is forwarded from another connection is a slice of the 64 KiB chunk that it was read into. Here each
/// chunk has one packet of 8 KiB that is forwarded, and four that are dropped.
#[test]
fn packets_queued_without_a_connection_do_not_keep_their_chunks_alive() {
    const KIB: usize = 1024;
    const HIGH: usize = 512 * KIB;
    let mut bytes = frame(&[7; 8192]);
    bytes.extend(frame(&[1; 14_331]).repeat(4));
    assert_eq!(bytes.len(), 64 * KIB);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (mut from, client) = runtime.block_on(async {
        let mut from = PacketConn::new(Repeated { bytes, at: 0 }, ConnConfig::new()).unwrap();
        // Allocates the buffers of the thread before the measurement.
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
    assert!(most <= limit, "{} KiB are held; the limit is {} KiB", most / KIB, limit / KIB);
}

#[tokio::test]
async fn max_tries_of_0_is_refused() {
    let error = Client::new("127.0.0.1:1", ClientConfig::new().max_tries(0)).unwrap_err();
    assert!(error.is_config(), "{error}");
}

/// How far a connection of the property test gets before it is cut.
#[derive(Clone, Debug)]
struct Cut {
    /// The capacity of the pipe, in bytes.
    capacity: usize,
    /// How many bytes the peer reads before it drops the pipe.
    read: usize,
    /// Whether the peer waits for a second before it drops the pipe.
    linger: bool,
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = (1usize..3000, 0usize..5000, any::<bool>());
    proptest::collection::vec(cut.prop_map(|(capacity, read, linger)| Cut { capacity, read, linger }), 0..8)
}

/// The payloads of the complete frames in `bytes`, which may end in the middle of a frame.
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

    /// Wherever connections are cut, no packet is duplicated or reordered, and a packet that is not received is in
    /// `delivery_unknown`.
    #[test]
    fn every_packet_is_received_once_or_reported_as_unknown(
        cuts in cuts(), packets in 1u32..60, high_water in 1usize..5000
    ) {
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
    let mut reported = Vec::new();
    while let Some(event) = client.recv().await {
        if let ClientEvent::Lost(lost) = event {
            reported.push(lost.delivery_unknown);
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
    assert!(reported.windows(2).all(|pair| pair[0].end == pair[1].start), "{reported:?}");
    let is_reported = |number| reported.iter().any(|written| written.contains(&number));
    for number in 0..u64::from(packets) {
        assert!(
            is_reported(number) || all.contains(&number),
            "packet {number} is lost and not reported: {reported:?}"
        );
    }
    // Packets that were received before a cut are reported, and packets that cannot have been written are not.
    let (_, of_cut) = received.split_last().unwrap();
    assert!(of_cut.concat().into_iter().all(is_reported), "{received:?} {reported:?}");
    let reported_len: usize =
        reported.into_iter().flatten().map(|number| 4 + some_packet(number as u32).len()).sum();
    assert!(reported_len <= most_written, "{reported_len} of {most_written} bytes");
}

/// A packet with its number. Some are so large that the send queue does not copy them.
fn some_packet(number: u32) -> Packet {
    if number % 7 == 3 { numbered(number).payload().repeat(30).into() } else { numbered(number) }
}
