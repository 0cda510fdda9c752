//! `SlowConsumer`: what happens to packets if the peer reads too slowly, and how dropped packets are counted.

mod common;

use std::time::Duration;

use common::{Flood, piped_and_raw};
use pktconn::{ConnConfig, Packet, PacketCodec, PacketConn, SlowConsumer};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A packet of 100 bytes, which is a frame of 104 bytes, that consists of its number.
fn numbered(number: u8) -> Packet {
    vec![number; 100].into()
}

/// A connection to a peer that does not read. The send queue has room for `frames` frames of [`numbered`], the pipe for
/// 64 bytes.
fn slow(frames: usize, policy: SlowConsumer) -> (PacketConn, DuplexStream) {
    piped_and_raw(64, ConnConfig::new().send_high_water(frames * 104).slow_consumer(policy))
}

/// Closes the connection, and returns the numbers of all packets that the peer receives.
async fn received(mut conn: PacketConn, mut peer: DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (closed, _) = tokio::join!(conn.close(), async {
        peer.read_to_end(&mut bytes).await.unwrap();
        drop(peer);
    });
    closed.unwrap();
    let (mut codec, mut bytes) = (PacketCodec::default(), bytes[..].into());
    let mut numbers = Vec::new();
    while let Some(packet) = codec.decode_frame(&mut bytes).unwrap() {
        assert_eq!(packet, numbered(packet.payload()[0]));
        numbers.push(packet.payload()[0]);
    }
    assert!(bytes.is_empty(), "the last frame is truncated");
    numbers
}

