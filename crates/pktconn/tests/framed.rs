//! From tokio-util's `Framed` to a connection and back, without losing what is in the buffers.

mod common;

use std::time::Duration;

use common::{frame, numbered, tcp_addr, tcp_and_raw};
use futures::{FutureExt, SinkExt, StreamExt};
use pktconn::{Checksum, CodecConfig, ConnConfig, PacketCodec, PacketConn, PacketServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;

fn framed_and_raw(capacity: usize) -> (Framed<DuplexStream, PacketCodec>, DuplexStream) {
    let (here, there) = tokio::io::duplex(capacity);
    (Framed::new(here, PacketCodec::default()), there)
}

#[tokio::test]
async fn packets_that_a_framed_has_read_are_received() {
    let (mut framed, mut peer) = framed_and_raw(10_000);
    let last = frame(b"last");
    peer.write_all(&[frame(b"first"), frame(b"second"), frame(b""), last[..5].to_vec()].concat())
        .await
        .unwrap();
    assert_eq!(framed.next().await.unwrap().unwrap().payload(), b"first");
    assert!(!framed.read_buffer().is_empty());
    let mut conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    for payload in [&b"second"[..], b""] {
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), payload);
    }
    peer.write_all(&last[5..]).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"last");
    drop(peer);
    assert!(conn.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn a_frame_that_the_codec_has_begun_is_continued() {
    let (mut framed, mut peer) = framed_and_raw(10_000);
    let begun = frame(&[7; 3000]);
    peer.write_all(&begun[..1000]).await.unwrap();
    // The codec has read the header, and waits for the rest.
    assert!(framed.next().now_or_never().is_none());
    let mut conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    peer.write_all(&begun[1000..]).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), vec![7; 3000]);
}

