//! Connections that several runtimes use, runtimes that are shut down, threads without a runtime, and panics in code
//! that the application supplies.
#![cfg(unix)]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{HANG_GUARD, frame, numbered, piped_and_raw, piped_pair, tcp_pair};
use futures::{SinkExt, StreamExt};
use pktconn::{ConnConfig, Packet, PacketConn, PacketServer, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs `test` on a new thread, and fails if it hangs.
fn without_hanging(what: &str, test: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    // Longer than the timeouts inside the test, whose messages say more.
    match finished.recv_timeout(2 * HANG_GUARD) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: the test hangs"),
    }
}

/// Starts an echo server on a new thread with a new runtime.
fn echo_server() -> std::net::SocketAddr {
    let (addr_sender, addr) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
            addr_sender.send(common::tcp_addr(&server)).unwrap();
            server
                .serve(|mut conn| async move {
                    while let Some(packet) = conn.recv().await? {
                        conn.send(packet).await?;
                    }
                    Ok(conn.close().await?)
                })
                .await;
        });
    });
    addr.recv().unwrap()
}

// ---- several runtimes

#[test]
fn blocking_clients_with_one_runtime_each_work_on_the_same_thread() {
    without_hanging("clients", || {
        let addr = echo_server();
        let mut clients: Vec<_> = (0..5)
            .map(|_| {
                let runtime = runtime();
                let conn = runtime.block_on(PacketConn::connect(addr)).unwrap();
                (runtime, conn)
            })
            .collect();
        for number in 0..50 {
            for (runtime, conn) in &mut clients {
                runtime.block_on(async {
                    conn.send(numbered(number)).await.unwrap();
                    // Lets the background task of this runtime write, so that `recv` does not.
                    tokio::task::yield_now().await;
                });
            }
            for (runtime, conn) in &mut clients {
                assert_eq!(runtime.block_on(conn.recv()).unwrap(), Some(numbered(number)));
            }
        }
        for (runtime, mut conn) in clients {
            runtime.block_on(conn.close()).unwrap();
        }
    });
}

#[test]
fn a_packet_sent_from_another_runtime_is_written_while_that_runtime_is_blocked() {
    without_hanging("a send", || {
        let (pass, passed) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let home = thread::spawn(move || {
            runtime().block_on(async {
                pass.send(tcp_pair(ConnConfig::new()).await).unwrap();
                let _ = stopped.await;
            });
        });
        let (here, mut there) = passed.recv().unwrap();
        // A third runtime receives.
        let reading = thread::spawn(move || {
            runtime().block_on(async {
                for number in 0..20 {
                    assert_eq!(there.recv().await.unwrap(), Some(numbered(number)));
                }
                there
            })
        });
        let sender = runtime();
        for number in 0..20 {
            sender.block_on(async { here.send(numbered(number)).await.unwrap() });
            // The sending runtime does not run now.
            thread::sleep(ms(2));
        }
        let there = reading.join().unwrap();
        drop((here, there));
        stop.send(()).unwrap();
        home.join().unwrap();
    });
}

/// Servers may have one thread and runtime per core, and each of them may broadcast to the connections of all.
#[test]
fn threads_with_one_runtime_each_send_over_the_connections_of_all_threads() {
    const THREADS: usize = 3;
    const PACKETS: u32 = 200;
    without_hanging("the threads", || {
        let (pass, passed) = mpsc::channel();
        let (finish, finished) = tokio::sync::watch::channel(false);
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (pass, mut finished) = (pass.clone(), finished.clone());
                thread::spawn(move || {
                    runtime().block_on(async {
                        let (here, there) = tcp_pair(ConnConfig::new()).await;
                        let (sender, receiver) = here.split();
                        let (task, mut tasks) = tokio::sync::mpsc::unbounded_channel::<Vec<_>>();
                        pass.send((sender, there, task)).unwrap();
                        let senders = tasks.recv().await.unwrap();
                        for number in 0..PACKETS {
                            for sender in &senders {
                                let sender: &pktconn::PacketSender = sender;
                                sender.send(numbered(number)).await.unwrap();
                            }
                            if number % 7 == 0 {
                                tokio::task::yield_now().await;
                            }
                        }
                        finished.wait_for(|is| *is).await.unwrap();
                        drop(receiver);
                    });
                })
            })
            .collect();
        let all: Vec<_> = (0..THREADS).map(|_| passed.recv().unwrap()).collect();
        let senders: Vec<_> = all.iter().map(|(sender, ..)| sender.clone()).collect();
        let receiving: Vec<_> = all
            .into_iter()
            .map(|(_, mut there, task)| {
                task.send(senders.clone()).unwrap();
                thread::spawn(move || {
                    runtime().block_on(async {
                        for _ in 0..THREADS as u32 * PACKETS {
                            there.recv().await.unwrap().unwrap();
                        }
                    });
                    there
                })
            })
            .collect();
        let ends: Vec<_> = receiving.into_iter().map(|thread| thread.join().unwrap()).collect();
        finish.send(true).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(ends);
    });
}

