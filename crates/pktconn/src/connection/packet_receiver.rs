//! The receiving side as its user holds it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_core::Stream;
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::connection::frame_reader::FrameReader;
use crate::connection::shared::Shared;
use crate::transport::Reader;

/// The receiving side of a connection that was [split](crate::PacketConn::split).
///
/// Also a [`Stream`] of packets. It ends after a clean close of the peer, and after the first error.
///
/// Dropping it leaves the senders as they are, but nothing is read any more, so that the peer's own sending comes to a
/// stop and its close is not noticed. When the senders are gone too, the connection [ends](crate::PacketConn#dropping).
///
/// While it is neither polled nor dropped, a [`close`](crate::PacketSender::close) by a sender does not see the peer's close, and
/// waits until its grace or its deadline.
pub struct PacketReceiver {
    /// Boxed, because a task that owns a connection has room for it several times: in each of the futures that it was
    /// passed through.
    reading: Box<FrameReader>,
}

impl PacketReceiver {
    pub(crate) fn new(shared: &Arc<Shared>, reader: Reader) -> Self {
        Self { reading: Box::new(FrameReader::new(shared, reader)) }
    }

    /// Receives the next packet, or `None` once the peer has closed its side between two frames.
    ///
    /// Before it waits it has what was sent written, so that a loop of `recv` and `send` answers at once and in batches
    /// (but not under [`flush_delay`](crate::ConnConfig::flush_delay)). For the rest of a frame it waits until
    /// [`frame_timeout`](crate::ConnConfig::frame_timeout), and for a peer that sends nothing until
    /// [`idle_timeout`](crate::ConnConfig::idle_timeout), which is for ever by default. Once the connection's server stops, it
    /// returns what has arrived and then `None` (see
    /// [`drain_on_shutdown`](crate::ServerConfig::drain_on_shutdown)).
    ///
    /// What arrived before a write failed is received first, and then the error is returned.
    ///
    /// # Errors
    ///
    /// The connection has ended, and every later call says the same: [`is_truncated`](Error::is_truncated),
    /// [`is_protocol`](Error::is_protocol), [`is_timeout`](Error::is_timeout),
    /// [`is_slow_consumer`](Error::is_slow_consumer), [`is_io`](Error::is_io), or
    /// [`is_local_close`](Error::is_local_close) when this side was closed by another handle.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call goes on where it stopped. In a `select!` that is `biased`, put
    /// what must be able to stop the loop first: a peer that never pauses can make this future ready each time.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        let waiting = self.waiting();
        poll_fn(|cx| waiting.0.poll_recv(cx)).await
    }

    /// [`recv`](Self::recv) for those who write futures by hand.
    ///
    /// # Errors
    ///
    /// Those of `recv`.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Error>> {
        self.reading.poll_recv(cx)
    }

    /// Receives the packets that have arrived, at most `limit`, and appends them to `packets`; waits for the first. Returns
    /// how many, or 0 once the peer has closed its side between two frames. Also 0 for a `limit` of 0.
    ///
    /// For loops that work in batches: it takes less than a [`recv`](Self::recv) for each packet.
    ///
    /// # Errors
    ///
    /// Those of `recv`. What came before an error is received first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: `packets` is as it was, and the next call goes on where it stopped.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        let waiting = self.waiting();
        poll_fn(|cx| waiting.0.poll_recv_many(cx, packets, limit)).await
    }

    /// [`recv_many`](Self::recv_many) for those who write futures by hand: `packets` may be another vector at each poll.
    ///
    /// # Errors
    ///
    /// Those of `recv`.
    #[inline]
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        limit: usize,
    ) -> Poll<Result<usize, Error>> {
        self.reading.poll_recv_many(cx, packets, limit)
    }

    /// See [`FrameReader::resume`].
    pub(crate) fn resume(&mut self, codec: PacketCodec, unread: BytesMut) {
        self.reading.resume(codec, unread);
    }

    /// See [`FrameReader::detach`].
    pub(crate) fn detach(&mut self) -> (Option<Reader>, PacketCodec, BytesMut) {
        self.reading.detach()
    }

    /// For the time of a call.
    #[inline]
    pub(crate) fn waiting(&mut self) -> Waiting<'_> {
        Waiting(&mut self.reading)
    }

    /// Receives nothing more, because this side was closed. What arrives from now on is discarded.
    pub(crate) fn stop(&mut self) {
        self.reading.stop();
    }
}

/// A receiver that waits. When it is dropped nobody waits any more, and no deadline passes.
pub(crate) struct Waiting<'a>(pub(crate) &'a mut FrameReader);

impl Drop for Waiting<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.pause();
    }
}

impl Stream for PacketReceiver {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // An error is told once: a stream that repeated it would never end.
        if self.reading.has_ended() {
            return Poll::Ready(None);
        }
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for PacketReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketReceiver")
            .field("peer_addr", &self.reading.shared.ends.peer())
            .finish_non_exhaustive()
    }
}
