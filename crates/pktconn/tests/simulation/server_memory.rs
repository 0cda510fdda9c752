//! Simulates a server with a memory budget, and compares the memory that it reports with an allocation counter.
//!
//! The server and its clients share one thread. Its allocations are counted while the runtime runs, and the time is
//! paused. They use Unix sockets, which deliver written bytes at once: so the seed alone decides what happens.

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

use crate::handlers::{Handlers, MAX_CONNS, Role};
use crate::rng::Rng;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The size of a read chunk, in bytes.
const CHUNK: usize = 64 * KIB;

/// Under memory pressure, connections that hold fewer bytes are still read, up to this many bytes per read.
const EXEMPT_BYTES: usize = 4 * KIB;

/// A connection reports its read bytes and its queued bytes in multiples of this.
const ACCOUNT_STEP: usize = 2 * KIB;

/// The memory of a connection of these handlers that holds no bytes: its state and its tasks.
const IDLE_CONN: usize = 6 * KIB;

/// The buffers for reading and writing that a thread keeps for all of its connections, in bytes.
const PER_THREAD: usize = 2 * CHUNK + 64 * KIB;

/// A client: the raw socket, and what the client does with it.
struct Peer {
    socket: UnixStream,
    /// The number of its handler.
    number: usize,
    /// The bytes that it writes next, how many of them are written, and how many it holds back at the end.
    outbox: Vec<u8>,
    written: usize,
    held_back: usize,
    /// Whether it reads everything that arrives.
    reads: bool,
    bytes_out: usize,
    bytes_in: usize,
    /// Whether it has sent a header and never sends the payload.
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

