//! `PacketConn`: sending, receiving, backpressure, statistics, `Stream` and `Sink`, and the errors at the end.

mod common;

use common::{drop_after, frame, numbered, piped_and_raw, piped_pair, tcp_and_raw, tcp_pair};
use futures::{SinkExt, StreamExt};
use pktconn::{Checksum, CodecConfig, ConnConfig, FrameError, Packet, PacketConn, SlowConsumer};
use std::error::Error as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn frame_error(error: &pktconn::Error) -> Option<&FrameError> {
    error.source()?.downcast_ref()
}

#[tokio::test]
async fn packets_of_any_size_arrive_complete_and_in_order() {
    let config = ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32));
    let (mut here, mut there) = tcp_pair(config).await;
    let lens = [0, 1, 2048, 0, 65_536, 7, 5 * 1024 * 1024, 100];
    let sending = async {
        for (i, len) in lens.into_iter().enumerate() {
            here.send(vec![i as u8; len]).await.unwrap();
        }
        here.close().await.unwrap();
    };
    let receiving = async {
        for (i, len) in lens.into_iter().enumerate() {
            let packet = there.recv().await.unwrap().unwrap();
            assert_eq!(packet.len(), len);
            assert!(packet.payload().iter().all(|&byte| byte == i as u8));
        }
        assert!(there.recv().await.unwrap().is_none());
        there.close().await.unwrap();
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn the_bytes_on_the_wire_match_the_frame_format() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    conn.send(b"\x3a\xbd\x40").await.unwrap();
    conn.send(b"").await.unwrap();
    let mut bytes = [0; 11];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"\x03\0\0\0\x3a\xbd\x40\0\0\0\0");
}

#[tokio::test]
async fn a_forwarded_packet_keeps_its_bytes_and_checksum() {
    let config = ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32));
    let (mut conn, mut raw) = tcp_and_raw(config).await;
    let framed = b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2";
    raw.write_all(framed).await.unwrap();
    let packet = conn.recv().await.unwrap().unwrap();
    conn.send(packet).await.unwrap();
    let mut bytes = [0; 11];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, framed);
}

#[tokio::test]
async fn recv_returns_none_after_a_half_close_and_sending_still_works() {
    let (mut conn, mut raw) = tcp_and_raw(ConnConfig::new().half_close(true)).await;
    raw.write_all(&frame(b"last words")).await.unwrap();
    raw.shutdown().await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"last words");
    assert!(conn.close_reason().is_none(), "the end of the stream is not read yet");
    for _ in 0..2 {
        assert!(conn.recv().await.unwrap().is_none());
    }
    assert!(conn.closed().await.is_remote_close());

    conn.send(b"reply").await.unwrap();
    let mut bytes = [0; 9];
    raw.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..], frame(b"reply"));
    drop(raw);
    conn.close().await.unwrap();
    assert!(conn.close_reason().unwrap().is_remote_close(), "the first reason wins");
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_frame_is_an_error_with_the_byte_counts() {
    let (mut conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    raw.write_all(&frame(b"whole")).await.unwrap();
    raw.write_all(&frame(b"cut in the middle")[..10]).await.unwrap();
    drop(raw);
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"whole");
    for _ in 0..2 {
        let error = conn.recv().await.unwrap_err();
        assert!(error.is_truncated(), "{error:?}");
        assert_eq!(frame_error(&error), Some(&FrameError::Truncated { needed: 21, available: 10 }));
    }
    assert!(conn.close_reason().unwrap().is_truncated());
    assert!(conn.send(b"x").await.unwrap_err().is_truncated(), "every handle returns the same reason");
}

