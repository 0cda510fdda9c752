//! The limits on peers that keep within all timeouts: `first_packet_timeout`, `min_recv_rate`, `min_send_rate` and
//! `max_connection_age`.

#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "common/socket_kinds.rs"]
mod socket_kinds;

use std::time::Duration;

use common::{HANG_GUARD, HOUR, frame, piped_and_raw};
use pktconn::{
    Client, ClientConfig, ClientEvent, ConnConfig, ConnStream, Error, Packet, PacketConn, PacketServer,
    Timeout,
};
use socket_kinds::{ALL_KINDS, SocketKind, hour_deadlines, soon};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, pause, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(5);

/// No deadline except those of the test ends a connection.
fn no_deadlines() -> ConnConfig {
    hour_deadlines().frame_timeout(None).write_timeout(None)
}

/// An accepted connection over a real socket, and the bytes of its peer's stream. Time is paused from now on.
async fn accepted_and_raw(kind: SocketKind, config: ConnConfig) -> (PacketConn, ConnStream) {
    let (accepted, connected) = kind.pair_with(config, hour_deadlines()).await;
    let raw = connected.into_framed().await.unwrap().into_inner();
    pause();
    (accepted, raw)
}

/// Writes `bytes`, `chunk` of them at a time, with a pause after each.
fn drip<T>(mut peer: T, bytes: Vec<u8>, chunk: usize, pause: Duration) -> JoinHandle<T>
where
    T: AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        for part in bytes.chunks(chunk) {
            if peer.write_all(part).await.is_err() || peer.flush().await.is_err() {
                break;
            }
            sleep(pause).await;
        }
        peer
    })
}

/// Reads up to `chunk` bytes at a time, with a pause after each, until the end of the stream. Returns how many.
fn read_slowly<T>(mut peer: T, chunk: usize, pause: Duration) -> JoinHandle<usize>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let (mut total, mut buffer) = (0, vec![0; chunk]);
        while let Ok(count @ 1..) = peer.read(&mut buffer).await {
            total += count;
            sleep(pause).await;
        }
        let _ = peer.shutdown().await;
        total
    })
}

fn assert_too_slow(error: &Error, which: Timeout, parts: &[&str]) {
    assert_eq!(error.timeout(), Some(which), "{error}");
    assert!(error.is_timeout(), "{error:?}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_limits_a_drip_and_a_slow_reader_hold_a_connection_for_hours() {
    let config = || ConnConfig::new().idle_timeout(30 * SECOND);
    // Each frame of 29 bytes takes 29 s, just under the frame timeout.
    let (mut conn, peer) = piped_and_raw(64, config());
    let frames = 300;
    let dripping = drip(peer, frame(&[7; 25]).repeat(frames), 1, SECOND);
    let started = Instant::now();
    for _ in 0..frames {
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), [7; 25]);
    }
    assert!(started.elapsed() > 2 * HOUR);
    dripping.await.unwrap();

    let (mut conn, peer) = piped_and_raw(64, config());
    conn.send(vec![7; 1_000_000]).await.unwrap();
    let _reading = read_slowly(peer, 1, SECOND);
    assert!(timeout(2 * HOUR, conn.recv()).await.is_err());
    assert!(conn.close_reason().is_none() && conn.stats().queued_bytes > 990_000);
}