/// Sends in one of three ways. With these policies none of them waits, and all must do the same.
async fn send_all(conn: &mut PacketConn, way: usize, numbers: std::ops::Range<u8>) {
    match way {
        0 => {
            for number in numbers {
                conn.send(numbered(number)).await.unwrap();
            }
        }
        1 => conn.send_many(&mut numbers.map(numbered).collect()).await.unwrap(),
        _ => {
            let mut sink = conn.sender().into_sink();
            for number in numbers {
                futures::SinkExt::feed(&mut sink, numbered(number)).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn drop_newest_delivers_the_first_packets() {
    for way in 0..3 {
        let (mut conn, peer) = slow(3, SlowConsumer::DropNewest);
        send_all(&mut conn, way, 0..10).await;
        let stats = conn.stats();
        // 64 bytes of the first frame are in the pipe, which is not enough room for a fourth frame.
        assert_eq!((stats.packets_sent, stats.packets_dropped, stats.queued_bytes), (3, 7, 3 * 104 - 64));
        assert_eq!(conn.queued_bytes(), 3 * 104 - 64);
        assert_eq!(received(conn, peer).await, [0, 1, 2], "way {way}");
    }
}

#[tokio::test]
async fn with_drop_newest_try_send_returns_the_packet() {
    let (conn, peer) = slow(1, SlowConsumer::DropNewest);
    conn.send(numbered(0)).await.unwrap();
    let error = conn.try_send(numbered(1)).unwrap_err();
    assert!(error.is_full());
    assert_eq!(error.into_unsent(), [numbered(1)]);
    assert_eq!(conn.stats().packets_dropped, 0, "the packet was returned and not dropped");
    assert_eq!(received(conn, peer).await, [0]);
}

#[tokio::test]
async fn drop_oldest_delivers_the_packet_being_written_and_the_latest_ones() {
    for way in 0..3 {
        let (mut conn, peer) = slow(3, SlowConsumer::DropOldest);
        send_all(&mut conn, way, 0..10).await;
        let stats = conn.stats();
        assert_eq!((stats.packets_sent, stats.packets_dropped, stats.queued_bytes), (10, 7, 3 * 104 - 64));
        assert_eq!(received(conn, peer).await, [0, 8, 9], "way {way}");
    }
    let (conn, peer) = slow(3, SlowConsumer::DropOldest);
    for number in 0..10 {
        conn.try_send(numbered(number)).unwrap();
    }
    assert_eq!(received(conn, peer).await, [0, 8, 9]);
}

#[tokio::test]
async fn with_drop_oldest_a_packet_larger_than_the_queue_replaces_all_waiting_packets() {
    let (conn, mut peer) = slow(3, SlowConsumer::DropOldest);
    for number in 0..5 {
        conn.send(numbered(number)).await.unwrap();
    }
    conn.send(vec![9; 100_000]).await.unwrap();
    let stats = conn.stats();
    assert_eq!((stats.packets_dropped, stats.queued_bytes), (4, 104 - 64 + 100_004));
    let mut bytes = vec![0; 104 + 100_004];
    peer.read_exact(&mut bytes).await.unwrap();
    assert!(bytes[108..].iter().all(|&byte| byte == 9));
}

#[tokio::test]
async fn a_full_queue_is_written_before_the_peer_counts_as_slow() {
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect] {
        // The pipe has room for all packets, the send queue for one.
        let config = ConnConfig::new().send_high_water(104).slow_consumer(policy);
        let (conn, peer) = piped_and_raw(10_000, config);
        for number in 0..10 {
            conn.send(numbered(number)).await.unwrap();
        }
        assert_eq!(received(conn, peer).await, (0..10).collect::<Vec<_>>(), "{policy:?}");
    }
}

#[tokio::test]
async fn disconnect_ends_the_connection_and_returns_all_unsent_packets() {
    for many in [false, true] {
        let (mut conn, mut peer) = slow(3, SlowConsumer::Disconnect);
        for number in 0..3 {
            conn.send(numbered(number)).await.unwrap();
        }
        let error = if many {
            let mut packets = vec![numbered(3), numbered(4)];
            let error = conn.send_many(&mut packets).await.unwrap_err();
            assert_eq!(packets, [numbered(3), numbered(4)]);
            error
        } else {
            let error = conn.send(numbered(3)).await.unwrap_err();
            assert_eq!(error.unsent(), [numbered(3)]);
            error
        };
        assert!(error.is_slow_consumer() && error.to_string().contains("248 bytes"), "{error}");
        assert!(conn.recv().await.unwrap_err().is_slow_consumer());
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes.len(), 64, "the stream ends in the middle of a frame");
        let error = conn.close().await.unwrap_err();
        assert_eq!(error.into_unsent(), [0, 1, 2].map(numbered));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_counts_as_slow_after_send_max_lag_even_if_few_bytes_wait() {
    let lagging = |policy| {
        let config = ConnConfig::new().slow_consumer(policy).send_max_lag(5 * SECOND);
        piped_and_raw(64, config)
    };
    let (conn, peer) = lagging(SlowConsumer::DropNewest);
    for number in 0..10 {
        conn.send(numbered(number)).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(received(conn, peer).await, [0, 1, 2, 3, 4]);

    let (conn, peer) = lagging(SlowConsumer::DropOldest);
    for number in 0..10 {
        conn.send(numbered(number)).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(received(conn, peer).await, [0, 9]);

    // The lag also ends the connection if nothing more is sent.
    let (conn, _peer) = lagging(SlowConsumer::Disconnect);
    let started = Instant::now();
    conn.send(numbered(0)).await.unwrap();
    assert!(conn.closed().await.is_slow_consumer());
    assert!(started.elapsed().abs_diff(5 * SECOND) <= Duration::from_millis(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_catches_up_within_send_max_lag_is_not_slow() {
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect] {
        let config = ConnConfig::new().slow_consumer(policy).send_max_lag(5 * SECOND);
        let (conn, mut peer) = piped_and_raw(64, config);
        for number in 0..5 {
            conn.send(numbered(number)).await.unwrap();
            sleep(4 * SECOND).await;
            let mut frame = [0; 104];
            peer.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame[4..], [number; 100]);
        }
        assert_eq!(conn.stats().packets_dropped, 0);
    }
}

#[tokio::test]
async fn a_flush_waits_for_the_packet_being_written_and_not_for_dropped_ones() {
    let (conn, mut peer) = slow(3, SlowConsumer::DropOldest);
    conn.send(numbered(0)).await.unwrap();
    let mut of_first = tokio_test::task::spawn(conn.flush());
    assert!(of_first.poll().is_pending());
    for number in 1..3 {
        conn.send(numbered(number)).await.unwrap();
    }
    let mut flush = tokio_test::task::spawn(conn.flush());
    assert!(flush.poll().is_pending());
    // The second and the third packet, which the flush waits for, are dropped.
    conn.send(vec![9; 300]).await.unwrap();
    assert_eq!(conn.stats().packets_dropped, 2);
    for flush in [&mut of_first, &mut flush] {
        assert!(flush.poll().is_pending(), "the first packet is still being written");
    }
    peer.read_exact(&mut [0; 50]).await.unwrap();
    tokio::task::yield_now().await;
    for flush in [&mut of_first, &mut flush] {
        assert!(flush.is_woken() && flush.poll().is_ready());
    }
    // A flush that begins now waits for all queued packets.
    let mut flush = tokio_test::task::spawn(conn.flush());
    assert!(flush.poll().is_pending());
    peer.read_exact(&mut [0; 54 + 300]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(flush.poll().is_ready());
}

#[tokio::test]
async fn writable_waits_until_the_queue_is_below_the_high_water_mark() {
    let (conn, mut peer) = slow(2, SlowConsumer::Block);
    conn.writable().await.unwrap();
    for number in 0..2 {
        conn.try_send(numbered(number)).unwrap();
    }
    // 64 bytes are in the pipe, so the queue is that much below the mark.
    conn.writable().await.unwrap();
    conn.try_send(vec![7; 60 - 4]).unwrap();
    assert!(conn.queued_bytes() >= 2 * 104 - 4, "{}", conn.queued_bytes());
    conn.try_send(Vec::new()).unwrap();
    let mut writable = tokio_test::task::spawn(conn.writable());
    assert!(writable.poll().is_pending());
    peer.read_exact(&mut [0; 64]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(writable.is_woken() && writable.poll().is_ready());
}

#[tokio::test]
async fn a_sender_that_never_yields_does_not_make_its_peer_slow() {
    // Far more writes than the cooperative budget of a task allows without yielding. The pipe has room for all of them.
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect] {
        let config = ConnConfig::new().send_high_water(256 * 1024).slow_consumer(policy);
        let (conn, _peer) = piped_and_raw(64 * 1024 * 1024, config);
        for _ in 0..400 {
            conn.send(vec![7; 64 * 1024]).await.unwrap();
        }
        assert_eq!(conn.stats().packets_dropped, 0, "{policy:?}");
    }
}

#[tokio::test]
async fn after_the_connection_has_ended_packets_are_returned_and_not_dropped() {
    let (conn, peer) = slow(1, SlowConsumer::DropNewest);
    conn.send(numbered(0)).await.unwrap();
    drop(peer);
    assert!(conn.flush().await.is_err());
    let error = conn.send(numbered(1)).await.unwrap_err();
    assert_eq!(error.into_unsent(), [numbered(1)]);
    assert_eq!(conn.stats().packets_dropped, 0);
}

#[tokio::test]
async fn recv_fails_soon_after_a_slow_peer_was_disconnected_even_if_it_keeps_sending() {
    let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_high_water(100);
    let mut conn = PacketConn::new(Flood, config).unwrap();
    conn.try_send(numbered(1)).unwrap();
    assert!(conn.try_send(numbered(2)).unwrap_err().is_slow_consumer());
    for _ in 0..1000 {
        if let Err(error) = conn.recv().await {
            assert!(error.is_slow_consumer(), "{error:?}");
            return;
        }
    }
    panic!("`recv` still returns packets after the peer was disconnected");
}