#[tokio::test]
async fn a_local_close_ends_both_directions() {
    let (mut conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    let peer = tokio::spawn(async move {
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    conn.send(b"kept").await.unwrap();
    conn.close().await.unwrap();
    assert_eq!(peer.await.unwrap(), frame(b"kept"));
    assert!(conn.recv().await.unwrap_err().is_local_close());
    assert!(conn.close_reason().unwrap().is_local_close());
    let error = conn.send(b"late").await.unwrap_err();
    assert!(error.is_local_close());
    assert_eq!(error.into_unsent(), [Packet::from(b"late")], "the error returns the packet");
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_connection_after_the_packets_before_it() {
    let config = ConnConfig::new().codec(CodecConfig::new().max_payload_len(8));
    let (mut conn, mut raw) = tcp_and_raw(config).await;
    raw.write_all(&[frame(b"12345678"), frame(b"123456789"), frame(b"1")].concat()).await.unwrap();
    let packet = conn.recv().await.unwrap().unwrap();
    conn.send(packet).await.unwrap();
    for _ in 0..2 {
        let error = conn.recv().await.unwrap_err();
        assert!(error.is_protocol(), "{error:?}");
        assert_eq!(frame_error(&error), Some(&FrameError::PayloadTooLarge { len: 9, max: 8 }));
    }
    let mut bytes = Vec::new();
    let end = raw.read_to_end(&mut bytes).await.unwrap_err();
    assert_eq!(bytes, frame(b"12345678"));
    assert_eq!(
        end.kind(),
        std::io::ErrorKind::ConnectionReset,
        "the peer must learn that its frame was not read"
    );
    assert!(conn.close().await.unwrap_err().is_protocol());
}

#[tokio::test]
async fn a_corrupted_frame_is_a_checksum_error() {
    let config = ConnConfig::new().codec(CodecConfig::new().checksum(Checksum::Crc32));
    let (mut conn, mut raw) = tcp_and_raw(config).await;
    raw.write_all(b"\x03\0\0\0\x3a\xbd\x41\xc0\x34\xcf\xa2").await.unwrap();
    let error = conn.recv().await.unwrap_err();
    assert!(error.is_protocol());
    assert!(matches!(frame_error(&error), Some(FrameError::ChecksumMismatch { expected: 0xa2cf34c0, .. })));
}

#[tokio::test]
async fn a_packet_over_the_limit_is_refused_and_the_connection_stays_open() {
    let config = ConnConfig::new().codec(CodecConfig::new().max_payload_len(8));
    let (here, mut there) = tcp_pair(config).await;
    for error in [here.send(b"123456789").await.unwrap_err(), here.try_send(b"123456789").unwrap_err()] {
        assert!(error.is_payload_too_large());
        assert_eq!(frame_error(&error), Some(&FrameError::PayloadTooLarge { len: 9, max: 8 }));
        assert_eq!(error.unsent(), [Packet::from(b"123456789")]);
    }
    here.send(b"12345678").await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"12345678");
}

#[tokio::test]
async fn after_the_transport_fails_every_call_returns_an_io_error() {
    let (mut conn, raw) = tcp_and_raw(ConnConfig::new()).await;
    // Closing a socket with unread bytes makes the kernel send a reset.
    conn.send(b"unread").await.unwrap();
    conn.flush().await.unwrap();
    raw.readable().await.unwrap();
    drop(raw);
    let error = conn.recv().await.unwrap_err();
    assert!(error.is_io(), "{error:?}");
    let kind = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    assert!(conn.send(b"x").await.unwrap_err().is_io());
    assert!(conn.flush().await.is_ok(), "all accepted packets were written before");
    assert!(conn.closed().await.is_io());
    assert!(conn.close().await.unwrap_err().is_io());
}

#[tokio::test]
async fn the_send_queue_is_bounded_and_try_send_returns_the_packet() {
    // The pipe holds 64 bytes. The other bytes stay in the send queue of 1,000 bytes.
    let (conn, _raw) = piped_and_raw(64, ConnConfig::new().send_high_water(1000));
    let mut accepted = 0;
    let error = loop {
        match conn.try_send(vec![accepted as u8; 96]) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert!(error.is_full(), "{error:?}");
    assert_eq!(error.unsent()[0].payload(), [accepted as u8; 96]);
    assert_eq!(accepted, 10, "frames of 100 bytes");
    assert_eq!(conn.stats().queued_bytes, 1000 - 64);
    assert!(conn.close_reason().is_none());
}

#[tokio::test]
async fn send_waits_for_room_in_the_order_of_the_calls() {
    let (here, mut there) = piped_pair(64, ConnConfig::new().send_high_water(500));
    let sends = (0..100).map(|number| here.send(numbered(number)));
    let sending = futures::future::join_all(sends);
    let receiving = async {
        for number in 0..100 {
            assert_eq!(there.recv().await.unwrap().unwrap(), numbered(number));
        }
    };
    let (sent, ()) = tokio::join!(sending, receiving);
    assert!(sent.into_iter().all(|result| result.is_ok()));
}

#[tokio::test]
async fn an_empty_send_queue_accepts_a_packet_larger_than_its_limit() {
    let (here, mut there) = piped_pair(64, ConnConfig::new().send_high_water(100));
    here.send(b"first").await.unwrap();
    let large = vec![7; 100_000];
    let (sent, ()) = tokio::join!(here.send(large.clone()), async {
        assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"first");
        assert_eq!(there.recv().await.unwrap().unwrap().payload(), large);
    });
    sent.unwrap();
    // After it the queue has all of its room again, and no more.
    here.flush().await.unwrap();
    here.try_send(vec![1; 96]).unwrap();
    assert!(here.try_send(vec![1; 96]).unwrap_err().is_full());
}

#[tokio::test]
async fn a_waiting_send_fails_when_the_connection_ends() {
    let (conn, raw) = piped_and_raw(64, ConnConfig::new().send_high_water(100));
    conn.send(vec![1; 96]).await.unwrap();
    let (result, ()) = tokio::join!(conn.send(vec![2; 96]), async { drop(raw) });
    let error = result.unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert_eq!(error.unsent()[0].payload(), [2; 96]);
}

#[tokio::test]
async fn the_statistics_count_packets_bytes_reads_and_writes_each_way() {
    let (mut here, mut there) = piped_pair(4096, ConnConfig::new());
    for payload in [b"one" as &[u8], b"three"] {
        here.send(payload).await.unwrap();
    }
    here.flush().await.unwrap();
    for _ in 0..2 {
        let packet = there.recv().await.unwrap().unwrap();
        there.send(packet).await.unwrap();
    }
    there.flush().await.unwrap();
    here.recv().await.unwrap();
    let stats = here.stats();
    assert_eq!((stats.packets_sent, stats.bytes_sent, stats.writes, stats.queued_bytes), (2, 16, 1, 0));
    assert_eq!((stats.packets_received, stats.bytes_received, stats.reads), (1, 16, 1));
}

#[tokio::test]
async fn a_stream_that_is_ended_while_packets_wait_returns_the_error() {
    let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_high_water(1000);
    let (mut conn, mut peer) = piped_and_raw(50_000, config);
    peer.write_all(&frame(b"x").repeat(3000)).await.unwrap();
    assert!(conn.recv().await.unwrap().is_some());
    // The peer does not read.
    while conn.try_send(vec![7; 900]).is_ok() {}
    let mut received = 1;
    let error = loop {
        match conn.next().await {
            Some(Ok(_)) => received += 1,
            Some(Err(error)) => break error,
            None => panic!("the stream ended without an error after {received} packets"),
        }
    };
    assert!(error.is_slow_consumer(), "{error}");
    assert!(conn.next().await.is_none());
}

#[tokio::test]
async fn a_connection_is_a_stream_that_ends_after_a_clean_close_or_an_error() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&[frame(b"a"), frame(b"b")].concat()).await.unwrap();
    drop(raw);
    assert_eq!(conn.next().await.unwrap().unwrap().payload(), b"a");
    assert_eq!(conn.next().await.unwrap().unwrap().payload(), b"b");
    assert!(conn.next().await.is_none());

    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&frame(b"a")[..3]).await.unwrap();
    drop(raw);
    assert!(conn.next().await.unwrap().unwrap_err().is_truncated());
    assert!(conn.next().await.is_none());
}

