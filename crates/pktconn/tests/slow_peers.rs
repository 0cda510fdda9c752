//! `SlowConsumer` over real sockets: which peers count as slow, and how recent the packets are that a slow peer gets.
//!
//! The kernel takes part, so these tests use the real clock. They assert counts: bytes in transit, dropped packets.

mod common;

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{HANG_GUARD, asserts_times};
use pktconn::{ConnConfig, Error, Group, Packet, PacketConn, SlowConsumer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

const POLICIES: [SlowConsumer; 3] =
    [SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A stream type of the application, which the library can only read and write.
struct Wrapped<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Wrapped<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wrapped<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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

/// A TCP socket with a small receive buffer, which is set before it connects, and the accepted socket.
fn small_tcp_pair(recv_buffer: usize) -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(recv_buffer).unwrap();
    socket.connect(&addr.into()).unwrap();
    (socket.into(), listener.accept().unwrap().0)
}

fn to_tokio(stream: std::net::TcpStream) -> TcpStream {
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// The state that a test shares with its reader.
#[derive(Default)]
struct Reading {
    /// How many bytes of frames the reader has read.
    bytes_read: AtomicUsize,
    /// Set by the test: the reader reads the rest as fast as it can.
    reads_fast: AtomicBool,
}

/// The result of a reader.
#[derive(Default)]
struct Seen {
    /// For each packet that arrived before `reads_fast` was set: its arrival, since the start, and its age.
    ages: Vec<(Duration, Duration)>,
    /// How many bytes of frames were still in transit when the reader began to read fast.
    left: usize,
}

/// Reads `bytes_a_second` in small steps until the stream ends. Each packet begins with the time at which it was sent,
/// in microseconds since `start`.
fn slow_reader(
    mut stream: impl Read + Send + 'static,
    bytes_a_second: usize,
    start: Instant,
    reading: &Arc<Reading>,
) -> JoinHandle<Seen> {
    let reading = Arc::clone(reading);
    thread::spawn(move || {
        let (begun, mut bytes_read) = (Instant::now(), 0);
        let (mut bytes, mut seen, mut last_sent) = (Vec::new(), Seen::default(), Duration::ZERO);
        let mut buffer = vec![0; (bytes_a_second / 100).max(64)];
        loop {
            let reads_fast = reading.reads_fast.load(Relaxed);
            if !reads_fast {
                let due = Duration::from_secs_f64(bytes_read as f64 / bytes_a_second as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    bytes_read += count;
                    reading.bytes_read.store(bytes_read, Relaxed);
                    seen.left += if reads_fast { count } else { 0 };
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
            let mut rest = &bytes[..];
            while let Some((header, more)) = rest.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*header) as usize;
                assert!((8..=40_000).contains(&len), "frame of {len} bytes: the stream is corrupted");
                let Some((payload, more)) = more.split_at_checked(len) else { break };
                let sent = Duration::from_micros(u64::from_le_bytes(*payload.first_chunk().unwrap()));
                assert!(sent >= last_sent, "an older packet arrived after a newer one");
                last_sent = sent;
                if !reads_fast {
                    seen.ages.push((start.elapsed(), start.elapsed() - sent));
                }
                rest = more;
            }
            bytes = rest.to_vec();
        }
        seen
    })
}

/// Only packets that arrive later than this count: until then the buffers fill.
const SETTLED: Duration = Duration::from_secs(2);

fn oldest(ages: &[(Duration, Duration)]) -> Duration {
    let settled = ages.iter().filter(|(at, _)| *at > SETTLED).map(|(_, age)| *age);
    settled.max().expect("no packet arrived after the first 2 s")
}

/// How many bytes may be in transit to a slow reader, with an unlimited send queue. At 40 KB/s and a lag of 500 ms it
/// is some 100 KB, and without a lag limit more than 1.5 MB after 5 s. A slow machine sends less, so it is less there.
const MAX_IN_TRANSIT: usize = 512 * KIB;

/// A high-water mark that no test reaches: only the lag drops packets or ends connections.
const NO_LIMIT: usize = 64 * MIB;

/// Checks that few bytes were in transit. If tests assert times, also that no packet was older than `oldest_allowed`.
fn assert_recent(what: &str, seen: &Seen, oldest_allowed: Duration) {
    let oldest = oldest(&seen.ages);
    println!("{what}: {} packets, the oldest {oldest:?}, {} B in transit", seen.ages.len(), seen.left);
    assert!(seen.left <= MAX_IN_TRANSIT, "{what}: {} bytes were in transit", seen.left);
    assert!(!asserts_times() || oldest <= oldest_allowed, "{what}: the oldest packet was {oldest:?} old");
}

fn stamped(start: Instant, len: usize) -> Packet {
    let mut payload = vec![7; len];
    payload[..8].copy_from_slice(&(start.elapsed().as_micros() as u64).to_le_bytes());
    payload.into()
}

/// Sends a state of `len` bytes about every 2 ms, or 400 KB/s of large states, for `during` or until the connection
/// ends.
async fn send_states(conn: &PacketConn, start: Instant, len: usize, during: Duration) -> Result<(), Error> {
    while start.elapsed() < during {
        conn.send(stamped(start, len)).await?;
        sleep(ms(2).max(Duration::from_micros(len as u64 * 5 / 2))).await;
    }
    Ok(())
}

/// Sends 400 KB/s to a peer that reads 40 KB/s, and checks that the packets it gets are not much older than the lag
/// limit.
fn assert_recent_over_tcp(own_stream: bool, recv_buffer: usize, len: usize) {
    let start = Instant::now();
    let (peer, accepted) = small_tcp_pair(recv_buffer);
    let reading = Arc::default();
    let reader = slow_reader(peer, 40_000, start, &reading);
    runtime().block_on(async {
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(500));
        let config = config.send_high_water(NO_LIMIT).close_timeout(HANG_GUARD);
        let stream = to_tokio(accepted);
        let conn =
            if own_stream { PacketConn::new(stream, config) } else { PacketConn::from_tcp(stream, config) };
        let mut conn = conn.unwrap();
        send_states(&conn, start, len, ms(5000)).await.unwrap();
        assert!(conn.stats().packets_dropped > 0);
        reading.reads_fast.store(true, Relaxed);
        let _ = conn.close().await;
    });
    let what = format!("own stream: {own_stream}, SO_RCVBUF {recv_buffer}, {len} B");
    assert_recent(&what, &reader.join().unwrap(), ms(1700));
}

#[test]
fn a_slow_reader_gets_packets_that_are_not_much_older_than_send_max_lag() {
    for_each_at_once(
        &[(8 * KIB, 800), (16 * KIB, 800), (8 * KIB, 4000), (8 * KIB, 20_000)],
        |(recv_buffer, len)| {
            assert_recent_over_tcp(false, recv_buffer, len);
        },
    );
}

#[test]
fn a_slow_reader_gets_recent_packets_over_a_socket_that_the_application_supplies() {
    assert_recent_over_tcp(true, 8 * KIB, 800);
}

/// Sends to a peer that reads 40 KB/s until the lag limit of a second ends the connection. Returns the time since
/// `start`.
///
/// If `keeps_sending`, it sends ten times as fast as the peer reads. Otherwise it sends as much as the peer reads in
/// eight seconds, at once.
async fn send_until_lag_ends_it(conn: &PacketConn, start: Instant, keeps_sending: bool) -> Duration {
    if keeps_sending {
        let _ = send_states(conn, start, 800, HANG_GUARD).await;
    } else {
        for _ in 0..400 {
            conn.send(stamped(start, 800)).await.unwrap();
        }
    }
    let reason = timeout(HANG_GUARD, conn.closed()).await.expect("the lag did not end the connection");
    assert!(reason.is_slow_consumer(), "{reason:?}");
    start.elapsed()
}

/// Sends states, and waits whenever more than `max_unread` bytes are unread, so that the peer always keeps up.
async fn send_no_faster_than_read(
    conn: &PacketConn,
    start: Instant,
    len: usize,
    max_unread: usize,
    reading: &Reading,
) {
    let mut sent = 0;
    while start.elapsed() < ms(2000) {
        let waiting_since = Instant::now();
        while sent - reading.bytes_read.load(Relaxed) > max_unread {
            assert!(waiting_since.elapsed() < HANG_GUARD, "the peer does not read");
            sleep(ms(1)).await;
        }
        conn.send(stamped(start, len)).await.unwrap();
        sent += 4 + len;
        sleep(ms(2)).await;
    }
}

#[test]
fn a_peer_that_lags_is_disconnected() {
    for_each_at_once(&[true, false], |keeps_sending| {
        let start = Instant::now();
        let (peer, accepted) = small_tcp_pair(16 * KIB);
        let reading = Arc::default();
        let reader = slow_reader(peer, 40_000, start, &reading);
        let ended = runtime().block_on(async {
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            let config = config.send_high_water(NO_LIMIT).write_timeout(None);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            send_until_lag_ends_it(&conn, start, keeps_sending).await
        });
        reading.reads_fast.store(true, Relaxed);
        reader.join().unwrap();
        println!("keeps sending: {keeps_sending}: ended after {ended:?}");
        // Holds on any machine: the lag cannot be reached earlier.
        assert!(ended >= ms(900), "{ended:?}");
        assert!(!asserts_times() || ended <= ms(2500), "{ended:?}");
    });
}

#[test]
fn a_peer_that_keeps_up_is_not_disconnected() {
    let start = Instant::now();
    let (peer, accepted) = small_tcp_pair(16 * KIB);
    let reading = Arc::default();
    let reader = slow_reader(peer, 100_000_000, start, &reading);
    runtime().block_on(async {
        let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
        let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
        send_no_faster_than_read(&conn, start, 800, 8 * KIB, &reading).await;
        assert!(conn.close_reason().is_none(), "{:?}", conn.close_reason());
    });
    reader.join().unwrap();
}

#[test]
fn drop_newest_drops_packets_for_a_peer_that_lags() {
    let start = Instant::now();
    let (peer, accepted) = small_tcp_pair(16 * KIB);
    let reading = Arc::default();
    let reader = slow_reader(peer, 40_000, start, &reading);
    runtime().block_on(async {
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropNewest).send_max_lag(ms(500));
        let config = config.send_high_water(NO_LIMIT).close_timeout(HANG_GUARD);
        let mut conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
        send_states(&conn, start, 800, ms(5000)).await.unwrap();
        assert!(conn.queued_bytes() < 512 * KIB, "{}", conn.queued_bytes());
        // On an idle machine some 2,000 packets are dropped within 5 s.
        while conn.stats().packets_dropped <= 500 {
            assert!(start.elapsed() < HANG_GUARD, "{:?}", conn.stats());
            conn.send(stamped(start, 800)).await.unwrap();
            sleep(ms(2)).await;
        }
        reading.reads_fast.store(true, Relaxed);
        let _ = conn.close().await;
    });
    reader.join().unwrap();
}

