//! The load of the echo comparison: one thread, one epoll loop, a closed loop on each connection.
//!
//! Each connection keeps `--pipeline` packets outstanding: the replies of one read are answered by as many new packets,
//! in one write. After `--duration` nothing more is sent, and the run ends with the last reply, so that the server
//! echoed exactly the packets that are counted.
//!
//! Replies are checked by length and order alone: comparing payloads would cost more than the echo itself.

#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream as StdTcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Registry, Token, net::TcpStream};
use pktconn_benches::{
    LoadReport, Pattern, READ_BUFFER_LEN, Regime, ReplyReader, SizeRange, Unsent, raise_open_file_limit,
    write_some,
};

/// Sends packets to an echo server of this wire format and measures it; prints one line of JSON.
#[derive(Parser)]
struct Options {
    /// Address of the server
    #[arg(long)]
    connect: SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 64)]
    conns: usize,
    /// Packets outstanding on each connection
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// How long to send
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included; a number alone is both ends
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Covers three tries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long after the last packet replies may still arrive.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What the histogram tells apart at most; longer ones count as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

fn main() -> ExitCode {
    let options = Options::parse();
    raise_open_file_limit();
    match run(&options).and_then(|report| Ok(serde_json::to_string(&report)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bare_epoll_client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<LoadReport> {
    let regime: Regime = format!("{}x{}", options.conns, options.pipeline).parse()?;
    let mut poll = Poll::new()?;
    let mut conns = (0..regime.conns)
        .map(|index| Conn::open(options.connect, poll.registry(), index))
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("cannot connect to {}", options.connect))?;
    // Counted from here: what connecting costs is not part of the figures.
    let mut load = Load::new(options);
    for conn in &mut conns {
        load.send(conn, regime.pipeline, load.started)?;
        conn.watch(poll.registry())?;
    }
    let mut events = Events::with_capacity(1024);
    while load.outstanding > 0 {
        let left = load.give_up_at().saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "{} packets unanswered {DRAIN_LIMIT:?} after the last one",
            load.outstanding
        );
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let conn = &mut conns[event.token().0];
            load.turn(conn, event.is_read_closed())
                .and_then(|()| conn.watch(poll.registry()))
                .with_context(|| format!("connection {}", event.token().0))?;
        }
    }
    Ok(load.report())
}

/// A packet whose reply has not arrived.
struct Outstanding {
    payload_len: u32,
    sent_at: Instant,
}

struct Conn {
    stream: TcpStream,
    token: Token,
    outstanding: VecDeque<Outstanding>,
    replies: ReplyReader,
    unsent: Unsent,
    watches_writable: bool,
}

impl Conn {
    fn open(address: SocketAddr, registry: &Registry, index: usize) -> Result<Self> {
        let stream = StdTcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (mut stream, token) = (TcpStream::from_std(stream), Token(index));
        registry.register(&mut stream, token, Interest::READABLE)?;
        let (outstanding, replies, unsent) = (VecDeque::new(), ReplyReader::default(), Unsent::default());
        Ok(Self { stream, token, outstanding, replies, unsent, watches_writable: false })
    }

    /// Has epoll report that the socket is writable while bytes wait for that, and only then.
    fn watch(&mut self, registry: &Registry) -> Result<()> {
        let watch_writable = !self.unsent.is_empty();
        if watch_writable != self.watches_writable {
            let interest = match watch_writable {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            registry.reregister(&mut self.stream, self.token, interest)?;
            self.watches_writable = watch_writable;
        }
        Ok(())
    }
}

/// What all connections share: the packets to send, the buffers, the measurement.
struct Load {
    pattern: Pattern,
    frames: Vec<u8>,
    buffer: Vec<u8>,
    started: Instant,
    send_until: Instant,
    last_reply_at: Instant,
    outstanding: usize,
    latency_ns: Histogram<u64>,
}

impl Load {
    fn new(options: &Options) -> Self {
        let pattern = Pattern::new(options.sizes, options.seed);
        // Three digits: 0.1 % is far below the spread of a run.
        let latency_ns = Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("bounds in order");
        let started = Instant::now();
        Self {
            pattern,
            frames: Vec::new(),
            buffer: vec![0; READ_BUFFER_LEN],
            started,
            send_until: started + options.duration,
            last_reply_at: started,
            outstanding: 0,
            latency_ns,
        }
    }

    fn give_up_at(&self) -> Instant {
        self.send_until + DRAIN_LIMIT
    }

    /// Sends what waits, takes all replies that are there, and sends as many new packets.
    fn turn(&mut self, conn: &mut Conn, read_closed: bool) -> Result<()> {
        conn.unsent.flush(&mut conn.stream)?;
        loop {
            let fresh_len = match conn.stream.read(&mut self.buffer) {
                Ok(0) => bail!("closed by the server with {} packets unanswered", conn.outstanding.len()),
                Ok(fresh_len) => fresh_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            // One reading of the clock serves the replies of this read and the packets that answer them: both share
            // one system call, so they have one moment.
            let now = Instant::now();
            let answered = self.take_replies(conn, fresh_len, now)?;
            if now < self.send_until {
                self.send(conn, answered, now)?;
            }
            // A short read emptied the socket, unless there is an end of the stream to find behind it.
            if fresh_len < self.buffer.len() && !read_closed {
                return Ok(());
            }
        }
    }

    /// Takes the replies in the first `fresh_len` bytes of the buffer, and tells how many became whole.
    fn take_replies(&mut self, conn: &mut Conn, fresh_len: usize, now: Instant) -> Result<usize> {
        let mut fresh = &self.buffer[..fresh_len];
        let mut answered = 0;
        while !fresh.is_empty() {
            let packet = conn.outstanding.front().context("a reply without a packet to answer")?;
            let whole = conn.replies.advance(&mut fresh, packet.payload_len).map_err(|reply| {
                let (actual, expected) = (reply.actual_len, reply.expected_len);
                anyhow::anyhow!("a reply of {actual} bytes to a packet of {expected} bytes")
            })?;
            if whole {
                self.latency_ns.saturating_record((now - packet.sent_at).as_nanos() as u64);
                conn.outstanding.pop_front();
                answered += 1;
            }
        }
        if answered > 0 {
            self.last_reply_at = now;
            self.outstanding -= answered;
        }
        Ok(answered)
    }

    fn send(&mut self, conn: &mut Conn, packets: usize, now: Instant) -> Result<()> {
        if packets == 0 {
            return Ok(());
        }
        self.frames.clear();
        for _ in 0..packets {
            let payload_len = self.pattern.encode_next(&mut self.frames);
            conn.outstanding.push_back(Outstanding { payload_len, sent_at: now });
        }
        self.outstanding += packets;
        let sent_len = match conn.unsent.is_empty() {
            true => write_some(&mut conn.stream, &[], &self.frames)?,
            false => 0,
        };
        conn.unsent.push(&self.frames[sent_len..]);
        Ok(())
    }

    fn report(&self) -> LoadReport {
        let packets = self.latency_ns.len();
        let seconds = (self.last_reply_at - self.started).as_secs_f64();
        LoadReport {
            packets,
            seconds,
            packets_per_s: packets as f64 / seconds,
            p50_ns: self.latency_ns.value_at_quantile(0.5),
            p99_ns: self.latency_ns.value_at_quantile(0.99),
            p999_ns: self.latency_ns.value_at_quantile(0.999),
        }
    }
}
