//! Which peers are slow, and what a slow peer gets, over sockets of the system.
//!
//! These tests need the real clock, as the kernel's part is in them. So they count: bytes on their way, packets dropped.

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

/// A stream of the application's own, of which nothing is known but that it can be read and written.
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

/// Runs `test` for each of `cases`, each in a thread of its own: they take their time.
fn for_each_at_once<T: Copy + Send + Sync>(cases: &[T], test: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for &case in cases {
            let test = &test;
            scope.spawn(move || test(case));
        }
    });
}

/// A TCP socket with a small receive buffer, which is set before it connects, and the one at its other end.
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

/// What the test and its reader tell each other.
#[derive(Default)]
struct Reading {
    /// Bytes of frames that were read so far.
    taken: AtomicUsize,
    /// Set by the test: the reader takes what is left as fast as it can.
    hurries: AtomicBool,
}

/// What a reader has seen.
#[derive(Default)]
struct Seen {
    /// When each packet arrived that was read slowly, since the start, and its age.
    ages: Vec<(Duration, Duration)>,
    /// The bytes of frames that were still on their way when it began to hurry.
    left: usize,
}

/// Reads so many bytes a second, a little at a time. A packet begins with the microseconds from `start` to when it was sent.
/// Ends with the stream.
fn slow_reader(
    mut stream: impl Read + Send + 'static,
    bytes_a_second: usize,
    start: Instant,
    reading: &Arc<Reading>,
) -> JoinHandle<Seen> {
    let reading = Arc::clone(reading);
    thread::spawn(move || {
        let (begun, mut taken) = (Instant::now(), 0);
        let (mut bytes, mut seen, mut last_sent) = (Vec::new(), Seen::default(), Duration::ZERO);
        let mut buffer = vec![0; (bytes_a_second / 100).max(64)];
        loop {
            let hurries = reading.hurries.load(Relaxed);
            if !hurries {
                let due = Duration::from_secs_f64(taken as f64 / bytes_a_second as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    taken += count;
                    reading.taken.store(taken, Relaxed);
                    seen.left += if hurries { count } else { 0 };
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
            let mut rest = &bytes[..];
            while let Some((header, more)) = rest.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*header) as usize;
                assert!((8..=40_000).contains(&len), "a frame was torn");
                let Some((payload, more)) = more.split_at_checked(len) else { break };
                let sent = Duration::from_micros(u64::from_le_bytes(*payload.first_chunk().unwrap()));
                assert!(sent >= last_sent, "an older state came after a newer one");
                last_sent = sent;
                if !hurries {
                    seen.ages.push((start.elapsed(), start.elapsed() - sent));
                }
                rest = more;
            }
            bytes = rest.to_vec();
        }
        seen
    })
}

/// Ages of packets that came later than this are those of a state that lasts.
const SETTLED: Duration = Duration::from_secs(2);

fn oldest(ages: &[(Duration, Duration)]) -> Duration {
    let settled = ages.iter().filter(|(at, _)| *at > SETTLED).map(|(_, age)| *age);
    settled.max().expect("packets came to the end")
}

/// What may be on its way to a slow reader, in a queue without a limit of its own. At 40 KB/s and a lag of 500 ms it is some
/// 100 KB, and without the lag more than 1.5 MB in 5 s. On a slow machine it is less, as less is sent.
const MOST_ON_ITS_WAY: usize = 512 * KIB;

/// A queue that nothing here fills: what is dropped, or ends a connection, is for its lag.
const NO_LIMIT: usize = 64 * MIB;

/// The state that came to a slow reader was recent: little was on its way. Where times are asserted, the packets were young.
fn assert_recent(what: &str, seen: &Seen, oldest_allowed: Duration) {
    let oldest = oldest(&seen.ages);
    println!("{what}: {} packets, {oldest:?} at most, {} B on their way", seen.ages.len(), seen.left);
    assert!(seen.left <= MOST_ON_ITS_WAY, "{what}: {} bytes were on their way", seen.left);
    assert!(!asserts_times() || oldest <= oldest_allowed, "{what}: {oldest:?}");
}

fn stamped(start: Instant, len: usize) -> Packet {
    let mut payload = vec![7; len];
    payload[..8].copy_from_slice(&(start.elapsed().as_micros() as u64).to_le_bytes());
    payload.into()
}

/// Sends a state of `len` bytes each 2 ms or so, or 400 KB/s, for so long or until the connection ends.
async fn send_states(conn: &PacketConn, start: Instant, len: usize, during: Duration) -> Result<(), Error> {
    while start.elapsed() < during {
        conn.send(stamped(start, len)).await?;
        sleep(ms(2).max(Duration::from_micros(len as u64 * 5 / 2))).await;
    }
    Ok(())
}