#[test]
fn nothing_is_dropped_for_a_reader_that_keeps_up_for_any_lag_limit_and_packet_size() {
    for_each_at_once(&[(8, ms(150)), (800, ms(150)), (4000, ms(200))], |(len, lag)| {
        let start = Instant::now();
        let (peer, accepted) = small_tcp_pair(256 * KIB);
        let reading = Arc::default();
        let reader = slow_reader(peer, 100_000_000, start, &reading);
        runtime().block_on(async {
            let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(lag);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            send_no_faster_than_read(&conn, start, len, 32 * KIB, &reading).await;
            assert_eq!(conn.stats().packets_dropped, 0, "{len} B, {lag:?}");
        });
        reader.join().unwrap();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn policies_that_drop_or_disconnect_limit_the_unsent_bytes_in_the_kernel() {
    use socket2::SockRef;

    runtime().block_on(async {
        for (policy, expected) in [
            (SlowConsumer::DropOldest, 16 * KIB as u32),
            (SlowConsumer::DropNewest, 16 * KIB as u32),
            (SlowConsumer::Disconnect, 16 * KIB as u32),
        ] {
            for own_stream in [false, true] {
                let (_peer, accepted) = small_tcp_pair(16 * KIB);
                let copy = accepted.try_clone().unwrap();
                let config = ConnConfig::new().slow_consumer(policy);
                let stream = to_tokio(accepted);
                let _conn = if own_stream {
                    PacketConn::new(stream, config)
                } else {
                    PacketConn::from_tcp(stream, config)
                };
                let set = SockRef::from(&copy).tcp_notsent_lowat().unwrap();
                assert_eq!(set, expected, "{policy:?}, own stream: {own_stream}");
            }
        }
    });
}

// ---- a peer that has read everything is not slow

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendCall {
    Send,
    SendMany,
    TrySend,
    Broadcast,
}

const SEND_CALLS: [SendCall; 4] =
    [SendCall::Send, SendCall::SendMany, SendCall::TrySend, SendCall::Broadcast];

async fn send_by(
    conn: &PacketConn,
    group: &Group,
    send_call: SendCall,
    packet: Packet,
) -> Result<(), String> {
    let sent = match send_call {
        SendCall::Send => conn.send(packet).await,
        SendCall::SendMany => conn.send_many(&mut vec![packet]).await,
        SendCall::TrySend => conn.try_send(packet),
        SendCall::Broadcast => {
            let result = group.broadcast(packet);
            return if result.accepted == 1 { Ok(()) } else { Err(format!("{result:?}")) };
        }
    };
    sent.map_err(|error| error.to_string())
}

fn config_of(policy: SlowConsumer) -> ConnConfig {
    ConnConfig::new().slow_consumer(policy).send_high_water(256 * KIB)
}

/// Fills the queue, lets the peer read everything while the thread of the connection is blocked, and then sends more.
/// Checks that no packet is dropped.
///
/// The queued and the further packets fit the buffers of the kernel, so the result does not depend on the speed of both
/// sides.
async fn assert_not_slow(
    what: &str,
    policy: SlowConsumer,
    send_call: SendCall,
    conn: PacketConn,
    peer: &ReaderControl,
) {
    let group = Group::new();
    group.join(&conn, ());
    while conn.queued_bytes() < 200 * KIB {
        while conn.queued_bytes() < 220 * KIB {
            conn.send(vec![1; 4000]).await.unwrap();
        }
        // Lets the background task write, so that the queued bytes are those that the kernel has no room for.
        sleep(ms(20)).await;
    }
    peer.read.send(()).unwrap();
    // The thread is blocked, so the connection does not notice that the peer reads. TLS keeps some records until the
    // next write.
    let kept = if what == "TLS" { 96 * KIB } else { 0 };
    let with_the_system = conn.stats().bytes_sent as usize;
    let since = Instant::now();
    while peer.bytes_read.load(Relaxed) + kept < with_the_system {
        assert!(since.elapsed() < HANG_GUARD, "{what}, {policy:?}, {send_call:?}: the peer does not read");
        thread::sleep(ms(1));
    }
    for number in 0..40 {
        let sent = send_by(&conn, &group, send_call, vec![2; 4000].into()).await;
        assert!(sent.is_ok(), "{what}, {policy:?}, {send_call:?}: packet {number} of 40: {sent:?}");
    }
    assert_eq!(conn.stats().packets_dropped, 0, "{what}, {policy:?}, {send_call:?}");
}

/// Controls a peer that starts to read when the test says so.
struct ReaderControl {
    read: mpsc::Sender<()>,
    /// How many bytes of frames the peer has read.
    bytes_read: Arc<AtomicUsize>,
}

fn controlled_reader(mut stream: impl Read + Send + 'static) -> (ReaderControl, JoinHandle<()>) {
    let (read, may_read) = mpsc::channel();
    let control = ReaderControl { read, bytes_read: Arc::default() };
    let bytes_read = Arc::clone(&control.bytes_read);
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; MIB];
        if may_read.recv().is_ok() {
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                bytes_read.fetch_add(count, Relaxed);
            }
        }
    });
    (control, reader)
}

