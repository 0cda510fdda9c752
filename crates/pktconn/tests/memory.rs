//! What a send queue and a server hold in memory is what their limits say, and a little.
//!
//! Allocations are counted for each thread, so what is measured stays on one.

use std::cell::Cell;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::{FutureExt, SinkExt};
use pktconn::{
    Checksum, Client, ClientConfig, CodecConfig, ConnConfig, Group, Packet, PacketConn, PacketServer,
    ServerConfig, SlowConsumer,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// What may be held beyond a limit.
const MORE: usize = 128 * KIB;

/// The size of a read. A packet that is larger has memory of its own.
const CHUNK: usize = 64 * KIB;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The longest that a test waits for anything: it ends one that hangs.
const HANG_GUARD: Duration = Duration::from_secs(60);

fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes(), payload].concat()
}

fn with_crc() -> CodecConfig {
    CodecConfig::new().checksum(Checksum::Crc32)
}

/// Sends `pattern` again and again, and takes what it is granted, which is nothing at first.
#[derive(Clone, Default)]
struct Peer(Arc<Mutex<PeerState>>);

#[derive(Default)]
struct PeerState {
    pattern: Vec<u8>,
    at: usize,
    room: usize,
    writer: Option<Waker>,
}

impl Peer {
    fn sends(pattern: Vec<u8>) -> Self {
        let peer = Self::default();
        peer.0.lock().unwrap().pattern = pattern;
        peer
    }

    fn takes(room: usize) -> Self {
        let peer = Self::default();
        peer.grant(room);
        peer
    }

