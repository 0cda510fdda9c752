//! From packets to the send queue.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use futures_sink::Sink;
use pktconn_codec::Packet;

#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::connection::shared::Shared;
use crate::error::Reason;
use crate::{ConnStats, Error};

/// No flush is under way.
const NO_TARGET: u64 = u64::MAX;

/// The sending side of a connection that was [split](crate::PacketConn::split).
///
/// Clone it and hand it to any task; packets go out in the order in which `send` accepted them. Also a [`Sink`] of
/// packets.
///
/// Dropping it is no close, as long as other handles are there: see [`close`](Self::close).
pub struct PacketSender {
    shared: Arc<Shared>,
    /// Under which it waits as a `Sink`.
    key: u64,
    /// What its flush as a `Sink` waits for, in bytes of all that were ever accepted; [`NO_TARGET`] between flushes, and
    /// when it has sent more. Other senders go on, and to wait for theirs too might take for ever.
    flush_target: AtomicU64,
}

impl PacketSender {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.add_handle();
        Self { shared: Arc::clone(shared), key: shared.next_key(), flush_target: AtomicU64::new(NO_TARGET) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Accepts a packet to be sent, and waits for room in the send queue first where there is none (or does what else
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer) says).
    ///
    /// What is accepted leaves without another call, at the end of the current turn of the scheduler at the latest (under
    /// [`flush_delay`](crate::ConnConfig::flush_delay), when that has passed). Waiting senders are served in their order.
    ///
    /// # Errors
    ///
    /// [`is_payload_too_large`](Error::is_payload_too_large): the connection goes on. Any other: the connection has
    /// ended, and says why; after a clean close of the peer alone, sending goes on working. The packet comes back in
    /// [`into_unsent`](Error::into_unsent).
    ///
    /// A peer that takes nothing is waited for until [`write_timeout`](crate::ConnConfig::write_timeout). One that takes
    /// little may have the caller wait for longer: put a `tokio::time::timeout` around it where that matters. Poll or drop
    /// a future that waits: it stands in the line, before all that come later.
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted whole when the future completes, and not at all when it is dropped before.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        self.flush_target.store(NO_TARGET, Relaxed);
        if self.shared.judges_late() {
            Box::pin(self.let_look(std::slice::from_ref(&packet))).await;
        }
        match self.shared.offer_or_drop(&packet) {
            Ok(()) => Ok(()),
            // Boxed: so the future of a send that need not wait, which is most of them, stays small.
            Err(Reason::Full) => Box::pin(self.send_in_turn(packet)).await,
            Err(reason) => Err(Error::new(reason, vec![packet])),
        }
    }

    /// Gives tokio a turn to look at the transport, where `packets` have no room as far as is known.
    async fn let_look(&self, packets: &[Packet]) {
        if !self.shared.have_room(packets) {
            tokio::task::yield_now().await;
        }
    }

    async fn send_in_turn(&self, packet: Packet) -> Result<(), Error> {
        let accepted = self.shared.accept_in_turn(&packet).await;
        accepted.map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Accepts all of `packets` to be sent, in their order, and takes them out of there; waits for room in the send queue where
    /// there is none.
    ///
    /// For loops that work in batches: it takes less than a [`send`](Self::send) for each packet, and `packets` keeps its
    /// memory for the next batch. Where a single packet waits for others to join it, a batch is written at its end (but not
    /// under [`flush_delay`](crate::ConnConfig::flush_delay)). Other senders' packets may come in between.
    ///
    /// # Errors
    ///
    /// Those of `send`. The packets that were not accepted, the one that failed first, are still in `packets`, and not in
    /// the error.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the packets that were not accepted are still in `packets`.
    pub async fn send_many(&self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        self.flush_target.store(NO_TARGET, Relaxed);
        if self.shared.judges_late() {
            Box::pin(self.let_look(packets)).await;
        }
        let mut batch = Batch { packets, accepted: 0 };
        while batch.accepted < batch.packets.len() {
            match self.shared.offer_many(&batch.packets[batch.accepted..], &mut batch.accepted) {
                Ok(()) => continue,
                Err(Reason::Full) => {}
                Err(reason) => return Err(reason.into()),
            }
            if self.shared.drops_newest() {
                self.shared.drop_newest()?;
            } else {
                Box::pin(self.shared.accept_in_turn(&batch.packets[batch.accepted])).await?;
            }
            batch.accepted += 1;
        }
        Ok(())
    }

    /// Accepts a packet to be sent if the send queue has room for it.
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) when there is no room now, or when others wait for it; otherwise as [`send`](Self::send). The packet comes back in
    /// [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        self.flush_target.store(NO_TARGET, Relaxed);
        self.shared.offer(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// How many bytes of accepted packets the transport has not taken yet: frames, with their headers and checksums.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes()
    }

    /// Waits until the send queue is below [`send_high_water`](crate::ConnConfig::send_high_water).
    ///
    /// A `send` that follows may have to wait all the same: others may be faster, or the packet larger than what is left.
    ///
    /// # Errors
    ///
    /// The connection has ended, or ends before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn writable(&self) -> Result<(), Error> {
        let wait = self.shared.wait();
        poll_fn(|cx| self.shared.poll_room(wait.key, cx)).await.map_err(Error::from)
    }

    /// Waits until everything that was accepted before this call is written to the transport.
    ///
    /// Not needed for packets to leave: see [`send`](Self::send). It cuts a `flush_delay` short, and tells when a packet
    /// is in the kernel's hands, which is not yet the peer's.
    ///
    /// # Errors
    ///
    /// The connection ended before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was accepted is written all the same.
    pub async fn flush(&self) -> Result<(), Error> {
        let target = self.shared.bytes_accepted();
        let wait = self.shared.wait();
        poll_fn(|cx| self.shared.poll_flushed(target, wait.key, cx)).await.map_err(Error::from)
    }

    /// Closes the connection, for all of its handles: writes out what was accepted, sends FIN, and waits for the peer to
    /// close its side too.
    ///
    /// Until then the connection reads on and discards what arrives: to close a socket with bytes unread would reset it,
    /// and so destroy what was sent and the peer has not read. Senders that wait get an error, and so does the receiver
    /// when it is next polled; one that is neither polled nor dropped keeps its bytes unread, and `close` waits in vain
    /// until the deadline.
    ///
    /// The deadline is [`close_timeout`](crate::ConnConfig::close_timeout) after the first call. A peer that keeps its own side
    /// open is waited for until [`close_grace`](crate::ConnConfig::close_grace) after its kernel has acknowledged everything.
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) when the deadline passed before all was written, [`is_io`](Error::is_io) when
    /// the transport failed, and the error of a connection that had already failed. The packets that were not wholly
    /// written come back in [`into_unsent`](Error::into_unsent), but for those of a connection that its server has
    /// [cut](crate::ServerHandle::shutdown_within), which says [`is_local_close`](Error::is_local_close) here. A peer that got FIN and does not close its side by the
    /// deadline is no error.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped, as long as a handle is there; a further call waits for its end.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.close();
        let wait = self.shared.wait();
        poll_fn(|cx| self.shared.poll_ended(wait.key, cx)).await
    }

    /// Waits until the connection ends or begins to, and tells why: the first reason of all.
    ///
    /// A clean close of the peer counts, although packets can still be sent then. It is noticed by receiving alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> Error {
        let wait = self.shared.wait();
        poll_fn(|cx| self.shared.poll_reason(wait.key, cx)).await.into()
    }

    /// Why the connection ended or begins to: the first reason of all, or `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.shared.reason().map(Error::from)
    }

    /// What went through the connection so far.
    #[must_use]
    pub fn stats(&self) -> ConnStats {
        self.shared.stats()
    }

    /// The address of this side, of a TCP connection made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.ends.local()
    }

    /// The address of the peer, of a TCP connection made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.ends.peer()
    }

    /// What the handshake has shown, of a connection with TLS that was made by `connect` or a server.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.shared.ends.tls()
    }
}