fn with_each_policy_and_send_call(send_calls: &[SendCall], test: impl Fn(SlowConsumer, SendCall)) {
    for policy in POLICIES {
        for send_call in send_calls {
            test(policy, *send_call);
        }
    }
}

#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_tcp() {
    with_each_policy_and_send_call(&SEND_CALLS, |policy, send_call| {
        for own_stream in [false, true] {
            let (peer, accepted) = small_tcp_pair(512 * KIB);
            socket2::SockRef::from(&accepted).set_send_buffer_size(512 * KIB).unwrap();
            let (control, reader) = controlled_reader(peer);
            runtime().block_on(async {
                let stream = to_tokio(accepted);
                let conn = if own_stream {
                    PacketConn::new(stream, config_of(policy))
                } else {
                    PacketConn::from_tcp(stream, config_of(policy))
                };
                assert_not_slow("TCP", policy, send_call, conn.unwrap(), &control).await;
            });
            reader.join().unwrap();
        }
    });
}

#[cfg(unix)]
#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_a_unix_socket() {
    with_each_policy_and_send_call(&SEND_CALLS, |policy, send_call| {
        let (peer, here) = std::os::unix::net::UnixStream::pair().unwrap();
        socket2::SockRef::from(&here).set_send_buffer_size(512 * KIB).unwrap();
        let (control, reader) = controlled_reader(peer);
        runtime().block_on(async {
            here.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(here).unwrap();
            let conn = PacketConn::new(stream, config_of(policy)).unwrap();
            assert_not_slow("Unix", policy, send_call, conn, &control).await;
        });
        reader.join().unwrap();
    });
}

