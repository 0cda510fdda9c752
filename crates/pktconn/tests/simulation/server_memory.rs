//! A server with a memory budget: what it says that it holds, against what an allocation counter sees.
//!
//! The server and its clients share one thread, whose allocations are counted while the runtime runs, and the time is paused. They
//! are connected by Unix sockets: what is written to one is there for the other at once, so that a seed decides what happens.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use pktconn::{
    Checksum, CodecConfig, ConnConfig, PacketCodec, PacketSender, PacketServer, ServerConfig, ServerHandle,
    SlowConsumer,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::handlers::{Handlers, MOST_CONNS, Role};
use crate::rng::Rng;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The size of a read.
const CHUNK: usize = 64 * KIB;

/// A connection that holds less is read also under pressure, so much at a time.
const FEW: usize = 4 * KIB;

/// The steps in which a connection counts each of what is read and what is queued.
const GRAIN: usize = 2 * KIB;

/// What a connection of these handlers takes without any bytes: its state and its tasks.
const IDLE: usize = 6 * KIB;

/// What a thread keeps for all of its connections, to read into and to write from.
const OF_THE_THREAD: usize = 2 * CHUNK + 64 * KIB;

/// A client, of which the simulation has the raw socket.
struct Peer {
    socket: UnixStream,
    /// That of its handler.
    number: usize,
    /// What it is going to write, from where on, and how much of that it holds back.
    outbox: Vec<u8>,
    written: usize,
    held_back: usize,
    /// Whether it reads all that comes.
    reads: bool,
    bytes_out: usize,
    bytes_in: usize,
    /// It has begun a frame that it never ends.
    is_stuck: bool,
    is_shut_down: bool,
    is_gone: bool,
}

