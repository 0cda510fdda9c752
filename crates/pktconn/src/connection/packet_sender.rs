//! From packets to the send queue.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use pktconn_codec::Packet;

#[cfg(feature = "proxy-protocol")]
use crate::ProxyHeader;
#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::connection::conn_core::ConnCore;
use crate::connection::machine::Encoded;
use crate::error::Reason;
use crate::{ConnId, ConnStats, Error, PeerCredentials};

/// The sending side of a connection: from [`PacketConn::sender`] or [`PacketConn::split`](crate::PacketConn::split).
///
/// Clone it and hand it to any task. Packets leave in the order in which `send` accepted them.
///
/// Dropping a sender does not close the connection while other handles exist: see [`close`](Self::close).
///
/// [`PacketConn::sender`]: crate::PacketConn::sender
pub struct PacketSender {
    core: Arc<ConnCore>,
}

impl PacketSender {
    pub(crate) fn new(core: &Arc<ConnCore>) -> Self {
        core.add_handle();
        Self { core: Arc::clone(core) }
    }

    pub(crate) fn core(&self) -> &Arc<ConnCore> {
        &self.core
    }

    /// Queues a packet. Waits while the send queue has no room for it, or does what
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer) says.
    ///
    /// An accepted packet leaves without another call, at the end of the current scheduler turn at the latest. With
    /// [`flush_delay`](crate::ConnConfig::flush_delay) it leaves after that delay. Waiting senders are served in order.
    ///
    /// The wait for room ends with [`write_timeout`](crate::ConnConfig::write_timeout) if the peer takes no bytes at
    /// all. A peer that takes few bytes can make it longer: wrap the call in `tokio::time::timeout` if that matters. Do
    /// not keep a waiting future without polling it: it holds its place in front of later senders.
    ///
    /// # Deadlock
    ///
    /// Do not await `send` in the loop that calls `recv`, if the peer may do the same: both sides can wait for room and
    /// neither reads, until the write timeout. Wait for room beside `recv` instead:
    ///
    /// ```
    /// use std::collections::VecDeque;
    /// # use pktconn::{Error, Packet, PacketConn};
    /// # fn answer(request: Packet) -> Vec<Packet> { vec![request] }
    ///
    /// async fn serve(mut conn: PacketConn) -> Result<(), Error> {
    ///     let sender = conn.sender();
    ///     let mut replies = VecDeque::new();
    ///     loop {
    ///         tokio::select! {
    ///             received = conn.recv() => match received? {
    ///                 Some(request) => replies.extend(answer(request)),
    ///                 None => break,
    ///             },
    ///             permit = sender.reserve(), if !replies.is_empty() => {
    ///                 if let Some(reply) = replies.pop_front() {
    ///                     permit?.send(reply)?;
    ///                 }
    ///             }
    ///         }
    ///     }
    ///     for reply in replies {
    ///         sender.send(reply).await?;
    ///     }
    ///     conn.close().await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit. The connection is not
    ///   affected.
    /// - Any other: the connection has ended or is closing, and this is the reason. After a clean close by the peer, sending still
    ///   works if [`half_close`](crate::ConnConfig::half_close) is on; if not, this is
    ///   [`is_remote_close`](Error::is_remote_close).
    ///
    /// With [`SlowConsumer::DropNewest`](crate::SlowConsumer::DropNewest), a packet that is dropped is not an error.
    ///
    /// The packet comes back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted when the future completes. If the future is dropped before that, nothing was accepted,
    /// and the packet is dropped with it: clone it, or use [`reserve`](Self::reserve).
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        if self.core.readiness_may_be_stale() {
            Box::pin(self.refresh_readiness(std::slice::from_ref(&packet))).await;
        }
        match self.core.offer_or_drop(&packet) {
            Ok(()) => Ok(()),
            // Boxed, so that the future stays small: most sends do not wait.
            Err(Reason::Full) => Box::pin(self.send_in_turn(packet)).await,
            Err(reason) => Err(Error::new(reason, vec![packet])),
        }
    }

    /// Lets tokio look at the transport if `packets` seem to have no room.
    async fn refresh_readiness(&self, packets: &[Packet]) {
        if !self.core.has_room_for(packets) {
            tokio::task::yield_now().await;
        }
    }

    async fn send_in_turn(&self, packet: Packet) -> Result<(), Error> {
        let accepted = self.core.accept_in_turn(&packet).await;
        accepted.map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Queues all `packets` in order and removes them from the vector. Waits while the send queue has no room.
    ///
    /// For loops that work in batches: it is cheaper than a [`send`](Self::send) per packet, and `packets` keeps its
    /// memory for the next batch. The batch is written when its last packet is queued (with
    /// [`flush_delay`](crate::ConnConfig::flush_delay), after that delay). Packets of other senders can come in
    /// between.
    ///
    /// # Errors
    ///
    /// Those of `send`. The packets that were not accepted stay in `packets`, the one that failed first; they are not
    /// in the error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the packets that were not accepted stay in `packets`.
    pub async fn send_many(&self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        if self.core.readiness_may_be_stale() {
            Box::pin(self.refresh_readiness(packets)).await;
        }
        let mut batch = Batch { packets, accepted: 0 };
        while batch.accepted < batch.packets.len() {
            match self.core.offer_many(&batch.packets[batch.accepted..], &mut batch.accepted) {
                Ok(()) => continue,
                Err(Reason::Full) => {}
                Err(reason) => return Err(reason.into()),
            }
            if self.core.drops_newest() {
                self.core.drop_newest()?;
            } else {
                Box::pin(self.core.accept_in_turn(&batch.packets[batch.accepted])).await?;
            }
            batch.accepted += 1;
        }
        Ok(())
    }

    /// Queues one packet whose payload is the concatenation of `parts`, without copying large parts: a gateway prepends
    /// an id to a payload that it forwards. Waits like [`send`](Self::send).
    ///
    /// A frame of less than 32 KiB is copied into the send queue, like any small packet. In a larger one, parts of 32
    /// KiB and more are written from their own memory.
    ///
    /// ```
    /// # async fn example(backend: pktconn::PacketSender, user: u64, packet: pktconn::Packet) -> Result<(), pktconn::Error> {
    /// let id = bytes::Bytes::copy_from_slice(&user.to_le_bytes());
    /// backend.send_parts(&[id, packet.into_payload()]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `send`, of the joined payload. It comes back as one packet in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted when the future completes. If the future is dropped before that, nothing was accepted.
    pub async fn send_parts(&self, parts: &[Bytes]) -> Result<(), Error> {
        // Boxed, so that the future stays small in the tasks that hold it.
        let accepted = Box::pin(self.core.accept_parts(parts)).await;
        accepted.map_err(|reason| Error::new(reason, vec![parts.concat().into()]))
    }

    /// Queues a packet if the send queue has room for it. Does not wait.
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) if there is no room, or if other senders wait for room; otherwise those of
    /// [`send`](Self::send). The packet comes back in [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        self.core.offer(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Queues a packet that replaces the queued packet with the same `key`, if the transport has not taken that one:
    /// for the state of something, of which the peer needs only the latest. Does not wait.
    ///
    /// To a peer that reads fast enough every packet is sent, in order. To a slow one, keyed packets wait behind
    /// everything that was accepted before them and are replaced until then; a packet that was sent later without a key
    /// can overtake them. They wait until they hold [`send_high_water`](crate::ConnConfig::send_high_water) bytes, also
    /// if the send queue is full. Replaced packets count in [`packets_dropped`](ConnStats::packets_dropped).
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) if there is no room for a new key; otherwise those of [`send`](Self::send). The
    /// packet comes back in [`into_unsent`](Error::into_unsent).
    pub fn try_send_latest(&self, key: u64, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        let rules = &self.core.settings.rules;
        let frame = rules.codec.frame(&packet).map(|frame| Encoded::new(&frame)).map_err(Reason::TooLarge);
        let offered = frame.and_then(|frame| self.core.offer_latest(key, frame, rules.slow_consumer));
        offered.map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Waits until the send queue accepts a packet, and returns a permit to send one.
    ///
    /// Use it as an arm of a `select!` beside `recv`: see the guide on [deadlocks](crate::guide::backpressure).
    ///
    /// A permit does not reserve bytes, and has no place in the line of waiting senders. Like a
    /// [`PacketSink`](crate::PacketSink), it waits until the queue is below
    /// [`send_high_water`](crate::ConnConfig::send_high_water), and its packet may exceed that. With a
    /// [policy](crate::ConnConfig::slow_consumer) that does not wait, this returns at once, and the policy applies to
    /// the packet.
    ///
    /// # Errors
    ///
    /// The connection has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn reserve(&self) -> Result<SendPermit<'_>, Error> {
        let waiter = self.core.waiter();
        poll_fn(|cx| self.core.poll_ready(waiter.key, cx)).await?;
        Ok(SendPermit { sender: self })
    }

    /// The number of bytes that are accepted and not yet taken by the transport: frames, with headers and checksums.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.core.queued_bytes()
    }

    /// Waits until the send queue is below [`send_high_water`](crate::ConnConfig::send_high_water).
    ///
    /// A `send` after it may still wait: another sender may be faster, or the packet may be larger than the room. To
    /// send a packet without waiting again, use [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// The connection has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn writable(&self) -> Result<(), Error> {
        let waiter = self.core.waiter();
        poll_fn(|cx| self.core.poll_room(waiter.key, cx)).await.map_err(Error::from)
    }

    /// Waits until everything that was accepted before this call is written to the transport.
    ///
    /// Packets leave without it. Call it to end a `flush_delay` early, or to know that packets are in the kernel's
    /// buffers; the peer need not have received them.
    ///
    /// # Errors
    ///
    /// The connection ended before everything was written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: accepted packets are written anyway.
    pub async fn flush(&self) -> Result<(), Error> {
        let target = self.core.bytes_accepted();
        let waiter = self.core.waiter();
        poll_fn(|cx| self.core.poll_flushed(target, waiter.key, cx)).await.map_err(Error::from)
    }

    /// Closes the connection for all its handles: writes what was accepted, sends FIN, and waits until the peer closes
    /// its side.
    ///
    /// Until then it reads and discards what arrives: closing a socket with unread bytes would reset the connection,
    /// and the peer could lose packets that it has not read yet. Waiting senders get an error, and the receiver gets
    /// one at its next call. A receiver that is kept and neither polled nor dropped leaves bytes unread; `close` then
    /// waits for its grace or its deadline.
    ///
    /// The deadline is [`close_timeout`](crate::ConnConfig::close_timeout) after the first call. If the peer keeps its
    /// side open, the wait ends [`close_grace`](crate::ConnConfig::close_grace) after the peer's kernel has
    /// acknowledged everything.
    ///
    /// # Errors
    ///
    /// - [`is_timeout`](Error::is_timeout): the deadline passed before everything was written.
    /// - [`is_io`](Error::is_io): the transport failed.
    /// - [`is_local_close`](Error::is_local_close): the server has [cut](crate::ServerHandle::shutdown_within) the
    ///   connection. Its packets are in the server's report.
    /// - Any other: the connection had failed before, for this reason.
    ///
    /// Packets that were not completely written come back in [`into_unsent`](Error::into_unsent). A peer that got FIN
    /// and does not close its side by the deadline is not an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the close goes on while a handle exists. A second call waits for its end.
    pub async fn close(&self) -> Result<(), Error> {
        self.core.close();
        let waiter = self.core.waiter();
        poll_fn(|cx| self.core.poll_close(waiter.key, cx)).await
    }

    /// Waits until the connection ends or begins to end. Returns the first reason.
    ///
    /// A clean close by the peer counts, although with [`half_close`](crate::ConnConfig::half_close) packets can still
    /// be sent after it. Only receiving notices it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> Error {
        let waiter = self.core.waiter();
        poll_fn(|cx| self.core.poll_reason(waiter.key, cx)).await.into()
    }

    /// Why the connection ended or began to end: the first reason. `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.core.reason().map(Error::from)
    }

    /// Counts of packets, bytes, reads and writes so far.
    #[must_use]
    pub fn stats(&self) -> ConnStats {
        self.core.stats()
    }

    /// The connection's number: unique in the process, never used again, and the same for all handles of the connection.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.core.id
    }

    /// The address of this side, of a TCP connection that was made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.core.endpoints.local()
    }

    /// The address of the peer, of a TCP connection that was made by `connect`, `from_tcp` or a server. An IPv4 address
    /// is never written as an IPv6 one (`::ffff:192.0.2.1`), also on a listener for both.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.endpoints.peer()
    }

    /// The user, group and process of the peer, of a connection over a Unix socket that was made by `connect`, a server,
    /// or [`PacketConn::new`](crate::PacketConn::new) of a `UnixStream` of tokio.
    ///
    /// The kernel vouches for them, unlike for anything that the peer sends. Use them to let only some users of this
    /// machine in, beside the permissions of the socket file. Behind a proxy they are those of the proxy.
    ///
    /// ```
    /// # async fn handle(conn: pktconn::PacketConn) -> pktconn::HandlerResult {
    /// const BACKUP_USER: u32 = 34;
    /// if conn.peer_credentials().is_none_or(|peer| ![0, BACKUP_USER].contains(&peer.uid())) {
    ///     return Err("only root and the user for backups may connect".into());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.core.endpoints.peer_credentials()
    }

    /// What the proxy said about the connection: the addresses, and what it knows of the client's TLS. `None` on a
    /// listener without [`proxy_protocol`](crate::ServerConfig::proxy_protocol), and on the side that connected.
    #[cfg(feature = "proxy-protocol")]
    #[must_use]
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.core.endpoints.proxy_header()
    }

    /// The facts from the TLS handshake. `None` without TLS, and for a connection that was made of your own stream, even
    /// if that is a TLS stream.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.core.endpoints.tls()
    }
}

/// A permit to send one packet without waiting: from [`PacketSender::reserve`].
#[derive(Debug)]
#[must_use = "a permit sends nothing by itself"]
pub struct SendPermit<'a> {
    sender: &'a PacketSender,
}

impl SendPermit<'_> {
    /// Queues a packet. Does not wait.
    ///
    /// # Errors
    ///
    /// Those of [`PacketSender::send`]: the payload is too large, or the connection has ended since the permit was
    /// given. The packet comes back in [`into_unsent`](Error::into_unsent).
    pub fn send(self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        self.sender.core.accept_without_room(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }
}

/// Packets that are being sent. Accepted ones are removed at the end, all at once: one by one would move the rest each
/// time.
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
        Self::new(&self.core)
    }
}

impl Drop for PacketSender {
    fn drop(&mut self) {
        self.core.drop_handle();
    }
}

impl std::fmt::Debug for PacketSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketSender").field("peer_addr", &self.core.endpoints.peer()).finish_non_exhaustive()
    }
}
