//! What counts as a sign of life, when the deadlines fire, and who is woken of those who wait.

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

/// A TCP socket with a small receive buffer, which is set before it connects, and the one at its other end.
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

/// What a peer did that reads steadily.
#[derive(Clone, Copy, Debug, Default)]
struct Steady {
    total: usize,
    /// How late it was at most with a read.
    latest: Duration,
}

impl Steady {
    /// A machine that stops for a while makes a steady peer one that is not, and may end its connection. Nothing is asserted
    /// of such a run, except by `.ci/nightly times`, which tries again.
    fn was_steady(self) -> bool {
        asserts_times() || self.latest < ms(300)
    }
}

/// Reads `step` bytes each 10 ms, until the stream ends or for so long.
fn read_steadily(mut stream: std::net::TcpStream, step: usize, during: Duration) -> Steady {
    let (start, mut steady) = (std::time::Instant::now(), Steady::default());
    let mut buffer = vec![0; step];
    while start.elapsed() < during {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => steady.total += count,
        }
        // By the clock: a thread that sleeps may be late.
        let due = ms((steady.total / step) as u64 * 10);
        thread::sleep(due.saturating_sub(start.elapsed()));
        steady.latest = steady.latest.max(start.elapsed().saturating_sub(due));
    }
    steady
}

/// A transport that takes what the test grants it, and sends what the test has it send.
#[derive(Clone, Default)]
struct Gated(Arc<Mutex<Gate>>);

#[derive(Default)]
struct Gate {
    room: usize,
    taken: usize,
    /// Of what it has taken, so much is in a buffer that a flush has to empty.
    buffers: bool,
    unflushed: usize,
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

    fn taken(&self) -> usize {
        self.0.lock().unwrap().taken
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
        gate.taken += count;
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

/// Runs `test` for each of `cases`, each in a thread of its own: they take their time.
fn for_each_at_once<T: Copy + Send + Sync>(cases: &[T], test: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for &case in cases {
            let test = &test;
            scope.spawn(move || test(case));
        }
    });
}

fn assert_is(error: &Error, timeout: Timeout) {
    assert_eq!(error.timeout(), Some(timeout), "{error:?}");
}

// ---- the time to write

/// A large reply to steady readers from slow to fast, with a short timeout and buffers of all sizes.
#[test]
#[ignore = "takes 40 s"]
fn a_steady_reader_is_never_ended_for_its_speed() {
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
        let (speed, ended, steady) = run.join().unwrap();
        println!("{speed} B/s: {steady:?}");
        assert!(ended.is_none() || !steady.was_steady(), "{speed} B/s, {steady:?}: {ended:?}");
    }
}

/// The same for a shorter time, for each run of the tests.
#[test]
fn a_steady_reader_is_not_ended_within_some_timeouts() {
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
        let (speed, ended, steady) = run.join().unwrap();
        assert!(ended.is_none() || !steady.was_steady(), "{speed} B/s, {steady:?}: {ended:?}");
    }
}

/// On a thread whose turns take longer than the timeout, the readers are as steady as elsewhere.
#[test]
fn a_steady_reader_is_not_ended_on_a_thread_whose_turns_are_long() {
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
        let steady = reader.join().unwrap();
        assert!(reason.is_none() || !steady.was_steady(), "{granted:?}, {steady:?}: {reason:?}");
    });
}

