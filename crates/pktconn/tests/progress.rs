//! Write, idle and frame timeouts with real sockets: what counts as progress, and when a timeout passes. Also the order
//! in which waiting senders are woken.

mod common;

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common::{HANG_GUARD, asserts_times, frame, piped_and_raw};
use futures::{FutureExt, SinkExt, StreamExt};
use pktconn::{ConnConfig, Error, Packet, PacketConn, SlowConsumer, Timeout};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

async fn let_others_run() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// Both ends of a TCP connection: one with the receive buffer (set before it connects), the other with the send buffer.
fn tcp_pair(recv_buffer: usize, send_buffer: usize) -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(recv_buffer).unwrap();
    socket.connect(&addr.into()).unwrap();
    let accepted = listener.accept().unwrap().0;
    socket2::SockRef::from(&accepted).set_send_buffer_size(send_buffer).unwrap();
    (socket.into(), accepted)
}

fn to_tokio(stream: std::net::TcpStream) -> TcpStream {
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// What a peer has read that reads at a steady rate.
#[derive(Clone, Copy, Debug, Default)]
struct ReadPace {
    total: usize,
    /// The longest delay of a read.
    latest: Duration,
}

impl ReadPace {
    /// Returns true if the reads were on time. On a machine that stalls they are not, and the connection may time out.
    /// The tests assert nothing about such a run, except with `.ci/nightly times`, which tries again.
    fn was_steady(self) -> bool {
        asserts_times() || self.latest < ms(300)
    }
}

/// Reads `step` bytes every 10 ms for the time `during`, or until the stream ends.
fn read_steadily(mut stream: std::net::TcpStream, step: usize, during: Duration) -> ReadPace {
    let (start, mut pace) = (std::time::Instant::now(), ReadPace::default());
    let mut buffer = vec![0; step];
    while start.elapsed() < during {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => pace.total += count,
        }
        // Follows the clock, because a sleep may be too long.
        let due = ms((pace.total / step) as u64 * 10);
        thread::sleep(due.saturating_sub(start.elapsed()));
        pace.latest = pace.latest.max(start.elapsed().saturating_sub(due));
    }
    pace
}

/// A transport that accepts as many bytes as the test grants. It sends nothing.
#[derive(Clone, Default)]
struct Gated(Arc<Mutex<Gate>>);

#[derive(Default)]
struct Gate {
    room: usize,
    written: usize,
    /// Whether accepted bytes go to a buffer that must be flushed.
    buffers: bool,
    unflushed: usize,
    /// How many bytes a flush may write.
    flush_room: usize,
    writer: Option<Waker>,
}

