//! Simulates connections over scripted transports on one or two runtimes, and checks the invariants after each step.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use pktconn::{
    ConnConfig, Error, Packet, PacketCodec, PacketConn, PacketReceiver, PacketSender, SlowConsumer, Timeout,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, advance};

use crate::rng::Rng;
use crate::transport::{ConnEnd, PeerState, Transport};

/// How late a deadline may be noticed. The simulation advances time in large steps, the connection confirms a timeout
/// in another poll, and tokio rounds to milliseconds.
const SLACK: Duration = Duration::from_secs(2);

/// A waker that sets a flag: the future must be polled again.
#[derive(Default)]
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl WakeFlag {
    fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    Send,
    Flush,
    Writable,
    Close,
    Closed,
}

/// A pending call of the application.
struct Call {
    kind: CallKind,
    future: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    woken: Arc<WakeFlag>,
    /// The packets that the call sends and that are not accepted yet.
    packets: VecDeque<u32>,
    /// How many packets had been accepted when the call began.
    accepted_before: usize,
}

struct Conn {
    transport: Transport,
    runtime: usize,
    policy: SlowConsumer,
    high_water: usize,
    /// With a flush delay, packets may wait in the queue although the transport has room.
    has_flush_delay: bool,
    write_timeout: Duration,
    idle_timeout: Option<Duration>,
    senders: Vec<PacketSender>,
    receiver: Option<PacketReceiver>,
    receiver_woken: Arc<WakeFlag>,
    /// Whether the receiver keeps waiting (`poll_recv`), or drops each pending future of `recv`.
    keeps_waiting: bool,
    calls: Vec<Call>,
    next: u32,
    /// The accepted packets, in order.
    accepted: Vec<u32>,
    /// How many packets the peer has sent, and how many of them were received.
    sent_by_peer: u32,
    received: u32,
    recv_end: Option<Result<(), Error>>,
    reason: Option<Error>,
    is_closed: bool,
    /// Whether the transport had unread bytes, and was ready to be read, before this step.
    was_readable: bool,
    /// Since when the transport accepts no bytes although some are queued.
    blocked_since: Option<Instant>,
}

/// A packet with a number in its payload. The length depends on the number.
fn numbered(number: u32) -> Packet {
    let len = match number % 16 {
        15 => 40_000,
        14 => 9_000,
        other => 40 * other as usize,
    };
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(4 + len, number as u8);
    payload.into()
}

fn number_of(packet: &Packet) -> u32 {
    let number = u32::from_le_bytes(packet.payload()[..4].try_into().unwrap());
    assert!(packet.payload() == numbered(number).payload(), "packet {number} is corrupted");
    number
}

fn frame(number: u32) -> Vec<u8> {
    let packet = numbered(number);
    [&(packet.len() as u32).to_le_bytes(), packet.payload()].concat()
}

/// The complete packets that the peer has received, and whether no part of a packet follows them.
fn whole_packets(written: &[u8]) -> (Vec<u32>, bool) {
    let (mut codec, mut bytes) = (PacketCodec::default(), BytesMut::from(written));
    let mut packets = Vec::new();
    while let Some(packet) = codec.decode_frame(&mut bytes).expect("the peer receives valid frames") {
        packets.push(number_of(&packet));
    }
    (packets, bytes.is_empty())
}

