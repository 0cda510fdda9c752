//! Mistakes that new users made with the library. Each of them is now impossible, harmless, or explained by an error
//! message.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{
    HANG_GUARD, HOUR, drop_after, numbered, piped_and_raw, piped_pair, tcp_addr, tcp_and_raw, tcp_pair,
};
use futures::{SinkExt, StreamExt};
use pktconn::{ConnConfig, Error, Packet, PacketCodec, PacketConn, PacketServer, SlowConsumer, Timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::codec::Framed;

const HINT: &str = "received bytes wait unread here: both sides may be sending only";

/// Of all timeouts, only the write timeout passes in a test.
fn short_write_timeout() -> ConnConfig {
    ConnConfig::new().write_timeout(Duration::from_millis(300)).close_timeout(HOUR)
}

/// Sends without receiving until `send` fails.
async fn send_only(conn: &PacketConn) -> Error {
    loop {
        if let Err(error) = conn.send(vec![7; 64 * 1024]).await {
            return error;
        }
    }
}

#[tokio::test]
async fn a_write_timeout_mentions_unread_bytes_if_both_sides_only_send() {
    let (a, b) = tcp_pair(short_write_timeout()).await;
    let first = timeout(HANG_GUARD, async {
        tokio::select! {
            error = send_only(&a) => error,
            error = send_only(&b) => error,
        }
    });
    let error = first.await.expect("no write timeout");
    assert_eq!(error.timeout(), Some(Timeout::Write));
    let text = error.to_string();
    assert!(text.contains(HINT) && text.contains("300ms"), "{text}");
}

#[tokio::test]
async fn a_write_timeout_mentions_packets_that_were_read_and_not_received() {
    let (mut conn, mut raw) = piped_and_raw(1000, short_write_timeout());
    raw.write_all(b"\x01\0\0\0a\x01\0\0\0b").await.unwrap();
    assert_eq!(conn.recv().await.unwrap(), Some("a".into()));
    let text = timeout(HANG_GUARD, send_only(&conn)).await.unwrap().to_string();
    assert!(text.contains(HINT), "{text}");
}

#[tokio::test]
async fn a_write_timeout_does_not_mention_unread_bytes_if_the_peer_sent_nothing() {
    let (conn, _raw) = tcp_and_raw(short_write_timeout()).await;
    let error = timeout(HANG_GUARD, send_only(&conn)).await.unwrap();
    assert_eq!(error.timeout(), Some(Timeout::Write));
    assert!(!error.to_string().contains("unread"), "{error}");
}

/// The loop in the documentation of `send`: it receives while it waits for room.
async fn exchange(mut conn: PacketConn, mut to_send: VecDeque<Packet>, to_receive: usize) {
    let sender = conn.sender();
    let mut received = 0;
    while received < to_receive || !to_send.is_empty() {
        tokio::select! {
            packet = conn.recv(), if received < to_receive => {
                packet.unwrap().unwrap();
                received += 1;
            }
            permit = sender.reserve(), if !to_send.is_empty() => {
                permit.unwrap().send(to_send.pop_front().unwrap()).unwrap();
            }
        }
    }
    drop(sender);
    conn.close().await.unwrap();
}

#[tokio::test]
async fn two_sides_that_use_the_documented_loop_do_not_deadlock() {
    let (a, b) = piped_pair(1000, ConnConfig::new().send_high_water(1000));
    let packets: VecDeque<_> = (0..2000).map(numbered).collect();
    let both = async { tokio::join!(exchange(a, packets.clone(), 2000), exchange(b, packets.clone(), 2000)) };
    timeout(HANG_GUARD, both).await.expect("no deadlock");
}

#[tokio::test]
async fn send_still_batches_packets_if_sink_ext_is_in_scope() {
    let (mut conn, mut peer) = tcp_pair(ConnConfig::new()).await;
    let receiving = tokio::spawn(async move {
        let mut count = 0;
        while let Some(packet) = peer.next().await {
            packet.unwrap();
            count += 1;
        }
        (count, peer.close().await)
    });
    for _ in 0..100_000 {
        conn.send("a packet of 20 bytes").await.unwrap();
    }
    conn.close().await.unwrap();
    let writes = conn.stats().writes;
    assert!(writes < 2000, "{writes} writes for 100,000 packets");
    assert_eq!(receiving.await.unwrap().0, 100_000);
}

#[tokio::test]
async fn framed_needs_no_type_annotations() {
    let (here, there) = tokio::io::duplex(4096);
    let mut framed = Framed::new(here, PacketCodec::default());
    framed.feed("one".into()).await.unwrap();
    framed.flush().await.unwrap();
    let (mut sink, _stream) = framed.split();
    sink.send("two".into()).await.unwrap();
    sink.close().await.unwrap();
    let received: Vec<_> = Framed::new(there, PacketCodec::default()).map(Result::unwrap).collect().await;
    assert_eq!(received, [Packet::from("one"), "two".into()]);
}

#[tokio::test]
async fn reserve_returns_below_the_high_water_mark_and_the_packet_may_exceed_it() {
    let (conn, mut raw) = piped_and_raw(10, ConnConfig::new().send_high_water(100));
    let sender = conn.sender();
    sender.reserve().await.unwrap().send(vec![1; 196]).unwrap();
    assert!(drop_after(1, sender.reserve()).await.is_none());
    raw.read_exact(&mut [0; 120]).await.unwrap();
    // An unused permit needs no room.
    drop(timeout(HANG_GUARD, sender.reserve()).await.unwrap().unwrap());
    let permit = timeout(HANG_GUARD, sender.reserve()).await.unwrap().unwrap();
    permit.send(vec![2; 46]).unwrap();
    raw.read_exact(&mut [0; 80 + 50]).await.unwrap();
    assert_eq!(conn.queued_bytes(), 0);
}

#[tokio::test]
async fn a_permit_of_a_connection_that_has_ended_returns_the_packet() {
    let (mut conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    let sender = conn.sender();
    let permit = sender.reserve().await.unwrap();
    let (closed, _) = tokio::join!(conn.close(), async {
        raw.read_to_end(&mut Vec::new()).await.unwrap();
        drop(raw);
    });
    closed.unwrap();
    let error = permit.send("late").unwrap_err();
    assert!(error.is_local_close());
    assert_eq!(error.into_unsent(), [Packet::from("late")]);
    assert!(sender.reserve().await.unwrap_err().is_local_close());
}

#[tokio::test]
async fn a_sender_keeps_the_connection_open_after_its_drop() {
    let (conn, mut peer) = piped_pair(1000, ConnConfig::new());
    let sender = conn.sender();
    assert_eq!(sender.id(), conn.id());
    assert_ne!(conn.id(), peer.id());
    drop(conn);
    sender.send("still here").await.unwrap();
    assert_eq!(peer.recv().await.unwrap(), Some("still here".into()));
    drop(sender);
    assert_eq!(peer.recv().await.unwrap(), None);
}

#[tokio::test]
async fn into_inner_of_a_sink_returns_the_connection() {
    let (conn, mut peer) = piped_pair(1000, ConnConfig::new());
    let id = conn.id();
    let mut sink = conn.into_sink();
    sink.send("by the sink".into()).await.unwrap();
    peer.send("to the stream").await.unwrap();
    assert_eq!(sink.next().await.unwrap().unwrap(), "to the stream".into());
    assert_eq!(sink.get_ref().stats().packets_sent, 1);
    let mut conn = sink.into_inner();
    assert_eq!(conn.id(), id);
    let (closed, end) = tokio::join!(conn.close(), async {
        assert_eq!(peer.recv().await.unwrap(), Some("by the sink".into()));
        assert_eq!(peer.recv().await.unwrap(), None);
        peer.close().await
    });
    closed.unwrap();
    end.unwrap();
}

#[tokio::test]
async fn serve_conn_closes_the_connection_when_the_handler_returns() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let served = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn({
        let served = Arc::clone(&served);
        server.serve_conn(async move |conn: &mut PacketConn| {
            while let Some(packet) = conn.recv().await? {
                match packet.payload() {
                    // More than the transport accepts at once, so dropping the connection would lose a part of it.
                    b"much" => conn.send(vec![7; 8 << 20]).await?,
                    b"fail" => return Err("as asked".into()),
                    _ => break,
                }
            }
            served.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    });

    let mut conn = PacketConn::connect(addr).await.unwrap();
    conn.send("much").await.unwrap();
    conn.send("enough").await.unwrap();
    let received = conn.recv().await.unwrap().unwrap();
    assert_eq!(received.len(), 8 << 20);
    assert_eq!(conn.recv().await.unwrap(), None);
    conn.close().await.unwrap();

    let mut conn = PacketConn::connect(addr).await.unwrap();
    conn.send("fail").await.unwrap();
    conn.recv().await.unwrap();
    handle.shutdown();
    timeout(HANG_GUARD, serving).await.unwrap().unwrap();
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn serve_conn_accepts_an_async_fn() {
    async fn echo(conn: &mut PacketConn) -> pktconn::HandlerResult {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(())
    }
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve_conn(echo));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    conn.send("hello".to_owned()).await.unwrap();
    assert_eq!(conn.recv().await.unwrap(), Some("hello".into()));
}

#[tokio::test]
async fn an_ipv4_peer_of_a_dual_stack_listener_has_an_ipv4_address() {
    let Ok(server) = PacketServer::bind("[::]:0").await else { return };
    let port = tcp_addr(&server).port();
    let (seen, mut addrs) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        let seen = seen.clone();
        async move {
            seen.send((conn.peer_addr().unwrap(), conn.local_addr().unwrap()))?;
            Ok(())
        }
    }));
    let conn = PacketConn::connect(("127.0.0.1", port)).await.unwrap();
    let addrs = timeout(HANG_GUARD, addrs.recv()).await.unwrap().unwrap();
    assert_eq!(addrs, (conn.local_addr().unwrap(), conn.peer_addr().unwrap()));
    assert!(addrs.0.is_ipv4() && addrs.1.is_ipv4());
}

