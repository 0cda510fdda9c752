//! The event loop: accepts connections and serves those that are ready.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    event::Event,
    net::{TcpListener, TcpStream},
};
use pktconn_benches::wire::READ_BUFFER_LEN;
use slab::Slab;
use socket2::{Domain, Socket, Type};

use crate::connection::Conn;

/// Connections use their index in the slab, counted from 0.
const LISTENER: Token = Token(usize::MAX);

/// Events per call of `epoll_wait`: a large load needs few calls. 12 KiB of memory.
const EVENTS_CAPACITY: usize = 1024;

/// The largest backlog that Linux allows by default (`net.core.somaxconn`). `mio` itself listens with 128: when 1000
/// connections arrive at once on a busy machine, the kernel drops some, and they retry a second later.
const BACKLOG: i32 = 4096;

pub(crate) struct Server {
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    buffer: Vec<u8>,
}

impl Server {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = listen(address)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { poll, listener, conns: Slab::new(), buffer: vec![0; READ_BUFFER_LEN] })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until epoll fails.
    pub(crate) fn run(mut self) -> io::Result<()> {
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
                Ok((stream, _)) => self.add(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The peer closed the connection before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return eprintln!("bare_epoll_server: cannot accept: {error}"),
            }
        }
    }

    fn add(&mut self, stream: TcpStream) {
        let entry = self.conns.vacant_entry();
        // Fails if the peer is already gone; then the socket is dropped.
        if let Ok(conn) = Conn::register(stream, self.poll.registry(), Token(entry.key())) {
            entry.insert(conn);
        }
    }

    fn serve(&mut self, index: usize, event: &Event) {
        let conn = &mut self.conns[index];
        let is_open = conn
            .serve(&mut self.buffer, event.is_read_closed())
            .and_then(|next| conn.watch(next, self.poll.registry(), event.token()));
        if !is_open.unwrap_or(false) {
            // Closing the socket removes it from epoll. The index can be reused at once: epoll reports a socket once
            // per call, so no event of the old connection can follow.
            self.conns.remove(index);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
