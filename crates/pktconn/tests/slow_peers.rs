//! Who is slow, and what a slow peer gets, over sockets of the system.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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

/// Reads so many bytes a second, by little, and tells the age of each packet, which begins with the microseconds at which it
/// was sent since `start`. Ends with the stream, or after `during`.
fn slow_reader(
    mut stream: impl Read + Send + 'static,
    bytes_a_second: usize,
    start: Instant,
    during: Duration,
) -> JoinHandle<Vec<(Duration, Duration)>> {
    thread::spawn(move || {
        let (begun, mut taken) = (Instant::now(), 0);
        let (mut bytes, mut ages) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; (bytes_a_second / 100).max(64)];
        while begun.elapsed() < during {
            let due = Duration::from_secs_f64(taken as f64 / bytes_a_second as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    taken += count;
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
            let mut rest = &bytes[..];
            while let Some((header, more)) = rest.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*header) as usize;
                assert!((8..=40_000).contains(&len), "a frame was torn");
                let Some((payload, more)) = more.split_at_checked(len) else { break };
                let sent = Duration::from_micros(u64::from_le_bytes(*payload.first_chunk().unwrap()));
                ages.push((start.elapsed(), start.elapsed() - sent));
                rest = more;
            }
            bytes = rest.to_vec();
        }
        ages
    })
}

/// Ages of packets that came later than this are those of a state that lasts.
const SETTLED: Duration = Duration::from_secs(2);

fn oldest(ages: &[(Duration, Duration)]) -> Duration {
    let settled = ages.iter().filter(|(at, _)| *at > SETTLED).map(|(_, age)| *age);
    settled.max().expect("packets came to the end")
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
fn ages_over_tcp(own_stream: bool, recv_buffer: usize, len: usize, during: Duration) -> Duration {
    let start = Instant::now();
    let (peer, accepted) = small_tcp_pair(recv_buffer);
    let reader = slow_reader(peer, 40_000, start, during);
    runtime().block_on(async {
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(500));
        let stream = to_tokio(accepted);
        let conn =
            if own_stream { PacketConn::new(stream, config) } else { PacketConn::from_tcp(stream, config) };
        let conn = conn.unwrap();
        send_states(&conn, start, len, during).await.unwrap();
        assert!(conn.stats().packets_dropped > 0);
    });
    let ages = reader.join().unwrap();
    let oldest = oldest(&ages);
    println!(
        "own stream: {own_stream}, SO_RCVBUF {recv_buffer}, {len} B: {} packets, {oldest:?} at most",
        ages.len()
    );
    oldest
}

#[test]
fn a_slow_reader_gets_state_that_is_not_much_older_than_its_lag() {
    for_each_at_once(
        &[(8 * KIB, 800), (16 * KIB, 800), (8 * KIB, 4000), (8 * KIB, 20_000)],
        |(recv_buffer, len)| {
            let oldest = ages_over_tcp(false, recv_buffer, len, ms(5000));
            assert!(oldest <= ms(4000), "SO_RCVBUF {recv_buffer}, {len} B: {oldest:?}");
        },
    );
}

#[test]
fn a_slow_reader_gets_recent_state_over_a_socket_of_the_applications_own() {
    let oldest = ages_over_tcp(true, 8 * KIB, 800, ms(5000));
    assert!(oldest <= ms(4000), "{oldest:?}");
}

/// A reader that does not keep up ends the connection at its lag, and one that does never.
#[test]
fn a_peer_that_lags_is_disconnected_and_one_that_keeps_up_is_not() {
    for_each_at_once(&[(40_000, true), (40_000, false), (100_000_000, true)], |(speed, goes_on)| {
        let start = Instant::now();
        let (peer, accepted) = small_tcp_pair(16 * KIB);
        let reader = slow_reader(peer, speed, start, ms(5000));
        let ended = runtime().block_on(async {
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            if goes_on {
                let _ = send_states(&conn, start, 800, ms(4000)).await;
            } else {
                for _ in 0..400 {
                    conn.send(stamped(start, 800)).await.unwrap();
                }
                let _ = timeout(ms(4000), conn.closed()).await;
            }
            let reason = conn.close_reason();
            assert!(reason.as_ref().is_none_or(Error::is_slow_consumer), "{reason:?}");
            reason.map(|_| start.elapsed())
        });
        reader.join().unwrap();
        if speed == 40_000 {
            let ended = ended.expect("it lags");
            println!("goes on: {goes_on}: ended after {ended:?}");
            assert!(ended >= ms(900) && ended <= ms(2500), "{ended:?}");
        } else {
            assert_eq!(ended, None, "it keeps up");
        }
    });
}

