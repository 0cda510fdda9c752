//! A connection of the load: what waits on it for a reply, or for room in the socket.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    net::TcpStream as StdTcpStream,
    time::{Duration, Instant},
};

use anyhow::Result;
use mio::{Interest, Registry, Token, net::TcpStream};
use pktconn_benches::{ReplyReader, Unsent, write_some};

/// Covers three tries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A packet whose reply has not arrived.
pub(crate) struct Outstanding {
    pub(crate) payload_len: u32,
    /// What its latency counts from: when it was written, or when it was due.
    pub(crate) since: Instant,
}

pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    token: Token,
    pub(crate) outstanding: VecDeque<Outstanding>,
    pub(crate) replies: ReplyReader,
    unsent: Unsent,
    watches_writable: bool,
}

impl Conn {
    pub(crate) fn open(
        address: SocketAddr,
        registry: &Registry,
        index: usize,
        trailer_len: usize,
    ) -> Result<Self> {
        let stream = StdTcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (mut stream, token) = (TcpStream::from_std(stream), Token(index));
        registry.register(&mut stream, token, Interest::READABLE)?;
        let (outstanding, replies, unsent) =
            (VecDeque::new(), ReplyReader::with_trailer(trailer_len), Unsent::default());
        Ok(Self { stream, token, outstanding, replies, unsent, watches_writable: false })
    }

    /// Writes `frames`, or has them wait behind what waits already.
    pub(crate) fn write(&mut self, frames: &[u8]) -> Result<()> {
        let sent_len = match self.unsent.is_empty() {
            true => write_some(&mut self.stream, &[], frames)?,
            false => 0,
        };
        self.unsent.push(&frames[sent_len..]);
        Ok(())
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.unsent.flush(&mut self.stream)?;
        Ok(())
    }

    /// Has epoll report that the socket is writable while bytes wait for that, and only then.
    pub(crate) fn watch(&mut self, registry: &Registry) -> Result<()> {
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
