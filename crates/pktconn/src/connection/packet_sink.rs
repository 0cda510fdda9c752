//! A connection or its sender as a `Sink`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_sink::Sink;
use pktconn_codec::Packet;

use crate::connection::conn_core::ConnCore;
use crate::{Error, PacketConn, PacketSender};

/// No flush is in progress.
const NO_TARGET: u64 = u64::MAX;

/// A [`Sink`] of packets, made by [`PacketConn::into_sink`] or [`PacketSender::into_sink`]. One that was made of a
/// connection is also a [`Stream`] of received packets.
///
/// For code that needs a `Sink`, such as `stream.forward(sink)`. Elsewhere prefer [`PacketConn::send`]: `SinkExt::send`
/// flushes after each packet, whereas `PacketConn::send` lets packets gather into one write.
///
/// - It is ready while the send queue is below [`send_high_water`](crate::ConnConfig::send_high_water). Each sink may
///   exceed that by one packet. With a [policy](crate::ConnConfig::slow_consumer) that does not wait it is always
///   ready.
/// - `flush` waits for the packets that were accepted before it, not for those that other senders add meanwhile.
/// - `close` closes the connection for all its handles, as [`PacketSender::close`] does. `forward` calls it at the end
///   of its stream.
#[derive(Debug)]
pub struct PacketSink<T: SinkSource = PacketSender> {
    inner: T,
    wakers: WakerKey,
    /// The position in the accepted bytes that the flush in progress waits for. [`NO_TARGET`] between flushes, and
    /// after something else was sent. It is fixed when the flush begins: to wait for the packets of other senders too
    /// could take forever.
    flush_target: AtomicU64,
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
    core: Arc<ConnCore>,
    key: u64,
}

impl Drop for WakerKey {
    fn drop(&mut self) {
        self.core.remove_waiter(self.key);
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
    /// The connection itself is not a `Sink`: with `SinkExt` in scope, `conn.send(..)` would mean `SinkExt::send`,
    /// which flushes after each packet.
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
        let core = Arc::clone(inner.as_ref().core());
        let key = core.next_waiter_key();
        Self { inner, wakers: WakerKey { core, key }, flush_target: AtomicU64::new(NO_TARGET) }
    }

    /// The connection or the sender.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        // The caller may send by it: a flush covers that, too.
        self.flush_target.store(NO_TARGET, Relaxed);
        &self.inner
    }

    /// The connection or the sender.
    pub fn get_mut(&mut self) -> &mut T {
        *self.flush_target.get_mut() = NO_TARGET;
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
        let WakerKey { core, key } = &self.wakers;
        core.poll_ready(*key, cx).map_err(Error::from)
    }

    fn start_send(mut self: Pin<&mut Self>, packet: Packet) -> Result<(), Error> {
        *self.flush_target.get_mut() = NO_TARGET;
        // `poll_ready` has found room.
        self.wakers.core.accept_without_room(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { wakers: WakerKey { core, key }, flush_target, .. } = &mut *self;
        let flush_target = flush_target.get_mut();
        if *flush_target == NO_TARGET {
            *flush_target = core.bytes_accepted();
        }
        let target = *flush_target;
        let flushed = ready!(core.poll_flushed(target, *key, cx));
        *flush_target = NO_TARGET;
        Poll::Ready(flushed.map_err(Error::from))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { wakers: WakerKey { core, key }, inner, .. } = &mut *self;
        core.close();
        inner.stop_receiving();
        core.poll_close(*key, cx)
    }
}

impl Stream for PacketSink<PacketConn> {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.inner).poll_next(cx)
    }
}