#[test]
fn drop_newest_drops_what_a_peer_that_lags_has_no_room_for() {
    let start = Instant::now();
    let (peer, accepted) = small_tcp_pair(16 * KIB);
    let reader = slow_reader(peer, 40_000, start, ms(5000));
    runtime().block_on(async {
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropNewest).send_max_lag(ms(500));
        let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
        send_states(&conn, start, 800, ms(5000)).await.unwrap();
        assert!(conn.queued_bytes() < 512 * KIB, "{}", conn.queued_bytes());
        assert!(conn.stats().packets_dropped > 500, "{:?}", conn.stats());
    });
    reader.join().unwrap();
}

#[test]
fn nothing_is_dropped_for_a_reader_that_keeps_up_whatever_the_lag_and_the_size() {
    for_each_at_once(&[(8, ms(150)), (800, ms(150)), (4000, ms(200))], |(len, lag)| {
        let start = Instant::now();
        let (peer, accepted) = small_tcp_pair(256 * KIB);
        let reader = slow_reader(peer, 100_000_000, start, ms(2500));
        runtime().block_on(async {
            let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(lag);
            let conn = PacketConn::from_tcp(to_tokio(accepted), config).unwrap();
            send_states(&conn, start, len, ms(2000)).await.unwrap();
            assert_eq!(conn.stats().packets_dropped, 0, "{len} B, {lag:?}");
        });
        drop(reader.join().unwrap());
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
            return if told.delivered == 1 { Ok(()) } else { Err(format!("{told:?}")) };
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
async fn assert_not_slow(
    what: &str,
    policy: SlowConsumer,
    way: Way,
    conn: PacketConn,
    read: mpsc::Sender<()>,
) {
    let group = Group::new();
    group.join(&conn, ());
    while conn.queued_bytes() < 200 * KIB {
        while conn.queued_bytes() < 220 * KIB {
            conn.send(vec![1; 4000]).await.unwrap();
        }
        // The last turn's packets are with the system, or known to find no room there.
        sleep(ms(20)).await;
    }
    read.send(()).unwrap();
    thread::sleep(ms(200));
    for number in 0..40 {
        let sent = send_by(&conn, &group, way, vec![2; 4000].into()).await;
        assert!(sent.is_ok(), "{what}, {policy:?}, {way:?}: packet {number} of 40: {sent:?}");
    }
    assert_eq!(conn.stats().packets_dropped, 0, "{what}, {policy:?}, {way:?}");
}

/// A thread that reads everything from when it is told to.
fn told_reader(mut stream: impl Read + Send + 'static) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (read, may_read) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; MIB];
        if may_read.recv().is_ok() {
            while let Ok(1..) = stream.read(&mut buffer) {}
        }
    });
    (read, reader)
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
            let (read, reader) = told_reader(peer);
            runtime().block_on(async {
                let stream = to_tokio(accepted);
                let conn = if own_stream {
                    PacketConn::new(stream, config_of(policy))
                } else {
                    PacketConn::from_tcp(stream, config_of(policy))
                };
                assert_not_slow("TCP", policy, way, conn.unwrap(), read).await;
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
        let (read, reader) = told_reader(peer);
        runtime().block_on(async {
            here.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(here).unwrap();
            let conn = PacketConn::new(stream, config_of(policy)).unwrap();
            assert_not_slow("Unix", policy, way, conn, read).await;
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
        let (read, reader) = told_reader(peer);
        runtime().block_on(async {
            let conn = PacketConn::new(Wrapped(to_tokio(accepted)), config_of(policy)).unwrap();
            assert_not_slow("wrapped TCP", policy, way, conn, read).await;
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
            let sent = timeout(Duration::from_secs(10), sending).await.expect("it waits");
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

    /// Receives so many bytes a second, and tells the ages of the packets.
    async fn receive_slowly(
        mut conn: PacketConn,
        bytes_a_second: usize,
        start: Instant,
        during: Duration,
    ) -> Vec<(Duration, Duration)> {
        let (begun, mut taken, mut ages) = (Instant::now(), 0, Vec::new());
        while begun.elapsed() < during {
            let due = Duration::from_secs_f64(taken as f64 / bytes_a_second as f64);
            sleep(due.saturating_sub(begun.elapsed())).await;
            let Ok(Ok(Some(packet))) = timeout(ms(1000), conn.recv()).await else { break };
            taken += packet.len() + 4;
            let sent = Duration::from_micros(u64::from_le_bytes(*packet.payload().first_chunk().unwrap()));
            ages.push((start.elapsed(), start.elapsed() - sent));
        }
        ages
    }

    #[test]
    fn a_slow_reader_gets_recent_state() {
        let start = Instant::now();
        let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(500));
        let ages = with_tls(
            8 * KIB,
            config,
            async move |conn| receive_slowly(conn, 40_000, start, ms(6000)).await,
            async |conn| send_states(&conn, start, 800, ms(6000)).await.unwrap(),
        );
        let oldest = oldest(&ages);
        println!("TLS: {} packets, {oldest:?} at most", ages.len());
        // A record of 16 KiB is decrypted at once, and waits for its reader there.
        assert!(oldest <= ms(4000), "{oldest:?}");
    }

    #[test]
    fn a_peer_that_lags_is_disconnected_and_one_that_keeps_up_is_not() {
        for_each_at_once(&[(40_000, true), (40_000, false), (100_000_000, true)], |(speed, goes_on)| {
            let start = Instant::now();
            let config = ConnConfig::new().slow_consumer(SlowConsumer::Disconnect).send_max_lag(ms(1000));
            with_tls(
                16 * KIB,
                config,
                async move |conn| drop(receive_slowly(conn, speed, start, ms(5000)).await),
                async |conn| {
                    if goes_on {
                        let _ = send_states(&conn, start, 800, ms(4000)).await;
                    } else {
                        for _ in 0..400 {
                            conn.send(stamped(start, 800)).await.unwrap();
                        }
                        let _ = timeout(ms(4000), conn.closed()).await;
                    }
                    let reason = conn.close_reason();
                    let lags = speed == 40_000;
                    println!("TLS, goes on: {goes_on}: {:?} after {:?}", reason, start.elapsed());
                    assert_eq!(reason.is_some_and(|reason| reason.is_slow_consumer()), lags);
                    assert!(!lags || start.elapsed() < ms(3000), "{:?}", start.elapsed());
                },
            );
        });
    }

    /// Where each packet is a record of its own, TLS makes several times as many bytes of it.
    #[test]
    fn nothing_is_dropped_for_a_reader_that_keeps_up_with_tiny_packets() {
        for_each_at_once(&[ms(150), ms(200)], |lag| {
            let start = Instant::now();
            let config = ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(lag);
            with_tls(
                16 * KIB,
                config,
                async move |conn| drop(receive_slowly(conn, 100_000_000, start, ms(2500)).await),
                async |conn| {
                    send_states(&conn, start, 8, ms(2000)).await.unwrap();
                    assert_eq!(conn.stats().packets_dropped, 0, "{lag:?}");
                },
            );
        });
    }

    #[test]
    fn a_peer_that_has_read_everything_is_not_slow() {
        with_each_policy_and_way(&WAYS, |policy, way| {
            let (read, may_read) = mpsc::channel::<()>();
            let config = config_of(policy).tcp(TcpConfig::new().send_buffer(512 * KIB));
            with_tls(
                512 * KIB,
                config,
                async move |mut conn| {
                    may_read.recv().unwrap();
                    while let Ok(Some(_)) = conn.recv().await {}
                },
                async |conn| assert_not_slow("TLS", policy, way, conn, read).await,
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