#[tokio::test]
async fn send_parts_sends_one_packet_in_every_format() {
    use pktconn::{Checksum, CodecConfig, HeaderFormat};
    let parts =
        |len| [Bytes::from_static(b"id"), Bytes::new(), Bytes::from(vec![7; len]), Bytes::from(vec![8; len])];
    for header in [HeaderFormat::U32Le, HeaderFormat::U16Be] {
        for checksum in [Checksum::None, Checksum::Crc32] {
            let codec = CodecConfig::new().header(header).checksum(checksum).max_payload_len(200_000);
            // Less than a large packet, so that `send_parts` waits.
            let config = ConnConfig::new().codec(codec).send_high_water(10_000);
            let (mut conn, mut peer) = tcp_pair(config).await;
            let lens = [0, 100, 16_000, 40_000, 90_000]
                .into_iter()
                .filter(|len| 2 * len + 2 <= codec.payload_limit());
            let lens: Vec<_> = lens.flat_map(|len| [len; 20]).collect();
            let sending = async {
                for &len in &lens {
                    conn.send_parts(&parts(len)).await.unwrap();
                }
                let error = conn.send_parts(&parts(100_000)).await.unwrap_err();
                assert!(error.is_payload_too_large());
                assert!(error.into_unsent() == [Packet::from(parts(100_000).concat())]);
                conn.close().await.unwrap();
            };
            let receiving = async {
                for &len in &lens {
                    let packet = timeout(HANG_GUARD, peer.recv()).await.unwrap().unwrap().unwrap();
                    assert!(packet.payload() == parts(len).concat(), "{len}");
                }
                assert_eq!(peer.recv().await.unwrap(), None);
                peer.close().await.unwrap();
            };
            tokio::join!(sending, receiving);
        }
    }
}