/// Polls in a runtime, and yields once, so that the runtime wakes a call that has yielded.
fn poll_in<T>(runtime: &Runtime, poll: impl FnOnce(&mut Context<'_>) -> T, waker: &Waker) -> T {
    runtime.block_on(async {
        let polled = poll(&mut Context::from_waker(waker));
        yield_now().await;
        polled
    })
}

struct Simulation {
    rng: Rng,
    runtimes: Vec<Runtime>,
    conns: Vec<Conn>,
}

pub(crate) fn simulate(seed: u64) {
    let mut rng = Rng::new(seed);
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let runtimes: Vec<_> = (0..1 + rng.below(2)).map(|_| runtime()).collect();
    let mut simulation = Simulation { rng, runtimes, conns: Vec::new() };
    for _ in 0..1 + simulation.rng.below(3) {
        simulation.connect();
    }
    for _ in 0..20 + simulation.rng.below(40) {
        simulation.step();
        simulation.check();
    }
    simulation.check_at_rest();
}

impl Simulation {
    fn connect(&mut self) {
        let rng = &mut self.rng;
        let runtime = rng.below(self.runtimes.len());
        let policy = rng.pick(&[
            SlowConsumer::Block,
            SlowConsumer::Block,
            SlowConsumer::DropNewest,
            SlowConsumer::DropOldest,
            SlowConsumer::Disconnect,
        ]);
        let high_water = rng.pick(&[500, 5_000, 100_000]);
        let write_timeout = Duration::from_secs(rng.pick(&[3, 5]));
        let idle_timeout = rng.pick(&[None, Some(Duration::from_secs(4))]);
        let delay = Duration::from_millis(rng.pick(&[0, 0, 0, 5]));
        let config = ConnConfig::new()
            .slow_consumer(policy)
            .send_high_water(high_water)
            .write_timeout(write_timeout)
            .idle_timeout(idle_timeout)
            .flush_delay(delay)
            .close_timeout(Duration::from_secs(5));
        let (room, buffers) = (rng.pick(&[0, 100, 5_000_000]), rng.once_in(4));
        let keeps_waiting = rng.once_in(2);
        let _inside = self.runtimes[runtime].enter();
        let transport = Transport::new(room, buffers);
        let conn = PacketConn::new(ConnEnd(transport.clone()), config).unwrap();
        let (sender, receiver) = conn.split();
        self.conns.push(Conn {
            transport,
            runtime,
            policy,
            high_water,
            has_flush_delay: !delay.is_zero(),
            write_timeout,
            idle_timeout,
            senders: vec![sender.clone(), sender],
            receiver: Some(receiver),
            receiver_woken: WakeFlag::raised(),
            keeps_waiting,
            calls: Vec::new(),
            next: 0,
            accepted: Vec::new(),
            sent_by_peer: 0,
            received: 0,
            recv_end: None,
            reason: None,
            is_closed: false,
            was_readable: false,
            blocked_since: None,
        });
    }

    fn step(&mut self) {
        let at = self.rng.below(self.conns.len());
        let runtime = self.rng.below(self.runtimes.len());
        match self.rng.below(22) {
            0..=4 => self.begin(at),
            5 => self.try_send(at, runtime),
            6..=8 => self.run(runtime),
            9 => {
                let calls = self.conns[at].calls.len();
                if calls > 0 {
                    let call = self.rng.below(calls);
                    // A dropped close continues.
                    drop(self.conns[at].calls.remove(call));
                }
            }
            10 | 11 => {
                let room = self.rng.pick(&[1, 100, 5_000, 200_000, 5_000_000]);
                self.conns[at].transport.pipe().room += room;
            }
            12 => self.conns[at].transport.poll_driver(),
            13..=15 => self.send_from_peer(at),
            16 => self.end_peer(at),
            17 | 18 => {
                let time = Duration::from_millis(self.rng.pick(&[1, 100, 1_000, 1_700, 2_500]));
                self.advance(time);
            }
            19 | 20 => {
                let home = self.conns[at].runtime;
                self.receive(at, home);
            }
            _ => self.drop_handles(at),
        }
    }

    // ---- actions of the application

    fn begin(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let Some(sender) = conn.senders.first().cloned() else { return };
        let mut packets = VecDeque::new();
        let kind = self.rng.pick(&[
            CallKind::Send,
            CallKind::Send,
            CallKind::Send,
            CallKind::Flush,
            CallKind::Writable,
            CallKind::Closed,
        ]);
        let kind = if self.rng.once_in(25) { CallKind::Close } else { kind };
        let future: Pin<Box<dyn Future<Output = Result<(), Error>>>> = match kind {
            CallKind::Send => {
                let count = self.rng.pick(&[1, 1, 1, 5]);
                for _ in 0..count {
                    packets.push_back(conn.next);
                    conn.next += 1;
                }
                let mut sent: Vec<_> = packets.iter().map(|number| numbered(*number)).collect();
                let one_by_one = self.rng.once_in(2);
                Box::pin(async move {
                    if one_by_one {
                        for packet in sent {
                            sender.send(packet).await?;
                        }
                        Ok(())
                    } else {
                        sender.send_many(&mut sent).await
                    }
                })
            }
            CallKind::Flush => Box::pin(async move { sender.flush().await }),
            CallKind::Writable => Box::pin(async move { sender.writable().await }),
            CallKind::Close => {
                conn.is_closed = true;
                Box::pin(async move { sender.close().await })
            }
            CallKind::Closed => Box::pin(async move {
                sender.closed().await;
                Ok(())
            }),
        };
        let accepted_before = conn.accepted.len();
        conn.calls.push(Call { kind, future, woken: WakeFlag::raised(), packets, accepted_before });
        let runtime = self.rng.below(self.runtimes.len());
        self.poll_calls(at, runtime);
    }

    fn try_send(&mut self, at: usize, runtime: usize) {
        let conn = &mut self.conns[at];
        let Some(sender) = conn.senders.first() else { return };
        let number = conn.next;
        conn.next += 1;
        let sent = self.runtimes[runtime].block_on(async { sender.try_send(numbered(number)) });
        if sent.is_ok() {
            conn.accepted.push(number);
        }
        conn.check_slow_consumer(sent.is_err_and(|error| error.is_full()));
    }

    fn poll_calls(&mut self, at: usize, runtime: usize) {
        let conn = &mut self.conns[at];
        let mut done = Vec::new();
        for index in 0..conn.calls.len() {
            let call = &mut conn.calls[index];
            if !call.woken.0.swap(false, Relaxed) {
                continue;
            }
            let waker = Waker::from(Arc::clone(&call.woken));
            let count = |conn: &[PacketSender]| {
                conn.first().map_or((0, 0), |sender| {
                    let stats = sender.stats();
                    (stats.packets_sent, stats.packets_dropped)
                })
            };
            let before = count(&conn.senders);
            let polled = poll_in(&self.runtimes[runtime], |cx| call.future.as_mut().poll(cx), &waker);
            let after = count(&conn.senders);
            // `DropNewest` drops packets instead of accepting them. Which packets of the call were dropped is unknown:
            // they count as accepted, and `check` allows gaps for this policy.
            let mut accepted = after.0 - before.0;
            if call.kind == CallKind::Send && conn.senders.is_empty() {
                accepted = call.packets.len() as u64;
            }
            if conn.policy == SlowConsumer::DropNewest {
                accepted += after.1 - before.1;
            }
            conn.accepted.extend(call.packets.drain(..(accepted as usize).min(call.packets.len())));
            if let Poll::Ready(result) = polled {
                done.push((index, result));
            }
            if call.kind == CallKind::Send {
                let has_dropped = after.1 > before.1;
                conn.check_slow_consumer(has_dropped);
            }
        }
        for (index, result) in done.into_iter().rev() {
            let call = conn.calls.remove(index);
            conn.check_done(&call, result);
        }
    }

    /// Receives until the receiver is pending or has ended.
    fn receive(&mut self, at: usize, runtime: usize) {
        let conn = &mut self.conns[at];
        let Some(receiver) = conn.receiver.as_mut().filter(|_| conn.recv_end.is_none()) else { return };
        let waker = Waker::from(Arc::clone(&conn.receiver_woken));
        conn.receiver_woken.0.store(false, Relaxed);
        let keeps_waiting = conn.keeps_waiting;
        let receive = |cx: &mut Context<'_>| {
            loop {
                let polled = if keeps_waiting {
                    receiver.poll_recv(cx)
                } else {
                    std::pin::pin!(receiver.recv()).poll(cx)
                };
                match polled {
                    Poll::Pending => break,
                    Poll::Ready(Ok(Some(packet))) => {
                        assert_eq!(number_of(&packet), conn.received, "order: received out of order");
                        conn.received += 1;
                    }
                    Poll::Ready(Ok(None)) => {
                        conn.recv_end = Some(Ok(()));
                        break;
                    }
                    Poll::Ready(Err(error)) => {
                        conn.recv_end = Some(Err(error));
                        break;
                    }
                }
            }
        };
        poll_in(&self.runtimes[runtime], receive, &waker);
        // A task that has yielded continues after the driver was polled.
        self.poll_driver(runtime);
    }

    fn drop_handles(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if self.rng.once_in(3) {
            conn.receiver = None;
        } else if conn.senders.len() > 1 {
            conn.senders.pop();
        }
    }

    // ---- actions of the peer

    fn send_from_peer(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let mut pipe = conn.transport.pipe();
        if pipe.peer_state == PeerState::Open && !pipe.can_fail() {
            for _ in 0..1 + self.rng.below(6) {
                pipe.unread.extend(frame(conn.sent_by_peer));
                conn.sent_by_peer += 1;
            }
        }
    }

    fn end_peer(&mut self, at: usize) {
        let mut pipe = self.conns[at].transport.pipe();
        match self.rng.below(8) {
            0 | 1 if pipe.peer_state == PeerState::Open => pipe.peer_state = PeerState::Closed,
            2 => pipe.peer_state = PeerState::Reset,
            3 => pipe.fails_at = pipe.written.len() + self.rng.below(2_000),
            _ => {}
        }
    }

    // ---- runtimes and time

    /// Lets the tasks of a runtime run, in half of the cases with polls of its driver.
    fn run(&mut self, runtime: usize) {
        let polls_driver = self.rng.once_in(2);
        for _ in 0..1 + self.rng.below(3) {
            self.runtimes[runtime].block_on(yield_now());
            if polls_driver {
                self.poll_driver(runtime);
            }
        }
        if polls_driver {
            // The queues must drain although the other runtime does not run.
            for _ in 0..3 {
                self.runtimes[runtime].block_on(yield_now());
                self.poll_driver(runtime);
            }
            let now = self.runtimes[runtime].block_on(async { Instant::now() });
            for conn in self.conns.iter_mut().filter(|conn| conn.runtime == runtime) {
                conn.check_written();
                conn.check_write_timeout(now);
            }
        }
        for at in 0..self.conns.len() {
            self.poll_calls(at, runtime);
            let conn = &self.conns[at];
            if conn.keeps_waiting && conn.runtime == runtime && conn.receiver_woken.0.load(Relaxed) {
                self.receive(at, runtime);
            }
        }
    }

    fn poll_driver(&self, runtime: usize) {
        for conn in self.conns.iter().filter(|conn| conn.runtime == runtime) {
            conn.transport.poll_driver();
        }
    }

    /// Advances the time of all runtimes.
    fn advance(&mut self, time: Duration) {
        for runtime in 0..self.runtimes.len() {
            self.runtimes[runtime].block_on(advance(time));
            self.poll_driver(runtime);
        }
    }

    // ---- checks

    fn check(&mut self) {
        for at in 0..self.conns.len() {
            let runtime = self.conns[at].runtime;
            self.runtimes[runtime].block_on(async {});
            let _inside = self.runtimes[runtime].enter();
            let now = self.runtimes[runtime].block_on(async { Instant::now() });
            self.conns[at].check(now);
        }
    }

    /// Gives all connections room and time, and checks that nothing waits any longer.
    fn check_at_rest(&mut self) {
        for conn in &self.conns {
            conn.transport.pipe().room = usize::MAX / 2;
        }
        for _ in 0..20 {
            for runtime in 0..self.runtimes.len() {
                for _ in 0..8 {
                    self.runtimes[runtime].block_on(yield_now());
                    self.poll_driver(runtime);
                }
                for at in 0..self.conns.len() {
                    if self.conns[at].runtime == runtime {
                        self.poll_calls(at, runtime);
                        let conn = &self.conns[at];
                        if !conn.keeps_waiting || conn.receiver_woken.0.load(Relaxed) {
                            self.receive(at, runtime);
                        }
                    }
                }
            }
            self.advance(Duration::from_secs(1));
            self.check();
        }
        for conn in &mut self.conns {
            conn.check_nothing_waits();
        }
    }
}