/// Packets that are being sent. Those that were accepted are taken out at the end, all at once: one by one would move the
/// rest each time.
struct Batch<'a> {
    packets: &'a mut Vec<Packet>,
    accepted: usize,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.packets.drain(..self.accepted);
    }
}

impl AsRef<PacketSender> for PacketSender {
    fn as_ref(&self) -> &PacketSender {
        self
    }
}

impl Clone for PacketSender {
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl Drop for PacketSender {
    fn drop(&mut self) {
        self.shared.forget(self.key);
        self.shared.drop_handle();
    }
}

impl std::fmt::Debug for PacketSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketSender").field("peer_addr", &self.shared.ends.peer()).finish_non_exhaustive()
    }
}

/// Ready while the send queue is below its high-water mark, which one packet for each handle may then pass; always, where the
/// [policy](crate::ConnConfig::slow_consumer) is not to wait.
///
/// For code that wants a `Sink`. `SinkExt::send` flushes after each packet, where [`send`](PacketSender::send) lets them
/// gather; and while `SinkExt` is in scope, it is what `send` means on a `&mut PacketSender`.
impl Sink<Packet> for PacketSender {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.poll_ready(self.key, cx).map_err(Error::from)
    }

    fn start_send(self: Pin<&mut Self>, packet: Packet) -> Result<(), Error> {
        self.flush_target.store(NO_TARGET, Relaxed);
        // `poll_ready` saw the send queue below its mark.
        self.shared.force(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let target = match self.flush_target.load(Relaxed) {
            NO_TARGET => self.shared.bytes_accepted(),
            target => target,
        };
        self.flush_target.store(target, Relaxed);
        let flushed = ready!(self.shared.poll_flushed(target, self.key, cx));
        self.flush_target.store(NO_TARGET, Relaxed);
        Poll::Ready(flushed.map_err(Error::from))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.close();
        ready!(self.shared.poll_ended(self.key, cx))?;
        Poll::Ready(Ok(()))
    }
}