#[tokio::test]
async fn the_sink_waits_for_room_and_closes() {
    let (here, mut there) = piped_pair(64, ConnConfig::new().send_high_water(500));
    let mut sink = here.into_sink();
    let sending = async {
        let mut packets = futures::stream::iter(0..200).map(|number| Ok(numbered(number)));
        sink.send_all(&mut packets).await.unwrap();
        sink.close().await.unwrap();
    };
    let receiving = async {
        let packets: Vec<Packet> = (&mut there).map(Result::unwrap).collect().await;
        assert_eq!(packets, (0..200).map(numbered).collect::<Vec<_>>());
        there.close().await.unwrap();
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn the_sink_is_not_ready_above_the_high_water_mark_and_flushes_all_bytes() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new().send_high_water(500));
    let mut sink = conn.into_sink();
    sink.feed(vec![1; 596].into()).await.unwrap();
    assert!(drop_after(1, sink.feed(vec![2; 10].into())).await.is_none());
    assert!(drop_after(1, sink.flush()).await.is_none());
    raw.read_exact(&mut [0; 100]).await.unwrap();
    sink.feed(vec![2; 10].into()).await.unwrap();
    assert!(drop_after(1, sink.flush()).await.is_none());
    let mut rest = [0; 600 - 100 + 14];
    let (flushed, read) = tokio::join!(sink.flush(), raw.read_exact(&mut rest));
    flushed.unwrap();
    read.unwrap();
}

#[tokio::test]
async fn a_connection_has_the_addresses_of_its_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let conn = PacketConn::connect(addr).await.unwrap();
    let (_accepted, peer) = listener.accept().await.unwrap();
    assert_eq!(conn.peer_addr(), Some(addr));
    assert_eq!(conn.local_addr(), Some(peer));
    let (piped, _raw) = piped_and_raw(1, ConnConfig::new());
    assert_eq!((piped.local_addr(), piped.peer_addr()), (None, None));
}

#[tokio::test]
async fn nodelay_is_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let same_socket = stream.try_clone().unwrap();
    assert!(!same_socket.nodelay().unwrap());
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let _conn = PacketConn::from_tcp(stream, ConnConfig::new()).unwrap();
    assert!(same_socket.nodelay().unwrap());
}

#[tokio::test]
async fn connecting_to_a_port_without_a_listener_is_an_io_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    assert!(PacketConn::connect(addr).await.unwrap_err().is_io());
}

#[test]
fn every_handle_can_be_shared_between_threads() {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<PacketConn>();
    assert_send_and_sync::<pktconn::PacketSender>();
    assert_send_and_sync::<pktconn::PacketReceiver>();
    assert_send_and_sync::<pktconn::PacketServer>();
    assert_send_and_sync::<pktconn::Error>();
}