// ---- a runtime that is shut down

/// How the test uses a connection.
#[derive(Clone, Copy, Debug)]
enum Uses {
    Sends,
    SendsMany,
    WaitsForRoom,
    Flushes,
    Closes,
    Receives,
    ReceivesWithDeadlines,
    Streams,
    Sinks,
    WaitsForTheEnd,
}

const USES: [Uses; 10] = [
    Uses::Sends,
    Uses::SendsMany,
    Uses::WaitsForRoom,
    Uses::Flushes,
    Uses::Closes,
    Uses::Receives,
    Uses::ReceivesWithDeadlines,
    Uses::Streams,
    Uses::Sinks,
    Uses::WaitsForTheEnd,
];

/// Uses a connection until a call reports its end.
async fn use_up(mut conn: PacketConn, how: Uses) {
    match how {
        Uses::Sends => while conn.send(vec![7; 10_000]).await.is_ok() {},
        Uses::SendsMany => while conn.send_many(&mut vec![Packet::from(vec![7; 10_000]); 3]).await.is_ok() {},
        Uses::WaitsForRoom => {
            while conn.writable().await.is_ok() {
                let _ = conn.try_send(vec![7; 10_000]);
            }
        }
        Uses::Flushes => {
            // A flush of an empty queue succeeds even after the connection has ended, so the loop also sends.
            while conn.flush().await.is_ok() {
                if conn.try_send(vec![7; 10_000]).is_err_and(|error| !error.is_full()) {
                    break;
                }
            }
        }
        Uses::Closes => {
            let _ = conn.send(vec![7; 8 << 20]).await;
            let _ = conn.close().await;
        }
        Uses::Receives | Uses::ReceivesWithDeadlines => while let Ok(Some(_)) = conn.recv().await {},
        Uses::Streams => while conn.next().await.is_some() {},
        Uses::Sinks => {
            let mut sink = conn.into_sink();
            while sink.send(Packet::from(vec![7; 10_000])).await.is_ok() {}
        }
        Uses::WaitsForTheEnd => {
            let sender = conn.split().0;
            let _ = sender.send(vec![7; 8 << 20]).await;
            sender.closed().await;
        }
    }
}

#[test]
fn every_waiting_call_ends_when_the_runtime_of_its_connection_is_shut_down() {
    for how in USES {
        for multi_thread in [false, true] {
            for delay in [0, 5] {
                without_hanging(&format!("{how:?}, {multi_thread}"), move || {
                    let other_runtime = if multi_thread {
                        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
                    } else {
                        runtime()
                    };
                    let config = ConnConfig::new().send_high_water(16 << 20).close_timeout(ms(60_000));
                    let config = match how {
                        Uses::ReceivesWithDeadlines => config.idle_timeout(Duration::from_secs(3600)),
                        _ => config.write_timeout(None),
                    };
                    let (conn, raw) = other_runtime.block_on(async {
                        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                        let addr = listener.local_addr().unwrap();
                        let (conn, raw) =
                            tokio::join!(PacketConn::connect_with(addr, config), listener.accept());
                        (conn.unwrap(), raw.unwrap().0)
                    });
                    let using = thread::spawn(move || runtime().block_on(use_up(conn, how)));
                    let until = Instant::now() + ms(delay);
                    other_runtime.block_on(async {
                        while Instant::now() < until {
                            tokio::time::sleep(ms(1)).await;
                        }
                    });
                    drop(other_runtime);
                    using.join().unwrap();
                    drop(raw);
                });
            }
        }
    }
}

#[test]
fn no_call_panics_after_the_runtime_of_its_connection_has_ended() {
    for how in USES {
        without_hanging(&format!("{how:?}"), move || {
            let config = ConnConfig::new()
                .idle_timeout(ms(100))
                .frame_timeout(ms(100))
                .write_timeout(ms(100))
                .close_timeout(ms(100));
            let (conn, there) = runtime().block_on(tcp_pair(config));
            if matches!(how, Uses::Receives | Uses::Streams) {
                // Without a runtime.
                futures::executor::block_on(use_up(conn, how));
            } else {
                runtime().block_on(use_up(conn, how));
            }
            drop(there);
        });
    }
}