impl Gated {
    fn grant(&self, room: usize) {
        let mut gate = self.0.lock().unwrap();
        gate.room += room;
        let writer = gate.writer.take();
        drop(gate);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn grant_flush(&self, room: usize) {
        let mut gate = self.0.lock().unwrap();
        gate.flush_room += room;
        let writer = gate.writer.take();
        drop(gate);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn written(&self) -> usize {
        self.0.lock().unwrap().written
    }
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut gate = self.0.lock().unwrap();
        if gate.room == 0 {
            gate.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = gate.room.min(buf.len());
        gate.room -= count;
        gate.written += count;
        if gate.buffers {
            gate.unflushed += count;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gate = self.0.lock().unwrap();
        let count = gate.unflushed.min(gate.flush_room);
        gate.unflushed -= count;
        gate.flush_room -= count;
        if gate.unflushed > 0 {
            gate.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs `test` for all `cases` at the same time, one thread per case, because each of them needs seconds.
fn for_each_at_once<T: Copy + Send + Sync>(cases: &[T], test: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for &case in cases {
            let test = &test;
            scope.spawn(move || test(case));
        }
    });
}

fn assert_timeout(error: &Error, timeout: Timeout) {
    assert_eq!(error.timeout(), Some(timeout), "{error:?}");
}

// ---- write timeout

/// Sends a large reply to steady readers, from slow to fast, with a short timeout and socket buffers of different
/// sizes.
#[test]
#[ignore = "takes 40 s"]
fn a_steady_reader_of_any_speed_does_not_time_out() {
    let mut runs = Vec::new();
    for (bytes_a_second, recv_buffer, send_buffer) in [
        (5_000, 4 * KIB, 16 * KIB),
        (10_000, 4 * KIB, 256 * KIB),
        (20_000, 16 * KIB, 256 * KIB),
        (40_000, 16 * KIB, MIB),
        (80_000, 64 * KIB, 256 * KIB),
        (160_000, 64 * KIB, 2 * MIB),
    ] {
        runs.push(thread::spawn(move || {
            let (peer, accepted) = tcp_pair(recv_buffer, send_buffer);
            let reader = thread::spawn(move || read_steadily(peer, bytes_a_second / 100, secs(35)));
            let ended = runtime().block_on(async {
                let config = ConnConfig::new().write_timeout(ms(2500)).send_high_water(8 * MIB);
                let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
                conn.send(vec![7; 7 * MIB]).await.unwrap();
                let ended = timeout(secs(34), conn.closed()).await.ok();
                drop(conn);
                ended
            });
            (bytes_a_second, ended, reader.join().unwrap())
        }));
    }
    for run in runs {
        let (speed, ended, pace) = run.join().unwrap();
        println!("{speed} B/s: {pace:?}");
        assert!(ended.is_none() || !pace.was_steady(), "{speed} B/s, {pace:?}: {ended:?}");
    }
}

/// A shorter version of the test above that runs by default.
#[test]
fn a_steady_reader_does_not_time_out() {
    let mut runs = Vec::new();
    for (bytes_a_second, recv_buffer, send_buffer) in
        [(10_000, 4 * KIB, 64 * KIB), (40_000, 16 * KIB, 512 * KIB), (160_000, 64 * KIB, MIB)]
    {
        runs.push(thread::spawn(move || {
            let (peer, accepted) = tcp_pair(recv_buffer, send_buffer);
            let reader = thread::spawn(move || read_steadily(peer, bytes_a_second / 100, secs(8)));
            let ended = runtime().block_on(async {
                let config = ConnConfig::new().write_timeout(ms(2000)).send_high_water(8 * MIB);
                let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
                conn.send(vec![7; 7 * MIB]).await.unwrap();
                timeout(secs(7), conn.closed()).await.ok()
            });
            (bytes_a_second, ended, reader.join().unwrap())
        }));
    }
    for run in runs {
        let (speed, ended, pace) = run.join().unwrap();
        assert!(ended.is_none() || !pace.was_steady(), "{speed} B/s, {pace:?}: {ended:?}");
    }
}

/// The thread of the connection is blocked for longer than the timeout.
#[test]
fn a_steady_reader_does_not_time_out_if_the_thread_of_the_connection_is_blocked() {
    for_each_at_once(&[ms(1200), ms(2500)], |granted| {
        let (peer, accepted) = tcp_pair(16 * KIB, MIB);
        let reader = thread::spawn(move || read_steadily(peer, 400, secs(9)));
        let reason = runtime().block_on(async {
            let config = ConnConfig::new().write_timeout(granted).send_high_water(8 * MIB);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            conn.send(vec![7; 7 * MIB]).await.unwrap();
            for _ in 0..4 {
                let_others_run().await;
                thread::sleep(ms(1700));
            }
            let_others_run().await;
            conn.close_reason()
        });
        let pace = reader.join().unwrap();
        assert!(reason.is_none() || !pace.was_steady(), "{granted:?}, {pace:?}: {reason:?}");
    });
}

/// The peer never reads, or stops reading after some time.
#[test]
fn a_peer_that_stops_reading_times_out_on_time() {
    for_each_at_once(&[ms(0), ms(300), ms(1200)], |reads_for| {
        let (mut peer, accepted) = tcp_pair(16 * KIB, 256 * KIB);
        let (report, reported) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        let reader = thread::spawn(move || {
            let start = std::time::Instant::now();
            while start.elapsed() < reads_for {
                // The connection must not end before.
                peer.read_exact(&mut [0; 800]).unwrap();
                thread::sleep(ms(10));
            }
            report.send(std::time::Instant::now()).unwrap();
            let _ = is_done.recv();
            drop(peer);
        });
        let started = std::time::Instant::now();
        let ended = runtime().block_on(async {
            let config = ConnConfig::new().write_timeout(ms(2000)).send_high_water(8 * MIB);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            conn.send(vec![7; 7 * MIB]).await.unwrap();
            // Well before the default timeout of 30 s.
            let reason = timeout(secs(25), conn.closed()).await.expect("no write timeout");
            assert_timeout(&reason, Timeout::Write);
            std::time::Instant::now()
        });
        drop(done);
        let after = ended - reported.recv().unwrap();
        println!("the peer read for {reads_for:?}: timeout {after:?} after that");
        assert!(ended - started >= ms(1990), "{:?}", ended - started);
        // The kernel of the peer acknowledges a little later or earlier than the peer reads.
        let is_on_time = after >= ms(1500) && after <= ms(2800);
        assert!(
            is_on_time || !asserts_times(),
            "the peer read for {reads_for:?}: timeout {after:?} after that"
        );
        reader.join().unwrap();
    });
}

/// Written bytes count as progress if a call of the application writes them, and not only if the background task does.
#[test]
fn bytes_written_by_any_call_count_as_progress() {
    for way in 0..6 {
        paused_runtime().block_on(async {
            let gate = Gated::default();
            let config = ConnConfig::new().send_high_water(1000).write_timeout(secs(10));
            let config = if way == 5 { config.slow_consumer(SlowConsumer::DropOldest) } else { config };
            let mut conn = PacketConn::new(gate.clone(), config).unwrap();
            conn.send(vec![1; 800]).await.unwrap();
            let_others_run().await;
            for round in 0..5 {
                sleep(ms(8500)).await;
                // Does not wake the background task, so that the call finds the room.
                gate.0.lock().unwrap().room += 300;
                match way {
                    0 => drop(conn.try_send(vec![2; 290])),
                    1 => drop(conn.send(vec![2; 290]).now_or_never()),
                    2 => drop(conn.send_many(&mut vec![vec![2; 290].into()]).now_or_never()),
                    3 => drop(conn.flush().now_or_never()),
                    4 => drop(conn.recv().now_or_never()),
                    _ => drop(conn.send(vec![2; 900]).now_or_never()),
                }
                // A call that has not written anything leaves that to the background task.
                if gate.0.lock().unwrap().room > 0 {
                    gate.grant(0);
                }
                let_others_run().await;
                assert!(gate.written() >= 300 * (round + 1) || conn.queued_bytes() == 0, "way {way}");
                if conn.queued_bytes() == 0 {
                    conn.try_send(vec![3; 800]).unwrap();
                    let_others_run().await;
                }
                sleep(ms(900)).await;
                assert!(conn.close_reason().is_none(), "way {way}, round {round}: {:?}", conn.close_reason());
            }
            let last = Instant::now();
            if conn.queued_bytes() == 0 {
                conn.try_send(vec![3; 800]).unwrap();
            }
            assert_timeout(&conn.closed().await, Timeout::Write);
            assert!(last.elapsed() <= ms(10_600), "way {way}: {:?}", last.elapsed());
        });
    }
}

/// For a transport with a buffer, flushing the buffer is progress, and filling it is not.
#[test]
fn a_completed_flush_counts_as_progress() {
    paused_runtime().block_on(async {
        let gate = Gated::default();
        gate.0.lock().unwrap().buffers = true;
        let config = ConnConfig::new().send_high_water(100_000).write_timeout(secs(10));
        let conn = PacketConn::new(gate.clone(), config).unwrap();
        gate.grant(1000);
        conn.send(vec![1; 50_000]).await.unwrap();
        let_others_run().await;
        for round in 0..5 {
            sleep(secs(9)).await;
            gate.grant_flush(1000);
            gate.grant(1000);
            let_others_run().await;
            assert!(conn.close_reason().is_none(), "round {round}: {:?}", conn.close_reason());
        }
        let last = Instant::now();
        assert_timeout(&conn.closed().await, Timeout::Write);
        assert!(last.elapsed() >= ms(9900) && last.elapsed() <= ms(10_600), "{:?}", last.elapsed());
    });
}

#[test]
fn the_write_timeout_passes_if_paused_time_is_advanced_by_hand() {
    for step in [ms(1700), secs(2), secs(60)] {
        paused_runtime().block_on(async {
            let (conn, mut raw) = piped_and_raw(100, ConnConfig::new().write_timeout(secs(5)));
            conn.send(vec![0; 900]).await.unwrap();
            let_others_run().await;
            // If the steps are shorter than the timeout, the peer reads something in each of them.
            for _ in 0..4 {
                if step < secs(5) {
                    raw.read_exact(&mut [0; 50]).await.unwrap();
                    let_others_run().await;
                    advance(step).await;
                    let_others_run().await;
                    assert!(conn.close_reason().is_none(), "{step:?}: {:?}", conn.close_reason());
                }
            }
            for _ in 0..4 {
                advance(step).await;
                let_others_run().await;
            }
            assert_timeout(&conn.close_reason().expect("no write timeout"), Timeout::Write);
        });
    }
}

// ---- idle timeout

/// The client reads and sends nothing.
#[test]
fn a_client_that_is_downloading_is_not_idle() {
    for_each_at_once(
        &[(400, 16 * KIB, MIB), (1600, 64 * KIB, 256 * KIB)],
        |(step, recv_buffer, send_buffer)| {
            let (peer, accepted) = tcp_pair(recv_buffer, send_buffer);
            let reader = thread::spawn(move || read_steadily(peer, step, secs(7)));
            let received = runtime().block_on(async {
                let config =
                    ConnConfig::new().idle_timeout(secs(2)).send_high_water(8 * MIB).write_timeout(None);
                let mut conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
                conn.send(vec![7; 7 * MIB]).await.unwrap();
                timeout(secs(6), conn.recv()).await
            });
            let pace = reader.join().unwrap();
            assert!(received.is_err() || !pace.was_steady(), "{step} B, {pace:?}: {received:?}");
        },
    );
}

/// The client gets small packets from time to time, and its kernel acknowledges them.
#[test]
fn a_client_that_acknowledges_small_packets_is_not_idle() {
    let (peer, accepted) = tcp_pair(64 * KIB, 64 * KIB);
    let reader = thread::spawn(move || read_steadily(peer, 1000, secs(7)));
    runtime().block_on(async {
        let config = ConnConfig::new().idle_timeout(ms(1500));
        let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
        let (sender, mut receiver) = conn.split();
        let mut pushed = Instant::now();
        let pushing = async {
            for _ in 0..12 {
                sleep(ms(450)).await;
                sender.send(b"tick").await.unwrap();
                pushed = Instant::now();
            }
        };
        tokio::select! {
            // Allowed only if the machine was late with the next packet.
            received = receiver.recv() => {
                assert!(pushed.elapsed() > ms(1000) && !asserts_times(), "{received:?}");
                return;
            }
            () = pushing => {}
        }
        // Without further packets, the client becomes idle. It may take up to twice the timeout.
        let last = Instant::now();
        let error = timeout(HANG_GUARD, receiver.recv()).await.expect("no idle timeout").unwrap_err();
        assert_timeout(&error, Timeout::Idle);
        assert!(last.elapsed() <= ms(1500 + 1500) || !asserts_times(), "{:?}", last.elapsed());
    });
    reader.join().unwrap();
}

/// A lost peer acknowledges nothing. Bytes that go to the buffer of the local kernel are no sign that the peer is
/// alive.
#[test]
fn a_peer_that_acknowledges_nothing_is_idle_even_if_packets_are_sent_to_it() {
    let (peer, accepted) = tcp_pair(2 * KIB, MIB);
    runtime().block_on(async {
        let conn = PacketConn::from_tcp(to_tokio(accepted), ConnConfig::new().idle_timeout(secs(2))).unwrap();
        // More than the receive buffer of the peer.
        conn.send(vec![7; 100_000]).await.unwrap();
        sleep(ms(500)).await;
        assert_eq!(conn.queued_bytes(), 0, "the test needs all bytes in the send buffer of the kernel");
        let started = Instant::now();
        let (sender, mut receiver) = conn.split();
        let pushing = async {
            loop {
                sleep(ms(300)).await;
                if sender.send(b"tick").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            received = timeout(HANG_GUARD, receiver.recv()) => {
                assert_timeout(&received.expect("no idle timeout").unwrap_err(), Timeout::Idle);
            }
            () = pushing => {}
        }
        assert!(started.elapsed() <= ms(2800) || !asserts_times(), "{:?}", started.elapsed());
    });
    drop(peer);
}

/// The peer neither sends nor reads. The timeout passes on time, and not after twice the time, even if a packet was
/// sent to the peer before or shortly after `recv` began to wait.
#[test]
fn a_silent_peer_is_idle_on_time_even_if_a_packet_was_sent_to_it_at_the_start() {
    // The kernel of the peer acknowledges at once, so paused time is as good as real time.
    let runtimes: &[fn() -> Runtime] =
        if asserts_times() { &[paused_runtime, runtime] } else { &[paused_runtime] };
    let cases: Vec<_> = [None, Some(ms(0)), Some(ms(100)), Some(ms(700))]
        .into_iter()
        .flat_map(|sent_at| runtimes.iter().map(move |runtime| (sent_at, runtime)))
        .collect();
    for_each_at_once(&cases, |(sent_at, runtime)| {
        let (peer, accepted) = tcp_pair(64 * KIB, 64 * KIB);
        runtime().block_on(async {
            let config = ConnConfig::new().idle_timeout(ms(2000));
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            let (sender, mut receiver) = conn.split();
            let started = Instant::now();
            if sent_at == Some(ms(0)) {
                sender.send(b"welcome").await.unwrap();
            }
            let sending = async {
                if let Some(at) = sent_at.filter(|at| !at.is_zero()) {
                    sleep(at).await;
                    sender.send(b"welcome").await.unwrap();
                }
            };
            let (received, ()) = tokio::join!(timeout(secs(8), receiver.recv()), sending);
            assert_timeout(&received.expect("no idle timeout").unwrap_err(), Timeout::Idle);
            let (took, sent_after) = (started.elapsed(), sent_at.unwrap_or_default());
            println!("sent at {sent_at:?}: idle after {took:?}");
            assert!(took >= ms(1990) && took <= ms(2300) + sent_after, "sent at {sent_at:?}: {took:?}");
        });
        drop(peer);
    });
}

/// A pipe does not acknowledge. A peer that reads queued bytes from it is not idle.
#[test]
fn a_peer_that_reads_queued_bytes_from_a_pipe_is_not_idle() {
    paused_runtime().block_on(async {
        let (mut conn, mut raw) = piped_and_raw(100, ConnConfig::new().idle_timeout(secs(10)));
        conn.send(vec![7; 1000]).await.unwrap();
        let reading = tokio::spawn(async move {
            for _ in 0..6 {
                sleep(secs(8)).await;
                raw.read_exact(&mut [0; 50]).await.unwrap();
            }
            let last = Instant::now();
            sleep(secs(100)).await;
            drop(raw);
            last
        });
        let error = conn.recv().await.unwrap_err();
        assert_timeout(&error, Timeout::Idle);
        let ended = Instant::now();
        let last = reading.await.unwrap();
        assert!((ended - last).abs_diff(secs(10)) <= ms(20), "{:?} after the last read", ended - last);
    });
}

/// Only the time in which a receive call waits counts.
#[test]
fn idle_and_frame_timeouts_do_not_pass_while_nothing_receives() {
    paused_runtime().block_on(async {
        for in_frame in [false, true] {
            let config = ConnConfig::new().idle_timeout(secs(10)).frame_timeout(secs(10));
            let (mut conn, mut raw) = piped_and_raw(4096, config);
            if in_frame {
                raw.write_all(&frame(&[7; 100])[..50]).await.unwrap();
            }
            // `recv` waits for 6 s in total.
            for _ in 0..3 {
                assert!(timeout(secs(2), conn.recv()).await.is_err());
                sleep(secs(100)).await;
                assert!(conn.close_reason().is_none(), "in a frame: {in_frame}");
            }
            let again = Instant::now();
            assert!(conn.recv().await.unwrap_err().is_timeout());
            assert!(
                again.elapsed().abs_diff(secs(4)) <= ms(10),
                "in a frame: {in_frame}: {:?}",
                again.elapsed()
            );
        }
    });
}

/// A receiver counts as waiting while its last poll is pending, even if no future exists.
#[test]
fn the_idle_timeout_passes_for_a_pending_stream() {
    paused_runtime().block_on(async {
        for by_hand in [false, true] {
            let (conn, _raw) = piped_and_raw(4096, ConnConfig::new().idle_timeout(secs(10)));
            let (_sender, mut receiver) = conn.split();
            let started = Instant::now();
            if by_hand {
                let error = std::future::poll_fn(|cx| receiver.poll_recv(cx)).await.unwrap_err();
                assert_timeout(&error, Timeout::Idle);
            } else {
                // Each `next` future is dropped, but the stream is pending all the time.
                let error = loop {
                    if let Ok(next) = timeout(secs(3), receiver.next()).await {
                        break next.unwrap().unwrap_err();
                    }
                };
                assert_timeout(&error, Timeout::Idle);
            }
            assert!(
                started.elapsed().abs_diff(secs(10)) <= ms(10),
                "by hand: {by_hand}: {:?}",
                started.elapsed()
            );
        }
    });
}

/// The loop drops `recv` every 10 ms, like a `select!` with a ticker.
#[test]
fn a_loop_that_drops_recv_often_times_out() {
    for is_paused in [true, false] {
        let test = async {
            for in_frame in [false, true] {
                let config = ConnConfig::new();
                let granted = ms(700);
                let config =
                    if in_frame { config.frame_timeout(granted) } else { config.idle_timeout(granted) };
                let (mut conn, mut raw) = piped_and_raw(4096, config);
                if in_frame {
                    raw.write_all(&[9, 0]).await.unwrap();
                }
                let started = Instant::now();
                let mut ticker = tokio::time::interval(ms(10));
                ticker.tick().await;
                let error = loop {
                    tokio::select! {
                        received = conn.recv() => break received.unwrap_err(),
                        _ = ticker.tick() => {}
                    }
                    assert!(started.elapsed() < HANG_GUARD, "no timeout");
                };
                assert!(error.is_timeout());
                let late = started.elapsed().saturating_sub(granted);
                assert!(late <= ms(400) || !(is_paused || asserts_times()), "late by {late:?}");
            }
        };
        if is_paused { paused_runtime().block_on(test) } else { runtime().block_on(test) }
    }
}

/// The bytes arrive in time, but the thread polls again only after the deadline.
#[cfg(unix)]
#[test]
fn bytes_that_arrived_in_time_are_received_even_if_the_thread_was_blocked_until_after_the_deadline() {
    for over_tcp in [true, false] {
        for in_frame in [false, true] {
            // Repeats until the bytes were written in time, because a slow machine may be too late.
            while !runtime().block_on(async {
                let granted = ms(300);
                let config = ConnConfig::new().idle_timeout(granted).frame_timeout(granted);
                let whole = frame(b"hello");
                let (start, rest) = whole.split_at(if in_frame { 5 } else { 0 });
                let (mut conn, mut peer): (_, Box<dyn io::Write + Send>) = if over_tcp {
                    let (peer, accepted) = tcp_pair(64 * KIB, 64 * KIB);
                    (PacketConn::from_tcp(to_tokio(accepted), config).unwrap(), Box::new(peer))
                } else {
                    let (peer, here) = std::os::unix::net::UnixStream::pair().unwrap();
                    here.set_nonblocking(true).unwrap();
                    let here = tokio::net::UnixStream::from_std(here).unwrap();
                    (PacketConn::new(here, config).unwrap(), Box::new(peer))
                };
                peer.write_all(start).unwrap();
                let began = Instant::now();
                let receiving = tokio::spawn(async move { conn.recv().await });
                sleep(ms(20)).await;
                let_others_run().await;
                peer.write_all(rest).unwrap();
                let was_in_time = began.elapsed() < granted - ms(50);
                thread::sleep(ms(700));
                let received = timeout(HANG_GUARD, receiving).await.unwrap().unwrap();
                let what = format!("TCP: {over_tcp}, in a frame: {in_frame}");
                match received {
                    Ok(packet) => assert_eq!(packet.unwrap().payload(), b"hello", "{what}"),
                    Err(error) => assert!(!was_in_time, "{what}: {error:?}"),
                }
                was_in_time
            }) {}
        }
    }
}

#[test]
fn an_idle_connection_has_no_background_task_after_a_frame_and_its_deadline() {
    let runtime = paused_runtime();
    runtime.block_on(async {
        let mut conns = Vec::new();
        for _ in 0..100 {
            let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new().frame_timeout(secs(3)));
            raw.write_all(&frame(&[7; 100])[..50]).await.unwrap();
            let (sender, mut receiver) = conn.split();
            let task = tokio::spawn(async move { while let Ok(Some(_)) = receiver.recv().await {} });
            conns.push((sender, raw, task));
        }
        sleep(secs(1)).await;
        for (_, raw, _) in &mut conns {
            raw.write_all(&frame(&[7; 100])[50..]).await.unwrap();
        }
        sleep(secs(10)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        // The receiving tasks, and the sweeper of the thread.
        assert!(tasks <= 102, "{tasks} tasks");
        assert!(conns.iter().all(|(sender, ..)| sender.close_reason().is_none()));
    });
}

// ---- waiting senders

/// A connection over a [`Gated`] transport, with a full send queue.
async fn with_full_queue(high_water: usize) -> (PacketConn, Gated) {
    let gate = Gated::default();
    let config = ConnConfig::new().send_high_water(high_water).write_timeout(None);
    let conn = PacketConn::new(gate.clone(), config).unwrap();
    conn.send(vec![0; high_water - 4]).await.unwrap();
    let_others_run().await;
    assert_eq!(conn.queued_bytes(), high_water);
    (conn, gate)
}

#[test]
fn a_thousand_waiting_senders_are_served_in_order() {
    paused_runtime().block_on(async {
        let (conn, gate) = with_full_queue(1000).await;
        let (sender, _receiver) = conn.split();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..1000_u32 {
            let (sender, order) = (sender.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                // Large packets wait for small ones and small packets for large ones.
                let len = if number % 7 == 0 { 900 } else { 100 };
                sender.send(vec![number as u8; len]).await.unwrap();
                order.lock().unwrap().push(number);
            }));
        }
        let_others_run().await;
        while tasks.iter().any(|task| !task.is_finished()) {
            gate.grant(500);
            let_others_run().await;
        }
        let order = order.lock().unwrap();
        assert!(order.iter().copied().eq(0..1000), "{:?}", &order[..20]);
    });
}

/// Senders may be dropped at any time. The others keep their order, and all of them finish.
#[test]
fn dropped_senders_do_not_change_the_order_of_the_others() {
    paused_runtime().block_on(async {
        for give_up in [1, 2, 3, 10] {
            let (conn, gate) = with_full_queue(1000).await;
            let mut waiting: Vec<_> = (0..50_u32)
                .map(|number| (number, tokio_test::task::spawn(conn.send(vec![number as u8; 300]))))
                .collect();
            for (_, send) in &mut waiting {
                assert!(send.poll().is_pending());
            }
            let (mut sent, mut given_up) = (Vec::new(), 0);
            let mut round = 0_usize;
            while !waiting.is_empty() {
                round += 1;
                assert!(round < 10_000, "{} senders are never woken; sent: {:?}", waiting.len(), &sent);
                gate.grant(97);
                let_others_run().await;
                let mut left = Vec::new();
                for (number, mut send) in waiting {
                    if send.is_woken() {
                        // Some are dropped after they were woken and before they are polled.
                        if (number as usize + round) % give_up == 0 && give_up > 1 && given_up < 30 {
                            given_up += 1;
                            continue;
                        }
                        if send.poll().is_ready() {
                            sent.push(number);
                            continue;
                        }
                    }
                    left.push((number, send));
                }
                waiting = left;
            }
            assert!(sent.is_sorted(), "{sent:?}");
            assert_eq!(sent.len() + given_up, 50);
        }
    });
}

/// Limits the number of polls for a number of waiting senders.
#[test]
fn waiting_senders_are_not_woken_without_reason() {
    paused_runtime().block_on(async {
        let (conn, gate) = with_full_queue(1000).await;
        let mut sends: Vec<_> = (0..100).map(|_| tokio_test::task::spawn(conn.send(vec![1; 96]))).collect();
        for send in &mut sends {
            assert!(send.poll().is_pending());
        }
        let mut polls = 0;
        let mut done = 0;
        while done < 100 {
            gate.grant(100);
            let_others_run().await;
            for send in &mut sends {
                if send.is_woken() {
                    polls += 1;
                    done += usize::from(send.poll().is_ready());
                }
            }
            assert!(polls <= 2000, "{done} of 100 were served in {polls} polls");
            sends.retain(|send| !send.is_woken() || done < 100);
        }
        // While nothing happens, no future is woken.
        let (conn, _gate) = with_full_queue(1000).await;
        let mut waiting = tokio_test::task::spawn(conn.send(vec![1; 96]));
        let mut writable = tokio_test::task::spawn(conn.writable());
        assert!(waiting.poll().is_pending() && writable.poll().is_pending());
        sleep(secs(3600)).await;
        assert!(!waiting.is_woken() && !writable.is_woken());
    });
}

/// The call behind it waits in `send`, in `writable` or in a sink.
#[test]
fn the_next_waiting_call_is_woken_when_the_sender_before_it_is_dropped_or_served() {
    for front_is_served in [false, true] {
        for way in 0..3 {
            paused_runtime().block_on(async {
                let (conn, gate) = with_full_queue(1000).await;
                let (sender, _receiver) = conn.split();
                let mut front = tokio_test::task::spawn(Box::pin({
                    let sender = sender.clone();
                    async move { sender.send(vec![1; 900]).await }
                }));
                assert!(front.poll().is_pending());
                let behind = tokio::spawn({
                    let sender = sender.clone();
                    async move {
                        match way {
                            0 => sender.send(Packet::from(vec![2; 50])).await,
                            1 => sender.writable().await,
                            _ => sender.into_sink().feed(vec![2; 50].into()).await,
                        }
                    }
                });
                let_others_run().await;
                gate.grant(if front_is_served { 950 } else { 500 });
                let_others_run().await;
                assert!(!behind.is_finished(), "way {way}: the call overtook the sender in front");
                assert!(front.is_woken());
                if front_is_served {
                    assert!(front.poll().is_ready());
                } else {
                    assert!(front.poll().is_pending());
                }
                drop(front);
                if front_is_served {
                    gate.grant(100);
                }
                let done = timeout(secs(3600), behind).await;
                assert!(done.is_ok(), "way {way}, served: {front_is_served}: the call was not woken");
                done.unwrap().unwrap().unwrap();
            });
        }
    }
}

/// With an empty queue, no call waits for a sender in front that is no longer polled.
#[test]
fn writable_and_a_sink_do_not_wait_for_a_sender_that_is_not_polled() {
    paused_runtime().block_on(async {
        let (conn, gate) = with_full_queue(1000).await;
        let (sender, _receiver) = conn.split();
        let mut front = tokio_test::task::spawn(Box::pin({
            let sender = sender.clone();
            async move { sender.send(vec![1; 900]).await }
        }));
        assert!(front.poll().is_pending());
        let writable = tokio::spawn({
            let sender = sender.clone();
            async move { sender.writable().await }
        });
        let fed = tokio::spawn({
            let sender = sender.clone();
            async move { sender.into_sink().feed(vec![2; 50].into()).await }
        });
        let_others_run().await;
        gate.grant(1000);
        assert!(timeout(secs(3600), writable).await.is_ok(), "`writable` was not woken");
        assert!(timeout(secs(3600), fed).await.is_ok(), "the sink was not woken");
        drop(front);
    });
}

#[test]
fn a_send_that_is_dropped_at_any_poll_has_sent_its_packet_once_or_not_at_all() {
    paused_runtime().block_on(async {
        for polls in 0..6 {
            let (conn, gate) = with_full_queue(1000).await;
            let before = conn.stats().packets_sent;
            let granting = async {
                for _ in 0..3 {
                    gate.grant(300);
                    let_others_run().await;
                }
            };
            let (sent, ()) = tokio::join!(common::drop_after(polls, conn.send(vec![1; 500])), granting);
            let accepted = conn.stats().packets_sent - before;
            assert_eq!(accepted, u64::from(sent.is_some()), "after {polls} polls");
            gate.grant(10_000);
            let_others_run().await;
            assert_eq!(gate.written(), 1000 + 504 * accepted as usize);
            assert!(
                conn.try_send(b"next").is_ok(),
                "the dropped send still blocks others after {polls} polls"
            );
        }
    });
}

// ---- TLS

#[cfg(feature = "tls")]
mod tls {
    use super::*;

    use pktconn::{PacketServer, ServerConfig, TcpConfig, TlsClientConfig, TlsServerConfig};
    use rcgen::{CertificateParams, KeyPair};

    /// Runs `test` with a TLS connection of a server. Its client reads `step` bytes or more every 10 ms for the time
    /// `reads_for`.
    fn with_slow_client<T>(
        conn: ConnConfig,
        step: usize,
        reads_for: Duration,
        test: impl AsyncFnOnce(PacketConn) -> T + 'static,
    ) -> (T, ReadPace) {
        let dir = tempfile::tempdir().unwrap();
        let key_pair = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key_pair).unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&key, key_pair.serialize_pem()).unwrap();
        let (tell_addr, addr) = mpsc::channel::<std::net::SocketAddr>();
        let (done, is_done) = mpsc::channel::<()>();
        let ca = chain.clone();
        let client = thread::spawn(move || {
            let addr = addr.recv().unwrap();
            runtime().block_on(async {
                let tls = TlsClientConfig::new().ca(ca).server_name("localhost");
                let config = ConnConfig::new().tls(tls).tcp(TcpConfig::new().recv_buffer(8 * KIB));
                let mut conn = PacketConn::connect_with(addr, config).await.unwrap();
                let (start, mut pace) = (Instant::now(), ReadPace::default());
                while start.elapsed() < reads_for {
                    let due = ms((pace.total / step) as u64 * 10);
                    sleep(due.saturating_sub(start.elapsed())).await;
                    let Ok(Ok(Some(packet))) = timeout(HANG_GUARD, conn.recv()).await else { break };
                    pace.latest = pace.latest.max(start.elapsed().saturating_sub(due));
                    pace.total += packet.len();
                }
                let _ = is_done.recv();
                pace
            })
        });
        let tested = runtime().block_on(async {
            let tls = TlsServerConfig::new(&chain, &key);
            let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().tls(tls).conn(conn))
                .await
                .unwrap();
            tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
            let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                let _ = pass.send(conn);
                std::future::ready(Ok(()))
            }));
            let tested = test(passed.recv().await.unwrap()).await;
            serving.abort();
            tested
        });
        drop(done);
        (tested, client.join().unwrap())
    }

    fn config() -> ConnConfig {
        ConnConfig::new().send_high_water(8 * MIB).tcp(TcpConfig::new().send_buffer(256 * KIB))
    }

    #[test]
    fn a_steady_reader_does_not_time_out_until_it_stops() {
        let config = config().write_timeout(ms(2000));
        let (took, pace) = with_slow_client(config, 400, ms(5000), async |conn| {
            let started = Instant::now();
            for _ in 0..4000 {
                conn.send(vec![7; 1000]).await.unwrap();
            }
            // Well before the default timeout of 30 s.
            let reason = timeout(secs(25), conn.closed()).await.expect("no write timeout");
            assert_timeout(&reason, Timeout::Write);
            started.elapsed()
        });
        println!("TLS: the client read for 5 s; write timeout after {took:?}; {pace:?}");
        assert!(took >= ms(5000) || !pace.was_steady(), "{took:?}, {pace:?}");
        assert!(took <= ms(9000) || !asserts_times(), "{took:?}");
    }

    #[test]
    fn a_client_that_is_downloading_is_not_idle() {
        let config = config().idle_timeout(ms(2000)).write_timeout(None);
        let (took, pace) = with_slow_client(config, 400, ms(5000), async |mut conn| {
            let started = Instant::now();
            for _ in 0..4000 {
                conn.send(vec![7; 1000]).await.unwrap();
            }
            let error = timeout(HANG_GUARD, conn.recv()).await.expect("no idle timeout").unwrap_err();
            assert_timeout(&error, Timeout::Idle);
            started.elapsed()
        });
        println!("TLS: the client read for 5 s; idle timeout after {took:?}; {pace:?}");
        assert!(took >= ms(5000) || !pace.was_steady(), "{took:?}, {pace:?}");
        assert!(took <= ms(9500) || !asserts_times(), "{took:?}");
    }
}
