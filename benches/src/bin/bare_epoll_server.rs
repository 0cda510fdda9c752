//! The reference of the echo comparison: one thread, one epoll loop, as little work per packet as that allows.
//!
//! ```text
//! socket --read--> one 64 KiB buffer for all connections --write, whole frames only--> socket
//!                       |  a frame that is cut: kept until its end arrives        |
//!                       |  what the socket does not take: kept until it is writable
//! ```
//!
//! A connection that idles, or whose frames arrive and leave whole, holds no buffer. One whose peer does not read its
//! replies is not read either, so that what is kept for it stays below one frame and one read.
//!
//! It trades fairness for speed: a peer that always has 64 KiB ready is served until it pauses.

#![forbid(unsafe_code)]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use clap::Parser;
use mio::{
    Events, Interest, Poll, Registry, Token,
    event::Event,
    net::{TcpListener, TcpStream},
};
use pktconn_benches::{
    Completed, PartialFrame, READ_BUFFER_LEN, Unsent, raise_open_file_limit, scan_frames, write_some,
};
use slab::Slab;
use socket2::{Domain, Socket, Type};

/// Echoes packets (u32 little-endian length, payload, no checksum) from one thread.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Connections use their place in the slab, counted from 0.
const LISTENER: Token = Token(usize::MAX);

/// As many as `epoll_wait` may report at once: a large load takes few calls, and 12 KiB.
const EVENTS_CAPACITY: usize = 1024;

/// The most that Linux grants by default (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

fn main() -> Result<()> {
    let options = Options::parse();
    raise_open_file_limit();
    let server =
        Server::bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    let address = server.listener.local_addr()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")
        .and_then(|()| stdout.flush())
        .context("cannot print the address")?;
    server.run().context("the event loop failed")
}

/// `mio` itself listens with room for 128 connections that wait to be accepted: when 1000 arrive at once on a busy
/// machine, some are dropped and tried again a second later.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    buffer: Vec<u8>,
}

impl Server {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = listen(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { poll, listener, conns: Slab::new(), buffer: vec![0; READ_BUFFER_LEN] })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_all(),
                    Token(index) => self.serve(index, event),
                }
            }
        }
    }

    fn accept_all(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The peer gave up before its turn came.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return eprintln!("bare_epoll_server: cannot accept: {error}"),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        let entry = self.conns.vacant_entry();
        // A peer that is gone already fails here, and is dropped.
        if let Ok(conn) = Conn::register(stream, self.poll.registry(), Token(entry.key())) {
            entry.insert(conn);
        }
    }

    fn serve(&mut self, index: usize, event: &Event) {
        let conn = &mut self.conns[index];
        let kept = conn
            .turn(&mut self.buffer, event.is_read_closed())
            .and_then(|state| conn.watch(state, self.poll.registry(), event.token()));
        if !kept.unwrap_or(false) {
            // Closing the socket takes it off epoll. Its place may be given away at once: epoll reports a socket once a
            // round, so no event of the old connection can follow.
            self.conns.remove(index);
        }
    }
}

/// What a connection waits for next.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Reading,
    Writing,
    Done,
}

struct Conn {
    stream: TcpStream,
    partial: PartialFrame,
    unsent: Unsent,
    /// The peer announced a frame that is too large: nothing more is read, what is owed is sent.
    refused: bool,
    watches_writable: bool,
}

impl Conn {
    fn register(mut stream: TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE)?;
        let (partial, unsent) = (PartialFrame::default(), Unsent::default());
        Ok(Self { stream, partial, unsent, refused: false, watches_writable: false })
    }

    /// Sends what is owed, then echoes what can be read, for as long as the socket takes the replies.
    ///
    /// A short read means that the socket is empty, which saves the read that would tell so; but after it epoll reports
    /// only what is new, so an end of the stream that it reported already, `read_closed`, is read up to. What epoll
    /// reported while replies were owed is not lost: [`Conn::watch`] has it report all anew.
    fn turn(&mut self, buffer: &mut [u8], read_closed: bool) -> io::Result<State> {
        if !self.unsent.is_empty() && !self.unsent.flush(&mut self.stream)? {
            return Ok(State::Writing);
        }
        while !self.refused {
            let fresh_len = match self.stream.read(buffer) {
                Ok(0) => return Ok(State::Done),
                Ok(fresh_len) => fresh_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(State::Reading),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.echo(&buffer[..fresh_len])?;
            if !self.unsent.is_empty() {
                return Ok(State::Writing);
            }
            if fresh_len < buffer.len() && !read_closed && !self.refused {
                return Ok(State::Reading);
            }
        }
        Ok(State::Done)
    }

    /// Writes back all frames that are whole by now, in one system call, and keeps the front of the next one.
    fn echo(&mut self, fresh: &[u8]) -> io::Result<()> {
        let completed = self.partial.complete(fresh).map_err(|_| ErrorKind::InvalidData)?;
        let Some(Completed { frame: first, rest }) = completed else { return Ok(()) };
        let scan = scan_frames(rest);
        let (whole, rest) = rest.split_at(scan.whole_len);
        self.refused = scan.oversized;
        self.partial.start(rest);
        if first.is_empty() && whole.is_empty() {
            return Ok(());
        }
        let sent_len = write_some(&mut self.stream, &first, whole)?;
        if sent_len < first.len() + whole.len() {
            self.unsent.keep(first, whole, sent_len);
        }
        Ok(())
    }

    /// Has epoll report what `state` waits for, beginning with what is there already; false when the connection is
    /// done.
    fn watch(&mut self, state: State, registry: &Registry, token: Token) -> io::Result<bool> {
        let watch_writable = state == State::Writing;
        if state != State::Done && watch_writable != self.watches_writable {
            let interest = match watch_writable {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            registry.reregister(&mut self.stream, token, interest)?;
            self.watches_writable = watch_writable;
        }
        Ok(state != State::Done)
    }
}
