//! `PacketConn::into_channels`: order, backpressure, errors and the end of both channels.

mod common;

use common::{HANG_GUARD, numbered, piped_and_raw, piped_pair};
use pktconn::{CodecConfig, ConnConfig, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn packets_pass_in_both_directions_in_order() {
    let (conn, mut peer) = piped_pair(1000, ConnConfig::new());
    let (outgoing, mut incoming) = conn.into_channels(4);
    let echo = tokio::spawn(async move {
        while let Some(packet) = peer.recv().await.unwrap() {
            peer.send(packet).await.unwrap();
        }
        peer.close().await.unwrap();
    });
    let sending = async move {
        for number in 0..500 {
            outgoing.send(numbered(number)).await.unwrap();
        }
    };
    // Replies are received even after `outgoing` was dropped.
    let receiving = async move {
        for number in 0..500 {
            assert_eq!(incoming.recv().await.unwrap().unwrap(), numbered(number));
        }
    };
    timeout(HANG_GUARD, async { tokio::join!(sending, receiving) }).await.unwrap();
    // Both channels were dropped, so the connection is closed and the echo ends.
    timeout(HANG_GUARD, echo).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_incoming_channel_makes_the_peer_wait() {
    let (conn, peer) = piped_pair(1000, ConnConfig::new().send_high_water(1000));
    let (_outgoing, mut incoming) = conn.into_channels(2);
    let mut sent = 0;
    for _ in 0..1000 {
        sent += u32::from(peer.try_send(vec![sent as u8; 96]).is_ok());
        tokio::task::yield_now().await;
    }
    assert!((20..40).contains(&sent), "{sent} packets were accepted although the channel is not read");
    for number in 0..sent {
        assert_eq!(incoming.recv().await.unwrap().unwrap(), vec![number as u8; 96].into());
    }
}

#[tokio::test]
async fn the_error_is_the_last_item_of_the_incoming_channel() {
    let (conn, mut raw) = piped_and_raw(1000, ConnConfig::new());
    let (outgoing, mut incoming) = conn.into_channels(4);
    raw.write_all(b"\x01\0\0\0a\x09\0\0\0cut").await.unwrap();
    drop(raw);
    assert_eq!(incoming.recv().await.unwrap().unwrap(), "a".into());
    assert!(incoming.recv().await.unwrap().unwrap_err().is_truncated());
    assert!(incoming.recv().await.is_none());
    timeout(HANG_GUARD, async { while outgoing.send("late".into()).await.is_ok() {} }).await.unwrap();
}

#[tokio::test]
async fn a_packet_over_the_limit_is_returned_and_the_others_are_sent() {
    let config = ConnConfig::new().codec(CodecConfig::new().max_payload_len(10));
    let (conn, mut peer) = piped_pair(1000, config);
    let (outgoing, mut incoming) = conn.into_channels(8);
    for len in [1, 11, 2] {
        outgoing.send(vec![7; len].into()).await.unwrap();
    }
    assert_eq!(peer.recv().await.unwrap().unwrap().len(), 1);
    assert_eq!(peer.recv().await.unwrap().unwrap().len(), 2);
    let error = incoming.recv().await.unwrap().unwrap_err();
    assert!(error.is_payload_too_large());
    assert_eq!(error.into_unsent(), [Packet::from(vec![7; 11])]);
}

#[tokio::test]
async fn a_close_by_the_peer_ends_the_incoming_channel_and_the_connection() {
    let (conn, mut peer) = piped_pair(1000, ConnConfig::new());
    let (outgoing, mut incoming) = conn.into_channels(4);
    let closing = tokio::spawn(async move { peer.close().await });
    assert!(timeout(HANG_GUARD, incoming.recv()).await.unwrap().is_none());
    drop(outgoing);
    timeout(HANG_GUARD, closing).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_outgoing_channel_closes_when_the_connection_ends() {
    let (conn, mut raw) = piped_and_raw(1000, ConnConfig::new());
    let (outgoing, mut incoming) = conn.into_channels(4);
    raw.write_all(b"\x09\0\0\0cut").await.unwrap();
    drop(raw);
    assert!(incoming.recv().await.unwrap().unwrap_err().is_truncated());
    timeout(HANG_GUARD, outgoing.closed()).await.expect("the channel is closed although nothing was sent");
    assert!(outgoing.send("late".into()).await.is_err());
}

#[tokio::test]
async fn a_close_by_another_handle_is_the_last_item_of_the_incoming_channel() {
    let (conn, _raw) = piped_and_raw(1000, ConnConfig::new());
    let sender = conn.sender();
    let (outgoing, mut incoming) = conn.into_channels(4);
    tokio::spawn(async move { sender.close().await });
    assert!(timeout(HANG_GUARD, incoming.recv()).await.unwrap().unwrap().unwrap_err().is_local_close());
    assert!(incoming.recv().await.is_none());
    timeout(HANG_GUARD, outgoing.closed()).await.unwrap();
}

#[tokio::test]
async fn sending_continues_after_the_incoming_channel_was_dropped() {
    let (conn, mut raw) = piped_and_raw(1000, ConnConfig::new());
    let (outgoing, incoming) = conn.into_channels(4);
    drop(incoming);
    for _ in 0..10 {
        raw.write_all(b"\x01\0\0\0a").await.unwrap();
        outgoing.send("b".into()).await.unwrap();
        let mut frame = [0; 5];
        raw.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"\x01\0\0\0b");
    }
    drop(outgoing);
    assert_eq!(raw.read(&mut [0; 5]).await.unwrap(), 0, "closed");
}
