//! The timeouts for connecting, frames, writing and idle connections. They end a connection to a peer that has stopped,
//! but not to a peer that is only slow.

mod common;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::{frame, piped_and_raw};
use pktconn::{ConnConfig, Error, PacketConn, Timeout};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn assert_timed_out(error: &Error, timeout: Timeout, since: Instant, after: Duration) {
    assert_eq!(error.timeout(), Some(timeout), "{error:?}");
    assert!(error.is_timeout() && error.to_string().contains(&format!(" within {after:?} (")), "{error}");
    let elapsed = since.elapsed();
    // Tokio's timers have a resolution of a millisecond.
    assert!(
        elapsed.abs_diff(after) <= Duration::from_millis(2),
        "timed out after {elapsed:?}, not {after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_single_bytes_cannot_extend_the_frame_timeout() {
    // The default timeout and a configured one, each with a frame that fits a read chunk and one that does not.
    for (config, within) in
        [(ConnConfig::new(), 30 * SECOND), (ConnConfig::new().frame_timeout(5 * SECOND), 5 * SECOND)]
    {
        for len in [1000, 1_000_000] {
            let (mut conn, mut peer) = piped_and_raw(64, config.clone());
            let started = Instant::now();
            let dripping = tokio::spawn(async move {
                for byte in frame(&vec![7; len]) {
                    if peer.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(SECOND).await;
                }
            });
            let error = conn.recv().await.unwrap_err();
            assert_timed_out(&error, Timeout::Frame, started, within);
            // Every call returns the same reason, and the peer sees the end of the stream.
            assert_eq!(conn.recv().await.unwrap_err().timeout(), Some(Timeout::Frame));
            assert_eq!(conn.send(b"late").await.unwrap_err().timeout(), Some(Timeout::Frame));
            assert_eq!(conn.close_reason().unwrap().timeout(), Some(Timeout::Frame));
            dripping.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_frame_timeout_continues_when_recv_is_dropped_and_called_again() {
    let (mut conn, mut peer) = piped_and_raw(64, ConnConfig::new().frame_timeout(5 * SECOND));
    let started = Instant::now();
    let mut received = None;
    while received.is_none() && started.elapsed() < 10 * SECOND {
        // The header announces 0x01010101 bytes.
        peer.write_all(&[1]).await.unwrap();
        received = timeout(Duration::from_millis(300), conn.recv()).await.ok();
    }
    let error = received.expect("no frame timeout").unwrap_err();
    assert_timed_out(&error, Timeout::Frame, started, 5 * SECOND);
}

/// The rest of the first frame arrives while nobody waits, together with the start of the second.
#[tokio::test(start_paused = true)]
async fn the_frame_timeout_starts_again_after_a_frame_that_was_received_without_a_wait() {
    let (mut conn, mut peer) = piped_and_raw(4096, ConnConfig::new().frame_timeout(5 * SECOND));
    peer.write_all(&frame(b"one")[..5]).await.unwrap();
    assert!(timeout(4 * SECOND, conn.recv()).await.is_err());
    peer.write_all(&[&frame(b"one")[5..], &frame(b"two")[..5]].concat()).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"one");
    let started = Instant::now();
    assert_timed_out(&conn.recv().await.unwrap_err(), Timeout::Frame, started, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_frame_timeout_starts_again_with_each_frame() {
    let (mut conn, mut peer) = piped_and_raw(4096, ConnConfig::new().frame_timeout(5 * SECOND));
    let (first, second) = (frame(&[1; 100]), frame(&[2; 300]));
    tokio::spawn(async move {
        // The buffer always contains the start of a frame.
        peer.write_all(&first[..50]).await.unwrap();
        for _ in 0..20 {
            sleep(4 * SECOND).await;
            peer.write_all(&[&first[50..], &second[..10]].concat()).await.unwrap();
            sleep(4 * SECOND).await;
            peer.write_all(&[&second[10..], &first[..50]].concat()).await.unwrap();
        }
        sleep(60 * SECOND).await;
    });
    for _ in 0..20 {
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), [1; 100]);
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), [2; 300]);
    }
    let started = Instant::now();
    assert_timed_out(&conn.recv().await.unwrap_err(), Timeout::Frame, started, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_peer_may_be_silent_between_frames_without_limit() {
    let (mut conn, mut peer) = piped_and_raw(4096, ConnConfig::new());
    tokio::spawn(async move {
        for part in [&frame(b"one")[..3], &frame(b"one")[3..], &frame(b"two")] {
            peer.write_all(part).await.unwrap();
            sleep(if part.len() == 3 { SECOND } else { 100_000 * SECOND }).await;
        }
    });
    for expected in [b"one", b"two"] {
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), expected);
    }
    assert!(conn.recv().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn time_in_which_the_application_does_not_receive_does_not_count() {
    let config = ConnConfig::new().frame_timeout(5 * SECOND).idle_timeout(20 * SECOND);
    let (mut conn, mut peer) = piped_and_raw(4096, config);
    let started = frame(b"a frame that arrives in two parts");
    peer.write_all(&started[..10]).await.unwrap();
    assert!(timeout(SECOND, conn.recv()).await.is_err());
    peer.write_all(&started[10..]).await.unwrap();
    sleep(60 * SECOND).await;
    assert!(conn.recv().await.unwrap().is_some(), "the frame arrived in time");
}

#[tokio::test(start_paused = true)]
async fn without_a_frame_timeout_a_frame_may_arrive_at_any_speed() {
    let (mut conn, mut peer) = piped_and_raw(4096, ConnConfig::new().frame_timeout(None));
    tokio::spawn(async move {
        for byte in frame(b"slow") {
            peer.write_all(&[byte]).await.unwrap();
            sleep(10_000 * SECOND).await;
        }
    });
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"slow");
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_passes_only_if_no_byte_arrives() {
    let config = ConnConfig::new().idle_timeout(10 * SECOND).frame_timeout(None);
    let (mut conn, mut peer) = piped_and_raw(4096, config.clone());
    let started = Instant::now();
    assert_timed_out(&conn.recv().await.unwrap_err(), Timeout::Idle, started, 10 * SECOND);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "the peer sees the end of the stream");

    let (mut conn, mut peer) = piped_and_raw(4096, config);
    tokio::spawn(async move {
        for byte in [frame(b"slow"), frame(b"")].concat() {
            sleep(9 * SECOND).await;
            peer.write_all(&[byte]).await.unwrap();
        }
        sleep(60 * SECOND).await;
    });
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"slow");
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"");
    let started = Instant::now();
    assert_timed_out(&conn.recv().await.unwrap_err(), Timeout::Idle, started, 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn packets_sent_before_an_idle_timeout_are_still_written() {
    let config = ConnConfig::new().idle_timeout(SECOND).flush_delay(60 * SECOND).close_timeout(SECOND);
    let (mut conn, mut peer) = piped_and_raw(4096, config);
    conn.send(b"goodbye").await.unwrap();
    assert_eq!(conn.recv().await.unwrap_err().timeout(), Some(Timeout::Idle));
    let mut received = Vec::new();
    peer.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, frame(b"goodbye"));
}

#[tokio::test(start_paused = true)]
async fn a_write_timeout_ends_the_connection_and_returns_the_unsent_packets() {
    for (config, within) in
        [(ConnConfig::new(), 30 * SECOND), (ConnConfig::new().write_timeout(5 * SECOND), 5 * SECOND)]
    {
        let (mut conn, _peer) = piped_and_raw(64, config.send_high_water(1000));
        let started = Instant::now();
        for _ in 0..3 {
            conn.send(vec![7; 300]).await.unwrap();
        }
        let error = conn.send(vec![8; 300]).await.unwrap_err();
        assert_timed_out(&error, Timeout::Write, started, within);
        assert_eq!(error.into_unsent(), [vec![8; 300].into()]);
        assert_eq!(conn.recv().await.unwrap_err().timeout(), Some(Timeout::Write));
        let error = conn.close().await.unwrap_err();
        assert_eq!(error.timeout(), Some(Timeout::Write));
        assert_eq!(error.into_unsent(), vec![vec![7; 300].into(); 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_does_not_cause_a_write_timeout() {
    let config = ConnConfig::new().write_timeout(5 * SECOND).close_timeout(1000 * SECOND);
    let (mut conn, mut peer) = piped_and_raw(64, config);
    conn.send(vec![7; 1000]).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        let mut buffer = [0; 10];
        while let Ok(count @ 1..) = peer.read(&mut buffer).await {
            received.extend_from_slice(&buffer[..count]);
            sleep(4 * SECOND).await;
        }
        received
    });
    conn.close().await.unwrap();
    assert_eq!(reading.await.unwrap(), frame(&[7; 1000]));
}

#[tokio::test(start_paused = true)]
async fn the_write_timeout_starts_when_the_transport_is_full() {
    let (conn, mut peer) = piped_and_raw(64, ConnConfig::new().write_timeout(5 * SECOND));
    for _ in 0..3 {
        conn.send(vec![7; 100]).await.unwrap();
        sleep(4 * SECOND).await;
        peer.read_exact(&mut [0; 104]).await.unwrap();
        // Nothing is queued, so the timeout does not run.
        sleep(60 * SECOND).await;
        assert!(conn.close_reason().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_write_timeout_a_peer_may_stop_reading_without_limit() {
    let (conn, _peer) = piped_and_raw(64, ConnConfig::new().write_timeout(None));
    conn.send(vec![7; 1000]).await.unwrap();
    sleep(100_000 * SECOND).await;
    assert!(conn.close_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn connecting_to_an_address_that_does_not_answer_times_out() {
    // If the backlog of a listener is full, Linux lets new connections wait. macOS refuses them.
    if !cfg!(target_os = "linux") {
        return;
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let _queued = TcpStream::connect(addr).unwrap();
    let started = Instant::now();
    let config = ConnConfig::new().connect_timeout(5 * SECOND);
    let error = PacketConn::connect_with(addr, config).await.unwrap_err();
    assert_timed_out(&error, Timeout::Connect, started, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_passed_while_nothing_received_starts_again() {
    for config in [
        ConnConfig::new().frame_timeout(5 * SECOND),
        ConnConfig::new().frame_timeout(None).idle_timeout(5 * SECOND),
    ] {
        let (mut conn, mut peer) = piped_and_raw(64, config);
        peer.write_all(&frame(b"late")[..5]).await.unwrap();
        assert!(timeout(SECOND, conn.recv()).await.is_err());
        // Nothing has read meanwhile, which may have kept the peer from sending.
        sleep(40 * SECOND).await;
        assert!(timeout(4 * SECOND, conn.recv()).await.is_err(), "the timeout must start again");
        peer.write_all(&frame(b"late")[5..]).await.unwrap();
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"late");
    }
}

#[test]
fn timeouts_work_for_a_receiver_that_waits_outside_its_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut conn, mut peer) = {
        let _inside = runtime.enter();
        piped_and_raw(64, ConnConfig::new().frame_timeout(Duration::from_millis(50)))
    };
    // Without a runtime, and in a runtime without a timer.
    futures::executor::block_on(peer.write_all(b"\x05\0\0\0h")).unwrap();
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    other.block_on(async { assert!(futures::FutureExt::now_or_never(conn.recv()).is_none()) });
    drop(other);
    let error = futures::executor::block_on(conn.recv()).unwrap_err();
    assert_eq!(error.timeout(), Some(Timeout::Frame));
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_does_not_interrupt_a_close() {
    let (conn, mut peer) = piped_and_raw(64, ConnConfig::new().idle_timeout(5 * SECOND));
    let (sender, mut receiver) = conn.split();
    sender.send(vec![7; 1000]).await.unwrap();
    let receiving = tokio::spawn(async move { receiver.recv().await });
    sleep(4 * SECOND).await;
    let closing = tokio::spawn(async move { sender.close().await });
    sleep(4 * SECOND).await;
    let mut bytes = vec![0; 1004];
    peer.read_exact(&mut bytes).await.unwrap();
    drop(peer);
    assert!(receiving.await.unwrap().unwrap_err().is_local_close());
    closing.await.unwrap().unwrap();
}