#[tokio::test]
async fn unsent_parts_are_returned_as_packets() {
    let parts = [Bytes::from_static(b"id"), Bytes::from(vec![7; 100_000])];
    let (mut conn, raw) = piped_and_raw(1000, ConnConfig::new().send_high_water(150_000));
    conn.send_parts(&parts).await.unwrap();
    assert!(
        drop_after(1, conn.send_parts(&parts)).await.is_none(),
        "the queue must have no room for a second packet"
    );
    drop(raw);
    let unsent = conn.close().await.unwrap_err().into_unsent();
    assert!(unsent == [Packet::from(parts.concat())]);
    let error = conn.send_parts(&parts).await.unwrap_err();
    assert!(error.into_unsent() == [Packet::from(parts.concat())]);
}

#[tokio::test]
async fn send_parts_follows_the_slow_consumer_policy() {
    let parts = |number| [Bytes::from(vec![number; 8]), Bytes::from(vec![number; 40_000])];
    for (policy, left) in [(SlowConsumer::DropNewest, 2), (SlowConsumer::DropOldest, 3)] {
        let (mut conn, mut peer) =
            piped_pair(1000, ConnConfig::new().slow_consumer(policy).send_high_water(90_000));
        for number in 1..=3 {
            conn.send_parts(&parts(number)).await.unwrap();
        }
        assert_eq!(conn.stats().packets_dropped, 1, "{policy:?}");
        // The first packet is partly written, so it is not dropped.
        let receiving = async {
            for number in [1, left] {
                assert!(peer.recv().await.unwrap().unwrap().payload() == parts(number).concat());
            }
            assert_eq!(peer.recv().await.unwrap(), None);
            peer.close().await
        };
        let (closed, peer_closed) = tokio::join!(conn.close(), receiving);
        closed.unwrap();
        peer_closed.unwrap();
    }
}
