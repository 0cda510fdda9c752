//! What has arrived for a client and is not received yet: how much of it waits, and what becomes of the rest.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use pktconn::{Client, ClientConfig, ClientEvent, ConnConfig, Lost, PacketConn};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

mod common;
use common::{frame, numbered, piped_and_raw};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);

/// What the documentation of `Client` states, with two batches.
const MOST_PACKETS: usize = 1024 + 2 * 256;
const MOST_BYTES: usize = MIB + 2 * 64 * KIB;

fn paused_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A peer that sends frames of one kind, so many bytes of them, and breaks as soon as something is sent to it. It does not
/// close.
struct FloodThenBroken {
    frame: Vec<u8>,
    left: usize,
}

impl FloodThenBroken {
    fn new(payload_len: usize, packets: usize) -> Self {
        let frame = frame(&vec![7; payload_len]);
        Self { left: packets * frame.len(), frame }
    }
}

impl AsyncRead for FloodThenBroken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.left.min(buf.remaining());
        if len == 0 {
            return Poll::Pending;
        }
        // All is a multiple of the frame: so it is known where it stands.
        let start = (self.frame.len() - self.left % self.frame.len()) % self.frame.len();
        let mut bytes = self.frame.iter().copied().cycle().skip(start);
        buf.initialize_unfilled_to(len).fill_with(|| bytes.next().unwrap());
        buf.advance(len);
        self.left -= len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FloodThenBroken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client whose connections are such floods, `conns` of them and then none, and how often it has connected.
fn flooded(conns: usize, payload_len: usize, packets: usize) -> (Client, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&count);
    let client = Client::with_connector(ClientConfig::new(), move |config| {
        let made = Arc::clone(&made);
        async move {
            if made.fetch_add(1, Ordering::Relaxed) >= conns {
                std::future::pending::<()>().await;
            }
            Ok(PacketConn::new(FloodThenBroken::new(payload_len, packets), config)?)
        }
    });
    (client.unwrap(), count)
}

/// A client whose connections are pipes that can hold 4 MiB, and their other ends.
fn piped() -> (Client, UnboundedReceiver<DuplexStream>) {
    let (made, pipes) = unbounded_channel();
    let client = Client::with_connector(ClientConfig::new(), move |config| {
        let (conn, pipe) = piped_and_raw(4 * MIB, config);
        let sent = made.send(pipe);
        async move {
            sent?;
            Ok(conn)
        }
    });
    (client.unwrap(), pipes)
}

/// What is in the client, without a turn for its task, which would bring more.
#[derive(Default)]
struct Waiting {
    packets: usize,
    bytes: usize,
    losses: Vec<Lost>,
}

fn take_waiting(client: &mut Client) -> Waiting {
    let mut waiting = Waiting::default();
    while let Some(Some(event)) = client.recv().now_or_never() {
        match event {
            ClientEvent::Packet(packet) => {
                waiting.packets += 1;
                waiting.bytes += packet.len();
            }
            ClientEvent::Lost(lost) => waiting.losses.push(lost),
            _ => {}
        }
    }
    waiting
}

/// How much more memory than at its beginning was allocated at any time of `act`, where the thread's own buffers are there
/// before.
fn most_allocated(act: impl Future<Output = ()>) -> usize {
    let runtime = paused_runtime();
    runtime.block_on(async {
        let (mut conn, mut raw) = piped_and_raw(MIB, ConnConfig::new());
        raw.write_all(&frame(&[0; 1000]).repeat(100)).await.unwrap();
        for _ in 0..100 {
            let packet = conn.recv().await.unwrap().unwrap();
            conn.send(packet).await.unwrap();
        }
        conn.flush().await.unwrap();
    });
    allocation_counter::measure(|| runtime.block_on(act)).bytes_max as usize
}