/// For a wrapped socket the library depends on tokio's view of readiness. Only `send` and `send_many` can yield to
/// update it.
#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_a_wrapped_socket() {
    with_each_policy_and_send_call(&[SendCall::Send, SendCall::SendMany], |policy, send_call| {
        let (peer, accepted) = small_tcp_pair(512 * KIB);
        socket2::SockRef::from(&accepted).set_send_buffer_size(512 * KIB).unwrap();
        let (control, reader) = controlled_reader(peer);
        runtime().block_on(async {
            let conn = PacketConn::new(Wrapped(to_tokio(accepted)), config_of(policy)).unwrap();
            assert_not_slow("wrapped TCP", policy, send_call, conn, &control).await;
        });
        reader.join().unwrap();
    });
}

#[test]
fn a_peer_that_does_not_read_is_slow_over_a_wrapped_socket() {
    for policy in POLICIES {
        let (_peer, accepted) = small_tcp_pair(64 * KIB);
        runtime().block_on(async {
            let conn = PacketConn::new(Wrapped(to_tokio(accepted)), config_of(policy)).unwrap();
            let sending = async {
                for _ in 0..3000 {
                    conn.send(vec![1; 4000]).await?;
                }
                Ok::<_, Error>(())
            };
            let sent = timeout(HANG_GUARD, sending).await.expect("`send` must not wait");
            match policy {
                SlowConsumer::Disconnect => assert!(sent.unwrap_err().is_slow_consumer()),
                _ => assert!(sent.is_ok() && conn.stats().packets_dropped > 0, "{policy:?}"),
            }
        });
    }
}

