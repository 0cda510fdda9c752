//! When packets are written: without another call, together if possible, and within the configured delays.

mod common;

use std::time::Duration;

use common::{drop_after, frame, numbered, piped_and_raw, piped_pair, tcp_and_raw};
use futures::SinkExt;
use pktconn::ConnConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_packet_is_written_even_if_its_sender_then_waits_for_something_else() {
    let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        conn.send(b"alone").await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut bytes = [0; 9];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..], frame(b"alone"));
    assert_eq!(started.elapsed(), Duration::ZERO, "the packet waited for a timer");
    sender.abort();
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_written_even_if_the_handler_sleeps_before_it_receives_again() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&frame(b"ping")).await.unwrap();
    let started = Instant::now();
    let handler = tokio::spawn(async move {
        let packet = conn.recv().await.unwrap().unwrap();
        conn.send(packet).await.unwrap();
        tokio::time::sleep(1000 * MS).await;
    });
    let mut bytes = [0; 8];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "the reply waited for the handler");
    handler.await.unwrap();
}

#[tokio::test]
async fn packets_sent_without_yielding_are_written_in_one_write() {
    let (conn, mut raw) = piped_and_raw(64 * 1024, ConnConfig::new());
    for number in 0..50 {
        conn.send(numbered(number)).await.unwrap();
    }
    assert_eq!(conn.stats().writes, 0);
    raw.read_u8().await.unwrap();
    assert_eq!(conn.stats().writes, 1);
}

#[tokio::test]
async fn replies_to_packets_that_arrived_together_are_written_together() {
    let (mut conn, mut raw) = piped_and_raw(64 * 1024, ConnConfig::new());
    let batch: Vec<u8> = (0..32).flat_map(|number| frame(numbered(number).payload())).collect();
    let server = tokio::spawn(async move {
        while let Some(packet) = conn.recv().await.unwrap() {
            conn.send(packet).await.unwrap();
        }
        conn.stats()
    });
    for _ in 0..10 {
        raw.write_all(&batch).await.unwrap();
        let mut replies = vec![0; batch.len()];
        raw.read_exact(&mut replies).await.unwrap();
        assert!(replies == batch);
    }
    raw.shutdown().await.unwrap();
    let stats = server.await.unwrap();
    assert_eq!(stats.packets_sent, 320);
    // The first batches need more reads and writes, because the read buffer still grows.
    assert!(stats.writes <= 20, "{stats:?}");
}

#[tokio::test]
async fn a_task_that_only_sends_needs_at_most_one_write_per_32_packets() {
    const PACKETS: u64 = 1_000_000;
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    let peer = tokio::spawn(async move { tokio::io::copy(&mut raw, &mut tokio::io::sink()).await });
    for _ in 0..PACKETS {
        conn.send(&[7; 64]).await.unwrap();
    }
    conn.flush().await.unwrap();
    let stats = conn.stats();
    assert_eq!((stats.packets_sent, stats.bytes_sent), (PACKETS, PACKETS * 68));
    assert!(stats.writes <= PACKETS / 32, "{} writes for {PACKETS} packets", stats.writes);
    drop(conn);
    assert_eq!(peer.await.unwrap().unwrap(), PACKETS * 68);
}

#[tokio::test(start_paused = true)]
async fn packets_are_written_when_none_has_followed_for_flush_delay() {
    let config = ConnConfig::new().flush_delay(5 * MS).max_flush_delay(50 * MS);
    let (here, mut there) = piped_pair(4096, config);
    let started = Instant::now();
    for number in 0..3 {
        here.send(numbered(number)).await.unwrap();
        tokio::time::sleep(3 * MS).await;
    }
    for number in 0..3 {
        assert_eq!(there.recv().await.unwrap().unwrap(), numbered(number));
    }
    // The last packet was sent after 6 ms.
    assert_eq!(started.elapsed(), 11 * MS);
    assert_eq!(here.stats().writes, 1);
}

#[tokio::test(start_paused = true)]
async fn no_packet_waits_longer_than_max_flush_delay() {
    let config = ConnConfig::new().flush_delay(5 * MS).max_flush_delay(10 * MS);
    let (here, mut there) = piped_pair(4096, config);
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        for number in 0.. {
            here.send(numbered(number)).await.unwrap();
            tokio::time::sleep(2 * MS).await;
        }
    });
    assert_eq!(there.recv().await.unwrap().unwrap(), numbered(0));
    assert_eq!(started.elapsed(), 10 * MS);
    sender.abort();
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_the_flush_delay() {
    let (here, mut there) = piped_pair(4096, ConnConfig::new().flush_delay(1000 * MS));
    let started = Instant::now();
    here.send(b"now").await.unwrap();
    here.flush().await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"now");
    assert_eq!(started.elapsed(), Duration::ZERO);
    // The next packet waits again. Its delay starts when it is sent.
    tokio::time::sleep(700 * MS).await;
    here.send(b"later").await.unwrap();
    there.recv().await.unwrap();
    assert_eq!(started.elapsed(), 1700 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_full_write_and_a_close_do_not_wait_for_the_flush_delay() {
    let (here, mut there) = piped_pair(1024 * 1024, ConnConfig::new().flush_delay(1000 * MS));
    let started = Instant::now();
    here.send(vec![1; 64 * 1024]).await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().len(), 64 * 1024);
    here.send(b"last").await.unwrap();
    let (mut here, closing) = (here, async {
        assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"last");
        assert!(there.recv().await.unwrap().is_none());
        there.close().await.unwrap();
    });
    let (closed, ()) = tokio::join!(here.close(), closing);
    closed.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_for_room_does_not_wait_for_the_flush_delay() {
    let config = ConnConfig::new().flush_delay(1000 * MS).send_high_water(1000);
    let (here, mut there) = piped_pair(1024 * 1024, config);
    let started = Instant::now();
    here.send(vec![1; 900]).await.unwrap();
    here.send(vec![2; 900]).await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().payload(), [1; 900]);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_flush_also_flushes_the_buffer_of_the_transport() {
    let (here, there) = tokio::io::duplex(4096);
    let conn = pktconn::PacketConn::new(tokio::io::BufWriter::new(here), ConnConfig::new()).unwrap();
    let mut there = pktconn::PacketConn::new(there, ConnConfig::new()).unwrap();
    conn.send(b"through the buffer").await.unwrap();
    conn.flush().await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"through the buffer");
}