/// A peer that takes nothing is ended on time, and also one that had taken some.
#[test]
fn a_peer_that_takes_nothing_more_is_ended_on_time() {
    for_each_at_once(&[ms(0), ms(300), ms(1200)], |takes_for| {
        let (mut peer, accepted) = tcp_pair(16 * KIB, 256 * KIB);
        let (tell, told) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        let reader = thread::spawn(move || {
            let start = std::time::Instant::now();
            while start.elapsed() < takes_for {
                // It is not ended before.
                peer.read_exact(&mut [0; 800]).unwrap();
                thread::sleep(ms(10));
            }
            tell.send(std::time::Instant::now()).unwrap();
            let _ = is_done.recv();
            drop(peer);
        });
        let started = std::time::Instant::now();
        let ended = runtime().block_on(async {
            let config = ConnConfig::new().write_timeout(ms(2000)).send_high_water(8 * MIB);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            conn.send(vec![7; 7 * MIB]).await.unwrap();
            // Well before the default of 30 s.
            let reason = timeout(secs(25), conn.closed()).await.expect("it is ended");
            assert_is(&reason, Timeout::Write);
            std::time::Instant::now()
        });
        drop(done);
        let after = ended - told.recv().unwrap();
        println!("it read for {takes_for:?}: ended {after:?} after that");
        assert!(ended - started >= ms(1990), "{:?}", ended - started);
        // What stands in the peer's kernel was acknowledged a little after it was read, or before.
        let is_on_time = after >= ms(1500) && after <= ms(2800);
        assert!(is_on_time || !asserts_times(), "it read for {takes_for:?}: {after:?}");
        reader.join().unwrap();
    });
}

/// Bytes that leave count, whoever writes them: here each way in turn, and never the connection's own task alone.
#[test]
fn progress_counts_whoever_has_written() {
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
                // Without a wake-up for the connection's task: it is the caller who finds the room.
                gate.0.lock().unwrap().room += 300;
                match way {
                    0 => drop(conn.try_send(vec![2; 290])),
                    1 => drop(conn.send(vec![2; 290]).now_or_never()),
                    2 => drop(conn.send_many(&mut vec![vec![2; 290].into()]).now_or_never()),
                    3 => drop(conn.flush().now_or_never()),
                    4 => drop(conn.recv().now_or_never()),
                    _ => drop(conn.send(vec![2; 900]).now_or_never()),
                }
                // Those that do not write, because nobody was told of the room, leave it to the task.
                if gate.0.lock().unwrap().room > 0 {
                    gate.grant(0);
                }
                let_others_run().await;
                assert!(gate.taken() >= 300 * (round + 1) || conn.queued_bytes() == 0, "way {way}");
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
            assert_is(&conn.closed().await, Timeout::Write);
            assert!(last.elapsed() <= ms(10_600), "way {way}: {:?}", last.elapsed());
        });
    }
}

/// A transport that buffers makes progress when its buffer was flushed, and none when it only fills.
#[test]
fn a_flush_that_completes_is_progress() {
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
        assert_is(&conn.closed().await, Timeout::Write);
        assert!(last.elapsed() >= ms(9900) && last.elapsed() <= ms(10_600), "{:?}", last.elapsed());
    });
}

#[test]
fn the_time_to_write_passes_when_the_clock_is_advanced() {
    for step in [ms(1700), secs(2), secs(60)] {
        paused_runtime().block_on(async {
            let (conn, mut raw) = piped_and_raw(100, ConnConfig::new().write_timeout(secs(5)));
            conn.send(vec![0; 900]).await.unwrap();
            let_others_run().await;
            // It takes something in each step, if they are short.
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
            assert_is(&conn.close_reason().expect("it has passed"), Timeout::Write);
        });
    }
}

// ---- the time to be silent

/// A client that downloads and sends nothing is there.
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
            let steady = reader.join().unwrap();
            assert!(received.is_err() || !steady.was_steady(), "{step} B, {steady:?}: {received:?}");
        },
    );
}

/// One that gets small packets now and then, and whose kernel acknowledges them, is there.
#[test]
fn a_client_that_acknowledges_what_is_pushed_to_it_is_not_idle() {
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
            // Unless the machine was late with the next packet.
            received = receiver.recv() => {
                assert!(pushed.elapsed() > ms(1000) && !asserts_times(), "{received:?}");
                return;
            }
            () = pushing => {}
        }
        // And when nothing more is sent, it is idle: the first half of its time may have passed since the last sign.
        let last = Instant::now();
        let error = timeout(HANG_GUARD, receiver.recv()).await.expect("it ends").unwrap_err();
        assert_is(&error, Timeout::Idle);
        assert!(last.elapsed() <= ms(1500 + 1500) || !asserts_times(), "{:?}", last.elapsed());
    });
    reader.join().unwrap();
}