// ---- first_packet_timeout

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_or_drips_its_first_frame_ends_at_the_first_packet_timeout() {
    for bytes in [vec![], frame(&[7; 1000])[..5].to_vec(), frame(&[7; 1000])] {
        let (mut conn, peer) = piped_and_raw(64, no_deadlines().first_packet_timeout(10 * SECOND));
        let _dripping = drip(peer, bytes, 1, 2 * SECOND);
        let started = Instant::now();
        let error = conn.recv().await.unwrap_err();
        assert_too_slow(&error, Timeout::FirstPacket, &["whole packet within 10s (first_packet_timeout)"]);
        assert!(
            started.elapsed().abs_diff(10 * SECOND) <= Duration::from_millis(2),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_first_packet_a_peer_may_be_silent() {
    // The first packet is there at the first `recv`, or comes while it waits; it is a heartbeat, or one of a batch.
    for (skips_empty, in_batches) in [(false, false), (true, false), (false, true), (true, true)] {
        for is_early in [true, false] {
            let config = no_deadlines().first_packet_timeout(10 * SECOND).skip_empty(skips_empty);
            let (mut conn, mut peer) = piped_and_raw(64, config);
            if is_early {
                peer.write_all(&frame(b"")).await.unwrap();
            }
            tokio::spawn(async move {
                sleep(9 * SECOND).await;
                peer.write_all(&frame(b"")).await.unwrap();
                sleep(HOUR).await;
                peer.write_all(&frame(b"later")[..6]).await.unwrap();
                sleep(HOUR).await;
                peer.write_all(&frame(b"later")[6..]).await.unwrap();
            });
            let mut packets = Vec::new();
            while packets.last() != Some(&Packet::from("later")) {
                if in_batches {
                    assert_ne!(conn.recv_many(&mut packets, 10).await.unwrap(), 0);
                } else {
                    packets.push(conn.recv().await.unwrap().unwrap());
                }
            }
            let heartbeats = if skips_empty { 0 } else { 1 + usize::from(is_early) };
            assert_eq!(packets.len(), 1 + heartbeats);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_time_in_recv_counts_towards_the_first_packet_and_it_adds_up() {
    let (mut conn, mut peer) = piped_and_raw(64, no_deadlines().first_packet_timeout(10 * SECOND));
    sleep(HOUR).await;
    for _ in 0..9 {
        assert!(timeout(SECOND, conn.recv()).await.is_err());
        sleep(60 * SECOND).await;
    }
    let started = Instant::now();
    let error = conn.recv().await.unwrap_err();
    assert_eq!(error.timeout(), Some(Timeout::FirstPacket), "{error}");
    assert!(started.elapsed().abs_diff(SECOND) <= Duration::from_millis(20), "{:?}", started.elapsed());
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "the peer sees the end of the stream");
}

#[tokio::test]
async fn the_first_packet_timeout_holds_over_each_transport() {
    for kind in ALL_KINDS {
        let config = no_deadlines().first_packet_timeout(10 * SECOND);
        let (mut conn, mut raw) = accepted_and_raw(kind, config).await;
        raw.write_all(b"\x05\0\0\0h").await.unwrap();
        raw.flush().await.unwrap();
        let error = soon("recv", conn.recv()).await.unwrap_err();
        assert_eq!(error.timeout(), Some(Timeout::FirstPacket), "{kind:?}: {error}");
        tokio::time::resume();
    }
}

// ---- min_recv_rate

/// Frames that a peer drips, each just within the frame timeout, or large ones.
#[tokio::test(start_paused = true)]
async fn a_drip_ends_within_two_windows() {
    for (len, chunk) in [(25, 1), (1_000_000, 1), (1_000_000, 400)] {
        let (mut conn, peer) = piped_and_raw(512, no_deadlines().min_recv_rate(500, WINDOW));
        let _dripping = drip(peer, frame(&vec![7; len]).repeat(10), chunk, SECOND);
        let started = Instant::now();
        let error = conn.recv().await.unwrap_err();
        let text = ["bytes in 5s while a frame was incomplete; at least ", " were expected (min_recv_rate)"];
        assert_too_slow(&error, Timeout::MinRecvRate, &text);
        assert!(started.elapsed() <= 2 * WINDOW + Duration::from_millis(2), "{:?}", started.elapsed());
        assert_eq!(conn.send("late").await.unwrap_err().timeout(), Some(Timeout::MinRecvRate));
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_slow_sender_has_the_numbers() {
    let (mut conn, mut peer) = piped_and_raw(512, no_deadlines().min_recv_rate(100, WINDOW));
    peer.write_all(&frame(&[7; 1000])[..12]).await.unwrap();
    let error = conn.recv().await.unwrap_err();
    let expected = "the peer sent 12 bytes in 5s while a frame was incomplete; at least 500 were expected (min_recv_rate)";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_peer_at_the_rate_may_send_in_any_chunks_and_be_silent_between_frames() {
    for (chunk, pause_ms) in [(1, 2), (10, 20), (333, 666), (2500, 5000)] {
        let config = no_deadlines().min_recv_rate(500, WINDOW);
        let (mut conn, mut peer) = piped_and_raw(4096, config);
        let writing = tokio::spawn(async move {
            for _ in 0..3 {
                let bytes = frame(&vec![7; 20_000]);
                peer = drip(peer, bytes, chunk, Duration::from_millis(pause_ms)).await.unwrap();
                sleep(HOUR).await;
            }
        });
        for _ in 0..3 {
            assert_eq!(conn.recv().await.unwrap().unwrap().len(), 20_000, "chunks of {chunk} bytes");
        }
        assert!(conn.recv().await.unwrap().is_none());
        writing.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_bytes_of_a_frame_need_not_be_a_whole_quota() {
    let (mut conn, mut peer) = piped_and_raw(4096, no_deadlines().min_recv_rate(500, WINDOW));
    let bytes = frame(&[7; 2600]);
    // The first window has its quota, and the rest of 100 bytes comes at the end of the second.
    peer.write_all(&bytes[..2504]).await.unwrap();
    let writing = tokio::spawn(async move {
        sleep(2 * WINDOW - Duration::from_millis(100)).await;
        peer.write_all(&bytes[2504..]).await.unwrap();
    });
    assert_eq!(conn.recv().await.unwrap().unwrap().len(), 2600);
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_time_in_recv_counts_towards_the_rate_and_windows_continue_over_calls() {
    let (mut conn, mut peer) = piped_and_raw(4096, no_deadlines().min_recv_rate(500, WINDOW));
    peer.write_all(&frame(&[7; 5000])[..100]).await.unwrap();
    for _ in 0..4 {
        assert!(timeout(SECOND, conn.recv()).await.is_err());
        sleep(HOUR).await;
    }
    let started = Instant::now();
    let error = conn.recv().await.unwrap_err();
    assert_too_slow(&error, Timeout::MinRecvRate, &["sent 100 bytes in 5s", "at least 2500"]);
    assert!(started.elapsed().abs_diff(SECOND) <= Duration::from_millis(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_drip_ends_over_each_transport() {
    for kind in ALL_KINDS {
        let (mut conn, raw) = accepted_and_raw(kind, no_deadlines().min_recv_rate(500, WINDOW)).await;
        let _dripping = drip(raw, frame(&[7; 100_000]), 1, SECOND);
        let started = Instant::now();
        let error = conn.recv().await.unwrap_err();
        assert_eq!(error.timeout(), Some(Timeout::MinRecvRate), "{kind:?}: {error}");
        assert!(
            started.elapsed() <= 2 * WINDOW + Duration::from_millis(2),
            "{kind:?}: {:?}",
            started.elapsed()
        );
        tokio::time::resume();
    }
}

/// A record of 16 KiB can only be decrypted when all of it is there, which takes three windows.
#[tokio::test]
async fn bytes_of_incomplete_tls_records_count_as_received() {
    for (bytes_a_second, is_ended) in [(1000, false), (300, true)] {
        let config = no_deadlines().min_recv_rate(500, WINDOW);
        let (server, route) = SocketKind::Tls.bind(config.into()).await;
        let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(server.serve(move |conn| {
            pass.send(conn).unwrap();
            async { Ok(()) }
        }));
        // A relay that forwards everything, until it is told to be slow.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay_addr = listener.local_addr().unwrap();
        let server_addr = route.addr.socket_addr().unwrap();
        let (slow, mut is_slow) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(server_addr).await.unwrap();
            server.set_nodelay(true).unwrap();
            tokio::select! {
                biased;
                _ = is_slow.changed() => {}
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            }
            let mut buffer = vec![0; bytes_a_second / 10];
            while let Ok(count @ 1..) = client.read(&mut buffer).await {
                if server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                sleep(SECOND / 10).await;
            }
        });
        let client = PacketConn::connect_with(relay_addr, route.config(hour_deadlines())).await.unwrap();
        let mut conn = passed.recv().await.unwrap();
        client.send("fast").await.unwrap();
        assert_eq!(soon("recv", conn.recv()).await.unwrap().unwrap(), "fast".into());
        pause();
        slow.send(true).unwrap();
        client.send(vec![7; 16_000]).await.unwrap();
        match conn.recv().await {
            Ok(packet) => assert_eq!((packet.unwrap().len(), is_ended), (16_000, false)),
            Err(error) => {
                assert_eq!((error.timeout(), is_ended), (Some(Timeout::MinRecvRate), true), "{error}");
            }
        }
        tokio::time::resume();
    }
}

// ---- min_send_rate

#[tokio::test(start_paused = true)]
async fn a_slow_reader_ends_within_two_windows_and_the_unsent_packets_are_returned() {
    let (mut conn, peer) =
        piped_and_raw(64, no_deadlines().min_send_rate(500, WINDOW).send_high_water(20_000));
    let started = Instant::now();
    let _reading = read_slowly(peer, 1, SECOND);
    for _ in 0..10 {
        conn.send(vec![7; 1000]).await.unwrap();
    }
    let error = conn.recv().await.unwrap_err();
    let text = [
        "the peer took ",
        " bytes in 5s while more were queued for it; at least 2500 were",
        "(min_send_rate)",
    ];
    assert_too_slow(&error, Timeout::MinSendRate, &text);
    assert!(started.elapsed() <= 2 * WINDOW + Duration::from_millis(2), "{:?}", started.elapsed());
    let error = conn.close().await.unwrap_err();
    assert_eq!(error.timeout(), Some(Timeout::MinSendRate));
    assert_eq!(error.into_unsent(), vec![Packet::from(vec![7; 1000]); 10]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_the_rate_gets_everything_in_any_chunks() {
    for (chunk, pause_ms) in [(1, 2), (50, 100), (2000, 4000)] {
        let (mut conn, peer) = piped_and_raw(64, no_deadlines().min_send_rate(500, WINDOW));
        // The pipe holds 64 bytes, so larger chunks are read in parts.
        let reading = tokio::spawn(async move {
            let (mut peer, mut total, mut buffer) = (peer, 0, vec![0; chunk]);
            loop {
                let mut filled = 0;
                while filled < chunk {
                    match peer.read(&mut buffer[filled..]).await.unwrap() {
                        0 => return total + filled,
                        count => filled += count,
                    }
                }
                total += filled;
                sleep(Duration::from_millis(pause_ms)).await;
            }
        });
        conn.send(vec![7; 20_000]).await.unwrap();
        conn.close().await.unwrap();
        assert_eq!(reading.await.unwrap(), 20_004, "chunks of {chunk} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_little_to_take_is_not_held_to_a_whole_quota() {
    let (conn, mut peer) = piped_and_raw(64, no_deadlines().min_send_rate(500, WINDOW));
    for _ in 0..5 {
        // 104 bytes: 64 of them fit the pipe. The peer takes them just before the window ends.
        conn.send(vec![7; 100]).await.unwrap();
        sleep(WINDOW - Duration::from_millis(100)).await;
        peer.read_exact(&mut [0; 104]).await.unwrap();
        sleep(HOUR).await;
        assert!(conn.close_reason().is_none());
    }
    conn.send(vec![7; 100]).await.unwrap();
    let error = soon("closed", conn.closed()).await;
    assert_too_slow(&error, Timeout::MinSendRate, &["took 0 bytes in 5s", "at least 40 were expected"]);
}

/// The peer reads 1 MiB a second, or nothing after the first MiB. Small socket buffers, so that the queue fills.
#[tokio::test]
async fn a_slow_reader_ends_over_each_transport_and_a_fast_one_does_not() {
    for kind in ALL_KINDS {
        for is_slow in [true, false] {
            let tcp = pktconn::TcpConfig::new().send_buffer(64 * 1024).recv_buffer(64 * 1024);
            let config = no_deadlines().min_send_rate(100_000, WINDOW).send_high_water(64 << 20).tcp(tcp);
            let (mut conn, raw) = accepted_and_raw(kind, config).await;
            let (chunk, pause) = if is_slow { (10_000, SECOND) } else { (100_000, SECOND / 10) };
            let reading = read_slowly(raw, chunk, pause);
            conn.send(vec![7; 30_000_000]).await.unwrap();
            let closed = conn.close().await;
            match closed {
                Ok(()) => assert!(!is_slow, "{kind:?}"),
                Err(error) => {
                    assert!(is_slow, "{kind:?}: {error}");
                    assert_eq!(error.timeout(), Some(Timeout::MinSendRate), "{kind:?}: {error}");
                    assert_eq!(error.unsent().len(), 1);
                }
            }
            if !is_slow {
                assert_eq!(reading.await.unwrap(), 30_000_004, "{kind:?}");
            }
            tokio::time::resume();
        }
    }
}

// ---- max_connection_age

fn age_config(age: Duration) -> ConnConfig {
    no_deadlines().max_connection_age(age)
}

#[tokio::test(start_paused = true)]
async fn at_its_age_a_connection_returns_what_has_arrived_and_then_ends_cleanly() {
    let config = age_config(100 * SECOND).max_connection_age_grace(50 * SECOND);
    let (mut conn, mut raw) = piped_and_raw(4096, config);
    let started = Instant::now();
    assert!(timeout(80 * SECOND, conn.recv()).await.is_err());
    raw.write_all(&frame(b"one")).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap(), "one".into());
    // Nothing has called `recv` at that age.
    sleep(40 * SECOND).await;
    raw.write_all(&[frame(b"two"), frame(b"three")].concat()).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap(), "two".into());
    assert_eq!(conn.recv().await.unwrap().unwrap(), "three".into());
    assert!(conn.recv().await.unwrap().is_none());
    assert_eq!(started.elapsed().as_secs(), 120);
    conn.send("bye").await.unwrap();
    let closing = tokio::spawn(async move { conn.close().await });
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(b"bye"));
    drop(raw);
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_receiver_ends_at_the_age_and_connections_that_began_together_do_not_end_together() {
    let started = Instant::now();
    let mut receiving = tokio::task::JoinSet::new();
    let mut peers = Vec::new();
    for _ in 0..100 {
        let (mut conn, peer) = piped_and_raw(64, age_config(1000 * SECOND));
        peers.push(peer);
        receiving.spawn(async move {
            assert!(conn.recv().await.unwrap().is_none());
            started.elapsed()
        });
    }
    let mut ages = receiving.join_all().await;
    ages.sort();
    assert!(ages[0] >= 900 * SECOND && ages[99] <= 1101 * SECOND, "{:?} to {:?}", ages[0], ages[99]);
    assert!(ages[99] - ages[0] > 150 * SECOND, "{:?} to {:?}", ages[0], ages[99]);
    let most_in_a_second =
        ages.iter().map(|age| ages.iter().filter(|at| at.as_secs() == age.as_secs()).count());
    assert!(most_in_a_second.max().unwrap() < 10);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_closed_within_the_grace_ends_with_an_error() {
    for has_undelivered in [false, true] {
        let config = age_config(100 * SECOND).max_connection_age_grace(5 * SECOND);
        let (conn, mut raw) = piped_and_raw(4096, config);
        let (sender, mut receiver) = conn.split();
        let started = Instant::now();
        if has_undelivered {
            raw.write_all(&[frame(b"one"), frame(b"two")].concat()).await.unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "one".into());
        }
        let error = sender.closed().await;
        assert_eq!(error.timeout(), Some(Timeout::MaxAge), "{error}");
        let expected = "the connection reached its max_connection_age; this side had 5s to close it \
                        (max_connection_age_grace)";
        assert_eq!(error.to_string(), expected);
        let secs = started.elapsed().as_secs();
        assert!((95..=115).contains(&secs), "{secs} s");
        assert_eq!(sender.send("late").await.unwrap_err().timeout(), Some(Timeout::MaxAge));
        assert_eq!(receiver.recv().await.unwrap_err().timeout(), Some(Timeout::MaxAge));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_at_the_age_has_its_own_deadline_and_an_ended_connection_has_no_age() {
    let config =
        age_config(100 * SECOND).max_connection_age_grace(Duration::ZERO).close_timeout(500 * SECOND);
    let (mut conn, raw) = piped_and_raw(64, config);
    conn.send(vec![7; 1000]).await.unwrap();
    let closing = tokio::spawn(async move { conn.close().await });
    sleep(300 * SECOND).await;
    assert_eq!(read_slowly(raw, 64, SECOND).await.unwrap(), 1004);
    closing.await.unwrap().unwrap();
}

#[tokio::test]
async fn handlers_that_receive_in_a_loop_end_by_themselves_over_each_transport() {
    for kind in ALL_KINDS {
        let config = hour_deadlines().max_connection_age(100 * SECOND);
        let (server, route) = kind.bind(config.into()).await;
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        }));
        let mut client = route.connect(hour_deadlines()).await;
        client.send("echo").await.unwrap();
        assert_eq!(soon("recv", client.recv()).await.unwrap().unwrap(), "echo".into());
        pause();
        let started = Instant::now();
        assert!(client.recv().await.unwrap().is_none(), "{kind:?}");
        assert!(
            started.elapsed() >= 90 * SECOND && started.elapsed() <= 111 * SECOND,
            "{:?}",
            started.elapsed()
        );
        tokio::time::resume();
        client.close().await.unwrap();
        handle.shutdown();
        soon("serve", serving).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_replaces_its_connection_at_its_age_and_says_why() {
    let server = PacketServer::bind_with("127.0.0.1:0", hour_deadlines()).await.unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(|mut conn| async move {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(conn.close().await?)
    }));
    let age = Duration::from_millis(500);
    let config = ClientConfig::new().conn(hour_deadlines().max_connection_age(age));
    let mut client = Client::new(addr, config).unwrap();
    client.send("one").await.unwrap();
    let mut has_aged = false;
    let second = async {
        loop {
            match client.recv().await {
                Some(ClientEvent::Lost(lost)) => {
                    assert_eq!(lost.error.timeout(), Some(Timeout::MaxAge), "{}", lost.error);
                    has_aged = true;
                    client.send("two").await.unwrap();
                }
                Some(ClientEvent::Packet(packet)) if packet == "two".into() => break,
                Some(_) => {}
                None => panic!("the client has ended"),
            }
        }
    };
    timeout(HANG_GUARD, second).await.unwrap();
    assert!(has_aged);
}

// ---- both kinds of runtime

#[test]
fn the_limits_hold_on_both_kinds_of_runtime() {
    use tokio::runtime::Builder;
    let short = Duration::from_millis(200);
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        builder.enable_all().build().unwrap().block_on(async {
            for (config, expected) in [
                (no_deadlines().first_packet_timeout(short), Timeout::FirstPacket),
                (no_deadlines().min_recv_rate(1000, short), Timeout::MinRecvRate),
                (no_deadlines().min_send_rate(1000, short), Timeout::MinSendRate),
                (no_deadlines().max_connection_age(short).max_connection_age_grace(short), Timeout::MaxAge),
            ] {
                let (mut conn, mut raw) = piped_and_raw(4096, config);
                raw.write_all(&frame(&[7; 1000])[..10]).await.unwrap();
                conn.send(vec![7; 100_000]).await.unwrap();
                let error = if expected == Timeout::MaxAge {
                    soon("closed", conn.closed()).await
                } else {
                    soon("recv", conn.recv()).await.unwrap_err()
                };
                assert_eq!(error.timeout(), Some(expected), "{error}");
            }
        });
    }
}