    fn grant(&self, room: usize) {
        let mut state = self.0.lock().unwrap();
        state.room = state.room.saturating_add(room);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        if state.pattern.is_empty() {
            return Poll::Pending;
        }
        while buf.remaining() > 0 {
            let count = (state.pattern.len() - state.at).min(buf.remaining());
            buf.put_slice(&state.pattern[state.at..state.at + count]);
            state.at = (state.at + count) % state.pattern.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        if state.room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = state.room.min(buf.len());
        state.room -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// A stream of packets of `kept` bytes, each with others that fill up the chunk it comes in; of small ones, for them to be
/// many soon, the eighth part of a chunk. The others can be told apart by their length.
fn one_kept_of_each_chunk(kept: usize) -> Vec<u8> {
    let len = if kept < 1000 { CHUNK / 8 } else { CHUNK };
    let mut pattern = frame(&vec![7; kept]);
    let filler = frame(&vec![1; kept.max(2000) + 5]);
    while pattern.len() + filler.len() < len {
        pattern.extend_from_slice(&filler);
    }
    if pattern.len() + 5 < len {
        let rest = len - pattern.len() - 4;
        pattern.extend(frame(&vec![2; if rest == kept { rest - 1 } else { rest }]));
    }
    pattern
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Send,
    SendMany,
    TrySend,
    Sink,
    Broadcast,
}

const WAYS: [Way; 5] = [Way::Send, Way::SendMany, Way::TrySend, Way::Sink, Way::Broadcast];

/// The sizes of the packets that are kept: both sides of each boundary that a queue or a reader may have.
const SIZES: [usize; 17] = [
    1, 60, 1000, 3000, 8192, 16_000, 17_000, 22_000, 31_000, 32_760, 32_770, 50_000, 65_528, 65_540, 200_000,
    600_000, MIB,
];

/// A connection to `peer`, and a group of it alone.
fn sending_side(peer: &Peer, config: ConnConfig) -> (PacketConn, Group) {
    let conn = PacketConn::new(peer.clone(), config).unwrap();
    let group = Group::new();
    group.join(&conn, ());
    (conn, group)
}

/// Sends `packet` if that needs no waiting. Whether it was accepted, or dropped by a policy.
fn offer(conn: &mut PacketConn, group: &Group, way: Way, packet: Packet) -> bool {
    match way {
        Way::Send => conn.send(packet).now_or_never().is_some_and(|sent| sent.is_ok()),
        Way::SendMany => conn.send_many(&mut vec![packet]).now_or_never().is_some_and(|sent| sent.is_ok()),
        Way::TrySend => conn.try_send(packet).is_ok(),
        Way::Sink => conn.sender().into_sink().feed(packet).now_or_never().is_some_and(|sent| sent.is_ok()),
        Way::Broadcast => group.broadcast(packet).accepted == 1,
    }
}

/// Lets the thread have its own buffers, and the runtime its tables, before anything is measured.
async fn warm_up() {
    let (here, there) = tokio::io::duplex(MIB);
    let mut conn = PacketConn::new(here, ConnConfig::new()).unwrap();
    let peer = PacketConn::new(there, ConnConfig::new()).unwrap();
    for _ in 0..100 {
        peer.send(vec![0; 1000]).await.unwrap();
    }
    for _ in 0..100 {
        let packet = conn.recv().await.unwrap().unwrap();
        conn.send(packet).await.unwrap();
    }
    conn.flush().await.unwrap();
}

/// How many bytes more than before were allocated at most, and at the end of `act`, while its result is there.
fn growth<T>(runtime: &Runtime, act: impl AsyncFnOnce() -> T) -> (usize, usize) {
    runtime.block_on(warm_up());
    let kept = Cell::new(None);
    let counted = allocation_counter::measure(|| kept.set(Some(runtime.block_on(act()))));
    (counted.bytes_max as usize, usize::try_from(counted.bytes_current).unwrap_or(0))
}

/// Forwards one packet of each chunk that comes until it is refused, or so often. How many there were.
async fn forward(
    received: &Peer,
    codec: CodecConfig,
    kept: usize,
    most: usize,
    mut offer: impl FnMut(Packet) -> bool,
) -> usize {
    let mut source = PacketConn::new(received.clone(), ConnConfig::new().codec(codec)).unwrap();
    let mut count = 0;
    loop {
        let packet = source.recv().await.unwrap().unwrap();
        if packet.len() == kept {
            if !offer(packet) || count == most {
                return count;
            }
            count += 1;
        }
        // The tasks of the other side have their turn.
        yield_now().await;
    }
}

/// Forwards packets of `kept` bytes to a peer that does not read. What is wrong with what that takes.
fn excess_of_a_full_queue(kept: usize, way: Way, config: &ConnConfig, high: usize) -> Option<String> {
    let runtime = paused_runtime();
    let received = Peer::sends(one_kept_of_each_chunk(kept));
    let (most, left) = growth(&runtime, async || {
        let (mut conn, group) = sending_side(&Peer::default(), config.clone().send_high_water(high));
        let limit = 3 * high / (kept + 4) + 3;
        let count = forward(&received, CodecConfig::new(), kept, limit, |packet| {
            offer(&mut conn, &group, way, packet)
        })
        .await;
        assert!(count > 0 && conn.queued_bytes() > 0, "{way:?}, {kept} B, mark {high}: {count} are queued");
        (conn, group)
    });
    // One that is larger than the mark passes alone; a `Sink` lets one packet pass the mark.
    let mark = if way == Way::Sink { high + kept } else { high.max(kept + 8) };
    // The packet that is refused is in hand, in memory of its own, or in a buffer that another one of its kind has begun.
    let in_hand = if kept + 4 > CHUNK { 2 * kept } else { 0 };
    (left > mark + MORE || most > mark + MORE + in_hand).then(|| {
        let (high, left, most) = (high / KIB, left / KIB, most / KIB);
        format!("{way:?}, packets of {kept} B, mark {high} KiB: {left} KiB are held, {most} KiB at most")
    })
}

fn assert_full_queues_are_within_their_marks(config: &ConnConfig, highs: &[usize]) {
    let mut excess = Vec::new();
    for way in WAYS {
        for kept in SIZES {
            // Of a few bytes for each chunk a large queue is long in coming.
            let highs = highs.iter().filter(|&&high| high <= 4096 * kept.max(4));
            excess.extend(highs.filter_map(|&high| excess_of_a_full_queue(kept, way, config, high)));
        }
    }
    assert!(excess.is_empty(), "{excess:#?}");
}

#[test]
fn packets_of_any_size_that_wait_in_a_queue_hold_no_more_than_its_mark() {
    assert_full_queues_are_within_their_marks(&ConnConfig::new(), &[16 * KIB, 64 * KIB, 256 * KIB, MIB]);
}

#[test]
fn packets_that_are_framed_anew_hold_no_more_than_the_mark() {
    let config = ConnConfig::new().codec(with_crc());
    assert_full_queues_are_within_their_marks(&config, &[16 * KIB, 512 * KIB]);
}

#[test]
fn packets_that_gather_under_a_flush_delay_hold_no_more_than_the_mark() {
    let config = ConnConfig::new().flush_delay(Duration::from_secs(3600));
    assert_full_queues_are_within_their_marks(&config, &[16 * KIB, 512 * KIB]);
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A peer that takes some bytes now and then, while packets of all sizes are sent to it without a pause.
#[test]
fn packets_that_are_dropped_and_taken_for_long_leave_no_memory_behind() {
    let largest = 60_000;
    let mut excess = Vec::new();
    for policy in [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Block] {
        for high in [16 * KIB, 100 * KIB, MIB] {
            for (most_len, most_taken) in [(300, 100), (300, 2000), (40_000, 30_000), (largest, 1)] {
                let runtime = paused_runtime();
                let mut numbers = Numbers(high as u64 + most_len as u64);
                let (most, left) = growth(&runtime, async || {
                    let peer = Peer::default();
                    let config = ConnConfig::new().slow_consumer(policy).write_timeout(None);
                    let (mut conn, group) = sending_side(&peer, config.send_high_water(high));
                    let pattern = frame(&vec![7; most_len]);
                    let mut source = PacketConn::new(Peer::sends(pattern), ConnConfig::new()).unwrap();
                    for number in 0..4000 {
                        let packet = source.recv().await.unwrap().unwrap();
                        let from = numbers.below(most_len);
                        let packet: Packet = packet.into_payload().slice(from..).into();
                        let way = [Way::Send, Way::SendMany, Way::TrySend, Way::Broadcast][numbers.below(4)];
                        let _ = offer(&mut conn, &group, way, packet);
                        if number % 3 == 0 {
                            peer.grant(numbers.below(most_taken));
                            yield_now().await;
                        }
                    }
                    conn
                });
                // For a moment: the packet in hand keeps the chunk that it came in, and what is copied is there twice.
                if left > high.max(largest) + MORE || most > high.max(largest) + MORE + 2 * CHUNK {
                    let (high, most, left) = (high / KIB, most / KIB, left / KIB);
                    excess.push(format!(
                        "{policy:?}, {most_len} B at most, {most_taken} B taken, mark {high} KiB: {left} KiB are held, {most} KiB at most"
                    ));
                }
            }
        }
    }
    assert!(excess.is_empty(), "{excess:#?}");
}

/// A peer takes all of a large frame but its last byte: its memory is still held, so there is no room for another one.
#[test]
fn a_large_frame_whose_last_byte_waits_takes_the_room_of_all_of_it() {
    for way in [Way::Send, Way::SendMany, Way::TrySend, Way::Broadcast] {
        for rest in [1, 100] {
            let (kept, high) = (MIB - 300, MIB);
            let runtime = paused_runtime();
            let received = Peer::sends(frame(&vec![7; kept]));
            let (_, left) = growth(&runtime, async || {
                let peer = Peer::takes(kept + 4 - rest);
                let (mut conn, group) = sending_side(&peer, ConnConfig::new().send_high_water(high));
                forward(&received, CodecConfig::new(), kept, 5, |packet| {
                    let accepted = offer(&mut conn, &group, way, packet);
                    let _ = conn.flush().now_or_never();
                    accepted
                })
                .await;
                assert!(conn.queued_bytes() > 0);
                conn
            });
            assert!(left <= high + MORE, "{way:?}, {rest} B wait: {} KiB are held", left / KIB);
        }
    }
}

/// And is served when that byte is taken.
#[test]
fn a_sender_behind_a_large_frame_goes_on_when_the_last_byte_is_taken() {
    paused_runtime().block_on(async {
        for way in 0..3 {
            let peer = Peer::takes(MIB - 100);
            let conn = PacketConn::new(peer.clone(), ConnConfig::new().write_timeout(None)).unwrap();
            conn.send(vec![1; MIB - 100]).await.unwrap();
            conn.flush().now_or_never();
            assert_eq!(conn.queued_bytes(), 4);
            let waiting = async {
                match way {
                    0 => conn.send(vec![2; MIB - 100]).await,
                    1 => conn.send_many(&mut vec![vec![2; MIB - 100].into()]).await,
                    _ => conn.sender().into_sink().feed(vec![2; MIB - 100].into()).await,
                }
            };
            let (sent, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), waiting), async {
                yield_now().await;
                peer.grant(4);
            });
            sent.expect("it waits for ever").unwrap();
        }
    });
}

/// The queue of a client, and beside it that of its connection where there is one.
#[test]
fn what_a_client_keeps_holds_no_more_than_its_marks() {
    let mut excess = Vec::new();
    for is_connected in [false, true] {
        for kept in SIZES {
            for high in [64 * KIB, 512 * KIB] {
                let runtime = paused_runtime();
                let received = Peer::sends(one_kept_of_each_chunk(kept));
                let (most, left) = growth(&runtime, async || {
                    let config = ConnConfig::new().send_high_water(high).write_timeout(None);
                    let client =
                        Client::with_connector(ClientConfig::new().conn(config), move |config| async move {
                            if !is_connected {
                                return Err(io::Error::other("nobody listens").into());
                            }
                            Ok(PacketConn::new(Peer::default(), config)?)
                        })
                        .unwrap();
                    yield_now().await;
                    let limit = 6 * high / (kept + 4) + 6;
                    forward(&received, CodecConfig::new(), kept, limit, |packet| {
                        client.try_send(packet).is_ok()
                    })
                    .await;
                    sleep(Duration::from_secs(1)).await;
                    assert!(client.sender().queued_bytes() > 0);
                    client
                });
                let mark = high.max(kept + 4) * if is_connected { 2 } else { 1 };
                // What it hands over from the one to the other.
                let more = if is_connected { MORE + CHUNK.max(kept) } else { MORE };
                let in_hand = if kept + 4 > CHUNK { 2 * kept } else { 0 };
                if left > mark + more || most > mark + more + in_hand {
                    let (high, left, most) = (high / KIB, left / KIB, most / KIB);
                    excess.push(format!(
                        "connected: {is_connected}, {kept} B, mark {high} KiB: {left} KiB are held, {most} KiB at most"
                    ));
                }
            }
        }
    }
    assert!(excess.is_empty(), "{excess:#?}");
}

// ---- the budget of a server

/// Peers with `bytes` each of a server whose handlers receive `received` packets and then wait. How much the process has
/// grown by, and what `held_bytes` says.
fn held_for(peers: usize, bytes: &[u8], received: usize) -> (usize, usize) {
    let runtime = runtime();
    let said = Cell::new(0);
    let (_, left) = growth(&runtime, async || {
        let config = ServerConfig::new().memory_budget(1024 * MIB);
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
        let stopping = handle.clone();
        let serving = tokio::spawn(server.serve(move |mut conn| {
            let stopping = stopping.clone();
            async move {
                for _ in 0..received {
                    drop(conn.recv().await?);
                }
                stopping.stopping().await;
                Ok(())
            }
        }));
        let mut sockets = Vec::with_capacity(peers);
        for number in 1..=peers as u64 {
            sockets.push(std::net::TcpStream::connect(addr).unwrap());
            while handle.stats().accepted < number {
                yield_now().await;
            }
        }
        sleep(Duration::from_millis(50)).await;
        for socket in &mut sockets {
            socket.set_nonblocking(true).unwrap();
            let mut bytes = bytes;
            while !bytes.is_empty() {
                match socket.write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                yield_now().await;
            }
        }
        let started = Instant::now();
        let mut last = 0;
        while started.elapsed() < HANG_GUARD {
            sleep(Duration::from_millis(50)).await;
            let now = handle.traffic().bytes_received as usize;
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
        said.set(handle.stats().held_bytes);
        (serving, sockets, handle)
    });
    (left, said.get())
}

const PEERS: usize = 100;

/// What an idle connection of a server takes, its task and handler included.
const IDLE: usize = 4 * KIB;

/// What is not told apart for a connection.
const GRAIN: usize = 4 * KIB;

fn assert_said(what: &str, (held, said): (usize, usize)) {
    let base = PEERS * (IDLE + GRAIN) + MIB;
    assert!(held <= said + base, "{what}: {} KiB are held, and {} KiB are said", held / KIB, said / KIB);
    assert!(
        said <= held + base + held / 2,
        "{what}: {} KiB are held, and {} KiB are said",
        held / KIB,
        said / KIB
    );
}

#[test]
fn held_bytes_follow_half_frames() {
    for len in [100, 3000, 20_000, 60_000, 200_000] {
        for part in [1, 2, 3] {
            let whole = frame(&vec![7; len]);
            let bytes = &whole[..whole.len() * part / 4];
            assert_said(&format!("{} of {len} B", bytes.len()), held_for(PEERS, bytes, 1));
        }
    }
}

#[test]
fn held_bytes_follow_packets_that_wait() {
    for (len, count) in [(10, 2), (1000, 2), (1000, 15), (1000, 30), (1000, 62), (15_000, 4), (40_000, 2)] {
        let bytes = frame(&vec![7; len]).repeat(count);
        assert_said(&format!("{count} packets of {len} B, one received"), held_for(PEERS, &bytes, 1));
    }
}

/// Connections with one packet each that waits, of any size, while another one uses up what is left of the chunks.
#[test]
fn held_bytes_follow_packets_that_wait_beside_one_that_uses_the_chunks_up() {
    for len in [1, 1000, 10_000] {
        let runtime = runtime();
        let said = Cell::new(0);
        let (_, left) = growth(&runtime, async || {
            let config = ServerConfig::new().memory_budget(1024 * MIB);
            let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
            let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
            let stopping = handle.clone();
            let serving = tokio::spawn(server.serve(move |mut conn| {
                let stopping = stopping.clone();
                async move {
                    while let Some(packet) = conn.recv().await? {
                        match packet.payload() {
                            b"waits" => {
                                drop(packet);
                                stopping.stopping().await;
                                return Ok(());
                            }
                            b"." => conn.send(packet).await?,
                            _ => {}
                        }
                    }
                    Ok(())
                }
            }));
            let mut busy = tokio::net::TcpStream::connect(addr).await.unwrap();
            busy.set_nodelay(true).unwrap();
            let mut fill = frame(&[1; 7000]).repeat(5);
            fill.extend(frame(b"."));
            let waits = [frame(b"waits"), frame(&vec![9; len])].concat();
            let mut sockets = Vec::with_capacity(2 * PEERS);
            for number in 0..2 * PEERS {
                let mut socket = std::net::TcpStream::connect(addr).unwrap();
                socket.write_all(&waits).unwrap();
                sockets.push(socket);
                while (handle.traffic().bytes_received as usize) < (number + 1) * waits.len() {
                    yield_now().await;
                    if handle.stats().accepted as usize > number + 1 {
                        break;
                    }
                }
                sleep(Duration::from_micros(200)).await;
                busy.write_all(&fill).await.unwrap();
                tokio::io::AsyncReadExt::read_exact(&mut busy, &mut [0; 5]).await.unwrap();
            }
            said.set(handle.stats().held_bytes);
            (serving, sockets, busy)
        });
        let base = 2 * PEERS * (IDLE + GRAIN) + MIB;
        let said = said.get();
        assert!(left <= said + base, "{len} B: {} KiB are held, and {} KiB are said", left / KIB, said / KIB);
    }
}

/// A server whose clients send and do not read stays within its budget, whatever the size of what it queues for them.
#[test]
fn a_server_stays_within_its_budget_whatever_it_queues() {
    const BUDGET: usize = 8 * MIB;
    for kept in [8192, 22_000, 50_000, 100_000] {
        let runtime = runtime();
        let pattern: &'static [u8] = one_kept_of_each_chunk(kept).leak();
        let said = Cell::new(0);
        let (most, _) = growth(&runtime, async || {
            let tcp = pktconn::TcpConfig::new().send_buffer(16 * KIB);
            let config = ServerConfig::new()
                .conn(ConnConfig::new().write_timeout(None).tcp(tcp))
                .memory_budget(BUDGET);
            let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
            let (addr, handle) = (server.local_addr().socket_addr().unwrap(), server.handle());
            tokio::spawn(server.serve(move |mut conn| async move {
                while let Some(packet) = conn.recv().await? {
                    if packet.len() == kept {
                        conn.send(packet).await?;
                    }
                }
                Ok(())
            }));
            for _ in 0..20 {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(16 * KIB as u32).unwrap();
                let mut peer = socket.connect(addr).await.unwrap();
                tokio::spawn(async move { while peer.write_all(pattern).await.is_ok() {} });
            }
            let started = Instant::now();
            // For two seconds, and as much longer as it takes to come near the budget.
            while started.elapsed() < Duration::from_secs(2) || said.get() <= BUDGET / 2 {
                assert!(started.elapsed() < HANG_GUARD, "{kept} B: {} KiB", said.get() / KIB);
                sleep(Duration::from_millis(5)).await;
                said.set(said.get().max(handle.stats().held_bytes));
                if handle.stats().closed_over_budget > 0 {
                    break;
                }
            }
        });
        let said = said.get();
        assert!(said > BUDGET / 2, "{kept} B: it was not even near: {} KiB", said / KIB);
        // 20 of them may have 64 KiB in hand each, and 1 packet of the handler's.
        assert!(
            most <= BUDGET + 8 * MIB,
            "{kept} B: {} KiB are held, and {} KiB were said",
            most / KIB,
            said / KIB
        );
    }
}

/// Frames that are not whole by their time end their connections, and the memory is as before.
#[test]
fn connections_with_half_a_frame_leave_nothing_when_their_time_is_over() {
    for len in [100, 20_000, 100_000] {
        let runtime = paused_runtime();
        let (most, left) = growth(&runtime, async || {
            let mut tasks = Vec::with_capacity(1000);
            for _ in 0..1000 {
                let config = ConnConfig::new().frame_timeout(Duration::from_secs(3));
                let half = frame(&vec![7; len])[..len / 2].to_vec();
                let (here, mut there) = tokio::io::duplex(len);
                let mut conn = PacketConn::new(here, config).unwrap();
                tasks.push(tokio::spawn(async move {
                    there.write_all(&half).await.unwrap();
                    drop(half);
                    assert!(conn.recv().await.unwrap_err().is_timeout());
                    drop(there);
                }));
            }
            sleep(Duration::from_secs(2)).await;
            assert!(tasks.iter().all(|task| !task.is_finished()));
            sleep(Duration::from_secs(2)).await;
            assert!(tasks.iter().all(tokio::task::JoinHandle::is_finished));
        });
        assert!(most >= 500 * len);
        // The runtime keeps the room for its tables.
        assert!(left <= 256 * KIB, "{len} B: {} KiB are left", left / KIB);
    }
}

/// Frames that come in two parts leave their connections as they were, also without a packet that follows.
#[test]
fn a_connection_that_has_waited_for_a_frame_is_idle_again_after_the_time_for_it() {
    let runtime = paused_runtime();
    let idle = Cell::new(0);
    let measure = |with_frames: bool| {
        let (_, left) = growth(&runtime, async || {
            let mut conns = Vec::with_capacity(1000);
            for _ in 0..1000 {
                let (here, mut there) = tokio::io::duplex(2000);
                let config = ConnConfig::new().frame_timeout(Duration::from_secs(3));
                let conn = PacketConn::new(here, config).unwrap();
                let whole = frame(&[7; 1000]);
                if with_frames {
                    there.write_all(&whole[..500]).await.unwrap();
                }
                let (sender, mut receiver) = conn.split();
                let task = tokio::spawn(async move {
                    while let Some(packet) = receiver.recv().await.unwrap() {
                        drop(packet);
                    }
                });
                conns.push((there, sender, task, whole));
            }
            sleep(Duration::from_secs(1)).await;
            if with_frames {
                for (there, ..) in &mut conns {
                    there.write_all(&frame(&[7; 1000])[500..]).await.unwrap();
                }
            }
            sleep(Duration::from_secs(10)).await;
            conns
        });
        left
    };
    idle.set(measure(false));
    let after = measure(true);
    // The buffers of the pipes are the test's own, 500 B and more each where they were used.
    let pipes = 1000 * 2000;
    assert!(
        after <= idle.get() + pipes + 100 * KIB,
        "{} KiB after the frames, {} KiB without",
        after / KIB,
        idle.get() / KIB
    );
}

/// What TLS holds in front of a socket that takes nothing, and what a server says, for `sent` bytes to each of the clients.
#[cfg(feature = "tls")]
fn held_behind_tls(clients: usize, sent: usize) -> (usize, usize) {
    use pktconn::{TcpConfig, TlsClientConfig, TlsServerConfig};

    let dir = tempfile::tempdir().unwrap();
    let key_pair = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    std::fs::write(&chain, params.self_signed(&key_pair).unwrap().pem()).unwrap();
    std::fs::write(&key, key_pair.serialize_pem()).unwrap();
    let ca = chain.clone();
    let (tell_addr, addr) = std::sync::mpsc::channel::<std::net::SocketAddr>();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let peers = std::thread::spawn(move || {
        let addr = addr.recv().unwrap();
        runtime().block_on(async {
            let tls = TlsClientConfig::new().ca(ca).server_name("localhost");
            let config = ConnConfig::new().tls(tls).tcp(TcpConfig::new().recv_buffer(8 * KIB));
            let mut conns = Vec::new();
            for _ in 0..clients {
                conns.push(PacketConn::connect_with(addr, config.clone()).await.unwrap());
            }
            let _ = is_done.recv();
        });
    });
    let runtime = runtime();
    let said = Cell::new(0);
    let (_, left) = growth(&runtime, async || {
        let conn = ConnConfig::new().write_timeout(None).tcp(TcpConfig::new().send_buffer(16 * KIB));
        let tls = TlsServerConfig::new(&chain, &key);
        let config = ServerConfig::new().conn(conn).tls(tls).memory_budget(1024 * MIB);
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
        let (handle, ready) = (server.handle(), Arc::new(Mutex::new(0)));
        let (stopping, counted) = (handle.clone(), Arc::clone(&ready));
        let serving = tokio::spawn(server.serve(move |conn| {
            let (stopping, counted) = (stopping.clone(), Arc::clone(&counted));
            async move {
                for _ in 0..sent / 1000 {
                    conn.send(vec![7; 996]).await?;
                }
                *counted.lock().unwrap() += 1;
                stopping.stopping().await;
                Ok(())
            }
        }));
        while *ready.lock().unwrap() < clients {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(300)).await;
        said.set(handle.stats().held_bytes);
        (serving, ready)
    });
    drop(done);
    peers.join().unwrap();
    (left, said.get())
}

#[cfg(feature = "tls")]
#[test]
fn held_bytes_follow_what_tls_holds_for_peers_that_do_not_read() {
    let clients = 50;
    let (idle, _) = held_behind_tls(clients, 0);
    for sent in [60_000, 300_000] {
        let (left, said) = held_behind_tls(clients, sent);
        let held = left.saturating_sub(idle);
        println!("{sent} B sent: {} KiB are held, {} KiB are said", held / KIB, said / KIB);
        let base = clients * (GRAIN + 12 * KIB) + MIB;
        assert!(held <= said + base, "{sent} B: {} KiB are held, {} KiB are said", held / KIB, said / KIB);
        assert!(said <= held + base, "{sent} B: {} KiB are held, {} KiB are said", held / KIB, said / KIB);
    }
}