#[test]
fn a_flood_of_empty_packets_that_nobody_receives_takes_little_memory() {
    let most = most_allocated(async {
        let (mut client, _) = flooded(1, 0, 500_000);
        sleep(SECOND).await;
        client.send(b"breaks it").await.unwrap();
        sleep(2 * SECOND).await;
        let waiting = take_waiting(&mut client);
        let packets = waiting.packets;
        assert!((1024..=MOST_PACKETS).contains(&packets), "{packets} packets were held for nobody");
        assert!(waiting.losses.len() == 1 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
    });
    assert!(most <= MIB, "{} KiB were held for nobody", most / KIB);
}

#[test]
fn a_flood_of_large_packets_that_nobody_receives_takes_little_memory() {
    for payload_len in [8 * KIB, 60_000] {
        let most = most_allocated(async {
            let (mut client, _) = flooded(1, payload_len, 7 * MIB / payload_len);
            sleep(SECOND).await;
            client.send(b"breaks it").await.unwrap();
            sleep(2 * SECOND).await;
            let waiting = take_waiting(&mut client);
            let bytes = waiting.bytes;
            assert!((MIB..=MOST_BYTES).contains(&bytes), "{bytes} bytes were held for nobody");
            assert!(waiting.losses.len() == 1 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
        });
        assert!(most <= 2 * MIB, "{} KiB were held for nobody", most / KIB);
    }
}

#[test]
fn floods_one_after_the_other_do_not_add_up_and_hold_no_reconnect_up() {
    let most = most_allocated(async {
        let (mut client, connected) = flooded(10, 0, 10_000);
        sleep(SECOND).await;
        for conns in 1..=10 {
            let started = Instant::now();
            while connected.load(Ordering::Relaxed) == conns {
                // A sender is not held up either.
                client.send(b"breaks it").now_or_never().expect("room to send").unwrap();
                sleep(SECOND / 10).await;
            }
            let took = started.elapsed();
            assert!(took <= 3 * SECOND / 2, "{took:?} after connection {conns}");
        }
        let waiting = take_waiting(&mut client);
        let packets = waiting.packets;
        assert!(packets <= MOST_PACKETS, "{packets} packets were held for nobody");
        // They were dropped of each connection, whatever became of the events.
        assert_eq!(connected.load(Ordering::Relaxed), 11);
        assert!(!waiting.losses.is_empty());
        assert!(waiting.losses.iter().all(|lost| lost.may_miss_packets), "{:?}", waiting.losses);
    });
    assert!(most <= MIB, "{} KiB were held for nobody", most / KIB);
}

#[test]
fn small_packets_that_wait_keep_no_chunk_each() {
    const CONNS: usize = 100;
    let most = most_allocated(async {
        let (mut client, mut pipes) = piped();
        // Another connection on the thread, which uses chunks up.
        let (mut other, mut peer) = piped_and_raw(MIB, ConnConfig::new());
        let large = frame(&vec![1; 60_000]);
        for _ in 0..CONNS {
            let mut pipe = pipes.recv().await.unwrap();
            pipe.write_all(&frame(b"small")).await.unwrap();
            drop(pipe);
            client.send(b"notices it").await.unwrap();
            sleep(SECOND).await;
            peer.write_all(&large).await.unwrap();
            other.recv().await.unwrap().unwrap();
        }
        let waiting = take_waiting(&mut client);
        assert!(waiting.packets >= CONNS - 1, "{} packets", waiting.packets);
        assert!(!waiting.losses.iter().any(|lost| lost.may_miss_packets), "{:?}", waiting.losses);
    });
    assert!(most <= MIB, "{} KiB for {CONNS} packets of 5 bytes", most / KIB);
}

/// Has a connection bring `packets` packets and end, by a failed write or a clean close, and receives with a `pause` after
/// each. Returns how many came and the loss.
async fn receive_slowly(packets: u32, ends_cleanly: bool, pause: Duration) -> (u32, Lost) {
    let (mut client, mut pipes) = piped();
    let mut pipe = pipes.recv().await.unwrap();
    for number in 0..packets {
        pipe.write_all(&frame(numbered(number).payload())).await.unwrap();
    }
    drop(pipe);
    if !ends_cleanly {
        client.send(b"notices it").await.unwrap();
    }
    let mut received = 0;
    loop {
        match client.recv().await.unwrap() {
            ClientEvent::Connected => {}
            ClientEvent::Packet(packet) => {
                assert_eq!(packet, numbered(received));
                received += 1;
            }
            ClientEvent::Lost(lost) => return (received, lost),
            event => panic!("{event:?}"),
        }
        sleep(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_close_nothing_is_lost_however_slow_the_receiver_is() {
    for pause in [Duration::ZERO, Duration::from_millis(1), SECOND] {
        let (received, lost) = receive_slowly(6000, true, pause).await;
        assert!(
            received == 6000 && !lost.may_miss_packets && lost.error.is_remote_close(),
            "{received}: {lost:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_nothing_is_lost_while_the_receiver_takes_it() {
    let (received, lost) = receive_slowly(6000, false, Duration::ZERO).await;
    assert!(received == 6000 && !lost.may_miss_packets && lost.error.is_io(), "{received}: {lost:?}");
    // A receiver that takes 1,000 packets within the second, and has room for more.
    let (received, lost) = receive_slowly(1800, false, Duration::from_millis(1)).await;
    assert!(received == 1800 && !lost.may_miss_packets, "{received}: {lost:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_receiver_that_is_too_slow_gets_the_first_and_is_told() {
    for (pause, least) in [(Duration::from_millis(1), 1800), (SECOND, 1000)] {
        let (received, lost) = receive_slowly(6000, false, pause).await;
        assert!((least..3000).contains(&received) && lost.may_miss_packets, "{received}: {lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_peer_that_sends_on_is_left_though_the_receiver_takes_it_all() {
    const MOST: usize = 8 * KIB + 1024;
    let (mut client, _connected) = flooded(1, 1020, 10 * MOST);
    client.send(b"breaks it").await.unwrap();
    let mut received = 0;
    let lost = loop {
        match client.recv().await.unwrap() {
            ClientEvent::Lost(lost) => break lost,
            _ => received += 1,
        }
        assert!(received <= MOST, "the peer holds the reconnect up");
    };
    assert!(received >= 8 * KIB && lost.may_miss_packets, "{received} packets: {lost:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_client_has_room_for_is_delivered_after_a_failure_also_when_nobody_has_received() {
    // Less than a batch; about the limit; and what is beyond it by one.
    for (packets, undelivered) in [(1, false), (1000, false), (1024, false), (1025, true)] {
        let (mut client, _connected) = flooded(1, 0, packets);
        sleep(SECOND).await;
        let started = Instant::now();
        client.send(b"breaks it").await.unwrap();
        client.state().wait_for(|state| !state.is_connected()).await.unwrap();
        let waited = started.elapsed();
        assert!(
            waited <= if undelivered { SECOND } else { Duration::ZERO },
            "{waited:?} for {packets} packets"
        );
        let waiting = take_waiting(&mut client);
        assert_eq!((waiting.packets, waiting.losses[0].may_miss_packets), (packets.min(1024), undelivered));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_closed_while_the_inbox_is_full_does_not_wait_for_room() {
    let (mut client, _connected) = flooded(1, 0, 10_000);
    sleep(SECOND).await;
    client.send(b"breaks it").await.unwrap();
    sleep(SECOND / 10).await;
    let started = Instant::now();
    let error = client.close().await.unwrap_err();
    assert!(error.is_io() && started.elapsed().is_zero(), "{error:?} after {:?}", started.elapsed());
    let waiting = take_waiting(&mut client);
    assert!(waiting.packets >= 1024 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
    assert!(client.recv().await.is_none());
}

#[test]
fn a_client_whose_runtime_is_gone_says_that_packets_may_be_missing() {
    let runtime = paused_runtime();
    let mut client = runtime.block_on(async {
        let (client, _connected) = flooded(1, 0, 10_000);
        sleep(SECOND).await;
        client
    });
    drop(runtime);
    let waiting = take_waiting(&mut client);
    assert!(waiting.packets < 10_000 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_dropped_while_the_inbox_is_full_does_not_hold_its_senders_up() {
    let (client, connected) = flooded(1, 0, 10_000);
    sleep(SECOND).await;
    client.send(b"breaks it").await.unwrap();
    sleep(SECOND / 10).await;
    let (sender, started) = (client.sender(), Instant::now());
    drop(client);
    while connected.load(Ordering::Relaxed) < 2 {
        timeout(SECOND, sender.send(b"for the next")).await.expect("room to send").unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    // The pause before the next attempt alone.
    assert!(started.elapsed() <= SECOND / 4, "{:?}", started.elapsed());
}