impl Conn {
    /// Checks that the slow-consumer policy did not act while the transport had room and was ready to be written.
    fn check_slow_consumer(&self, was_refused: bool) {
        let is_disconnected = self
            .senders
            .first()
            .is_some_and(|sender| sender.close_reason().is_some_and(|reason| reason.is_slow_consumer()));
        if was_refused && self.policy != SlowConsumer::Block || is_disconnected && self.reason.is_none() {
            let pipe = self.transport.pipe();
            let has_room = pipe.is_writable && pipe.room > 0 && !pipe.can_fail();
            assert!(!has_room, "the peer counts as slow, but its transport has {} B of room", pipe.room);
        }
    }

    /// Checks, after its runtime has run, that the queue is empty if the transport has room.
    fn check_written(&self) {
        let pipe = self.transport.pipe();
        let has_room = pipe.room > 1_000_000 && !pipe.can_fail() && !pipe.has_failed;
        let queued = self.senders.first().map_or(0, PacketSender::queued_bytes);
        let is_open = self.senders.first().is_some_and(|sender| sender.close_reason().is_none());
        if has_room && is_open && !self.has_flush_delay {
            assert_eq!(queued, 0, "progress: bytes are queued although the transport has room");
        }
    }

    fn check_done(&mut self, call: &Call, result: Result<(), Error>) {
        match (call.kind, result) {
            (CallKind::Send, Ok(())) => {
                assert!(call.packets.is_empty(), "`send` succeeded, but {:?} are not accepted", call.packets);
            }
            (CallKind::Flush, Ok(())) if self.policy == SlowConsumer::Block => {
                let (whole, _) = whole_packets(&self.transport.pipe().written);
                assert!(
                    whole.len() >= call.accepted_before,
                    "a flush must write all packets accepted before"
                );
            }
            (CallKind::Close, Ok(())) if self.policy == SlowConsumer::Block => {
                let pipe = self.transport.pipe();
                let (whole, is_whole) = whole_packets(&pipe.written);
                assert!(is_whole && whole == self.accepted, "delivery: a clean close delivers all packets");
                assert!(pipe.is_shut_down && pipe.unflushed == 0);
            }
            (CallKind::Close, Err(error)) if self.policy == SlowConsumer::Block => {
                // If several calls close the connection, only one of them returns the unsent packets.
                let (whole, _) = whole_packets(&self.transport.pipe().written);
                let unsent: Vec<_> = error.unsent().iter().map(number_of).collect();
                if !unsent.is_empty() {
                    assert_eq!(
                        [whole, unsent].concat(),
                        self.accepted,
                        "delivery: `close` returns all packets that are not delivered"
                    );
                }
            }
            (CallKind::Closed, Ok(())) => {
                let sender = self.senders.first();
                assert!(sender.is_none_or(|sender| sender.close_reason().is_some()));
            }
            _ => {}
        }
    }