/// A peer that is gone acknowledges nothing: what is sent to it now and then, into the kernel's buffer, is no sign of its life.
#[test]
fn a_peer_that_takes_nothing_is_idle_though_something_is_sent_to_it_now_and_then() {
    let (peer, accepted) = tcp_pair(2 * KIB, MIB);
    runtime().block_on(async {
        let conn = PacketConn::from_tcp(to_tokio(accepted), ConnConfig::new().idle_timeout(secs(2))).unwrap();
        // More than the peer's kernel takes.
        conn.send(vec![7; 100_000]).await.unwrap();
        sleep(ms(500)).await;
        assert_eq!(conn.queued_bytes(), 0, "it is to stand in the kernel");
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
                assert_is(&received.expect("it ends").unwrap_err(), Timeout::Idle);
            }
            () = pushing => {}
        }
        assert!(started.elapsed() <= ms(2800) || !asserts_times(), "{:?}", started.elapsed());
    });
    drop(peer);
}

/// Neither sends nor takes: on time, and not at twice the time, also when something was sent to it at the start, before or
/// while it is waited for.
#[test]
fn a_peer_that_does_nothing_is_idle_on_time_though_a_packet_was_sent_to_it_at_the_start() {
    // The peer's kernel acknowledges at once, so that a clock that is paused is as good as the real one.
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
            assert_is(&received.expect("it ends").unwrap_err(), Timeout::Idle);
            let (took, life) = (started.elapsed(), sent_at.unwrap_or_default());
            println!("sent at {sent_at:?}: idle after {took:?}");
            assert!(took >= ms(1990) && took <= ms(2300) + life, "sent at {sent_at:?}: {took:?}");
        });
        drop(peer);
    });
}

/// Over a pipe, what it takes while there is more is a sign of life.
#[test]
fn what_a_pipe_takes_of_a_queue_is_a_sign_of_life() {
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
        assert_is(&error, Timeout::Idle);
        let ended = Instant::now();
        let last = reading.await.unwrap();
        assert!((ended - last).abs_diff(secs(10)) <= ms(20), "{:?} after the last sign", ended - last);
    });
}

/// Only the time counts in which somebody waits: not that after the future was dropped.
#[test]
fn no_deadline_passes_while_nobody_receives() {
    paused_runtime().block_on(async {
        for in_frame in [false, true] {
            let config = ConnConfig::new().idle_timeout(secs(10)).frame_timeout(secs(10));
            let (mut conn, mut raw) = piped_and_raw(4096, config);
            if in_frame {
                raw.write_all(&frame(&[7; 100])[..50]).await.unwrap();
            }
            // 6 s are waited for in all.
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

/// Who polls by hand, or as a stream, waits as long as it is pending.
#[test]
fn a_stream_that_is_pending_has_deadlines() {
    paused_runtime().block_on(async {
        for by_hand in [false, true] {
            let (conn, _raw) = piped_and_raw(4096, ConnConfig::new().idle_timeout(secs(10)));
            let (_sender, mut receiver) = conn.split();
            let started = Instant::now();
            if by_hand {
                let error = std::future::poll_fn(|cx| receiver.poll_recv(cx)).await.unwrap_err();
                assert_is(&error, Timeout::Idle);
            } else {
                // Each `next` is dropped and made anew: the stream is pending all the time.
                let error = loop {
                    if let Ok(next) = timeout(secs(3), receiver.next()).await {
                        break next.unwrap().unwrap_err();
                    }
                };
                assert_is(&error, Timeout::Idle);
            }
            assert!(
                started.elapsed().abs_diff(secs(10)) <= ms(10),
                "by hand: {by_hand}: {:?}",
                started.elapsed()
            );
        }
    });
}

/// A loop that drops `recv` each 10 ms, as a `select!` with a ticker does.
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
                    assert!(started.elapsed() < HANG_GUARD, "it never times out");
                };
                assert!(error.is_timeout());
                let late = started.elapsed().saturating_sub(granted);
                assert!(late <= ms(400) || !(is_paused || asserts_times()), "late by {late:?}");
            }
        };
        if is_paused { paused_runtime().block_on(test) } else { runtime().block_on(test) }
    }
}