/// What the peer at 40 KB/s gets is not much older than the lag that it is granted, though ten times as much is sent.
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
        reading.hurries.store(true, Relaxed);
        let _ = conn.close().await;
    });
    let what = format!("own stream: {own_stream}, SO_RCVBUF {recv_buffer}, {len} B");
    assert_recent(&what, &reader.join().unwrap(), ms(1700));
}

#[test]
fn a_slow_reader_gets_state_that_is_not_much_older_than_its_lag() {
    for_each_at_once(
        &[(8 * KIB, 800), (16 * KIB, 800), (8 * KIB, 4000), (8 * KIB, 20_000)],
        |(recv_buffer, len)| {
            assert_recent_over_tcp(false, recv_buffer, len);
        },
    );
}

#[test]
fn a_slow_reader_gets_recent_state_over_a_socket_of_the_applications_own() {
    assert_recent_over_tcp(true, 8 * KIB, 800);
}

/// Has a connection with a lag of a second send to a peer at 40 KB/s until that ends it, and returns when.
///
/// Ten times as much is sent, or eight seconds' worth of it at once.
async fn end_of_one_that_lags(conn: &PacketConn, start: Instant, goes_on: bool) -> Duration {
    if goes_on {
        let _ = send_states(conn, start, 800, HANG_GUARD).await;
    } else {
        for _ in 0..400 {
            conn.send(stamped(start, 800)).await.unwrap();
        }
    }
    let reason = timeout(HANG_GUARD, conn.closed()).await.expect("it lags");
    assert!(reason.is_slow_consumer(), "{reason:?}");
    start.elapsed()
}

/// Sends states to a peer that keeps up, which is made sure of: no more than `most` bytes are unread.
async fn send_no_faster_than_read(
    conn: &PacketConn,
    start: Instant,
    len: usize,
    most: usize,
    reading: &Reading,
) {
    let mut sent = 0;
    while start.elapsed() < ms(2000) {
        let waiting_since = Instant::now();
        while sent - reading.taken.load(Relaxed) > most {
            assert!(waiting_since.elapsed() < HANG_GUARD, "it is not read");
            sleep(ms(1)).await;
        }
        conn.send(stamped(start, len)).await.unwrap();
        sent += 4 + len;
        sleep(ms(2)).await;
    }
}

