//! `close` and drop: a clean close delivers all accepted packets, and a failed one returns the unsent packets.

mod common;

use std::time::Duration;

use common::{drop_after, frame, numbered, piped_and_raw, piped_pair, tcp_and_raw, tcp_pair};
use pktconn::{ConnConfig, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn closing_right_after_sending_loses_no_packet() {
    for run in 0..1000_u32 {
        let (mut here, mut there) = tcp_pair(ConnConfig::new()).await;
        let count = run % 97;
        let sending = async {
            for number in 0..count {
                here.send(numbered(number)).await.unwrap();
            }
            here.close().await.unwrap();
        };
        let receiving = async {
            for number in 0..count {
                let packet = there.recv().await.unwrap();
                assert_eq!(packet, Some(numbered(number)), "packet {number} of run {run}");
            }
            assert!(there.recv().await.unwrap().is_none());
            there.close().await.unwrap();
        };
        tokio::join!(sending, receiving);
    }
}

#[tokio::test]
async fn closing_while_the_peer_sends_causes_no_reset() {
    let (mut here, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    // More than the socket buffers hold in either direction. The peer reads only after it has written everything, so a
    // close that does not read would never end.
    let len = 16 * 1024 * 1024;
    let peer = tokio::spawn(async move {
        raw.write_all(&frame(&vec![1; len])).await.unwrap();
        raw.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    here.send(vec![2; len]).await.unwrap();
    here.close().await.unwrap();
    assert!(peer.await.unwrap() == frame(&vec![2; len]), "the packet sent before the close did not arrive");
}

#[tokio::test]
async fn closing_with_unread_input_causes_no_reset() {
    for _ in 0..100 {
        let (mut here, mut raw) = tcp_and_raw(ConnConfig::new()).await;
        raw.write_all(&frame(b"never read by the application")).await.unwrap();
        here.send(b"the answer").await.unwrap();
        let peer = tokio::spawn(async move {
            let mut bytes = Vec::new();
            raw.read_to_end(&mut bytes).await.map(|_| bytes)
        });
        here.close().await.unwrap();
        assert_eq!(peer.await.unwrap().unwrap(), frame(b"the answer"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_times_out_returns_the_unsent_packets() {
    let timeout = Duration::from_secs(3);
    let (mut conn, mut raw) = piped_and_raw(100, ConnConfig::new().close_timeout(timeout));
    let packets: Vec<Packet> = (0..20).map(numbered).collect();
    for packet in &packets {
        conn.send(packet.clone()).await.unwrap();
    }
    let started = tokio::time::Instant::now();
    let error = conn.close().await.unwrap_err();
    assert_eq!(started.elapsed(), timeout);
    assert!(error.is_timeout(), "{error:?}");
    // The pipe holds 100 bytes: the first two frames of 8 and 45 bytes, and a part of the third.
    assert_eq!(error.into_unsent(), packets[2..]);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 100);
    assert_eq!(bytes[..8 + 45], [frame(packets[0].payload()), frame(packets[1].payload())].concat());
}

#[tokio::test]
async fn a_close_that_fails_returns_the_unsent_packets() {
    let (mut conn, raw) = piped_and_raw(100, ConnConfig::new());
    let packets: Vec<Packet> = (0..20).map(numbered).collect();
    for packet in &packets {
        conn.send(packet.clone()).await.unwrap();
    }
    tokio::task::yield_now().await;
    drop(raw);
    let error = conn.close().await.unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert_eq!(error.into_unsent(), packets[2..]);
    // The packets were not written, so `flush` fails. The reason is the close, because it came before the failure.
    assert!(conn.flush().await.unwrap_err().is_local_close());
}

#[tokio::test(start_paused = true)]
async fn close_succeeds_at_the_deadline_if_the_peer_never_closes() {
    let timeout = Duration::from_secs(3);
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new().close_timeout(timeout));
    conn.send(b"all of it").await.unwrap();
    let started = tokio::time::Instant::now();
    conn.close().await.unwrap();
    assert_eq!(started.elapsed(), timeout);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(b"all of it"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_sending_does_not_delay_close_beyond_the_deadline() {
    let timeout = Duration::from_secs(3);
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new().close_timeout(timeout));
    let flood = tokio::spawn(async move { while raw.write_all(&[0; 1000]).await.is_ok() {} });
    let started = tokio::time::Instant::now();
    // Paused time advances by itself only while the runtime is idle, and the flood keeps it busy.
    let time = async {
        loop {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        closed = conn.close() => closed.unwrap(),
        () = time => {}
    }
    assert!(started.elapsed() <= timeout + Duration::from_millis(200), "{:?}", started.elapsed());
    flood.await.unwrap();
}

#[tokio::test]
async fn a_close_that_is_dropped_at_any_poll_is_continued_by_the_next_close() {
    for polls in 0..20 {
        let (mut here, mut there) = piped_pair(16, ConnConfig::new());
        for number in 0..3 {
            here.send(numbered(number)).await.unwrap();
        }
        let closing = async {
            drop_after(polls, here.close()).await;
            here.close().await.unwrap();
        };
        let receiving = async {
            for number in 0..3 {
                assert_eq!(there.recv().await.unwrap(), Some(numbered(number)), "closing for {polls} polls");
            }
            assert!(there.recv().await.unwrap().is_none());
            there.close().await.unwrap();
        };
        tokio::join!(closing, receiving);
    }
}

#[tokio::test]
async fn dropping_a_connection_closes_it_at_once() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    for number in 0..20 {
        conn.send(numbered(number)).await.unwrap();
    }
    drop(conn);
    // The pipe has room for 100 bytes, and then it ends.
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 100);
}

#[tokio::test]
async fn a_packet_sent_just_before_a_drop_is_written_if_the_transport_has_room() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    conn.send(b"goodbye").await.unwrap();
    drop(conn);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(b"goodbye"));
}

#[tokio::test]
async fn a_connection_that_fails_twice_reports_the_first_failure() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
    drop(raw);
    conn.send(b"never read").await.unwrap();
    assert!(conn.flush().await.unwrap_err().is_io());
    // The received bytes end in the middle of a frame. That is a second failure, which is not reported.
    assert!(conn.recv().await.unwrap_err().is_io());
    assert!(conn.close_reason().unwrap().is_io());
    assert!(conn.close().await.unwrap_err().is_io());
}

#[tokio::test]
async fn a_packet_sent_just_before_a_drop_is_written_even_if_the_task_must_yield() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    let sending = tokio::spawn(async move {
        // Uses up the cooperative budget of the task: 128 operations.
        for _ in 0..128 {
            tokio::task::coop::consume_budget().await;
        }
        conn.try_send(b"goodbye").unwrap();
        drop(conn);
    });
    sending.await.unwrap();
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(b"goodbye"));
}

#[tokio::test]
async fn a_drop_writes_if_the_transport_has_room_again() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    conn.send(vec![1; 146]).await.unwrap();
    tokio::task::yield_now().await;
    // The pipe is full and the flusher waits. It does not run between the read and the drop.
    let mut bytes = vec![0; 50];
    raw.read_exact(&mut bytes).await.unwrap();
    drop(conn);
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(&[1; 146]));
}

#[tokio::test]
async fn after_closes_by_both_sides_send_reports_the_local_close() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    drop(raw);
    assert!(conn.recv().await.unwrap().is_none());
    assert!(conn.closed().await.is_remote_close());
    conn.close().await.unwrap();
    assert!(conn.send(b"too late").await.unwrap_err().is_local_close());
    assert!(conn.close_reason().unwrap().is_remote_close());
}

#[tokio::test]
async fn sending_to_a_peer_that_closed_cleanly_and_is_gone_fails() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    drop(raw);
    assert!(conn.recv().await.unwrap().is_none());
    conn.send(b"never read").await.unwrap();
    assert!(conn.flush().await.unwrap_err().is_io());
    assert!(conn.send(b"never read").await.unwrap_err().is_io());
    assert!(conn.recv().await.unwrap().is_none());
}

/// A transport may report a reset only to the first call, a write or a read. The other call sees the end of the stream.
#[tokio::test]
async fn the_end_of_the_stream_after_a_failed_write_is_not_a_clean_close() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    conn.send(b"never read").await.unwrap();
    drop(raw);
    assert!(conn.flush().await.unwrap_err().is_io());
    assert!(conn.recv().await.unwrap_err().is_io());
}