// ---- threads without a runtime, blocking tasks, local sets

#[test]
fn a_thread_without_a_runtime_sends_flushes_receives_and_closes() {
    without_hanging("the thread", || {
        let other_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (mut here, mut there) = other_runtime.block_on(tcp_pair(ConnConfig::new()));
        let echoing = other_runtime.spawn(async move {
            while let Some(packet) = there.recv().await.unwrap() {
                there.send(packet).await.unwrap();
            }
            there.close().await
        });
        futures::executor::block_on(async {
            for number in 0..100 {
                here.send(numbered(number)).await.unwrap();
                if number % 10 == 0 {
                    here.flush().await.unwrap();
                }
                assert_eq!(here.recv().await.unwrap(), Some(numbered(number)));
            }
            here.close().await.unwrap();
        });
        other_runtime.block_on(echoing).unwrap().unwrap();
    });
}

#[test]
fn a_packet_sent_before_a_task_blocks_its_thread_is_written() {
    without_hanging("a blocked task", || {
        let other_runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        other_runtime.block_on(async {
            for in_place in [true, false] {
                let (here, mut there) = tcp_pair(ConnConfig::new()).await;
                let (unblock, blocked) = mpsc::channel::<()>();
                let blocking = if in_place {
                    tokio::spawn(async move {
                        tokio::task::block_in_place(|| {
                            here.try_send(b"before").unwrap();
                            blocked.recv().unwrap();
                        });
                    })
                } else {
                    tokio::task::spawn_blocking(move || {
                        here.try_send(b"before").unwrap();
                        blocked.recv().unwrap();
                    })
                };
                let packet = timeout(HANG_GUARD, there.recv()).await.expect("the packet was not written");
                assert_eq!(packet.unwrap().unwrap().payload(), b"before");
                unblock.send(()).unwrap();
                blocking.await.unwrap();
            }
        });
    });
}

#[test]
fn connections_work_in_a_local_set() {
    without_hanging("a local set", || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime(), async {
            let (mut here, mut there) = tcp_pair(ConnConfig::new()).await;
            let echoing = tokio::task::spawn_local(async move {
                while let Some(packet) = there.recv().await.unwrap() {
                    there.send(packet).await.unwrap();
                }
                there.close().await
            });
            let large = vec![7; 3 << 20];
            for number in 0..100 {
                here.send(numbered(number)).await.unwrap();
            }
            for number in 0..100 {
                assert_eq!(here.recv().await.unwrap(), Some(numbered(number)));
            }
            here.send(large.clone()).await.unwrap();
            assert_eq!(here.recv().await.unwrap().unwrap().payload(), large);
            here.close().await.unwrap();
            echoing.await.unwrap().unwrap();
        });
        // The set is dropped outside the runtime, with a connection in one of its tasks.
        let runtime = runtime();
        let local = tokio::task::LocalSet::new();
        let mut there = local.block_on(&runtime, async {
            let (here, there) = tcp_pair(ConnConfig::new()).await;
            tokio::task::spawn_local(async move {
                here.send(b"goodbye").await.unwrap();
                std::future::pending::<()>().await;
                drop(here);
            });
            tokio::task::yield_now().await;
            there
        });
        drop(local);
        runtime.block_on(async {
            assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"goodbye");
            assert!(there.recv().await.unwrap().is_none());
        });
    });
}

#[test]
fn runtimes_that_end_on_a_thread_leave_no_memory_behind() {
    let round = || {
        runtime().block_on(async {
            let (here, mut there) = piped_pair(4096, ConnConfig::new());
            here.send(b"hello").await.unwrap();
            assert!(there.recv().await.unwrap().is_some());
            // Only the sweeper would write this packet, and it ends with the runtime.
            here.send(b"again").await.unwrap();
        });
    };
    (0..20).for_each(|_| round());
    let measured = allocation_counter::measure(|| (0..200).for_each(|_| round()));
    assert!(measured.bytes_current < 4096, "{} bytes are left", measured.bytes_current);
}

// ---- panics in code that the application supplies

/// The memory of a packet that panics when it is dropped.
struct PanicsWhenDropped(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for PanicsWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        if !thread::panicking() {
            panic!("the memory of a test packet panics on purpose");
        }
    }
}

