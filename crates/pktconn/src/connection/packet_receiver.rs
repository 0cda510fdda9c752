//! The public receiving side of a connection. [`FrameReader`] does the work.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_core::Stream;
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::connection::conn_core::ConnCore;
use crate::connection::frame_reader::FrameReader;
use crate::error::Reason;
use crate::transport::Reader;

/// The receiving side of a connection that was [split](crate::PacketConn::split).
///
/// It is also a [`Stream`] of packets. The stream ends after a clean close by the peer, at a shutdown of the server, and
/// after the first error.
///
/// After it is dropped, the senders still work, but nothing is read any more: a peer that keeps sending blocks, its
/// close is not noticed, and `idle_timeout` and `frame_timeout` no longer apply. When the senders are dropped, too, the
/// connection ends [as if it were dropped](crate::PacketConn#dropping).
///
/// Before a sender calls [`close`](crate::PacketSender::close), receive until the end or drop the receiver. A receiver
/// that is kept and not polled does not see the peer's close. The `close` then waits for
/// [`close_grace`](crate::ConnConfig::close_grace) after the peer's kernel has acknowledged everything, or, if
/// acknowledgements are not visible, for [`close_timeout`](crate::ConnConfig::close_timeout). It still returns `Ok` if
/// everything was written.
pub struct PacketReceiver {
    /// Boxed, because each future that a connection is passed through has room for it, so a task has room for it
    /// several times.
    frame_reader: Box<FrameReader>,
}

impl PacketReceiver {
    pub(crate) fn new(core: &Arc<ConnCore>, reader: Reader) -> Self {
        Self { frame_reader: Box::new(FrameReader::new(core, reader)) }
    }

    /// Another handle of the connection.
    #[cfg(feature = "session")]
    pub(crate) fn sender(&self) -> crate::PacketSender {
        crate::PacketSender::new(&self.frame_reader.core)
    }

    /// Why `recv` returned `None`.
    pub(crate) fn clean_end_reason(&self) -> Reason {
        self.frame_reader.core.clean_end_reason()
    }

    /// Receives the next packet. Returns `None` after the peer has closed its side between two frames.
    ///
    /// Before it waits, it writes the send queue, so a loop of `recv` and `send` answers immediately and in batches.
    /// With [`flush_delay`](crate::ConnConfig::flush_delay), it does not.
    ///
    /// It waits up to [`frame_timeout`](crate::ConnConfig::frame_timeout) for the rest of a frame. It waits up to
    /// [`idle_timeout`](crate::ConnConfig::idle_timeout) for a silent peer; by default there is no limit.
    ///
    /// After the connection's server has begun to shut down, it returns the packets that have arrived and then `None`.
    /// See [`drain_on_shutdown`](crate::ServerConfig::drain_on_shutdown). The same happens at the
    /// [`max_connection_age`](crate::ConnConfig::max_connection_age).
    ///
    /// If a write fails, it first returns the packets that have already arrived, and then the error.
    ///
    /// # Errors
    ///
    /// The connection has ended; every later call returns the same: [`is_truncated`](Error::is_truncated),
    /// [`is_protocol`](Error::is_protocol), [`is_timeout`](Error::is_timeout),
    /// [`is_slow_consumer`](Error::is_slow_consumer), [`is_over_budget`](Error::is_over_budget) or
    /// [`is_io`](Error::is_io); after another handle has closed this side, [`is_local_close`](Error::is_local_close).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call continues where it stopped. In a `biased` `select!`, put the
    /// branch that can end the loop first: a peer that sends without pause can make this future ready every time.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        let guard = self.recv_guard();
        poll_fn(|cx| guard.0.poll_recv(cx)).await
    }

    /// Like [`recv`](Self::recv), for hand-written futures.
    ///
    /// # Errors
    ///
    /// Those of `recv`.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Error>> {
        self.frame_reader.poll_recv(cx)
    }

    /// Receives the packets that have arrived, up to `limit`, and appends them to `packets`. Waits for the first.
    /// Returns their number, or 0 after the peer has closed its side between two frames. A `limit` of 0 returns 0.
    ///
    /// For loops that work in batches: it is cheaper than a [`recv`](Self::recv) per packet.
    ///
    /// # Errors
    ///
    /// Those of `recv`, after the packets that came before the error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: `packets` is unchanged, and the next call continues where it stopped.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        let guard = self.recv_guard();
        poll_fn(|cx| guard.0.poll_recv_many(cx, packets, limit)).await
    }

    /// Like [`recv_many`](Self::recv_many), for hand-written futures. Each poll may pass another vector.
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
        self.frame_reader.poll_recv_many(cx, packets, limit)
    }

    /// See [`FrameReader::resume`].
    pub(crate) fn resume(&mut self, codec: PacketCodec, unread: BytesMut) {
        self.frame_reader.resume(codec, unread);
    }

    /// See [`FrameReader::detach`].
    pub(crate) fn detach(&mut self) -> (Option<Reader>, PacketCodec, BytesMut) {
        self.frame_reader.detach()
    }

    /// Returns the guard for one call of `recv` or `recv_many`.
    #[inline]
    pub(crate) fn recv_guard(&mut self) -> RecvGuard<'_> {
        RecvGuard(&mut self.frame_reader)
    }

    /// Receives nothing more, because this side was closed. Bytes that arrive from now on are discarded.
    pub(crate) fn stop(&mut self) {
        self.frame_reader.stop();
    }
}

/// A receiver during a call of `recv`. Dropping it stops the deadline of the wait.
pub(crate) struct RecvGuard<'a>(pub(crate) &'a mut FrameReader);

impl Drop for RecvGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.stop_waiting();
    }
}

impl Stream for PacketReceiver {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Return an error only once: otherwise the stream would never end.
        if self.frame_reader.has_ended() {
            return Poll::Ready(None);
        }
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for PacketReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketReceiver")
            .field("peer_addr", &self.frame_reader.core.endpoints.peer())
            .finish_non_exhaustive()
    }
}