impl Peer {
    fn write(&mut self) {
        let end = self.outbox.len() - self.held_back;
        while self.written < end && !self.is_gone && !self.is_shut_down {
            match self.socket.write(&self.outbox[self.written..end]) {
                Ok(count) => {
                    self.written += count;
                    self.bytes_out += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.is_gone = true,
            }
        }
        if self.written == self.outbox.len() {
            self.outbox = Vec::new();
            self.written = 0;
        }
    }

    /// Reads up to so much, and returns the start of it.
    fn read(&mut self, mut most: usize) -> Vec<u8> {
        let (mut bytes, mut scratch) = (Vec::new(), vec![0; CHUNK]);
        while most > 0 && !self.is_gone {
            match self.socket.read(&mut scratch[..most.min(CHUNK)]) {
                Ok(0) => self.is_gone = true,
                Ok(count) => {
                    most -= count;
                    self.bytes_in += count;
                    if bytes.len() < CHUNK {
                        bytes.extend_from_slice(&scratch[..count]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_gone = true,
            }
        }
        bytes
    }
}

struct World {
    rng: Rng,
    runtime: Runtime,
    codec: PacketCodec,
    payload: Vec<u8>,
    max_len: usize,
    budget: usize,
    high_water: usize,
    handlers: Arc<Handlers>,
    server: ServerHandle,
    /// The first one sends small packets and gets them back.
    peers: Vec<Peer>,
    /// Whether the others write nothing more for now.
    is_quiet: bool,
    /// How much is allocated beyond the start.
    held: i64,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

pub(crate) fn simulate(seed: u64) {
    // Each is worth many others: it moves megabytes.
    if seed % 100 != 0 {
        return;
    }
    let mut world = World::new(seed);
    world.drive(3);
    world.held = 0;
    world.connect();
    assert_eq!(world.peers.len(), 1);
    // One packet to all of many is as much as all of theirs.
    let most = if world.handlers.roles.contains(&Role::Broadcast) { 8 } else { 40 };
    let conns = world.rng.pick(&[0, 1, 3, 8, 20, 40]).min(most);
    for _ in 0..conns {
        world.connect();
    }
    world.check("connect");
    for _ in 0..20 + world.rng.below(30) {
        let what = world.step();
        world.check(what);
    }
    world.pressure_ends();
    world.all_is_served();
    world.nothing_is_left();
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let max_len = rng.pick(&[60_000, CHUNK, 100_000, MIB, 8 * MIB]);
        let budget = rng.pick(&[MIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB]);
        let checksum = rng.pick(&[Checksum::None, Checksum::None, Checksum::Crc32]);
        let policy = rng.pick(&[
            SlowConsumer::Block,
            SlowConsumer::Block,
            SlowConsumer::DropNewest,
            SlowConsumer::DropOldest,
            SlowConsumer::Disconnect,
        ]);
        let high_water = rng.pick(&[10, 64, 256, 1024]) * KIB;
        let secs = |rng: &mut Rng, of: &[u64]| Some(rng.pick(of)).filter(|&s| s > 0).map(Duration::from_secs);
        let codec = CodecConfig::new().checksum(checksum).max_payload_len(max_len);
        let conn = ConnConfig::new()
            .codec(codec)
            .slow_consumer(policy)
            .send_high_water(high_water)
            .write_timeout(secs(&mut rng, &[0, 5, 30]))
            .frame_timeout(secs(&mut rng, &[0, 0, 4]))
            .idle_timeout(secs(&mut rng, &[0, 0, 0, 20]))
            .flush_delay(Duration::from_millis(rng.pick(&[0, 0, 0, 5])))
            .close_timeout(Duration::from_secs(5));
        let config = ServerConfig::new().conn(conn).memory_budget(budget);
        let handlers = Arc::new(Handlers::new(roles(&mut rng)));
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = {
            let _inside = runtime.enter();
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            PacketServer::from_listener(listener, config).unwrap()
        };
        let handle = server.handle();
        let of_server = Arc::clone(&handlers);
        runtime.spawn(server.serve(move |conn| {
            let handlers = Arc::clone(&of_server);
            async move {
                handlers.handle(conn).await;
                Ok(())
            }
        }));
        Self {
            rng,
            runtime,
            codec: PacketCodec::new(codec),
            payload: vec![7; max_len],
            max_len,
            budget,
            high_water,
            handlers,
            server: handle,
            peers: Vec::new(),
            is_quiet: false,
            held: 0,
            path,
            _dir: dir,
        }
    }

    // ---- the clients and the runtime

    /// Connects a client. Whether it was taken.
    fn connect(&mut self) -> bool {
        let before = self.server.stats();
        if self.handlers.called.load(Relaxed) == MOST_CONNS {
            return false;
        }
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let called = self.handlers.called.load(Relaxed);
        for _ in 0..100 {
            self.turn();
            if self.server.stats().refused > before.refused {
                return false;
            }
            if self.handlers.called.load(Relaxed) > called {
                break;
            }
        }
        assert!(self.handlers.called.load(Relaxed) > called, "I7: a client is neither served nor refused");
        let reads = called == 0 || self.rng.once_in(2);
        self.peers.push(Peer {
            socket,
            number: called,
            outbox: Vec::new(),
            written: 0,
            held_back: 0,
            reads,
            bytes_out: 0,
            bytes_in: 0,
            is_stuck: false,
            is_shut_down: false,
            is_gone: false,
        });
        true
    }

    /// Lets the runtime look at its sockets and run what is ready, once.
    fn turn(&mut self) {
        let runtime = &self.runtime;
        self.held += allocation_counter::measure(|| runtime.block_on(yield_now())).bytes_current;
    }

    fn drive(&mut self, turns: usize) {
        for _ in 0..turns {
            let writing = if self.is_quiet { 1 } else { self.peers.len() };
            self.peers.iter_mut().take(writing).for_each(Peer::write);
            self.turn();
            for peer in self.peers.iter_mut().skip(1).filter(|peer| peer.reads) {
                peer.read(usize::MAX);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let runtime = &self.runtime;
        let advance = || runtime.block_on(tokio::time::advance(time));
        self.held += allocation_counter::measure(advance).bytes_current;
        self.drive(2);
    }

    fn frame(&self, len: usize) -> BytesMut {
        let mut frame = BytesMut::new();
        self.codec.encode_payload(&self.payload[..len], &mut frame).unwrap();
        frame
    }

    // ---- what happens

    fn step(&mut self) -> &'static str {
        let at = self.rng.below(self.peers.len());
        let what = match self.rng.below(18) {
            0..=3 => {
                for _ in 0..1 + self.rng.below(4) {
                    self.send_frames(at);
                }
                "frames"
            }
            4 | 5 => {
                for at in 0..self.peers.len() {
                    self.send_frames(at);
                }
                "frames of all"
            }
            6 => {
                let count = self.rng.pick(&[1, 600, 20_000]);
                let empty = self.frame(0).repeat(count);
                self.send(at, &empty, 0);
                "empty packets"
            }
            7 => {
                let len = self.any_len();
                let frame = self.frame(len);
                self.send(at, &frame[..4], 0);
                if at > 0 {
                    self.peers[at].is_stuck = true;
                }
                "a header alone"
            }
            8 | 9 => {
                // One small packet of each chunk, and others to its end.
                let kept = self.rng.pick(&[1, 500, 4000]);
                let (kept, filler) = (self.frame(kept), self.frame(7000));
                let mut chunk = kept.to_vec();
                while chunk.len() + filler.len() <= CHUNK {
                    chunk.extend_from_slice(&filler);
                }
                for at in 0..self.peers.len() {
                    self.send(at, &chunk, 0);
                }
                "chunks"
            }
            10 => {
                let most = self.rng.pick(&[1, 1000, 100_000]);
                if at > 0 {
                    self.peers[at].read(most);
                }
                "reads"
            }
            11 => {
                self.peers[at].reads ^= at > 0;
                "reads or not"
            }
            12 => {
                self.leave(at);
                "leaves"
            }
            13 => {
                self.connect();
                "connects"
            }
            14 | 15 => {
                let time = Duration::from_millis(self.rng.pick(&[1, 6, 100, 1000, 3000]));
                self.pass(time);
                "time"
            }
            16 => {
                self.handlers.turn.notify_waiters();
                "a turn of handlers"
            }
            _ => {
                self.ping();
                "ping"
            }
        };
        let turns = self.rng.pick(&[0, 1, 3, 10]);
        self.drive(turns);
        what
    }

    /// The length of a packet, up to the most that is allowed: both sides of each boundary that there may be.
    fn any_len(&mut self) -> usize {
        let len = self.rng.pick(&[
            0,
            1,
            60,
            1000,
            1000,
            2040,
            2052,
            4092,
            4100,
            8184,
            8192,
            16_380,
            17_000,
            32_760,
            32_772,
            50_000,
            65_528,
            65_536,
            65_540,
            100_000,
            300_000,
            MIB,
            usize::MAX,
        ]);
        len.min(self.max_len)
    }

    fn send_frames(&mut self, at: usize) {
        let len = self.any_len();
        let frame = self.frame(len);
        let count = (self.rng.pick(&[1, 1000, 150_000]) / frame.len()).max(1);
        let held_back = self.rng.pick(&[0, 0, 1, frame.len() / 4, frame.len() / 2, frame.len() - 1]);
        self.send(at, &frame.repeat(count), held_back);
    }

    /// Has a client write bytes, of which it holds some back until it writes others. The first one writes only [pings](Self::ping).
    fn send(&mut self, at: usize, bytes: &[u8], held_back: usize) {
        let peer = &mut self.peers[at];
        if at > 0 && !peer.is_stuck && peer.outbox.len() - peer.written < MIB {
            peer.outbox.extend_from_slice(bytes);
            peer.held_back = held_back;
            peer.write();
        }
    }

    fn leave(&mut self, at: usize) {
        if at == 0 {
            return;
        }
        if self.rng.once_in(3) {
            let _ = self.peers[at].socket.shutdown(std::net::Shutdown::Write);
            self.peers[at].is_shut_down = true;
        } else {
            self.peers.remove(at);
        }
    }

    /// The first client, which holds next to nothing, is served whatever the others do, without waiting for time to pass.
    fn ping(&mut self) {
        let len = self.rng.pick(&[0, 1, 60, 1000]);
        let frame = self.frame(len);
        let peer = &mut self.peers[0];
        peer.outbox.extend_from_slice(&frame);
        let mut back = Vec::new();
        for _ in 0..500 {
            self.drive(1);
            back.extend(self.peers[0].read(usize::MAX));
            if self.peers[0].is_gone || back.len() >= frame.len() {
                break;
            }
            // Packets that wait for others to follow.
            if self.turns_without_time() {
                self.pass(Duration::from_millis(6));
            }
        }
        assert!(
            self.peers[0].is_gone || back == frame[..],
            "I7: {} of {} B came back to a client that holds nothing, {:?} of {}",
            back.len(),
            frame.len(),
            self.server.stats(),
            self.budget
        );
    }

    fn turns_without_time(&mut self) -> bool {
        self.rng.once_in(20)
    }

    // ---- what must hold

    fn check(&mut self, after: &str) {
        let stats = self.server.stats();
        let handlers = &self.handlers;
        let (in_hand, not_come_back) = (handlers.in_hand.load(Relaxed), handlers.not_come_back.load(Relaxed));
        let (held, said) = (usize::try_from(self.held).unwrap_or(0), stats.held_bytes);
        let beside = stats.open * IDLE + OF_THE_THREAD;
        // What a handler has received is its own, and may keep the chunk alive in which it came.
        let kept = in_hand * CHUNK;
        if std::env::var_os("PKTCONN_SEED").is_some() {
            println!(
                "{after}: {held} held, {said} said, {} open, {in_hand} in hand, {not_come_back} not come back, {} B",
                stats.open, self.budget
            );
        }
        assert!(
            held <= said + beside + kept,
            "I5: after {after}: {held} B are held, {said} B are said, {} are open, {in_hand} have packets in hand",
            stats.open
        );
        // Of each queue no byte is missing, and each is counted in whole steps.
        let senders = self.handlers.senders.lock().unwrap();
        let open = senders.iter().flatten().filter(|sender| sender.close_reason().is_none());
        let queued: usize = open.map(|sender| sender.queued_bytes().next_multiple_of(GRAIN)).sum();
        drop(senders);
        assert!(queued <= said, "I5: after {after}: {queued} B are queued, {said} B are said");
        // A part of a chunk counts as a whole one where it is a quarter of it or more. A packet that is queued for many counts
        // for each, and one that was received for its receiver too.
        if self.counts_once() {
            let most =
                4 * (held + OF_THE_THREAD) + 2 * not_come_back + in_hand * CHUNK + stats.open * 4 * GRAIN;
            assert!(
                said <= most,
                "after {after}: {said} B are said, and {held} B are held, {not_come_back} {}",
                stats.open
            );
        }
        let most = self.most();
        assert!(held <= most, "I5: after {after}: {held} B are held, and {most} B may be, {}", stats.open);
    }

    fn answers_alone(&self) -> bool {
        self.handlers.roles.iter().all(|role| role.answers_its_peer_alone())
    }

    fn counts_once(&self) -> bool {
        !self.handlers.roles.contains(&Role::Broadcast)
    }

    /// What the server may hold at most.
    fn most(&self) -> usize {
        let open = self.server.stats().open;
        // The read that goes beyond the budget may double the buffer of a frame.
        let growth = self.max_len.min(self.budget);
        // From then on each may read a few KiB, and move what it has read into its queue.
        let mut each = IDLE + 2 * FEW + 2 * CHUNK;
        if !self.answers_alone() {
            // What is sent to others is not stopped: it is bounded by their queues.
            each += self.high_water.max(self.max_len) + self.max_len;
        }
        self.budget + growth + open * each + OF_THE_THREAD
    }

    /// Nobody reads more, and time passes: connections are closed until the others are within the budget.
    fn pressure_ends(&mut self) {
        self.is_quiet = true;
        let low_mark = self.budget - self.budget / 8;
        let mut is_low = false;
        for _ in 0..60 {
            let before = self.server.stats();
            self.pass(Duration::from_millis(1100));
            self.check("pressure");
            is_low = false;
            for _ in 0..6 {
                self.drive(1);
                is_low |= self.server.stats().held_bytes <= low_mark;
            }
            if is_low && self.server.stats().closed_over_budget == before.closed_over_budget {
                break;
            }
        }
        let senders = self.handlers.senders.lock().unwrap();
        // Those whose handler does not look, and keeps what it has.
        let is_stubborn = |sender: &PacketSender| sender.close_reason().is_some();
        let stubborn = senders.iter().flatten().filter(|sender| is_stubborn(sender)).count();
        drop(senders);
        // What is sent to others goes on for as long as the kernel has something of their peers.
        if stubborn == 0 && self.answers_alone() {
            let stats = self.server.stats();
            assert!(
                is_low || stats.held_bytes <= self.budget,
                "the pressure does not end: {stats:?} of {}",
                self.budget
            );
            if stats.held_bytes <= low_mark && self.handlers.called.load(Relaxed) < MOST_CONNS {
                let is_taken = self.connect();
                let stats = self.server.stats();
                // The turns that it takes may bring the pressure back.
                let is_low = stats.held_bytes <= low_mark;
                assert!(is_taken || !is_low, "a client is refused without pressure: {stats:?}");
            }
        }
        self.ping();
    }

    /// Everybody reads, and nobody keeps handlers from receiving: what was sent is received.
    fn all_is_served(&mut self) {
        self.is_quiet = false;
        for peer in &mut self.peers {
            peer.reads = true;
        }
        let mut quiet = 0;
        let are_fast = self.handlers.roles.iter().all(|role| role.keeps_receiving());
        for _ in 0..if are_fast { 2000 } else { 100 } {
            let before = (self.server.traffic(), self.server.stats());
            self.handlers.turn.notify_waiters();
            self.drive(4);
            self.pass(Duration::from_millis(50));
            self.check("rest");
            quiet = if (self.server.traffic(), self.server.stats()) == before { quiet + 1 } else { 0 };
            // Longer than pressure is borne.
            if quiet == 25 {
                break;
            }
        }
        assert!(quiet == 25 || !are_fast, "I7: it does not come to rest");
        if quiet < 25 {
            // Handlers that take one packet at a time have more to do.
            return;
        }
        let stats = self.server.stats();
        let keeps_receiving = |peer: &&Peer| self.handlers.roles[peer.number].keeps_receiving();
        if stats.held_bytes > self.budget - self.budget / 8
            && !self.peers.iter().all(|peer| keeps_receiving(&peer))
        {
            // Handlers that do not receive keep it up.
            return;
        }
        let senders = self.handlers.senders.lock().unwrap().clone();
        for peer in self.peers.iter().filter(keeps_receiving) {
            let Some(sender) = &senders[peer.number] else { continue };
            if sender.close_reason().is_none() {
                let (sent, received) = (peer.bytes_out as u64, sender.stats().bytes_received);
                let role = self.handlers.roles[peer.number];
                assert_eq!(
                    received, sent,
                    "I7: {role:?} does not receive what was sent, {stats:?} of {}",
                    self.budget
                );
                let left = peer.outbox.len() - peer.held_back - peer.written;
                assert!(peer.is_shut_down || left == 0, "I7: a client cannot write, {role:?} {stats:?}");
            }
        }
        drop(senders);
        self.ping();
    }

    fn nothing_is_left(&mut self) {
        self.peers.clear();
        self.handlers.over.close();
        for _ in 0..100 {
            self.turn();
            self.pass(Duration::from_millis(500));
            if self.server.stats().open == 0 {
                break;
            }
        }
        for _ in 0..4 {
            self.turn();
        }
        let stats = self.server.stats();
        assert_eq!((stats.open, stats.held_bytes), (0, 0), "nobody is left: {stats:?}");
        let told = self.handlers.told_over_budget.load(Relaxed);
        assert_eq!(stats.closed_over_budget, told as u64, "so many were closed, and so many were told");
        let left = self.held;
        assert!(left.unsigned_abs() as usize <= OF_THE_THREAD, "{left} B are left");
    }
}

/// What handlers do: all of them alike, or each another thing.
fn roles(rng: &mut Rng) -> Vec<Role> {
    const ALL: [Role; 13] = [
        Role::Echo,
        Role::EchoBatches,
        Role::Consume,
        Role::ForwardOrDrop,
        Role::Forward,
        Role::Broadcast,
        Role::Slow,
        Role::SlowAndKeeps,
        Role::Polls,
        Role::Sleeps,
        Role::OnlyOne,
        Role::Nothing,
        Role::OnlySends,
    ];
    let kinds: Vec<_> = (0..rng.pick(&[1, 1, 2, 13])).map(|_| rng.pick(&ALL)).collect();
    let others = (1..MOST_CONNS).map(|_| rng.pick(&kinds));
    std::iter::once(Role::Echo).chain(others).collect()
}