/// A packet that the send queue does not copy. It is dropped, and panics, after it was written.
fn panicking_packet(len: usize) -> (Packet, Arc<AtomicBool>) {
    let was_dropped = Arc::new(AtomicBool::new(false));
    let memory = PanicsWhenDropped(vec![7; len], Arc::clone(&was_dropped));
    (Bytes::from_owner(memory).into(), was_dropped)
}

struct PanicsWhenWoken(AtomicUsize);

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a test waker panics on purpose");
    }
}

fn panicking_waker() -> (Arc<PanicsWhenWoken>, Waker) {
    let counts = Arc::new(PanicsWhenWoken(AtomicUsize::new(0)));
    (Arc::clone(&counts), Arc::clone(&counts).into())
}

#[tokio::test]
async fn a_panic_while_a_packet_is_freed_does_not_stop_other_connections() {
    let (before, mut raw_before) = piped_and_raw(4096, ConnConfig::new());
    let (bad, _raw_bad) = piped_and_raw(1 << 20, ConnConfig::new());
    let (after, mut raw_after) = piped_and_raw(4096, ConnConfig::new());
    // A small packet first, so that the sweeper writes.
    let (packet, was_dropped) = panicking_packet(40_000);
    before.try_send(b"hello").unwrap();
    bad.try_send(packet).unwrap();
    after.try_send(b"hello").unwrap();
    for raw in [&mut raw_before, &mut raw_after] {
        timeout(HANG_GUARD, raw.read_exact(&mut [0; 9])).await.expect(NOT_WRITTEN).unwrap();
    }
    assert!(was_dropped.load(Ordering::Relaxed), "the test packet did not panic");
    after.try_send(b"again").unwrap();
    timeout(HANG_GUARD, raw_after.read_exact(&mut [0; 9])).await.expect(NOT_WRITTEN).unwrap();
}

const NOT_WRITTEN: &str = "the packet was not written";

