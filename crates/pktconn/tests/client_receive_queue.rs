//! The receive queue of `Client`: how many packets and bytes it holds, and what happens to further packets when the
//! connection is lost.

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

/// The limits of the receive queue in the documentation of `Client`, plus two batches.
const MAX_PACKETS: usize = 1024 + 2 * 256;
const MAX_BYTES: usize = MIB + 2 * 64 * KIB;

fn paused_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A peer that sends a number of equal frames. It does not close, but writing to it fails.
struct FloodThenBroken {
    frame: Vec<u8>,
    /// How many bytes it will still send.
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
        // The total is a multiple of the frame length, so `left` gives the position in the frame.
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

/// A client whose first `conns` connections are [`FloodThenBroken`] and whose next attempt never ends. Also returns the
/// number of attempts.
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

/// A client that connects over pipes of 4 MiB, and the other ends of these pipes.
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

/// The events that wait in the receive queue.
#[derive(Default)]
struct Waiting {
    packets: usize,
    bytes: usize,
    losses: Vec<Lost>,
}

/// Receives all waiting events, without letting the task of the client run, which would add more.
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

/// The peak of the memory that `act` allocates, in bytes, without the buffers of the thread.
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
fn a_flood_of_empty_packets_that_are_not_received_needs_little_memory() {
    let most = most_allocated(async {
        let (mut client, _) = flooded(1, 0, 500_000);
        sleep(SECOND).await;
        client.send(b"breaks it").await.unwrap();
        sleep(2 * SECOND).await;
        let waiting = take_waiting(&mut client);
        let packets = waiting.packets;
        assert!((1024..=MAX_PACKETS).contains(&packets), "{packets} packets were queued");
        assert!(waiting.losses.len() == 1 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
    });
    assert!(most <= MIB, "{} KiB were allocated", most / KIB);
}

#[test]
fn a_flood_of_large_packets_that_are_not_received_needs_little_memory() {
    for payload_len in [8 * KIB, 60_000] {
        let most = most_allocated(async {
            let (mut client, _) = flooded(1, payload_len, 7 * MIB / payload_len);
            sleep(SECOND).await;
            client.send(b"breaks it").await.unwrap();
            sleep(2 * SECOND).await;
            let waiting = take_waiting(&mut client);
            let bytes = waiting.bytes;
            assert!((MIB..=MAX_BYTES).contains(&bytes), "{bytes} bytes were queued");
            assert!(waiting.losses.len() == 1 && waiting.losses[0].may_miss_packets, "{:?}", waiting.losses);
        });
        assert!(most <= 2 * MIB, "{} KiB were allocated", most / KIB);
    }
}

#[test]
fn successive_floods_neither_add_up_nor_delay_a_reconnect() {
    let most = most_allocated(async {
        let (mut client, connected) = flooded(10, 0, 10_000);
        sleep(SECOND).await;
        for conns in 1..=10 {
            let started = Instant::now();
            while connected.load(Ordering::Relaxed) == conns {
                // The flood does not block senders either.
                client.send(b"breaks it").now_or_never().expect("room to send").unwrap();
                sleep(SECOND / 10).await;
            }
            let took = started.elapsed();
            assert!(took <= 3 * SECOND / 2, "{took:?} after connection {conns}");
        }
        let waiting = take_waiting(&mut client);
        let packets = waiting.packets;
        assert!(packets <= MAX_PACKETS, "{packets} packets were queued");
        // Packets of each connection were discarded, even if its events were merged.
        assert_eq!(connected.load(Ordering::Relaxed), 11);
        assert!(!waiting.losses.is_empty());
        assert!(waiting.losses.iter().all(|lost| lost.may_miss_packets), "{:?}", waiting.losses);
    });
    assert!(most <= MIB, "{} KiB were allocated", most / KIB);
}

#[test]
fn small_queued_packets_do_not_keep_their_chunks_alive() {
    const CONNS: usize = 100;
    let most = most_allocated(async {
        let (mut client, mut pipes) = piped();
        // Another connection on the same thread fills the rest of each chunk.
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

/// Sends `packets` packets to a client, ends the connection by a clean close or a failed write, and receives with a
/// `pause` after each packet. Returns the number of received packets and the loss.
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
async fn after_a_clean_close_even_a_slow_receiver_gets_all_packets() {
    for pause in [Duration::ZERO, Duration::from_millis(1), SECOND] {
        let (received, lost) = receive_slowly(6000, true, pause).await;
        assert!(
            received == 6000 && !lost.may_miss_packets && lost.error.is_remote_close(),
            "{received}: {lost:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_fast_receiver_gets_all_packets() {
    let (received, lost) = receive_slowly(6000, false, Duration::ZERO).await;
    assert!(received == 6000 && !lost.may_miss_packets && lost.error.is_io(), "{received}: {lost:?}");
    // The receiver gets 1,000 packets within the second that it is granted, and the queue holds the rest.
    let (received, lost) = receive_slowly(1800, false, Duration::from_millis(1)).await;
    assert!(received == 1800 && !lost.may_miss_packets, "{received}: {lost:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_slow_receiver_gets_the_first_packets_and_learns_that_some_are_missing() {
    for (pause, least) in [(Duration::from_millis(1), 1800), (SECOND, 1000)] {
        let (received, lost) = receive_slowly(6000, false, pause).await;
        assert!((least..3000).contains(&received) && lost.may_miss_packets, "{received}: {lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_peer_that_keeps_sending_does_not_prevent_the_reconnect() {
    const MOST: usize = 8 * KIB + 1024;
    let (mut client, _connected) = flooded(1, 1020, 10 * MOST);
    client.send(b"breaks it").await.unwrap();
    let mut received = 0;
    let lost = loop {
        match client.recv().await.unwrap() {
            ClientEvent::Lost(lost) => break lost,
            _ => received += 1,
        }
        assert!(received <= MOST, "the peer prevents the reconnect");
    };
    assert!(received >= 8 * KIB && lost.may_miss_packets, "{received} packets: {lost:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_receive_queue_keeps_the_packets_that_it_has_room_for() {
    // Less than a batch, about the limit, and one more than the limit.
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
async fn close_does_not_wait_for_room_in_a_full_receive_queue() {
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
fn a_client_that_ends_with_its_runtime_reports_that_packets_may_be_missing() {
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
async fn senders_are_not_blocked_if_the_client_is_dropped_with_a_full_receive_queue() {
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
    // Only the delay before the next attempt.
    assert!(started.elapsed() <= SECOND / 4, "{:?}", started.elapsed());
}
