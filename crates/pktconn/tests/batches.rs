//! `send_many` and `recv_many`: order, limits, errors, and how the packets are written.

mod common;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use common::{drop_after, frame, numbered, piped_and_raw, piped_pair, tcp_and_raw, tcp_pair};
use pktconn::{CodecConfig, ConnConfig, Packet, PacketConn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

fn numbers(range: std::ops::Range<u32>) -> Vec<Packet> {
    range.map(numbered).collect()
}

#[tokio::test]
async fn batches_of_any_size_arrive_complete_and_in_order() {
    let (here, mut there) = tcp_pair(ConnConfig::new().send_high_water(10_000)).await;
    let sending = async {
        let (mut packets, mut next) = (Vec::new(), 0);
        for size in 0..100 {
            packets.extend(numbers(next..next + size));
            next += size;
            here.send_many(&mut packets).await.unwrap();
            assert!(packets.is_empty());
        }
    };
    let receiving = async {
        let mut packets = Vec::new();
        while packets.len() < 99 * 100 / 2 {
            let before = packets.len();
            let count = there.recv_many(&mut packets, 7).await.unwrap();
            assert_eq!(packets.len(), before + count);
            assert!((1..=7).contains(&count));
        }
        assert_eq!(packets, numbers(0..99 * 100 / 2));
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn recv_many_returns_the_arrived_packets_up_to_the_limit() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    let wire: Vec<u8> = (b'a'..=b'e').flat_map(|byte| frame(&[byte])).collect();
    raw.write_all(&wire[..wire.len() - 1]).await.unwrap();
    let mut packets = vec![Packet::from(b"there before")];
    assert_eq!(conn.recv_many(&mut packets, 3).await.unwrap(), 3);
    assert_eq!(conn.recv_many(&mut packets, 3).await.unwrap(), 1);
    assert_eq!(conn.recv_many(&mut packets, 0).await.unwrap(), 0);
    assert!(drop_after(1, conn.recv_many(&mut packets, 3)).await.is_none());
    raw.write_all(&wire[wire.len() - 1..]).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"e");
    let payloads: Vec<&[u8]> = packets.iter().map(Packet::payload).collect();
    assert_eq!(payloads, [b"there before" as &[u8], b"a", b"b", b"c", b"d"]);
    assert_eq!(conn.stats().packets_received, 5);
}

#[tokio::test]
async fn recv_many_returns_the_packets_before_an_invalid_frame_and_then_the_error() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&[frame(b"good"), frame(b"good"), vec![0xff; 4]].concat()).await.unwrap();
    let mut packets = Vec::new();
    assert_eq!(conn.recv_many(&mut packets, 10).await.unwrap(), 2);
    for _ in 0..2 {
        assert!(conn.recv_many(&mut packets, 10).await.unwrap_err().is_protocol());
    }
    assert_eq!(packets, vec![Packet::from(b"good"); 2]);
}

#[tokio::test]
async fn recv_many_returns_0_after_a_clean_close() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&frame(b"last")).await.unwrap();
    drop(raw);
    let mut packets = Vec::new();
    assert_eq!(conn.recv_many(&mut packets, 10).await.unwrap(), 1);
    assert_eq!(conn.recv_many(&mut packets, 10).await.unwrap(), 0);
    assert_eq!(conn.recv_many(&mut packets, 10).await.unwrap(), 0);
}

#[tokio::test]
async fn a_batch_is_written_in_one_write_without_another_call() {
    let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    conn.send_many(&mut vec![b"one".into(), b"two".into()]).await.unwrap();
    let mut bytes = [0; 14];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..], [frame(b"one"), frame(b"two")].concat());
    assert_eq!(conn.stats().writes, 1);
}

#[tokio::test]
async fn a_dropped_send_many_leaves_the_packets_that_were_not_accepted() {
    let (conn, _raw) = piped_and_raw(10, ConnConfig::new().send_high_water(100));
    let mut packets: Vec<Packet> = (0..10).map(|byte| vec![byte; 26].into()).collect();
    assert!(drop_after(1, conn.send_many(&mut packets)).await.is_none());
    // The pipe holds 10 bytes and the send queue 100, so three frames of 30 bytes are accepted.
    assert_eq!(packets, (3..10).map(|byte| vec![byte; 26].into()).collect::<Vec<_>>());
    assert_eq!(conn.stats().queued_bytes, 80);
}

#[tokio::test]
async fn send_many_leaves_a_packet_that_is_too_large_and_all_after_it() {
    let config = ConnConfig::new().codec(CodecConfig::new().max_payload_len(5));
    let (conn, mut raw) = piped_and_raw(4096, config);
    let mut packets: Vec<Packet> = vec![b"small".into(), b"larger".into(), b"tiny".into()];
    assert!(conn.send_many(&mut packets).await.unwrap_err().is_payload_too_large());
    assert_eq!(packets, [Packet::from(b"larger"), b"tiny".into()]);
    // The connection still works.
    packets.remove(0);
    conn.send_many(&mut packets).await.unwrap();
    let mut bytes = [0; 9 + 8];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..], [frame(b"small"), frame(b"tiny")].concat());
}