/// A reader that does not keep up ends the connection at its lag.
#[test]
fn a_peer_that_lags_is_disconnected() {
    for_each_at_once(&[true, false], |goes_on| {
        let start = Instant::now();
        let (peer, accepted) = small_tcp_pair(16 * KIB);
        let reading = Arc::default();
        let reader = slow_reader(peer, 40_000, start, &reading);
        let ended = runtime().block_on(async {
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            let config = config.send_high_water(NO_LIMIT).write_timeout(None);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            end_of_one_that_lags(&conn, start, goes_on).await
        });
        reading.hurries.store(true, Relaxed);
        reader.join().unwrap();
        println!("goes on: {goes_on}: ended after {ended:?}");
        // A byte has to be on its way for so long, whatever the machine does.
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
fn drop_newest_drops_what_a_peer_that_lags_has_no_room_for() {
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
        // In 5 s of an idle machine it is some 2,000 packets.
        while conn.stats().packets_dropped <= 500 {
            assert!(start.elapsed() < HANG_GUARD, "{:?}", conn.stats());
            conn.send(stamped(start, 800)).await.unwrap();
            sleep(ms(2)).await;
        }
        reading.hurries.store(true, Relaxed);
        let _ = conn.close().await;
    });
    reader.join().unwrap();
}

#[test]
fn nothing_is_dropped_for_a_reader_that_keeps_up_whatever_the_lag_and_the_size() {
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
fn few_unsent_bytes_stand_in_the_kernel_where_packets_may_be_dropped() {
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
enum Way {
    Send,
    SendMany,
    TrySend,
    Broadcast,
}

const WAYS: [Way; 4] = [Way::Send, Way::SendMany, Way::TrySend, Way::Broadcast];

async fn send_by(conn: &PacketConn, group: &Group, way: Way, packet: Packet) -> Result<(), String> {
    let sent = match way {
        Way::Send => conn.send(packet).await,
        Way::SendMany => conn.send_many(&mut vec![packet]).await,
        Way::TrySend => conn.try_send(packet),
        Way::Broadcast => {
            let told = group.broadcast(packet);
            return if told.accepted == 1 { Ok(()) } else { Err(format!("{told:?}")) };
        }
    };
    sent.map_err(|error| error.to_string())
}

fn config_of(policy: SlowConsumer) -> ConnConfig {
    ConnConfig::new().slow_consumer(policy).send_high_water(256 * KIB)
}

/// Fills the queue, has the peer read everything while the thread is busy, and sends on.
///
/// What is queued and sent then fits into the system's buffers: nothing depends on who is faster.
async fn assert_not_slow(what: &str, policy: SlowConsumer, way: Way, conn: PacketConn, peer: &Told) {
    let group = Group::new();
    group.join(&conn, ());
    while conn.queued_bytes() < 200 * KIB {
        while conn.queued_bytes() < 220 * KIB {
            conn.send(vec![1; 4000]).await.unwrap();
        }
        // The last turn's packets are with the system, or known to find no room there.
        sleep(ms(20)).await;
    }
    peer.read.send(()).unwrap();
    // The thread is busy, so that this side learns nothing of it. TLS keeps some records until the thread comes back to them.
    let kept = if what == "TLS" { 96 * KIB } else { 0 };
    let with_the_system = conn.stats().bytes_sent as usize;
    let since = Instant::now();
    while peer.taken.load(Relaxed) + kept < with_the_system {
        assert!(since.elapsed() < HANG_GUARD, "{what}, {policy:?}, {way:?}: it was not read");
        thread::sleep(ms(1));
    }
    for number in 0..40 {
        let sent = send_by(&conn, &group, way, vec![2; 4000].into()).await;
        assert!(sent.is_ok(), "{what}, {policy:?}, {way:?}: packet {number} of 40: {sent:?}");
    }
    assert_eq!(conn.stats().packets_dropped, 0, "{what}, {policy:?}, {way:?}");
}

/// A peer that reads everything from when it is told to.
struct Told {
    read: mpsc::Sender<()>,
    /// Bytes of frames that it has read.
    taken: Arc<AtomicUsize>,
}

fn told_reader(mut stream: impl Read + Send + 'static) -> (Told, JoinHandle<()>) {
    let (read, may_read) = mpsc::channel();
    let told = Told { read, taken: Arc::default() };
    let taken = Arc::clone(&told.taken);
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; MIB];
        if may_read.recv().is_ok() {
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                taken.fetch_add(count, Relaxed);
            }
        }
    });
    (told, reader)
}

fn with_each_policy_and_way(ways: &[Way], test: impl Fn(SlowConsumer, Way)) {
    for policy in POLICIES {
        for way in ways {
            test(policy, *way);
        }
    }
}

#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_tcp() {
    with_each_policy_and_way(&WAYS, |policy, way| {
        for own_stream in [false, true] {
            let (peer, accepted) = small_tcp_pair(512 * KIB);
            socket2::SockRef::from(&accepted).set_send_buffer_size(512 * KIB).unwrap();
            let (told, reader) = told_reader(peer);
            runtime().block_on(async {
                let stream = to_tokio(accepted);
                let conn = if own_stream {
                    PacketConn::new(stream, config_of(policy))
                } else {
                    PacketConn::from_tcp(stream, config_of(policy))
                };
                assert_not_slow("TCP", policy, way, conn.unwrap(), &told).await;
            });
            reader.join().unwrap();
        }
    });
}

#[cfg(unix)]
#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_a_unix_socket() {
    with_each_policy_and_way(&WAYS, |policy, way| {
        let (peer, here) = std::os::unix::net::UnixStream::pair().unwrap();
        socket2::SockRef::from(&here).set_send_buffer_size(512 * KIB).unwrap();
        let (told, reader) = told_reader(peer);
        runtime().block_on(async {
            here.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(here).unwrap();
            let conn = PacketConn::new(stream, config_of(policy)).unwrap();
            assert_not_slow("Unix", policy, way, conn, &told).await;
        });
        reader.join().unwrap();
    });
}

/// What the application has wrapped cannot be written to behind tokio's back; `send` and `send_many` can let tokio look.
#[test]
fn a_peer_that_has_read_everything_is_not_slow_over_a_wrapped_socket() {
    with_each_policy_and_way(&[Way::Send, Way::SendMany], |policy, way| {
        let (peer, accepted) = small_tcp_pair(512 * KIB);
        socket2::SockRef::from(&accepted).set_send_buffer_size(512 * KIB).unwrap();
        let (told, reader) = told_reader(peer);
        runtime().block_on(async {
            let conn = PacketConn::new(Wrapped(to_tokio(accepted)), config_of(policy)).unwrap();
            assert_not_slow("wrapped TCP", policy, way, conn, &told).await;
        });
        reader.join().unwrap();
    });
}