/// Bytes that were there in time are received, though the thread looks at them beyond the deadline.
#[cfg(unix)]
#[test]
fn what_arrived_in_time_is_received_though_the_thread_was_busy_beyond_the_deadline() {
    for over_tcp in [true, false] {
        for in_frame in [false, true] {
            // Until the bytes were written in time: a slow machine may need some tries.
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

/// After its deadlines, and after a packet, a connection that idles has no task.
#[test]
fn a_connection_that_idles_has_no_task_when_its_deadline_is_over() {
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
        // Those that receive, and the thread's sweeper.
        assert!(tasks <= 102, "{tasks} tasks");
        assert!(conns.iter().all(|(sender, ..)| sender.close_reason().is_none()));
    });
}

// ---- those who wait

/// A connection to a gate, with a full queue.
async fn full(high_water: usize) -> (PacketConn, Gated) {
    let gate = Gated::default();
    let config = ConnConfig::new().send_high_water(high_water).write_timeout(None);
    let conn = PacketConn::new(gate.clone(), config).unwrap();
    conn.send(vec![0; high_water - 4]).await.unwrap();
    let_others_run().await;
    assert_eq!(conn.queued_bytes(), high_water);
    (conn, gate)
}

#[test]
fn a_thousand_senders_are_served_in_their_order() {
    paused_runtime().block_on(async {
        let (conn, gate) = full(1000).await;
        let (sender, _receiver) = conn.split();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..1000_u32 {
            let (sender, order) = (sender.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                // Large ones wait for small ones, and the other way round.
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

/// Any of them may give up at any time: the others keep their order, and none is left behind.
#[test]
fn senders_that_give_up_leave_the_others_in_their_order() {
    paused_runtime().block_on(async {
        for give_up in [1, 2, 3, 10] {
            let (conn, gate) = full(1000).await;
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
                assert!(round < 10_000, "{} wait for ever: {:?}", waiting.len(), &sent);
                gate.grant(97);
                let_others_run().await;
                let mut left = Vec::new();
                for (number, mut send) in waiting {
                    if send.is_woken() {
                        // Some give up when they were woken, and never look.
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

/// No future is polled for nothing, over and over: so many polls, for so many who wait.
#[test]
fn those_who_wait_are_not_woken_for_nothing() {
    paused_runtime().block_on(async {
        let (conn, gate) = full(1000).await;
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
        // While nothing happens, nobody is woken.
        let (conn, _gate) = full(1000).await;
        let mut waiting = tokio_test::task::spawn(conn.send(vec![1; 96]));
        let mut writable = tokio_test::task::spawn(conn.writable());
        assert!(waiting.poll().is_pending() && writable.poll().is_pending());
        sleep(secs(3600)).await;
        assert!(!waiting.is_woken() && !writable.is_woken());
    });
}

/// The one in front is dropped, or served: whoever waits behind it is woken, by whichever way it waits.
#[test]
fn who_waits_behind_a_sender_is_woken_when_that_is_dropped_or_served() {
    for front_is_served in [false, true] {
        for way in 0..3 {
            paused_runtime().block_on(async {
                let (conn, gate) = full(1000).await;
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
                assert!(!behind.is_finished(), "way {way}: it passed the one in front");
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
                assert!(done.is_ok(), "way {way}, served: {front_is_served}: it waits for ever");
                done.unwrap().unwrap().unwrap();
            });
        }
    }
}

/// In front of an empty queue nobody waits for a sender that is not polled any more.
#[test]
fn writable_and_a_sink_do_not_wait_for_a_sender_that_is_not_polled() {
    paused_runtime().block_on(async {
        let (conn, gate) = full(1000).await;
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
        assert!(timeout(secs(3600), writable).await.is_ok(), "writable waits for ever");
        assert!(timeout(secs(3600), fed).await.is_ok(), "the sink waits for ever");
        drop(front);
    });
}

/// Dropped at any of its polls, a send has sent its packet once or not at all.
#[test]
fn a_send_that_is_dropped_at_any_poll_was_accepted_whole_or_not_at_all() {
    paused_runtime().block_on(async {
        for polls in 0..6 {
            let (conn, gate) = full(1000).await;
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
            assert_eq!(gate.taken(), 1000 + 504 * accepted as usize);
            assert!(conn.try_send(b"next").is_ok(), "its place in the line is kept after {polls} polls");
        }
    });
}

// ---- TLS

#[cfg(feature = "tls")]
mod tls {
    use super::*;

    use pktconn::{PacketServer, ServerConfig, TcpConfig, TlsClientConfig, TlsServerConfig};
    use rcgen::{CertificateParams, KeyPair};

    /// Runs `test` with a connection of a server over TLS, whose client takes `step` bytes or more each 10 ms for so long.
    fn with_slow_client<T>(
        conn: ConnConfig,
        step: usize,
        takes_for: Duration,
        test: impl AsyncFnOnce(PacketConn) -> T + 'static,
    ) -> (T, Steady) {
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
                let (start, mut steady) = (Instant::now(), Steady::default());
                while start.elapsed() < takes_for {
                    let due = ms((steady.total / step) as u64 * 10);
                    sleep(due.saturating_sub(start.elapsed())).await;
                    let Ok(Ok(Some(packet))) = timeout(HANG_GUARD, conn.recv()).await else { break };
                    steady.latest = steady.latest.max(start.elapsed().saturating_sub(due));
                    steady.total += packet.len();
                }
                let _ = is_done.recv();
                steady
            })
        });
        let tested = runtime().block_on(async {
            let tls = TlsServerConfig::new(&chain, &key);
            let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().tls(tls).conn(conn))
                .await
                .unwrap();
            tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
            let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                let _ = give.send(conn);
                std::future::ready(Ok(()))
            }));
            let tested = test(given.recv().await.unwrap()).await;
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
    fn a_steady_reader_is_not_ended_and_one_that_stops_is() {
        let config = config().write_timeout(ms(2000));
        let (took, steady) = with_slow_client(config, 400, ms(5000), async |conn| {
            let started = Instant::now();
            for _ in 0..4000 {
                conn.send(vec![7; 1000]).await.unwrap();
            }
            // Well before the default of 30 s.
            let reason = timeout(secs(25), conn.closed()).await.expect("it stops");
            assert_is(&reason, Timeout::Write);
            started.elapsed()
        });
        println!("TLS: it took for 5 s, and was ended after {took:?}; {steady:?}");
        assert!(took >= ms(5000) || !steady.was_steady(), "{took:?}, {steady:?}");
        assert!(took <= ms(9000) || !asserts_times(), "{took:?}");
    }

    #[test]
    fn a_client_that_is_downloading_is_not_idle() {
        let config = config().idle_timeout(ms(2000)).write_timeout(None);
        let (took, steady) = with_slow_client(config, 400, ms(5000), async |mut conn| {
            let started = Instant::now();
            for _ in 0..4000 {
                conn.send(vec![7; 1000]).await.unwrap();
            }
            let error = timeout(HANG_GUARD, conn.recv()).await.expect("it stops").unwrap_err();
            assert_is(&error, Timeout::Idle);
            started.elapsed()
        });
        println!("TLS: it took for 5 s, and was idle after {took:?}; {steady:?}");
        assert!(took >= ms(5000) || !steady.was_steady(), "{took:?}, {steady:?}");
        assert!(took <= ms(9500) || !asserts_times(), "{took:?}");
    }
}
