//! A clean close delivers everything that was accepted before it; one that cannot says what is left.

mod common;

use std::time::Duration;

use common::{drop_after, frame, numbered, piped_and_raw, piped_pair, tcp_and_raw, tcp_pair};
use pktconn::{ConnConfig, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_thousand_runs_of_sending_many_and_closing_lose_nothing() {
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
async fn closing_while_the_peer_sends_destroys_nothing_by_a_reset() {
    let (mut here, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    // More than the sockets' buffers hold in either direction: the peer reads only when all of its own is taken, so
    // that a close which did not read on would wait for it in vain.
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
    assert!(peer.await.unwrap() == frame(&vec![2; len]), "what was sent before the close did not arrive");
}

#[tokio::test]
async fn what_is_not_read_before_the_close_is_no_reason_for_a_reset() {
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
async fn a_close_whose_deadline_passes_gives_the_unsent_packets_back() {
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
    // The pipe took 100 bytes: the first two frames of 8 and 45 bytes, and a part of the third.
    assert_eq!(error.into_unsent(), packets[2..]);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 100);
    assert_eq!(bytes[..8 + 45], [frame(packets[0].payload()), frame(packets[1].payload())].concat());
}

#[tokio::test]
async fn a_close_that_fails_gives_the_unsent_packets_back() {
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
    // Given back is not written; and the close came first, so that it is the reason that every call tells.
    assert!(conn.flush().await.unwrap_err().is_local_close());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_closes_is_waited_for_until_the_deadline_and_is_no_error() {
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
async fn a_peer_that_floods_cannot_hold_a_close_up() {
    let timeout = Duration::from_secs(3);
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new().close_timeout(timeout));
    let flood = tokio::spawn(async move { while raw.write_all(&[0; 1000]).await.is_ok() {} });
    let started = tokio::time::Instant::now();
    // The flood keeps the runtime busy, and paused time moves by itself only on an idle one.
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
async fn a_close_that_is_dropped_at_any_poll_is_taken_up_by_the_next() {
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
    // What the pipe took without waiting, and then the end.
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 100);
}

#[tokio::test]
async fn a_packet_sent_just_before_the_drop_leaves_when_the_transport_has_room() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    conn.send(b"goodbye").await.unwrap();
    drop(conn);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(b"goodbye"));
}

#[tokio::test]
async fn a_connection_that_has_failed_twice_is_closed_with_its_first_failure() {
    let (mut conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    raw.write_all(&frame(b"never whole")[..7]).await.unwrap();
    drop(raw);
    conn.send(b"nobody there").await.unwrap();
    assert!(conn.flush().await.unwrap_err().is_io());
    // The bytes that came before are still read, and end in mid-frame: a second failure, which nobody is told.
    assert!(conn.recv().await.unwrap_err().is_io());
    assert!(conn.close_reason().unwrap().is_io());
    assert!(conn.close().await.unwrap_err().is_io());
}

#[tokio::test]
async fn what_is_sent_before_a_drop_leaves_also_when_the_task_has_used_up_its_turn() {
    let (conn, mut raw) = tcp_and_raw(ConnConfig::new()).await;
    let sending = tokio::spawn(async move {
        // As many operations as tokio grants a task in one turn.
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
async fn a_drop_writes_what_the_transport_has_room_for_again() {
    let (conn, mut raw) = piped_and_raw(100, ConnConfig::new());
    conn.send(vec![1; 146]).await.unwrap();
    tokio::task::yield_now().await;
    // The pipe is full, the flusher waits; and it does not run between the read and the drop.
    let mut bytes = vec![0; 50];
    raw.read_exact(&mut bytes).await.unwrap();
    drop(conn);
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, frame(&[1; 146]));
}

#[tokio::test]
async fn after_the_peers_close_and_the_own_one_sending_says_the_own() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    drop(raw);
    assert!(conn.recv().await.unwrap().is_none());
    assert!(conn.closed().await.is_remote_close());
    conn.close().await.unwrap();
    assert!(conn.send(b"too late").await.unwrap_err().is_local_close());
    assert!(conn.close_reason().unwrap().is_remote_close());
}

#[tokio::test]
async fn a_peer_that_has_closed_and_is_gone_is_an_error_of_sending() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    drop(raw);
    assert!(conn.recv().await.unwrap().is_none());
    conn.send(b"nobody there").await.unwrap();
    assert!(conn.flush().await.unwrap_err().is_io());
    assert!(conn.send(b"nobody there").await.unwrap_err().is_io());
    assert!(conn.recv().await.unwrap().is_none());
}

/// A reset is an error for the side of the transport that meets it first, and for the other the end of the stream.
#[tokio::test]
async fn the_end_of_a_stream_that_writing_has_failed_on_is_not_clean() {
    let (mut conn, raw) = piped_and_raw(4096, ConnConfig::new());
    conn.send(b"nobody there").await.unwrap();
    drop(raw);
    assert!(conn.flush().await.unwrap_err().is_io());
    assert!(conn.recv().await.unwrap_err().is_io());
}
