//! What happens, and what must hold after each step.

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
use crate::transport::{Held, PeerEnd, Transport};

/// How late a deadline may be noticed: the steps of time, the confirming turn, tokio's milliseconds.
const SLACK: Duration = Duration::from_secs(2);

/// Whether something was woken, and is to be polled again.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Flag {
    fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Send,
    Flush,
    Writable,
    Close,
    Closed,
}

/// A call that may have to wait.
struct Op {
    kind: Kind,
    future: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    woken: Arc<Flag>,
    /// The packets that it sends and that were not accepted yet.
    packets: VecDeque<u32>,
    /// How many packets had been accepted when it began.
    accepted_before: usize,
}

struct Conn {
    transport: Transport,
    runtime: usize,
    policy: SlowConsumer,
    high_water: usize,
    /// Whether packets wait for others to follow.
    gathers: bool,
    write_timeout: Duration,
    idle_timeout: Option<Duration>,
    senders: Vec<PacketSender>,
    receiver: Option<PacketReceiver>,
    receiver_woken: Arc<Flag>,
    /// Whether the receiver keeps waiting, or gives up after each look.
    keeps_waiting: bool,
    ops: Vec<Op>,
    next: u32,
    /// The packets that were accepted, in their order.
    accepted: Vec<u32>,
    /// How many the peer has sent whole, and how many of them were received.
    sent_by_peer: u32,
    received: u32,
    recv_end: Option<Result<(), Error>>,
    reason: Option<Error>,
    is_closed: bool,
    /// Whether something to be read was known to tokio before this step.
    was_readable: bool,
    /// Since when its transport was known to take nothing of what is queued.
    blocked_since: Option<Instant>,
}

/// A packet that says which one it is.
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
    assert!(packet.payload() == numbered(number).payload(), "packet {number} was altered");
    number
}

fn frame(number: u32) -> Vec<u8> {
    let packet = numbered(number);
    [&(packet.len() as u32).to_le_bytes(), packet.payload()].concat()
}

/// The packets that the peer got whole.
fn whole_packets(taken: &[u8]) -> (Vec<u32>, bool) {
    let (mut codec, mut bytes) = (PacketCodec::default(), BytesMut::from(taken));
    let mut packets = Vec::new();
    while let Some(packet) = codec.decode_frame(&mut bytes).expect("the peer gets frames") {
        packets.push(number_of(&packet));
    }
    (packets, bytes.is_empty())
}