    /// Checks what must hold after each step.
    fn check(&mut self, now: Instant) {
        let Some(sender) = self.senders.first() else { return };
        let pipe = self.transport.pipe();
        let (whole, _) = whole_packets(&pipe.written);
        if matches!(self.policy, SlowConsumer::Block | SlowConsumer::Disconnect) {
            assert!(
                self.accepted.starts_with(&whole),
                "order: {whole:?} delivered, {:?} accepted",
                self.accepted
            );
        } else {
            let mut accepted = self.accepted.iter();
            assert!(
                whole.iter().all(|number| accepted.any(|other| other == number)),
                "order: {whole:?} delivered, {:?} accepted",
                self.accepted
            );
        }
        // A packet larger than the high-water mark is accepted if the queue is empty, or has only the rest of another
        // such packet that is partly written.
        let limit = self.high_water.max(40_008) + 40_008;
        let queued = sender.queued_bytes();
        assert!(queued <= limit, "memory: {queued} B are queued; the limit is {limit} B");
        let reason = sender.close_reason();
        if let (None, Some(new)) = (&self.reason, &reason) {
            let since = |at: Instant| now.saturating_duration_since(at) + Duration::from_millis(2);
            match new.timeout() {
                Some(Timeout::Write) => {
                    assert!(
                        since(pipe.last_write) >= self.write_timeout,
                        "write timeout {:?} after a write",
                        since(pipe.last_write)
                    );
                }
                Some(Timeout::Idle) => {
                    let idle = since(pipe.last_read);
                    assert!(idle >= self.idle_timeout.unwrap(), "idle timeout {idle:?} after a read");
                    assert!(!self.was_readable, "idle timeout although unread bytes had arrived");
                }
                Some(Timeout::Frame) => panic!("frame timeout, but the peer sends only complete frames"),
                _ => {}
            }
        }
        if self.reason.is_none() {
            self.reason = reason;
        }
        self.was_readable = pipe.is_readable && !pipe.unread.is_empty();
        drop(pipe);
        // Room wakes `writable`, even if the call before it in line was dropped.
        let sends_wait = self.calls.iter().any(|call| call.kind == CallKind::Send);
        if !sends_wait && self.reason.is_none() && sender.queued_bytes() < self.high_water {
            let sleeps = |call: &&Call| call.kind == CallKind::Writable && !call.woken.0.load(Relaxed);
            assert!(
                !self.calls.iter().any(|call| sleeps(&call)),
                "progress: the queue has room, but `writable` was not woken"
            );
        }
    }

