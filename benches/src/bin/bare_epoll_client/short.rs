//! Short connections: each sends one packet, reads its echo and closes. Then another one takes its place.
//!
//! ```text
//! connect --> writable: the packet --> readable: its echo --> close --> connect ...
//! ```

use std::{
    io::{self, ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Registry, Token, net::TcpStream};
use pktconn_benches::{
    load::{FrameGenerator, LoadReport},
    wire::{READ_BUFFER_LEN, ReplyReader, SendQueue},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{load::histogram, options::Options};

/// How long to wait for the last connections.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A connection, from its connect to its close.
struct ShortConn {
    stream: TcpStream,
    /// Start of its latency: before the connect.
    since: Instant,
    /// The packet, until it is written.
    send_queue: SendQueue,
    payload_len: u32,
    replies: ReplyReader,
}

impl ShortConn {
    fn open(
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        generator: &mut FrameGenerator,
    ) -> Result<Self> {
        let since = Instant::now();
        let mut stream = connect(address, token.0)
            .context("cannot connect; if no port is free, wait a minute until the kernel frees those of closed connections")?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (mut frame, mut send_queue) = (Vec::new(), SendQueue::default());
        let payload_len = generator.encode_next(&mut frame);
        send_queue.push(&frame);
        let replies = ReplyReader::with_trailer(generator.trailer_len());
        Ok(Self { stream, since, send_queue, payload_len, replies })
    }

    /// Sends and reads what is possible now. Returns true once the reply is complete.
    fn serve(&mut self, buffer: &mut [u8], is_writable: bool) -> Result<bool> {
        if !self.send_queue.is_empty() {
            if !is_writable {
                return Ok(false);
            }
            if let Some(error) = self.stream.take_error()? {
                bail!(error);
            }
            // If the socket is full, an event follows.
            self.send_queue.flush(&mut self.stream)?;
        }
        loop {
            let read_len = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection before its reply was complete"),
                Ok(read_len) => read_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let mut bytes = &buffer[..read_len];
            let is_complete = self.replies.advance(&mut bytes, self.payload_len).map_err(|reply| {
                let (actual, expected) = (reply.actual_len, reply.expected_len);
                anyhow::anyhow!("a reply of {actual} bytes to a packet of {expected} bytes")
            })?;
            ensure!(bytes.is_empty(), "more than one reply to one packet");
            if is_complete {
                return Ok(true);
            }
        }
    }
}

/// Starts to connect. On loopback, each of the `--conns` places has a source address of its own (only Linux accepts all of
/// 127.0.0.0/8): the kernel keeps the port of a closed connection for a minute, and the search for a free one among those of a
/// single address would take the client's core.
fn connect(address: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let source = match address {
        SocketAddr::V4(address) if cfg!(target_os = "linux") && address.ip().is_loopback() => {
            source_addr(index)
        }
        _ => return TcpStream::connect(address),
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// An address in 127.1.0.0/16.
fn source_addr(index: usize) -> Ipv4Addr {
    let [high, low] = (index as u16).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// Keeps `--conns` connections open until `--duration` has passed, and reports one packet per connection.
pub(crate) fn short_conns(options: &Options, seed: u64) -> Result<LoadReport> {
    let mut poll = Poll::new()?;
    let mut generator = options.generator(seed);
    let mut latency_ns: Histogram<u64> = histogram();
    let mut buffer = vec![0; READ_BUFFER_LEN];
    let started = Instant::now();
    let (until, give_up_at) = (started + options.duration, started + options.duration + DRAIN_LIMIT);
    let mut conns = Vec::new();
    for index in 0..options.conns {
        conns.push(Some(ShortConn::open(options.connect, poll.registry(), Token(index), &mut generator)?));
    }
    let (mut open, mut last_reply_at) = (conns.len(), started);
    let mut events = Events::with_capacity(1024);
    while open > 0 {
        let left = give_up_at.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{open} connections without a reply {DRAIN_LIMIT:?} after the end");
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let Token(index) = event.token();
            let Some(conn) = &mut conns[index] else { continue };
            if !conn.serve(&mut buffer, event.is_writable()).with_context(|| format!("connection {index}"))? {
                continue;
            }
            last_reply_at = Instant::now();
            latency_ns.saturating_record((last_reply_at - conn.since).as_nanos() as u64);
            // Closes the socket.
            conns[index] = None;
            if last_reply_at < until {
                let conn = ShortConn::open(options.connect, poll.registry(), event.token(), &mut generator)?;
                conns[index] = Some(conn);
            } else {
                open -= 1;
            }
        }
    }
    Ok(LoadReport::new(&latency_ns, None, last_reply_at - started))
}