/// `send_many` may yield in the middle of a batch to update tokio's readiness.
#[test]
fn a_batch_over_a_wrapped_socket_is_sent_once_and_in_order() {
    let (mut peer, accepted) = small_tcp_pair(64 * KIB);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    });
    runtime().block_on(async {
        let config = config_of(SlowConsumer::DropNewest);
        let mut conn = PacketConn::new(Wrapped(to_tokio(accepted)), config).unwrap();
        let mut packets: Vec<Packet> = (0..2000_u32).map(|number| vec![number as u8; 1000].into()).collect();
        conn.send_many(&mut packets).await.unwrap();
        assert!(packets.is_empty());
        let stats = conn.stats();
        assert_eq!(stats.packets_sent + stats.packets_dropped, 2000);
        conn.close().await.unwrap();
    });
    let bytes = reader.join().unwrap();
    assert_eq!(bytes.len() % 1004, 0);
    // `DropNewest` drops the newest packets, so the first ones arrive.
    let firsts = bytes.chunks(1004).take(200).map(|frame| frame[4]);
    assert!(firsts.eq((0..200_u32).map(|number| number as u8)));
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use pktconn::{PacketServer, ServerConfig, TcpConfig, TlsClientConfig, TlsServerConfig};
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    pub(super) struct Identity {
        _dir: TempDir,
        pub(super) chain: PathBuf,
        pub(super) key: PathBuf,
    }

    pub(super) fn identity() -> Identity {
        let dir = tempfile::tempdir().unwrap();
        let key_pair = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key_pair).unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&key, key_pair.serialize_pem()).unwrap();
        Identity { _dir: dir, chain, key }
    }

    /// Runs `peer` as a TLS client with the receive buffer, on another thread and runtime, and `test` with the server's
    /// side of the connection.
    fn with_tls<T: Send + 'static>(
        recv_buffer: usize,
        conn: ConnConfig,
        peer: impl AsyncFnOnce(PacketConn) -> T + Send + 'static,
        test: impl AsyncFnOnce(PacketConn),
    ) -> T {
        let identity = identity();
        let (tell_addr, addr) = mpsc::channel::<SocketAddr>();
        let ca = identity.chain.clone();
        let peer = thread::spawn(move || {
            let addr = addr.recv().unwrap();
            runtime().block_on(async {
                let tls = TlsClientConfig::new().ca(ca).server_name("localhost");
                let config = ConnConfig::new().tls(tls).tcp(TcpConfig::new().recv_buffer(recv_buffer));
                peer(PacketConn::connect_with(addr, config).await.unwrap()).await
            })
        });
        runtime().block_on(async {
            let tls = TlsServerConfig::new(&identity.chain, &identity.key);
            let config = ServerConfig::new().tls(tls).conn(conn);
            let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
            tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
            let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                let _ = pass.send(conn);
                std::future::ready(Ok(()))
            }));
            test(passed.recv().await.unwrap()).await;
            serving.abort();
        });
        peer.join().unwrap()
    }

    /// Receives `bytes_a_second`, and as fast as it can once the test sets `reads_fast`, until the connection ends.
    async fn receive_slowly(
        mut conn: PacketConn,
        bytes_a_second: usize,
        start: Instant,
        reading: Arc<Reading>,
    ) -> Seen {
        let (begun, mut bytes_read, mut seen) = (Instant::now(), 0, Seen::default());
        loop {
            let reads_fast = reading.reads_fast.load(Relaxed);
            if !reads_fast {
                let due = Duration::from_secs_f64(bytes_read as f64 / bytes_a_second as f64);
                sleep(due.saturating_sub(begun.elapsed())).await;
            }
            let Ok(Some(packet)) = conn.recv().await else { return seen };
            bytes_read += packet.len() + 4;
            reading.bytes_read.store(bytes_read, Relaxed);
            let sent = Duration::from_micros(u64::from_le_bytes(*packet.payload().first_chunk().unwrap()));
            if reads_fast {
                seen.left += packet.len() + 4;
            } else {
                seen.ages.push((start.elapsed(), start.elapsed() - sent));
            }
        }
    }

    /// A peer for [`with_tls`] that receives `bytes_a_second`.
    fn peer_at(
        bytes_a_second: usize,
        start: Instant,
        reading: &Arc<Reading>,
    ) -> impl AsyncFnOnce(PacketConn) -> Seen + Send + 'static {
        let reading = Arc::clone(reading);
        async move |conn| receive_slowly(conn, bytes_a_second, start, reading).await
    }

    #[test]
    fn a_slow_reader_gets_recent_packets() {
        let start = Instant::now();
        let reading = Arc::<Reading>::default();
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(500));
        let config = config.send_high_water(NO_LIMIT).close_timeout(HANG_GUARD);
        let seen = with_tls(8 * KIB, config, peer_at(40_000, start, &reading), async |mut conn| {
            send_states(&conn, start, 800, ms(6000)).await.unwrap();
            assert!(conn.stats().packets_dropped > 0);
            reading.reads_fast.store(true, Relaxed);
            let _ = conn.close().await;
        });
        // The reader reads whole records of 16 KiB, and up to 64 KiB at once. At 40 KB/s these bytes wait there for up
        // to 2 s.
        assert_recent("TLS", &seen, ms(3500));
    }

    #[test]
    fn a_peer_that_lags_is_disconnected() {
        for_each_at_once(&[true, false], |keeps_sending| {
            let start = Instant::now();
            let reading = Arc::<Reading>::default();
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            let config = config.send_high_water(NO_LIMIT).write_timeout(None);
            with_tls(16 * KIB, config, peer_at(40_000, start, &reading), async |conn| {
                let ended = send_until_lag_ends_it(&conn, start, keeps_sending).await;
                reading.reads_fast.store(true, Relaxed);
                println!("TLS, keeps sending: {keeps_sending}: ended after {ended:?}");
                assert!(ended >= ms(900), "{ended:?}");
                assert!(!asserts_times() || ended < ms(3000), "{ended:?}");
            });
        });
    }

    #[test]
    fn a_peer_that_keeps_up_is_not_disconnected() {
        let start = Instant::now();
        let reading = Arc::<Reading>::default();
        let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
        with_tls(16 * KIB, config, peer_at(100_000_000, start, &reading), async |conn| {
            send_no_faster_than_read(&conn, start, 800, 8 * KIB, &reading).await;
            assert!(conn.close_reason().is_none(), "{:?}", conn.close_reason());
        });
    }

    /// Each packet becomes a separate TLS record, which has several times as many bytes.
    #[test]
    fn nothing_is_dropped_for_a_reader_that_keeps_up_with_tiny_packets() {
        for_each_at_once(&[ms(150), ms(200)], |lag| {
            let start = Instant::now();
            let reading = Arc::<Reading>::default();
            let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(lag);
            with_tls(16 * KIB, config, peer_at(100_000_000, start, &reading), async |conn| {
                send_no_faster_than_read(&conn, start, 8, 50 * 12, &reading).await;
                assert_eq!(conn.stats().packets_dropped, 0, "{lag:?}");
            });
        });
    }

    #[test]
    fn a_peer_that_has_read_everything_is_not_slow() {
        with_each_policy_and_send_call(&SEND_CALLS, |policy, send_call| {
            let (read, may_read) = mpsc::channel::<()>();
            let peer = ReaderControl { read, bytes_read: Arc::default() };
            let bytes_read = Arc::clone(&peer.bytes_read);
            let config = config_of(policy).tcp(TcpConfig::new().send_buffer(512 * KIB));
            with_tls(
                512 * KIB,
                config,
                async move |mut conn| {
                    may_read.recv().unwrap();
                    while let Ok(Some(packet)) = conn.recv().await {
                        bytes_read.fetch_add(packet.len() + 4, Relaxed);
                    }
                },
                async |conn| assert_not_slow("TLS", policy, send_call, conn, &peer).await,
            );
        });
    }
}

/// Each burst fits the queue and the buffers of the kernel, and follows after the previous one was read.
#[test]
fn a_reader_that_keeps_up_with_bursts_loses_nothing() {
    for policy in POLICIES {
        let (mut peer, accepted) = small_tcp_pair(64 * KIB);
        let total = Arc::new(AtomicUsize::new(0));
        let reader = thread::spawn({
            let total = Arc::clone(&total);
            move || {
                let mut buffer = vec![0; MIB];
                while let Ok(count @ 1..) = peer.read(&mut buffer) {
                    total.fetch_add(count, Relaxed);
                }
            }
        });
        runtime().block_on(async {
            let conn = PacketConn::from_tcp(to_tokio(accepted), config_of(policy)).unwrap();
            for burst in 1..=100 {
                for _ in 0..50 {
                    conn.send(vec![1; 4000]).await.unwrap();
                }
                while total.load(Relaxed) < burst * 50 * 4004 {
                    sleep(ms(1)).await;
                }
            }
            assert_eq!(conn.stats().packets_dropped, 0, "{policy:?}");
        });
        reader.join().unwrap();
    }
}