#[tokio::test]
async fn the_write_buffer_of_a_framed_is_written_first() {
    // Smaller than what is written, so that the flush has to wait for the peer.
    let (mut framed, mut peer) = framed_and_raw(100);
    for number in 0..10 {
        framed.feed(vec![number; 100].into()).await.unwrap();
    }
    let reading = tokio::spawn(async move {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    let mut conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    conn.send(vec![10; 100]).await.unwrap();
    conn.close().await.unwrap();
    let expected: Vec<u8> = (0..=10).flat_map(|number| frame(&[number; 100])).collect();
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_the_write_buffer_is_a_write_timeout() {
    let (mut framed, _peer) = framed_and_raw(100);
    framed.feed(vec![7; 1000].into()).await.unwrap();
    let config = ConnConfig::new().write_timeout(Duration::from_secs(3));
    let error = PacketConn::from_framed(framed, config).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("3s"), "{error}");
}

#[tokio::test]
async fn the_format_is_that_of_the_framed() {
    let checked = CodecConfig::new().checksum(Checksum::Crc32).max_payload_len(10);
    let (here, there) = tokio::io::duplex(1000);
    let framed = Framed::new(here, PacketCodec::new(checked));
    let conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    let mut peer = PacketConn::new(there, ConnConfig::new().codec(checked)).unwrap();
    conn.send(b"checked").await.unwrap();
    assert_eq!(peer.recv().await.unwrap().unwrap().payload(), b"checked");
    assert!(conn.send(vec![7; 11]).await.unwrap_err().is_payload_too_large());
}

#[tokio::test]
async fn a_codec_that_has_failed_fails_the_connection() {
    let (here, mut peer) = tokio::io::duplex(1000);
    let mut framed = Framed::new(here, PacketCodec::new(CodecConfig::new().max_payload_len(10)));
    peer.write_all(&[255, 0, 0, 0]).await.unwrap();
    assert!(framed.next().await.unwrap().is_err());
    let mut conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    let error = conn.recv().await.unwrap_err();
    assert!(error.is_protocol() && error.to_string().contains("255"), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_with_packets_that_its_framed_has_read_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (mut client, mut framed) =
        (client.unwrap(), Framed::new(accepted.unwrap().0, PacketCodec::default()));
    client.write_all(&[frame(b"received"), frame(b"undelivered")].concat()).await.unwrap();
    assert_eq!(framed.next().await.unwrap().unwrap().payload(), b"received");
    drop(PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap());
    let error = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn packets_that_a_framed_has_read_count_as_unread() {
    let (mut framed, mut peer) = framed_and_raw(100);
    peer.write_all(&[frame(b"received"), frame(b"unread")].concat()).await.unwrap();
    assert_eq!(framed.next().await.unwrap().unwrap().payload(), b"received");
    let config = ConnConfig::new().write_timeout(Duration::from_secs(3));
    let conn = PacketConn::from_framed(framed, config).await.unwrap();
    conn.send(vec![7; 1000]).await.unwrap();
    let error = conn.closed().await;
    assert!(error.is_timeout() && error.to_string().contains("received bytes wait unread"), "{error}");
}

#[tokio::test]
async fn packets_that_have_arrived_are_returned_by_the_framed() {
    for begun in [false, true] {
        let (mut conn, mut peer) = tcp_and_raw(ConnConfig::new()).await;
        let last = frame(&[7; 3000]);
        let start = if begun { 1000 } else { 0 };
        let bytes = [frame(b"first"), frame(b"second"), last[..start].to_vec()].concat();
        peer.write_all(&bytes).await.unwrap();
        peer.flush().await.unwrap();
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"first");
        let mut framed = conn.into_framed().await.unwrap();
        assert_eq!(framed.next().await.unwrap().unwrap().payload(), b"second");
        peer.write_all(&last[start..]).await.unwrap();
        assert_eq!(framed.next().await.unwrap().unwrap().payload(), vec![7; 3000]);
        framed.send("reply".into()).await.unwrap();
        drop(framed);
        let mut reply = Vec::new();
        peer.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply, frame(b"reply"));
    }
}

#[tokio::test]
async fn accepted_packets_are_written_before_the_framed_is_there() {
    let (here, mut peer) = tokio::io::duplex(100);
    // Nothing is written for an hour but by a flush.
    let config = ConnConfig::new().flush_delay(common::HOUR);
    let conn = PacketConn::new(here, config).unwrap();
    let sender = conn.sender();
    for number in 0..100 {
        conn.send(numbered(number)).await.unwrap();
    }
    conn.try_send_latest(7, "latest").unwrap();
    let reading = tokio::spawn(async move {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    let mut framed = conn.into_framed().await.unwrap();
    let error = sender.send("late").await.unwrap_err();
    assert!(error.is_local_close() && error.into_unsent().len() == 1);
    assert!(sender.closed().await.is_local_close());
    framed.send("after".into()).await.unwrap();
    framed.close().await.unwrap();
    let mut expected: Vec<u8> = (0..100).flat_map(|number| frame(numbered(number).payload())).collect();
    expected.extend([frame(b"latest"), frame(b"after")].concat());
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_is_sent_meanwhile_is_written_or_comes_back() {
    for _ in 0..200 {
        let (conn, mut peer) = tcp_and_raw(ConnConfig::new()).await;
        let sender = conn.sender();
        let sending = tokio::spawn(async move {
            let mut accepted = 0;
            while sender.send(vec![7; 96]).await.is_ok() {
                accepted += 1;
            }
            accepted
        });
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).await.unwrap();
            bytes.len()
        });
        drop(conn.into_framed().await.unwrap());
        assert_eq!(reading.await.unwrap(), 100 * sending.await.unwrap());
    }
}

#[tokio::test]
async fn a_connection_that_has_ended_has_no_framed() {
    let (mut conn, mut peer) = tcp_and_raw(ConnConfig::new()).await;
    peer.write_all(&[255; 4]).await.unwrap();
    assert!(conn.recv().await.unwrap_err().is_protocol());
    assert!(conn.into_framed().await.unwrap_err().is_protocol());
}

#[tokio::test]
async fn after_the_peers_close_the_framed_ends_and_can_still_send() {
    let (mut conn, mut peer) = tcp_and_raw(ConnConfig::new().half_close(true)).await;
    peer.shutdown().await.unwrap();
    assert!(conn.recv().await.unwrap().is_none());
    let mut framed = conn.into_framed().await.unwrap();
    assert!(framed.next().await.is_none());
    framed.send("reply".into()).await.unwrap();
    framed.close().await.unwrap();
    let mut reply = Vec::new();
    peer.read_to_end(&mut reply).await.unwrap();
    assert_eq!(reply, frame(b"reply"));
}

#[tokio::test]
async fn a_connection_of_a_server_leaves_it_as_a_framed() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (framed_out, framed_in) = tokio::sync::oneshot::channel();
    let framed_out = std::sync::Mutex::new(Some(framed_out));
    tokio::spawn(server.serve(move |conn: PacketConn| {
        let out = framed_out.lock().unwrap().take();
        async move {
            let framed = conn.into_framed().await?;
            assert!(out.unwrap().send(framed).is_ok());
            Ok(())
        }
    }));
    let mut client = PacketConn::connect(addr).await.unwrap();
    let mut framed = framed_in.await.unwrap();
    while handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
    client.send("ping").await.unwrap();
    assert_eq!(framed.next().await.unwrap().unwrap().payload(), b"ping");
    framed.send("pong".into()).await.unwrap();
    assert_eq!(client.recv().await.unwrap().unwrap().payload(), b"pong");
    drop(framed);
    assert!(client.recv().await.unwrap().is_none());
}

/// Both sides send all the time, and one of them is turned into a `Framed` and back after every few packets.
#[tokio::test]
async fn nothing_is_lost_in_any_number_of_changes() {
    const COUNT: u32 = 3000;
    let (conn, raw) = tcp_and_raw(ConnConfig::new()).await;
    let peer = PacketConn::from_tcp(raw, ConnConfig::new()).unwrap();
    let (sender, mut receiver) = peer.split();
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            sender.send(numbered(number)).await.unwrap();
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        sender
    });
    let receiving = tokio::spawn(async move {
        for number in 0..COUNT {
            assert_eq!(receiver.recv().await.unwrap(), Some(numbered(number)));
        }
        receiver
    });
    let mut conn = conn;
    let (mut received, mut sent) = (0, 0);
    while received < COUNT {
        for _ in 0..5.min(COUNT - received) {
            assert_eq!(conn.recv().await.unwrap(), Some(numbered(received)));
            conn.send(numbered(sent)).await.unwrap();
            (received, sent) = (received + 1, sent + 1);
        }
        let mut framed = conn.into_framed().await.unwrap();
        for _ in 0..3.min(COUNT - received) {
            assert_eq!(framed.next().await.unwrap().unwrap(), numbered(received));
            framed.feed(numbered(sent)).await.unwrap();
            (received, sent) = (received + 1, sent + 1);
        }
        conn = PacketConn::from_framed(framed, ConnConfig::new()).await.unwrap();
    }
    conn.flush().await.unwrap();
    let (_sender, _receiver) = (sending.await.unwrap(), receiving.await.unwrap());
}