/// The background task of the connection writes, and then wakes the pending flush.
#[tokio::test]
async fn a_panic_of_a_waker_stops_neither_its_connection_nor_others() {
    let (before, mut raw_before) = piped_and_raw(4096, ConnConfig::new());
    let (bad, mut raw_bad) = piped_and_raw(4096, ConnConfig::new());
    let (after, mut raw_after) = piped_and_raw(4096, ConnConfig::new());
    let (counts, waker) = panicking_waker();
    bad.send(vec![7; 10_000]).await.unwrap();
    {
        let mut flushing = pin!(bad.flush());
        assert!(flushing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        before.try_send(b"hello").unwrap();
        timeout(HANG_GUARD, raw_bad.read_exact(&mut [0; 10_004])).await.expect(NOT_WRITTEN).unwrap();
        after.try_send(b"hello").unwrap();
        for raw in [&mut raw_before, &mut raw_after] {
            timeout(HANG_GUARD, raw.read_exact(&mut [0; 9])).await.expect(NOT_WRITTEN).unwrap();
        }
        assert!(counts.0.load(Ordering::Relaxed) > 0, "the test waker did not panic");
    }
    for (conn, raw) in [(&bad, &mut raw_bad), (&after, &mut raw_after)] {
        conn.try_send(b"again").unwrap();
        timeout(HANG_GUARD, raw.read_exact(&mut [0; 9])).await.expect(NOT_WRITTEN).unwrap();
    }
}

/// The server closes a connection that is over the memory budget, and drops its queued packets.
#[tokio::test]
async fn a_server_survives_a_panic_while_it_frees_packets() {
    let config = ServerConfig::new().memory_budget(1 << 20).conn(ConnConfig::new().send_high_water(64 << 20));
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (common::tcp_addr(&server), server.handle());
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    let _slow = TcpStream::connect(addr).await.unwrap();
    let conn = passed.recv().await.unwrap();
    for _ in 0..3 {
        conn.send(panicking_packet(8 << 20).0).await.unwrap();
    }
    let reason = timeout(HANG_GUARD, conn.closed()).await.unwrap();
    assert!(reason.is_over_budget(), "{reason:?}");
    tokio::time::sleep(ms(20)).await;
    assert!(!serving.is_finished(), "the server must still run");
    assert_eq!(handle.stats().closed_over_budget, 1);
    let _other = TcpStream::connect(addr).await.unwrap();
    assert!(timeout(HANG_GUARD, passed.recv()).await.unwrap().is_some());
}

/// The receiver is paused by the memory budget. Its waker panics when the server resumes it.
#[tokio::test]
async fn a_server_survives_a_panic_of_a_waker_when_it_resumes_a_paused_receiver() {
    let config = ServerConfig::new().memory_budget(1 << 20).conn(ConnConfig::new().send_high_water(64 << 20));
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let addr = common::tcp_addr(&server);
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    let _slow = TcpStream::connect(addr).await.unwrap();
    let holder = passed.recv().await.unwrap();
    let mut peer = TcpStream::connect(addr).await.unwrap();
    let mut conn = passed.recv().await.unwrap();
    // Half of a frame is enough for the receiver to be paused.
    peer.write_all(&frame(&[7; 20_000])[..10_000]).await.unwrap();
    while conn.stats().bytes_received < 10_000 {
        let _ = timeout(ms(5), conn.recv()).await;
    }
    let (counts, waker) = panicking_waker();
    {
        let mut receiving = pin!(conn.recv());
        holder.send(vec![7; 16 << 20]).await.unwrap();
        assert!(receiving.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(timeout(HANG_GUARD, holder.closed()).await.unwrap().is_over_budget());
        drop(holder);
        let woken = async {
            while counts.0.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(ms(5)).await;
            }
        };
        timeout(HANG_GUARD, woken).await.expect("the test waker did not panic");
        assert!(receiving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    tokio::time::sleep(ms(20)).await;
    assert!(!serving.is_finished(), "the server must still run");
    let _other = TcpStream::connect(addr).await.unwrap();
    assert!(timeout(HANG_GUARD, passed.recv()).await.unwrap().is_some());
}

/// The application polls a receiver with its own waker, which panics when the shutdown wakes it.
#[tokio::test]
async fn a_panic_of_a_waker_during_a_shutdown_does_not_affect_other_connections() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (common::tcp_addr(&server), server.handle());
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    let mut conns = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(TcpStream::connect(addr).await.unwrap());
        conns.push(passed.recv().await.unwrap());
    }
    let (counts, waker) = panicking_waker();
    let mut bad = conns.remove(1);
    {
        let mut receiving = pin!(bad.recv());
        assert!(receiving.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let others: Vec<_> = conns
            .into_iter()
            .map(|mut conn| tokio::spawn(async move { conn.recv().await.map(|packet| packet.is_none()) }))
            .collect();
        tokio::task::yield_now().await;
        handle.shutdown();
        for other in others {
            let end = timeout(HANG_GUARD, other).await.expect("`recv` did not return the end").unwrap();
            assert!(end.unwrap());
        }
    }
    assert!(counts.0.load(Ordering::Relaxed) > 0, "the test waker did not panic");
    drop(bad);
    timeout(HANG_GUARD, serving).await.unwrap().expect("the server has panicked");
}

/// The background task of the connection writes the packets.
#[tokio::test]
async fn packets_after_one_that_panics_when_it_is_freed_are_written() {
    let (mut bad, mut raw) = piped_and_raw(1000, ConnConfig::new());
    let (packet, was_dropped) = panicking_packet(40_000);
    bad.send(packet).await.unwrap();
    bad.send(b"behind it").await.unwrap();
    tokio::task::yield_now().await;
    let reading = tokio::spawn(async move {
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.map(|_| bytes)
    });
    while !was_dropped.load(Ordering::Relaxed) {
        tokio::time::sleep(ms(1)).await;
    }
    timeout(HANG_GUARD, bad.flush()).await.expect("the flush hangs").unwrap();
    timeout(HANG_GUARD, bad.close()).await.expect("the close hangs").unwrap();
    let bytes = timeout(HANG_GUARD, reading).await.expect("the peer hangs").unwrap().unwrap();
    assert_eq!(bytes.len(), 4 + 40_000 + 4 + 9);
}

/// The waker of a `stopping` future panics when the shutdown wakes it.
#[tokio::test]
async fn a_server_stops_even_if_a_waker_of_stopping_panics() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (bad, handle) = (server.handle(), server.handle());
    let (counts, waker) = panicking_waker();
    let mut stopping = pin!(bad.stopping());
    assert!(stopping.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let serving = tokio::spawn(server.serve(|_| async { Ok(()) }));
    tokio::task::yield_now().await;
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.shutdown()));
    assert!(stopped.is_err() && counts.0.load(Ordering::Relaxed) == 1);
    timeout(HANG_GUARD, serving).await.expect("the server did not stop").unwrap();
}