    /// Reads up to `limit` bytes, and returns about the first 64 KiB of them.
    fn read(&mut self, mut limit: usize) -> Vec<u8> {
        let (mut bytes, mut scratch) = (Vec::new(), vec![0; CHUNK]);
        while limit > 0 && !self.is_gone {
            match self.socket.read(&mut scratch[..limit.min(CHUNK)]) {
                Ok(0) => self.is_gone = true,
                Ok(count) => {
                    limit -= count;
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

struct Simulation {
    rng: Rng,
    runtime: Runtime,
    codec: PacketCodec,
    payload: Vec<u8>,
    max_len: usize,
    budget: usize,
    high_water: usize,
    handlers: Arc<Handlers>,
    server: ServerHandle,
    /// The first one sends only pings: small packets that its handler echoes.
    peers: Vec<Peer>,
    /// Whether all peers except the first one have stopped writing.
    is_quiet: bool,
    /// The bytes that were allocated since the start and not freed.
    held: i64,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

pub(crate) fn simulate(seed: u64) {
    // A seed moves megabytes, so one in a hundred is enough.
    if seed % 100 != 0 {
        return;
    }
    let mut simulation = Simulation::new(seed);
    simulation.run(3);
    simulation.held = 0;
    simulation.connect();
    assert_eq!(simulation.peers.len(), 1);
    // A broadcast queues each packet for every connection, so it needs few of them.
    let limit = if simulation.handlers.roles.contains(&Role::Broadcast) { 8 } else { 40 };
    let conns = simulation.rng.pick(&[0, 1, 3, 8, 20, 40]).min(limit);
    for _ in 0..conns {
        simulation.connect();
    }
    simulation.check("connect");
    for _ in 0..20 + simulation.rng.below(30) {
        let what = simulation.step();
        simulation.check(what);
    }
    simulation.check_pressure_ends();
    simulation.check_everyone_is_served();
    simulation.check_nothing_is_left();
}

impl Simulation {
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

    // ---- clients and runtime

    /// Connects a client. Returns false if the server refuses it or has had `MAX_CONNS` connections.
    fn connect(&mut self) -> bool {
        let before = self.server.stats();
        if self.handlers.started.load(Relaxed) == MAX_CONNS {
            return false;
        }
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let started = self.handlers.started.load(Relaxed);
        for _ in 0..100 {
            self.run_once();
            if self.server.stats().refused > before.refused {
                return false;
            }
            if self.handlers.started.load(Relaxed) > started {
                break;
            }
        }
        assert!(
            self.handlers.started.load(Relaxed) > started,
            "progress: the server neither accepts nor refuses a client"
        );
        let reads = started == 0 || self.rng.once_in(2);
        self.peers.push(Peer {
            socket,
            number: started,
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

    /// Lets the runtime poll its sockets and run the ready tasks once.
    fn run_once(&mut self) {
        let runtime = &self.runtime;
        self.held += allocation_counter::measure(|| runtime.block_on(yield_now())).bytes_current;
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let writing = if self.is_quiet { 1 } else { self.peers.len() };
            self.peers.iter_mut().take(writing).for_each(Peer::write);
            self.run_once();
            for peer in self.peers.iter_mut().skip(1).filter(|peer| peer.reads) {
                peer.read(usize::MAX);
            }
        }
    }

    fn advance(&mut self, time: Duration) {
        let runtime = &self.runtime;
        let advance_time = || runtime.block_on(tokio::time::advance(time));
        self.held += allocation_counter::measure(advance_time).bytes_current;
        self.run(2);
    }

    fn frame(&self, len: usize) -> BytesMut {
        let mut frame = BytesMut::new();
        self.codec.encode_payload(&self.payload[..len], &mut frame).unwrap();
        frame
    }

    // ---- events

    fn step(&mut self) -> &'static str {
        let at = self.rng.below(self.peers.len());
        let what = match self.rng.below(18) {
            0..=3 => {
                for _ in 0..1 + self.rng.below(4) {
                    self.send_frames(at);
                }
                "frames of one client"
            }
            4 | 5 => {
                for at in 0..self.peers.len() {
                    self.send_frames(at);
                }
                "frames of all clients"
            }
            6 => {
                let count = self.rng.pick(&[1, 600, 20_000]);
                let empty = self.frame(0).repeat(count);
                self.send(at, &empty, 0);
                "empty packets"
            }
            7 => {
                let len = self.random_len();
                let frame = self.frame(len);
                self.send(at, &frame[..4], 0);
                if at > 0 {
                    self.peers[at].is_stuck = true;
                }
                "a header without its payload"
            }
            8 | 9 => {
                // A small packet, and fillers up to the end of a chunk: a handler that keeps the small one keeps the
                // chunk.
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
                let limit = self.rng.pick(&[1, 1000, 100_000]);
                if at > 0 {
                    self.peers[at].read(limit);
                }
                "a client reads"
            }
            11 => {
                self.peers[at].reads ^= at > 0;
                "a client starts or stops reading"
            }
            12 => {
                self.leave(at);
                "a client leaves"
            }
            13 => {
                self.connect();
                "a client connects"
            }
            14 | 15 => {
                let time = Duration::from_millis(self.rng.pick(&[1, 6, 100, 1000, 3000]));
                self.advance(time);
                "time passes"
            }
            16 => {
                self.handlers.step.notify_waiters();
                "a step of the handlers"
            }
            _ => {
                self.ping();
                "ping"
            }
        };
        let rounds = self.rng.pick(&[0, 1, 3, 10]);
        self.run(rounds);
        what
    }

    /// A packet length up to the limit. The values lie on both sides of the sizes at which the library may switch
    /// buffers.
    fn random_len(&mut self) -> usize {
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
        let len = self.random_len();
        let frame = self.frame(len);
        let count = (self.rng.pick(&[1, 1000, 150_000]) / frame.len()).max(1);
        let held_back = self.rng.pick(&[0, 0, 1, frame.len() / 4, frame.len() / 2, frame.len() - 1]);
        self.send(at, &frame.repeat(count), held_back);
    }

    /// Lets a client write `bytes`, except the last `held_back` bytes, which follow with its next write. Does nothing
    /// for the first client, which sends only [pings](Self::ping).
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

    /// Checks that the server echoes a packet to the first client without time passing. That connection holds almost no
    /// bytes, so memory pressure by the others must not stop it.
    fn ping(&mut self) {
        let len = self.rng.pick(&[0, 1, 60, 1000]);
        let frame = self.frame(len);
        let peer = &mut self.peers[0];
        peer.outbox.extend_from_slice(&frame);
        let mut back = Vec::new();
        for _ in 0..500 {
            self.run(1);
            back.extend(self.peers[0].read(usize::MAX));
            if self.peers[0].is_gone || back.len() >= frame.len() {
                break;
            }
            // A flush delay may hold the echo back.
            if self.flush_delay_may_hold_back() {
                self.advance(Duration::from_millis(6));
            }
        }
        assert!(
            self.peers[0].is_gone || back == frame[..],
            "progress: the first client received {} B of its {} B back; {:?}, budget {} B",
            back.len(),
            frame.len(),
            self.server.stats(),
            self.budget
        );
    }

    fn flush_delay_may_hold_back(&mut self) -> bool {
        self.rng.once_in(20)
    }

    // ---- checks

    fn check(&mut self, after: &str) {
        let stats = self.server.stats();
        let handlers = &self.handlers;
        let (holding, last_bytes) = (handlers.holding.load(Relaxed), handlers.last_bytes.load(Relaxed));
        let (held, reported) = (usize::try_from(self.held).unwrap_or(0), stats.held_bytes);
        let overhead = stats.open * IDLE_CONN + PER_THREAD;
        // Received packets belong to the handler and are not reported, but they may keep their chunk alive.
        let kept = holding * CHUNK;
        if std::env::var_os("PKTCONN_SEED").is_some() {
            println!(
                "after {after}: {held} B held, {reported} B reported, {} open, {holding} handlers hold packets, \
                 {last_bytes} B of last packets, budget {} B",
                stats.open, self.budget
            );
        }
        assert!(
            held <= reported + overhead + kept,
            "memory: after {after}: {held} B held, only {reported} B reported, {} open, {holding} handlers hold \
             packets",
            stats.open
        );
        // The report includes all queued bytes, in steps.
        let senders = self.handlers.senders.lock().unwrap();
        let open = senders.iter().flatten().filter(|sender| sender.close_reason().is_none());
        let queued: usize = open.map(|sender| sender.queued_bytes().next_multiple_of(ACCOUNT_STEP)).sum();
        drop(senders);
        assert!(queued <= reported, "memory: after {after}: {queued} B queued, only {reported} B reported");
        // The report may exceed the held bytes by a factor: a part of a chunk counts as a whole chunk if it is at least
        // a quarter of it. A packet that is queued for several connections counts for each of them, and a received
        // packet also counts for its receiver until the next receive call.
        if self.counts_packets_once() {
            let limit =
                4 * (held + PER_THREAD) + 2 * last_bytes + holding * CHUNK + stats.open * 4 * ACCOUNT_STEP;
            assert!(
                reported <= limit,
                "memory: after {after}: {reported} B reported, only {held} B held, {last_bytes} B of last packets, \
                 {} open",
                stats.open
            );
        }
        let limit = self.max_held();
        assert!(
            held <= limit,
            "memory: after {after}: {held} B held, the limit is {limit} B, {} open",
            stats.open
        );
    }

    fn all_send_only_to_their_peer(&self) -> bool {
        self.handlers.roles.iter().all(|role| role.sends_only_to_its_peer())
    }

    fn counts_packets_once(&self) -> bool {
        !self.handlers.roles.contains(&Role::Broadcast)
    }

    /// The number of bytes that the server may hold.
    fn max_held(&self) -> usize {
        let open = self.server.stats().open;
        // The read that exceeds the budget may double the buffer of a frame.
        let growth = self.max_len.min(self.budget);
        // After that, each connection may read `EXEMPT_BYTES`, and move the bytes that it has read into its queue.
        let mut each = IDLE_CONN + 2 * EXEMPT_BYTES + 2 * CHUNK;
        if !self.all_send_only_to_their_peer() {
            // The budget does not limit what handlers send to other connections: only the queues of those do.
            each += self.high_water.max(self.max_len) + self.max_len;
        }
        self.budget + growth + open * each + PER_THREAD
    }

    /// Lets time pass while the peers neither write nor start to read. Checks that the server closes connections until
    /// the others are within the budget.
    fn check_pressure_ends(&mut self) {
        self.is_quiet = true;
        let low_mark = self.budget - self.budget / 4;
        let mut is_low = false;
        for _ in 0..60 {
            let before = self.server.stats();
            self.advance(Duration::from_millis(1100));
            self.check("pressure");
            is_low = false;
            for _ in 0..6 {
                self.run(1);
                is_low |= self.server.stats().held_bytes <= low_mark;
            }
            if is_low && self.server.stats().closed_over_budget == before.closed_over_budget {
                break;
            }
        }
        let senders = self.handlers.senders.lock().unwrap();
        // Closed connections whose handlers still run and hold their packets.
        let is_stubborn = |sender: &PacketSender| sender.close_reason().is_some();
        let stubborn = senders.iter().flatten().filter(|sender| is_stubborn(sender)).count();
        drop(senders);
        // Handlers that send to other connections go on while the kernel has unread bytes of their peers.
        if stubborn == 0 && self.all_send_only_to_their_peer() {
            let stats = self.server.stats();
            assert!(
                is_low || stats.held_bytes <= self.budget,
                "the memory pressure does not end: {stats:?}, budget {} B",
                self.budget
            );
            if stats.held_bytes <= low_mark && self.handlers.started.load(Relaxed) < MAX_CONNS {
                let is_accepted = self.connect();
                let stats = self.server.stats();
                // Connecting lets the runtime run, which may bring the pressure back.
                let is_low = stats.held_bytes <= low_mark;
                assert!(is_accepted || !is_low, "a client is refused without memory pressure: {stats:?}");
            }
        }
        self.ping();
    }

    /// Lets all peers read and all handlers go on. Checks that the handlers receive everything that was sent.
    fn check_everyone_is_served(&mut self) {
        self.is_quiet = false;
        for peer in &mut self.peers {
            peer.reads = true;
        }
        let mut quiet = 0;
        let are_fast = self.handlers.roles.iter().all(|role| role.keeps_receiving());
        for _ in 0..if are_fast { 2000 } else { 100 } {
            let before = (self.server.traffic(), self.server.stats());
            self.handlers.step.notify_waiters();
            self.run(4);
            self.advance(Duration::from_millis(50));
            self.check("rest");
            quiet = if (self.server.traffic(), self.server.stats()) == before { quiet + 1 } else { 0 };
            // 25 rounds take longer than the server waits before it closes connections that are over the budget.
            if quiet == 25 {
                break;
            }
        }
        assert!(quiet == 25 || !are_fast, "progress: the server still moves packets after 2,000 rounds");
        if quiet < 25 {
            // Handlers that receive one packet per step are not finished.
            return;
        }
        let stats = self.server.stats();
        let keeps_receiving = |peer: &&Peer| self.handlers.roles[peer.number].keeps_receiving();
        if stats.held_bytes > self.budget - self.budget / 8 * 3
            && !self.peers.iter().all(|peer| keeps_receiving(&peer))
        {
            // Handlers that do not receive keep the pressure up.
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
                    "progress: {role:?} does not receive all bytes that were sent; {stats:?}, budget {} B",
                    self.budget
                );
                let left = peer.outbox.len() - peer.held_back - peer.written;
                assert!(
                    peer.is_shut_down || left == 0,
                    "progress: a client cannot write its last {left} B, {role:?} {stats:?}"
                );
            }
        }
        drop(senders);
        self.ping();
    }

    fn check_nothing_is_left(&mut self) {
        self.peers.clear();
        self.handlers.stop.close();
        for _ in 0..100 {
            self.run_once();
            self.advance(Duration::from_millis(500));
            if self.server.stats().open == 0 {
                break;
            }
        }
        for _ in 0..4 {
            self.run_once();
        }
        let stats = self.server.stats();
        assert_eq!((stats.open, stats.held_bytes), (0, 0), "all clients are gone: {stats:?}");
        let errors = self.handlers.over_budget_errors.load(Relaxed);
        assert_eq!(stats.closed_over_budget, errors as u64, "each closed connection must return the error");
        let left = self.held;
        assert!(
            left.unsigned_abs() as usize <= PER_THREAD,
            "memory: {left} B are left after the last connection"
        );
    }
}

/// The roles of all handlers, of one to 13 kinds. The first handler echoes, for the client that sends pings.
fn roles(rng: &mut Rng) -> Vec<Role> {
    const ALL: [Role; 13] = [
        Role::Echo,
        Role::EchoBatches,
        Role::Consume,
        Role::ForwardOrDrop,
        Role::Forward,
        Role::Broadcast,
        Role::Slow,
        Role::SlowHolding,
        Role::PollsOnce,
        Role::Sleeps,
        Role::ReceivesOne,
        Role::Nothing,
        Role::DropsReceiver,
    ];
    let kinds: Vec<_> = (0..rng.pick(&[1, 1, 2, 13])).map(|_| rng.pick(&ALL)).collect();
    let others = (1..MAX_CONNS).map(|_| rng.pick(&kinds));
    std::iter::once(Role::Echo).chain(others).collect()
}