#[tokio::test]
async fn send_many_accepts_no_packets_after_the_connection_has_ended() {
    let (mut here, there) = piped_pair(4096, ConnConfig::new());
    drop(there);
    here.close().await.unwrap();
    let mut packets = numbers(0..3);
    let error = here.send_many(&mut packets).await.unwrap_err();
    assert!(error.is_local_close());
    assert!(error.unsent().is_empty());
    assert_eq!(packets, numbers(0..3));
}

#[tokio::test]
async fn a_batch_is_queued_after_sends_that_have_waited_longer() {
    let (conn, mut raw) = piped_and_raw(10, ConnConfig::new().send_high_water(100));
    conn.send(vec![1; 96]).await.unwrap();
    let mut batch = vec![Packet::from(vec![3; 6])];
    let mut bytes = vec![0; 100 + 80 + 10];
    let first = async { conn.send(vec![2; 76]).await.unwrap() };
    let second = async { conn.send_many(&mut batch).await.unwrap() };
    let (.., read) = tokio::join!(biased; first, second, raw.read_exact(&mut bytes));
    read.unwrap();
    assert_eq!(bytes, [frame(&[1; 96]), frame(&[2; 76]), frame(&[3; 6])].concat());
}

#[tokio::test]
async fn send_many_writes_the_batch_in_one_write_before_it_returns() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    for batches in 1..=3 {
        conn.send_many(&mut numbers(0..30)).await.unwrap();
        let stats = conn.stats();
        assert_eq!((stats.writes, stats.queued_bytes), (batches, 0));
    }
    let mut bytes = vec![0; 3 * 30 * 8];
    raw.read_exact(&mut bytes).await.unwrap();
    // No background task writes again.
    tokio::task::yield_now().await;
    assert_eq!(conn.stats().writes, 3);
}

#[tokio::test(start_paused = true)]
async fn with_a_flush_delay_a_batch_waits_for_further_packets() {
    let delay = std::time::Duration::from_millis(5);
    let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new().flush_delay(delay));
    conn.send_many(&mut numbers(0..10)).await.unwrap();
    conn.send_many(&mut numbers(10..20)).await.unwrap();
    assert_eq!(conn.stats().writes, 0);
    let mut bytes = vec![0; 20 * 8];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(conn.stats().writes, 1);
}

#[tokio::test]
async fn send_many_on_a_broken_transport_returns_an_io_error() {
    for count in [1, 3] {
        let (conn, raw) = piped_and_raw(4096, ConnConfig::new());
        drop(raw);
        assert!(conn.send_many(&mut numbers(0..count)).await.unwrap_err().is_io());
    }
}

/// A transport that delivers one frame. It accepts up to `max_write` bytes per write, and records all writes.
struct RecordingTransport {
    frame: Option<Vec<u8>>,
    max_write: usize,
    written: Arc<Mutex<Vec<Write>>>,
}

/// The memory address of a write, and the accepted bytes.
type Write = (usize, Vec<u8>);

impl AsyncRead for RecordingTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.frame.take() {
            Some(frame) => {
                buf.put_slice(&frame);
                Poll::Ready(Ok(()))
            }
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for RecordingTransport {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = &buf[..buf.len().min(self.max_write)];
        self.written.lock().unwrap().push((buf.as_ptr() as usize, taken.to_vec()));
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_received_packet_that_is_sent_alone_is_written_without_a_copy() {
    let frame = frame(b"a packet of its own");
    for max_write in [frame.len(), frame.len() - 1, 5, 1] {
        let written = Arc::default();
        let io = RecordingTransport { frame: Some(frame.clone()), max_write, written: Arc::clone(&written) };
        let mut conn = PacketConn::new(io, ConnConfig::new()).unwrap();
        let mut packets = Vec::new();
        conn.recv_many(&mut packets, 2).await.unwrap();
        let frame_addr = packets[0].payload().as_ptr() as usize - 4;
        conn.send_many(&mut packets).await.unwrap();
        let stats = conn.stats();
        let written = written.lock().unwrap();
        let bytes: Vec<u8> = written.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        assert_eq!((written[0].0, &bytes), (frame_addr, &frame), "{max_write} B per write");
        assert_eq!((stats.packets_sent, stats.bytes_sent), (1, frame.len() as u64));
        assert_eq!((stats.writes as usize, stats.queued_bytes), (written.len(), 0));
    }
}

#[tokio::test]
async fn the_rest_of_a_partly_written_packet_is_written_before_later_packets() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    let (mut echoing, mut feed) = piped_and_raw(4096, ConnConfig::new());
    let mut expected = Vec::new();
    let mut received = Vec::new();
    for number in 0..20 {
        let frame = frame(numbered(number).payload());
        feed.write_all(&frame).await.unwrap();
        echoing.recv_many(&mut received, 1).await.unwrap();
        conn.send_many(&mut received).await.unwrap();
        expected.extend(frame);
    }
    let mut bytes = vec![0; expected.len()];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
}