#[tokio::test(start_paused = true)]
async fn the_buffer_of_the_transport_is_flushed_without_a_flush_call() {
    // The transport buffers the whole packet at once, and flushes it in pieces of 16 bytes.
    let (here, there) = tokio::io::duplex(16);
    let conn =
        pktconn::PacketConn::new(tokio::io::BufWriter::with_capacity(1 << 20, here), ConnConfig::new())
            .unwrap();
    let mut there = pktconn::PacketConn::new(there, ConnConfig::new()).unwrap();
    conn.send(vec![7; 100_000]).await.unwrap();
    let received = tokio::time::timeout(1000 * MS, there.recv()).await;
    assert_eq!(received.expect("the transport was not flushed").unwrap().unwrap().len(), 100_000);
}

#[tokio::test]
async fn the_flush_of_a_sink_ends_even_if_other_senders_never_pause() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new().send_high_water(1000));
    let (other, _receiver) = conn.split();
    let mut sink = other.clone().into_sink();
    sink.feed(numbered(1)).await.unwrap();
    let mut bytes = [0; 100];
    for _ in 0..15 {
        // Another sender keeps the send queue full.
        while other.try_send(numbered(2)).is_ok() {}
        if let Some(flushed) = drop_after(1, sink.flush()).await {
            return flushed.unwrap();
        }
        raw.read_exact(&mut bytes).await.unwrap();
        tokio::task::yield_now().await;
    }
    panic!("the peer has read 1500 bytes, but a flush of at most 1045 bytes has not ended");
}

#[tokio::test]
async fn the_flush_of_a_sink_includes_packets_that_the_sink_sent_after_its_first_poll() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    let (sender, _receiver) = conn.split();
    let mut sink = sender.clone().into_sink();
    sink.feed(vec![1; 146].into()).await.unwrap();
    assert!(drop_after(1, sink.flush()).await.is_none());
    sink.feed(vec![2; 96].into()).await.unwrap();
    // Then the pipe holds the rest of the first frame and half of the second one.
    raw.read_exact(&mut [0; 100]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(drop_after(1, sink.flush()).await.is_none());
    raw.read_exact(&mut [0; 100]).await.unwrap();
    sink.flush().await.unwrap();
}

#[tokio::test]
async fn a_new_flush_of_a_sink_includes_packets_that_others_sent_since_a_dropped_flush() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    let mut sink = conn.into_sink();
    sink.feed(vec![1; 146].into()).await.unwrap();
    assert!(drop_after(1, sink.flush()).await.is_none());
    raw.read_exact(&mut [0; 100]).await.unwrap();
    tokio::task::yield_now().await;
    sink.get_ref().send(vec![2; 496]).await.unwrap();
    assert!(drop_after(1, sink.flush()).await.is_none());
    sink.get_ref().try_send(vec![3; 96]).unwrap();
    let mut rest = [0; 50 + 500 + 100];
    let (flushed, read) = tokio::join!(sink.flush(), raw.read_exact(&mut rest));
    flushed.unwrap();
    read.unwrap();
}

#[tokio::test(start_paused = true)]
async fn under_timed_flushing_keyed_packets_wait_for_others_too() {
    let config = ConnConfig::new().flush_delay(10 * MS).max_flush_delay(25 * MS);
    let (conn, mut raw) = piped_and_raw(4096, config);
    let started = Instant::now();
    conn.try_send_latest(1, "alone").unwrap();
    let mut bytes = vec![0; 9];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!((started.elapsed(), &bytes), (10 * MS, &frame(b"alone")));

    let started = Instant::now();
    let reading = tokio::spawn(async move {
        let mut bytes = vec![0; 10];
        raw.read_exact(&mut bytes).await.unwrap();
        (started.elapsed(), bytes)
    });
    for (key, payload) in [(1, "a"), (2, "b"), (1, "c"), (1, "d")] {
        conn.try_send_latest(key, payload).unwrap();
        tokio::time::sleep(8 * MS).await;
    }
    assert_eq!(reading.await.unwrap(), (25 * MS, [frame(b"d"), frame(b"b")].concat()));
    assert_eq!(conn.stats().packets_dropped, 2);
}
