//! A connection or its sender as a `Sink`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_sink::Sink;
use pktconn_codec::Packet;

use crate::connection::shared::Shared;
use crate::{Error, PacketConn, PacketSender};

/// A [`Sink`] of packets, made by [`PacketConn::into_sink`] or [`PacketSender::into_sink`]. One that was made of a connection is also
/// a [`Stream`] of received packets.
///
/// For code that needs a `Sink`, such as `stream.forward(sink)`. Elsewhere prefer [`PacketConn::send`]: `SinkExt::send` flushes
/// after each packet, whereas `PacketConn::send` lets packets gather into one write.
///
/// - It is ready while the send queue is below [`send_high_water`](crate::ConnConfig::send_high_water). Each sink may exceed
///   that by one packet. With a [policy](crate::ConnConfig::slow_consumer) that does not wait it is always ready.
/// - `flush` waits for the packets that were accepted before it, not for those that other senders add meanwhile.
/// - `close` closes the connection, as [`PacketSender::close`] does.
#[derive(Debug)]
pub struct PacketSink<T: SinkSource = PacketSender> {
    inner: T,
    wakers: WakerKey,
    /// The position in the accepted bytes that the flush in progress waits for. `None` between flushes. It is fixed when the flush
    /// begins: to wait for the packets of other senders too could take forever.
    flush_target: Option<u64>,
}

/// A [`PacketConn`] or a [`PacketSender`]: what a [`PacketSink`] can be made of.
#[expect(private_bounds, reason = "no other type can implement it")]
pub trait SinkSource: AsRef<PacketSender> + StopReceiving {}

trait StopReceiving {
    fn stop_receiving(&mut self) {}
}

impl SinkSource for PacketSender {}
impl StopReceiving for PacketSender {}

impl SinkSource for PacketConn {}
impl StopReceiving for PacketConn {
    fn stop_receiving(&mut self) {
        PacketConn::stop_receiving(self);
    }
}

/// The key of a sink's wakers in the connection. Removes them when the sink is gone.
struct WakerKey {
    shared: Arc<Shared>,
    key: u64,
}

impl Drop for WakerKey {
    fn drop(&mut self) {
        self.shared.forget(self.key);
    }
}

impl std::fmt::Debug for WakerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

impl PacketConn {
    /// Makes a `Sink` and `Stream` of the connection, for code that needs these.
    ///
    /// The connection itself is not a `Sink`: with `SinkExt` in scope, `conn.send(..)` would mean `SinkExt::send`, which flushes after
    /// each packet.
    #[must_use]
    pub fn into_sink(self) -> PacketSink<Self> {
        PacketSink::new(self)
    }
}

impl PacketSender {
    /// Makes a [`Sink`](futures_sink::Sink) of this sender, for code that needs one.
    #[must_use]
    pub fn into_sink(self) -> PacketSink {
        PacketSink::new(self)
    }
}

impl<T: SinkSource> PacketSink<T> {
    fn new(inner: T) -> Self {
        let shared = Arc::clone(inner.as_ref().shared());
        let key = shared.next_key();
        Self { inner, wakers: WakerKey { shared, key }, flush_target: None }
    }

    /// The connection or the sender.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// The connection or the sender.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The connection or the sender again. Nothing that the sink has accepted is lost: it is in the send queue.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: SinkSource + Unpin> Sink<Packet> for PacketSink<T> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let WakerKey { shared, key } = &self.wakers;
        shared.poll_ready(*key, cx).map_err(Error::from)
    }

    fn start_send(mut self: Pin<&mut Self>, packet: Packet) -> Result<(), Error> {
        self.flush_target = None;
        // `poll_ready` has found room.
        self.wakers.shared.force(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { wakers: WakerKey { shared, key }, flush_target, .. } = &mut *self;
        let target = *flush_target.get_or_insert_with(|| shared.bytes_accepted());
        let flushed = ready!(shared.poll_flushed(target, *key, cx));
        *flush_target = None;
        Poll::Ready(flushed.map_err(Error::from))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { wakers: WakerKey { shared, key }, inner, .. } = &mut *self;
        shared.close();
        inner.stop_receiving();
        shared.poll_ended(*key, cx)
    }
}

impl Stream for PacketSink<PacketConn> {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.inner).poll_next(cx)
    }
}