    /// Checks, after its runtime has run, that a connection whose peer does not read has ended in time. The time starts
    /// when the runtime runs and the connection finds that the transport is full.
    fn check_write_timeout(&mut self, now: Instant) {
        let pipe = self.transport.pipe();
        // `is_writable`: with a flush delay the connection may not have tried to write yet.
        let (last_write, can_write) = (pipe.last_write, pipe.can_write() || pipe.is_writable);
        drop(pipe);
        let waits = |sender: &PacketSender| sender.queued_bytes() > 0 && sender.close_reason().is_none();
        if can_write || !self.senders.first().is_some_and(waits) {
            self.blocked_since = None;
            return;
        }
        // A flush of the transport's own buffer also moves `last_write`.
        let since = self.blocked_since.filter(|since| *since >= last_write).unwrap_or(now);
        self.blocked_since = Some(since);
        let waited = now.saturating_duration_since(since);
        assert!(
            waited < self.write_timeout + SLACK,
            "progress: no write timeout {waited:?} after the transport became full"
        );
    }

    /// Checks, after enough room and time, that all calls have ended and all packets are delivered.
    fn check_nothing_waits(&mut self) {
        let pipe = self.transport.pipe();
        let sender = self.senders.first();
        let reason = sender.and_then(PacketSender::close_reason);
        // The reason is the first one: the connection may have failed after the peer closed its side.
        let is_open =
            reason.as_ref().is_none_or(Error::is_remote_close) && !self.is_closed && !pipe.is_dropped;
        for call in &self.calls {
            let may_wait = call.kind == CallKind::Closed && reason.is_none();
            assert!(may_wait, "progress: {:?} never ends, {reason:?}", call.kind);
        }
        let (whole, is_whole) = whole_packets(&pipe.written);
        if is_open && sender.is_some() && !pipe.has_failed && self.policy == SlowConsumer::Block {
            assert!(is_whole && pipe.unflushed == 0, "progress: a packet is only partly written, {reason:?}");
            assert_eq!(whole, self.accepted, "progress: accepted packets are written without another call");
        }
        if self.receiver.is_none() {
            return;
        }
        let own_end = self.is_closed
            || reason.as_ref().is_some_and(|reason| reason.is_timeout() || reason.is_slow_consumer());
        if !own_end {
            assert_eq!(
                self.received, self.sent_by_peer,
                "delivery: all packets of the peer are received, {reason:?}"
            );
            let has_end = pipe.peer_state != PeerState::Open || pipe.has_failed;
            assert!(
                !has_end || self.recv_end.is_some(),
                "progress: `recv` does not return the end of the stream: peer {:?}, reason {:?}, failed {}, keeps \
                 waiting {}, woken {}, policy {:?}",
                pipe.peer_state,
                reason,
                pipe.has_failed,
                self.keeps_waiting,
                self.receiver_woken.0.load(Relaxed),
                self.policy
            );
        }
        // The peer sent nothing for 20 s.
        if self.keeps_waiting && self.idle_timeout.is_some() {
            assert!(
                self.recv_end.is_some(),
                "progress: `recv` waits longer than the idle timeout, {reason:?}"
            );
        }
        if self.recv_end.as_ref().is_some_and(Result::is_err) || self.is_closed {
            assert!(pipe.is_dropped, "release: the connection has ended but keeps its transport, {reason:?}");
        }
    }
}