/// Polls in a runtime, and stays there for as long as a call that yields needs to be woken.
fn poll_in<T>(runtime: &Runtime, poll: impl FnOnce(&mut Context<'_>) -> T, waker: &Waker) -> T {
    runtime.block_on(async {
        let polled = poll(&mut Context::from_waker(waker));
        yield_now().await;
        polled
    })
}

struct World {
    rng: Rng,
    runtimes: Vec<Runtime>,
    conns: Vec<Conn>,
}

pub(crate) fn simulate(seed: u64) {
    let mut rng = Rng::new(seed);
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let runtimes: Vec<_> = (0..1 + rng.below(2)).map(|_| runtime()).collect();
    let mut world = World { rng, runtimes, conns: Vec::new() };
    for _ in 0..1 + world.rng.below(3) {
        world.connect();
    }
    for _ in 0..20 + world.rng.below(40) {
        world.step();
        world.check();
    }
    world.come_to_rest();
}

impl World {
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
        let conn = PacketConn::new(Held(transport.clone()), config).unwrap();
        let (sender, receiver) = conn.split();
        self.conns.push(Conn {
            transport,
            runtime,
            policy,
            high_water,
            gathers: !delay.is_zero(),
            write_timeout,
            idle_timeout,
            senders: vec![sender.clone(), sender],
            receiver: Some(receiver),
            receiver_woken: Flag::raised(),
            keeps_waiting,
            ops: Vec::new(),
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
            6..=8 => self.drive(runtime),
            9 => {
                let ops = self.conns[at].ops.len();
                if ops > 0 {
                    let op = self.rng.below(ops);
                    // A close that was dropped goes on.
                    drop(self.conns[at].ops.remove(op));
                }
            }
            10 | 11 => {
                let room = self.rng.pick(&[1, 100, 5_000, 200_000, 5_000_000]);
                self.conns[at].transport.pipe().room += room;
            }
            12 => self.conns[at].transport.driver_turn(),
            13..=15 => self.peer_sends(at),
            16 => self.peer_ends(at),
            17 | 18 => {
                let time = Duration::from_millis(self.rng.pick(&[1, 100, 1_000, 1_700, 2_500]));
                self.pass(time);
            }
            19 | 20 => {
                let home = self.conns[at].runtime;
                self.receive(at, home);
            }
            _ => self.let_go(at),
        }
    }

    // ---- what the application does

    fn begin(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let Some(sender) = conn.senders.first().cloned() else { return };
        let mut packets = VecDeque::new();
        let kind =
            self.rng.pick(&[Kind::Send, Kind::Send, Kind::Send, Kind::Flush, Kind::Writable, Kind::Closed]);
        let kind = if self.rng.once_in(25) { Kind::Close } else { kind };
        let future: Pin<Box<dyn Future<Output = Result<(), Error>>>> = match kind {
            Kind::Send => {
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
            Kind::Flush => Box::pin(async move { sender.flush().await }),
            Kind::Writable => Box::pin(async move { sender.writable().await }),
            Kind::Close => {
                conn.is_closed = true;
                Box::pin(async move { sender.close().await })
            }
            Kind::Closed => Box::pin(async move {
                sender.closed().await;
                Ok(())
            }),
        };
        let accepted_before = conn.accepted.len();
        conn.ops.push(Op { kind, future, woken: Flag::raised(), packets, accepted_before });
        let runtime = self.rng.below(self.runtimes.len());
        self.poll_ops(at, runtime);
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
        conn.check_judgement(sent.is_err_and(|error| error.is_full()));
    }

    fn poll_ops(&mut self, at: usize, runtime: usize) {
        let conn = &mut self.conns[at];
        let mut done = Vec::new();
        for index in 0..conn.ops.len() {
            let op = &mut conn.ops[index];
            if !op.woken.0.swap(false, Relaxed) {
                continue;
            }
            let waker = Waker::from(Arc::clone(&op.woken));
            let count = |conn: &[PacketSender]| {
                conn.first().map_or((0, 0), |sender| {
                    let stats = sender.stats();
                    (stats.packets_sent, stats.packets_dropped)
                })
            };
            let before = count(&conn.senders);
            let polled = poll_in(&self.runtimes[runtime], |cx| op.future.as_mut().poll(cx), &waker);
            let after = count(&conn.senders);
            // One that was dropped for want of room was never accepted: the order of both is not known, and does not matter.
            let mut accepted = after.0 - before.0;
            if op.kind == Kind::Send && conn.senders.is_empty() {
                accepted = op.packets.len() as u64;
            }
            if conn.policy == SlowConsumer::DropNewest {
                accepted += after.1 - before.1;
            }
            conn.accepted.extend(op.packets.drain(..(accepted as usize).min(op.packets.len())));
            if let Poll::Ready(result) = polled {
                done.push((index, result));
            }
            if op.kind == Kind::Send {
                let has_dropped = after.1 > before.1;
                conn.check_judgement(has_dropped);
            }
        }
        for (index, result) in done.into_iter().rev() {
            let op = conn.ops.remove(index);
            conn.check_done(&op, result);
        }
    }

    /// Receives until there is nothing.
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
                        assert_eq!(number_of(&packet), conn.received, "I1: in their order");
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
        // Who yields comes back behind the driver.
        self.driver_turn(runtime);
    }

    fn let_go(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if self.rng.once_in(3) {
            conn.receiver = None;
        } else if conn.senders.len() > 1 {
            conn.senders.pop();
        }
    }

    // ---- what the peer does

    fn peer_sends(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let mut pipe = conn.transport.pipe();
        if pipe.peer == PeerEnd::Open && !pipe.can_fail() {
            for _ in 0..1 + self.rng.below(6) {
                pipe.arrived.extend(frame(conn.sent_by_peer));
                conn.sent_by_peer += 1;
            }
        }
    }

    fn peer_ends(&mut self, at: usize) {
        let mut pipe = self.conns[at].transport.pipe();
        match self.rng.below(8) {
            0 | 1 if pipe.peer == PeerEnd::Open => pipe.peer = PeerEnd::Closed,
            2 => pipe.peer = PeerEnd::Reset,
            3 => pipe.fails_at = pipe.taken.len() + self.rng.below(2_000),
            _ => {}
        }
    }

    // ---- runtimes and time

    /// Lets the tasks of a runtime run, with turns of its driver in between or without.
    fn drive(&mut self, runtime: usize) {
        let sees = self.rng.once_in(2);
        for _ in 0..1 + self.rng.below(3) {
            self.runtimes[runtime].block_on(yield_now());
            if sees {
                self.driver_turn(runtime);
            }
        }
        if sees {
            // Of this runtime alone: the others are not needed for that.
            for _ in 0..3 {
                self.runtimes[runtime].block_on(yield_now());
                self.driver_turn(runtime);
            }
            let now = self.runtimes[runtime].block_on(async { Instant::now() });
            for conn in self.conns.iter_mut().filter(|conn| conn.runtime == runtime) {
                conn.check_left();
                conn.check_not_late(now);
            }
        }
        for at in 0..self.conns.len() {
            self.poll_ops(at, runtime);
            let conn = &self.conns[at];
            if conn.keeps_waiting && conn.runtime == runtime && conn.receiver_woken.0.load(Relaxed) {
                self.receive(at, runtime);
            }
        }
    }

    fn driver_turn(&self, runtime: usize) {
        for conn in self.conns.iter().filter(|conn| conn.runtime == runtime) {
            conn.transport.driver_turn();
        }
    }

    /// The time is the same for all.
    fn pass(&mut self, time: Duration) {
        for runtime in 0..self.runtimes.len() {
            self.runtimes[runtime].block_on(advance(time));
            self.driver_turn(runtime);
        }
    }

    // ---- what must hold

    fn check(&mut self) {
        for at in 0..self.conns.len() {
            let runtime = self.conns[at].runtime;
            self.runtimes[runtime].block_on(async {});
            let _inside = self.runtimes[runtime].enter();
            let now = self.runtimes[runtime].block_on(async { Instant::now() });
            self.conns[at].check(now);
        }
    }

    /// Gives everybody room and time, and expects that nothing is left waiting.
    fn come_to_rest(&mut self) {
        for conn in &self.conns {
            conn.transport.pipe().room = usize::MAX / 2;
        }
        for _ in 0..20 {
            for runtime in 0..self.runtimes.len() {
                for _ in 0..8 {
                    self.runtimes[runtime].block_on(yield_now());
                    self.driver_turn(runtime);
                }
                for at in 0..self.conns.len() {
                    if self.conns[at].runtime == runtime {
                        self.poll_ops(at, runtime);
                        let conn = &self.conns[at];
                        if !conn.keeps_waiting || conn.receiver_woken.0.load(Relaxed) {
                            self.receive(at, runtime);
                        }
                    }
                }
            }
            self.pass(Duration::from_secs(1));
            self.check();
        }
        for conn in &mut self.conns {
            conn.check_rest();
        }
    }
}

impl Conn {
    /// A peer was judged slow, or not: it must not be where tokio knew of room that is still there.
    fn check_judgement(&self, was_refused: bool) {
        let is_disconnected = self
            .senders
            .first()
            .is_some_and(|sender| sender.close_reason().is_some_and(|reason| reason.is_slow_consumer()));
        if was_refused && self.policy != SlowConsumer::Block || is_disconnected && self.reason.is_none() {
            let pipe = self.transport.pipe();
            let has_room = pipe.is_writable && pipe.room > 0 && !pipe.can_fail();
            assert!(!has_room, "a peer is slow that was not offered what there is: {} B of room", pipe.room);
        }
    }

    /// When its runtime was driven: what the transport has room for has left.
    fn check_left(&self) {
        let pipe = self.transport.pipe();
        let has_room = pipe.room > 1_000_000 && !pipe.can_fail() && !pipe.has_failed;
        let queued = self.senders.first().map_or(0, PacketSender::queued_bytes);
        let is_open = self.senders.first().is_some_and(|sender| sender.close_reason().is_none());
        if has_room && is_open && !self.gathers {
            assert_eq!(queued, 0, "I7: what is accepted has not left, though its runtime was driven");
        }
    }

    fn check_done(&mut self, op: &Op, result: Result<(), Error>) {
        match (op.kind, result) {
            (Kind::Send, Ok(())) => assert!(op.packets.is_empty(), "it says that all was accepted"),
            (Kind::Flush, Ok(())) if self.policy == SlowConsumer::Block => {
                let (whole, _) = whole_packets(&self.transport.pipe().taken);
                assert!(whole.len() >= op.accepted_before, "what was accepted before a flush is written");
            }
            (Kind::Close, Ok(())) if self.policy == SlowConsumer::Block => {
                let pipe = self.transport.pipe();
                let (whole, is_whole) = whole_packets(&pipe.taken);
                assert!(is_whole && whole == self.accepted, "I2: a clean close delivers everything");
                assert!(pipe.is_shut_down && pipe.unflushed == 0);
            }
            (Kind::Close, Err(error)) if self.policy == SlowConsumer::Block => {
                // Where several close it, one of them gets what was not sent.
                let (whole, _) = whole_packets(&self.transport.pipe().taken);
                let unsent: Vec<_> = error.unsent().iter().map(number_of).collect();
                if !unsent.is_empty() {
                    assert_eq!(
                        [whole, unsent].concat(),
                        self.accepted,
                        "I2: what is not delivered comes back"
                    );
                }
            }
            (Kind::Closed, Ok(())) => {
                let sender = self.senders.first();
                assert!(sender.is_none_or(|sender| sender.close_reason().is_some()));
            }
            _ => {}
        }
    }

    /// After each step.
    fn check(&mut self, now: Instant) {
        let Some(sender) = self.senders.first() else { return };
        let pipe = self.transport.pipe();
        let (whole, _) = whole_packets(&pipe.taken);
        if matches!(self.policy, SlowConsumer::Block | SlowConsumer::Disconnect) {
            assert!(self.accepted.starts_with(&whole), "I1: {whole:?} of {:?}", self.accepted);
        } else {
            let mut accepted = self.accepted.iter();
            assert!(whole.iter().all(|number| accepted.any(|other| other == number)), "I1: in their order");
        }
        // One that is larger than the queue passes alone, or behind what is begun of one that was.
        let most = self.high_water.max(40_008) + 40_008;
        assert!(sender.queued_bytes() <= most, "I5: {} B are queued", sender.queued_bytes());
        let reason = sender.close_reason();
        if let (None, Some(new)) = (&self.reason, &reason) {
            let since = |at: Instant| now.saturating_duration_since(at) + Duration::from_millis(2);
            match new.timeout() {
                Some(Timeout::Write) => {
                    assert!(since(pipe.taken_at) >= self.write_timeout, "it took something a moment ago");
                }
                Some(Timeout::Idle) => {
                    let idle = since(pipe.arrived_at);
                    assert!(idle >= self.idle_timeout.unwrap(), "it has shown itself {idle:?} ago");
                    assert!(!self.was_readable, "it had sent something before this step");
                }
                Some(Timeout::Frame) => panic!("there was no part of a frame"),
                _ => {}
            }
        }
        if self.reason.is_none() {
            self.reason = reason;
        }
        self.was_readable = pipe.is_readable && !pipe.arrived.is_empty();
        drop(pipe);
        // I7: who waits for room is woken when there is some, also by one in front that gives up.
        let has_line = self.ops.iter().any(|op| op.kind == Kind::Send);
        if !has_line && self.reason.is_none() && sender.queued_bytes() < self.high_water {
            let sleeps = |op: &&Op| op.kind == Kind::Writable && !op.woken.0.load(Relaxed);
            assert!(!self.ops.iter().any(|op| sleeps(&op)), "I7: there is room, and nobody was woken");
        }
    }

    /// When its runtime was driven: nobody waits for a peer that takes nothing for longer than it is granted. The time begins at a
    /// turn of the runtime in which the connection has found that the peer takes nothing.
    fn check_not_late(&mut self, now: Instant) {
        let pipe = self.transport.pipe();
        // Where packets wait for others to follow, it may not yet have been offered one.
        let (taken_at, can_write) = (pipe.taken_at, pipe.can_write() || pipe.is_writable);
        drop(pipe);
        let waits = |sender: &PacketSender| sender.queued_bytes() > 0 && sender.close_reason().is_none();
        if can_write || !self.senders.first().is_some_and(waits) {
            self.blocked_since = None;
            return;
        }
        // What it has let go of a buffer of its own counts, too.
        let since = self.blocked_since.filter(|since| *since >= taken_at).unwrap_or(now);
        self.blocked_since = Some(since);
        let waited = now.saturating_duration_since(since);
        assert!(
            waited < self.write_timeout + SLACK,
            "I7: it waits for a peer that takes nothing, {waited:?}"
        );
    }

    /// When there was room and time for everything.
    fn check_rest(&mut self) {
        let pipe = self.transport.pipe();
        let sender = self.senders.first();
        let reason = sender.and_then(PacketSender::close_reason);
        // After the peer's close another end may have come, which is not the first reason.
        let is_open =
            reason.as_ref().is_none_or(Error::is_remote_close) && !self.is_closed && !pipe.is_dropped;
        for op in &self.ops {
            let may_wait = op.kind == Kind::Closed && reason.is_none();
            assert!(may_wait, "I7: {:?} waits for ever, {reason:?}", op.kind);
        }
        let (whole, is_whole) = whole_packets(&pipe.taken);
        if is_open && sender.is_some() && !pipe.has_failed && self.policy == SlowConsumer::Block {
            assert!(is_whole && pipe.unflushed == 0, "I7: a part of a packet is left, {reason:?}");
            assert_eq!(whole, self.accepted, "I7: what is accepted leaves without another call");
        }
        if self.receiver.is_none() {
            return;
        }
        let own_end = self.is_closed
            || reason.as_ref().is_some_and(|reason| reason.is_timeout() || reason.is_slow_consumer());
        if !own_end {
            assert_eq!(self.received, self.sent_by_peer, "I2: what has arrived is received, {reason:?}");
            let has_end = pipe.peer != PeerEnd::Open || pipe.has_failed;
            assert!(
                !has_end || self.recv_end.is_some(),
                "I7: the end of the stream is not told, {:?} {:?} failed {} keeps {} woken {} policy {:?}",
                pipe.peer,
                reason,
                pipe.has_failed,
                self.keeps_waiting,
                self.receiver_woken.0.load(Relaxed),
                self.policy
            );
        }
        // Nothing came for 20 s.
        if self.keeps_waiting && self.idle_timeout.is_some() {
            assert!(self.recv_end.is_some(), "I7: a receiver waits beyond its deadline, {reason:?}");
        }
        if self.recv_end.as_ref().is_some_and(Result::is_err) || self.is_closed {
            assert!(pipe.is_dropped, "I3: the transport is kept after the end, {reason:?}");
        }
    }
}
