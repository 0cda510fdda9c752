//! A connection: packets that wait for a reply, and bytes that wait until the socket is writable.

use std::{collections::VecDeque, io::Write, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::Result;
use mio::{Interest, Registry, Token};
use pktconn_benches::wire::{ReplyReader, SendQueue, write_some};
use tokio_rustls::rustls::ClientConfig;

use crate::transport::Transport;

/// A packet whose reply has not arrived.
pub(crate) struct Outstanding {
    pub(crate) payload_len: u32,
    /// Start of its latency: when it was written, or in an open loop, when it was due.
    pub(crate) since: Instant,
}

pub(crate) struct Conn {
    pub(crate) stream: Transport,
    token: Token,
    pub(crate) outstanding: VecDeque<Outstanding>,
    pub(crate) replies: ReplyReader,
    send_queue: SendQueue,
    watches_writable: bool,
}

impl Conn {
    pub(crate) fn open(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        registry: &Registry,
        index: usize,
        trailer_len: usize,
    ) -> Result<Self> {
        let (mut stream, token) = (Transport::connect(address, tls)?, Token(index));
        stream.register(registry, token)?;
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
        self.stream.flush()?;
        self.send_queue.flush(&mut self.stream)?;
        Ok(())
    }

    /// Registers for writability while the send queue is not empty.
    pub(crate) fn watch(&mut self, registry: &Registry) -> Result<()> {
        let watch_writable = !self.send_queue.is_empty() || self.stream.wants_write();
        if watch_writable != self.watches_writable {
            let interest = match watch_writable {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            self.stream.reregister(registry, self.token, interest)?;
            self.watches_writable = watch_writable;
        }
        Ok(())
    }
}
