//! `ConnConfig::heartbeat` and `ConnConfig::skip_empty`: empty packets keep an idle connection open.

mod common;

use std::time::Duration;

use common::{frame, numbered, piped_and_raw, piped_pair};
use pktconn::{ConnConfig, Packet, Timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_silent_connection_sends_an_empty_packet_per_interval() {
    let (conn, mut raw) = piped_and_raw(1000, ConnConfig::new().heartbeat(10 * SECOND));
    let started = Instant::now();
    for number in 1..=3 {
        let mut bytes = [1; 4];
        raw.read_exact(&mut bytes).await.unwrap();
        assert_eq!((bytes, started.elapsed()), ([0; 4], number * 10 * SECOND));
    }
    assert_eq!(conn.stats().packets_sent, 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_often_enough_sends_no_heartbeat() {
    let (conn, mut raw) = piped_and_raw(1000, ConnConfig::new().heartbeat(10 * SECOND));
    let mut bytes = [0; 5];
    for _ in 0..20 {
        conn.send("a").await.unwrap();
        raw.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..], frame(b"a"));
        sleep(4 * SECOND).await;
    }
    assert_eq!(conn.stats().packets_sent, 20);
    let silent = Instant::now();
    raw.read_exact(&mut bytes[..4]).await.unwrap();
    assert_eq!(bytes[..4], [0; 4]);
    assert!(silent.elapsed() <= 6 * SECOND, "the last packet was sent 4 s before");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_prevent_the_idle_timeout() {
    let config = ConnConfig::new().heartbeat(5 * SECOND).skip_empty(true).idle_timeout(10 * SECOND);
    let (mut conn, mut peer) = piped_pair(1000, config);
    let both = async { tokio::join!(conn.recv(), peer.recv()) };
    let received = timeout(3600 * SECOND, both).await;
    assert!(received.is_err(), "{received:?}");
    assert!(conn.close_reason().is_none() && peer.close_reason().is_none());
    assert_eq!(conn.stats().packets_received, 0);
    assert!(conn.stats().bytes_received >= 4 * 700);
    conn.send("still here").await.unwrap();
    assert_eq!(peer.recv().await.unwrap(), Some("still here".into()));
}

#[tokio::test(start_paused = true)]
async fn without_heartbeats_the_idle_timeout_passes() {
    let (mut conn, _peer) = piped_pair(1000, ConnConfig::new().idle_timeout(10 * SECOND));
    assert_eq!(conn.recv().await.unwrap_err().timeout(), Some(Timeout::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_gets_no_heartbeats_and_times_out() {
    let config = ConnConfig::new().heartbeat(SECOND).write_timeout(30 * SECOND).send_high_water(10_000);
    let (conn, _raw) = piped_and_raw(10, config);
    conn.send(numbered(1)).await.unwrap();
    assert_eq!(conn.closed().await.timeout(), Some(Timeout::Write));
    assert_eq!(conn.stats().packets_sent, 1);
}

#[tokio::test]
async fn empty_packets_are_skipped_one_by_one_and_in_batches() {
    for in_batches in [false, true] {
        let (mut conn, mut raw) = piped_and_raw(100_000, ConnConfig::new().skip_empty(true));
        let mut expected = Vec::new();
        for number in 0..200 {
            raw.write_all(&[0; 4].repeat(number as usize % 30)).await.unwrap();
            raw.write_all(&frame(numbered(number).payload())).await.unwrap();
            expected.push(numbered(number));
        }
        raw.write_all(&[0; 40]).await.unwrap();
        raw.shutdown().await.unwrap();
        let mut received: Vec<Packet> = Vec::new();
        if in_batches {
            while conn.recv_many(&mut received, 7).await.unwrap() > 0 {}
        } else {
            while let Some(packet) = conn.recv().await.unwrap() {
                received.push(packet);
            }
        }
        assert_eq!(received, expected);
        assert_eq!(conn.stats().packets_received, 200);
    }
}

#[tokio::test]
async fn by_default_an_empty_packet_is_received() {
    let (mut conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    raw.write_all(&[0; 4]).await.unwrap();
    assert_eq!(conn.recv().await.unwrap(), Some(Packet::default()));
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_heartbeats_closes_cleanly() {
    let (mut conn, mut peer) = piped_pair(1000, ConnConfig::new().heartbeat(SECOND).skip_empty(true));
    let (closed, received) = tokio::join!(conn.close(), peer.recv());
    closed.unwrap();
    assert_eq!(received.unwrap(), None);
    peer.close().await.unwrap();
}