/// And one that does not read is judged as ever.
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
            let sent = timeout(HANG_GUARD, sending).await.expect("it waits");
            match policy {
                SlowConsumer::Disconnect => assert!(sent.unwrap_err().is_slow_consumer()),
                _ => assert!(sent.is_ok() && conn.stats().packets_dropped > 0, "{policy:?}"),
            }
        });
    }
}

/// A batch that finds no room keeps its order, and is accepted once, also where it lets tokio look in between.
#[test]
fn a_batch_over_a_wrapped_socket_is_whole_and_in_order() {
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
    // Those that were dropped were the newest at their time: the first ones are there.
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

    /// Runs `peer`, which has such a receive buffer, in a thread with a runtime of its own, as a client of a server over TLS, and `test` with the server's side
    /// of the connection.
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
            let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
            let serving = tokio::spawn(server.serve(move |conn| {
                let _ = give.send(conn);
                std::future::ready(Ok(()))
            }));
            test(given.recv().await.unwrap()).await;
            serving.abort();
        });
        peer.join().unwrap()
    }

    /// Receives so many bytes a second, until it is told to hurry or the connection ends.
    async fn receive_slowly(
        mut conn: PacketConn,
        bytes_a_second: usize,
        start: Instant,
        reading: Arc<Reading>,
    ) -> Seen {
        let (begun, mut taken, mut seen) = (Instant::now(), 0, Seen::default());
        loop {
            let hurries = reading.hurries.load(Relaxed);
            if !hurries {
                let due = Duration::from_secs_f64(taken as f64 / bytes_a_second as f64);
                sleep(due.saturating_sub(begun.elapsed())).await;
            }
            let Ok(Some(packet)) = conn.recv().await else { return seen };
            taken += packet.len() + 4;
            reading.taken.store(taken, Relaxed);
            let sent = Duration::from_micros(u64::from_le_bytes(*packet.payload().first_chunk().unwrap()));
            if hurries {
                seen.left += packet.len() + 4;
            } else {
                seen.ages.push((start.elapsed(), start.elapsed() - sent));
            }
        }
    }

    /// A peer at such a speed, for [`with_tls`].
    fn peer_at(
        bytes_a_second: usize,
        start: Instant,
        reading: &Arc<Reading>,
    ) -> impl AsyncFnOnce(PacketConn) -> Seen + Send + 'static {
        let reading = Arc::clone(reading);
        async move |conn| receive_slowly(conn, bytes_a_second, start, reading).await
    }

    #[test]
    fn a_slow_reader_gets_recent_state() {
        let start = Instant::now();
        let reading = Arc::<Reading>::default();
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(500));
        let config = config.send_high_water(NO_LIMIT).close_timeout(HANG_GUARD);
        let seen = with_tls(8 * KIB, config, peer_at(40_000, start, &reading), async |mut conn| {
            send_states(&conn, start, 800, ms(6000)).await.unwrap();
            assert!(conn.stats().packets_dropped > 0);
            reading.hurries.store(true, Relaxed);
            let _ = conn.close().await;
        });
        // The reader takes a record of 16 KiB at once, and up to a read of 64 KiB: at 40 KB/s they wait with it for up to 2 s.
        assert_recent("TLS", &seen, ms(3500));
    }

    #[test]
    fn a_peer_that_lags_is_disconnected() {
        for_each_at_once(&[true, false], |goes_on| {
            let start = Instant::now();
            let reading = Arc::<Reading>::default();
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            let config = config.send_high_water(NO_LIMIT).write_timeout(None);
            with_tls(16 * KIB, config, peer_at(40_000, start, &reading), async |conn| {
                let ended = end_of_one_that_lags(&conn, start, goes_on).await;
                reading.hurries.store(true, Relaxed);
                println!("TLS, goes on: {goes_on}: ended after {ended:?}");
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

    /// Where each packet is a record of its own, TLS makes several times as many bytes of it.
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
        with_each_policy_and_way(&WAYS, |policy, way| {
            let (read, may_read) = mpsc::channel::<()>();
            let peer = Told { read, taken: Arc::default() };
            let taken = Arc::clone(&peer.taken);
            let config = config_of(policy).tcp(TcpConfig::new().send_buffer(512 * KIB));
            with_tls(
                512 * KIB,
                config,
                async move |mut conn| {
                    may_read.recv().unwrap();
                    while let Ok(Some(packet)) = conn.recv().await {
                        taken.fetch_add(packet.len() + 4, Relaxed);
                    }
                },
                async |conn| assert_not_slow("TLS", policy, way, conn, &peer).await,
            );
        });
    }
}

/// Bursts of less than the queue and the system's buffers hold, each after the last one was read.
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
