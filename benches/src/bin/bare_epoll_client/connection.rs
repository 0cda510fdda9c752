//! A connection: packets that wait for a reply, and bytes that wait until the socket is writable.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    net::TcpStream as StdTcpStream,
    time::{Duration, Instant},
};

use anyhow::Result;
use mio::{Interest, Registry, Token, net::TcpStream};
use pktconn_benches::wire::{ReplyReader, SendQueue, write_some};

/// Long enough for three retries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A packet whose reply has not arrived.
pub(crate) struct Outstanding {
    pub(crate) payload_len: u32,
    /// Start of its latency: when it was written, or in an open loop, when it was due.
    pub(crate) since: Instant,
}

pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    token: Token,
    pub(crate) outstanding: VecDeque<Outstanding>,
    pub(crate) replies: ReplyReader,
    send_queue: SendQueue,
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
        let (outstanding, replies, send_queue) =
            (VecDeque::new(), ReplyReader::with_trailer(trailer_len), SendQueue::default());
        Ok(Self { stream, token, outstanding, replies, send_queue, watches_writable: false })
    }

    /// Writes `frames`, or appends them to the send queue if the socket is full.
    pub(crate) fn write(&mut self, frames: &[u8]) -> Result<()> {
        let sent_len = match self.send_queue.is_empty() {
            true => write_some(&mut self.stream, &[], frames)?,
            false => 0,
        };
        self.send_queue.push(&frames[sent_len..]);
        Ok(())
    }

    /// Writes the send queue, as far as the socket accepts it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.send_queue.flush(&mut self.stream)?;
        Ok(())
    }

    /// Registers for writability while the send queue is not empty.
    pub(crate) fn watch(&mut self, registry: &Registry) -> Result<()> {
        let watch_writable = !self.send_queue.is_empty();
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
