//! A connection: both directions in one value.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use pktconn_codec::Packet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[cfg(feature = "proxy-protocol")]
use crate::ProxyHeader;
#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::connection::config::{Origin, Settings};
use crate::connection::conn_core::{ConnCore, Membership};
use crate::connection::connect::connect;
use crate::transport::Reader;
use crate::transport::addr::Addr;
use crate::transport::byte_stream::{ByteStream, peer_credentials_of_any, split_any};
use crate::transport::endpoints::{Endpoints, KnownPeer};
use crate::transport::plain_stream::PlainStream;
use crate::{
    ConnConfig, ConnId, ConnStats, Error, PacketReceiver, PacketSender, PeerCredentials, SlowConsumer,
};

/// A connection of packets over TCP, TLS, a Unix socket or any other byte stream.
///
/// It is also a [`Stream`] of received packets. For code that needs a `Sink`, there is [`into_sink`](Self::into_sink).
///
/// To receive and send at the same time, in one `select!` or in several tasks, send by a [`sender`](Self::sender) or
/// [`split`](Self::split) the connection. See also the guide on [deadlocks](crate::guide::backpressure).
///
/// # Dropping
///
/// [`close`](Self::close) delivers what was sent. Dropping the last handle without `close` ends the connection:
///
/// - After [`recv`](Self::recv) has returned `None`: like `close`, in the background.
/// - While packets of the peer are undelivered (they arrived and were not received): by a reset, so that the peer does
///   not take the end for a clean close. Before the reset, what was sent has up to 1 s to be written and acknowledged.
///   With TLS there is no `close_notify`. Over a Unix socket the peer sees a reset only if the kernel still holds bytes
///   that it sent.
/// - Otherwise at once: what the transport accepts without waiting is written, and the rest of the send queue is lost.
///   If the peer could not see that, because no packet was cut, a reset follows as above.
///
/// The same holds if a handler of [`serve`](crate::PacketServer::serve) returns without `close`, and if any handler
/// fails or panics. If the peer has already read a FIN, a later reset looks to it like a clean close.
#[derive(Debug)]
pub struct PacketConn {
    sender: PacketSender,
    pub(super) receiver: PacketReceiver,
}

impl PacketConn {
    /// Connects to an [address](Addr) over TCP or a Unix socket, with the default configuration.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the name does not resolve, or none of its addresses can be reached.
    /// - [`is_timeout`](Error::is_timeout): it took longer than 10 s.
    /// - [`is_config`](Error::is_config): the address can never work, for example because it has no port.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(addr: impl Into<Addr>) -> Result<Self, Error> {
        Self::connect_with(addr, ConnConfig::new()).await
    }

    /// Connects to an [address](Addr) over TCP or a Unix socket.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the name does not resolve, or none of its addresses can be reached.
    /// - [`is_timeout`](Error::is_timeout): it took longer than [`connect_timeout`](ConnConfig::connect_timeout), or
    ///   the TLS handshake took longer than `handshake_timeout`.
    /// - [`is_tls`](Error::is_tls): the TLS handshake failed.
    /// - [`is_config`](Error::is_config): the configuration contradicts itself, or the address can never work.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect_with(addr: impl Into<Addr>, config: ConnConfig) -> Result<Self, Error> {
        config.check()?;
        let stream = connect(&addr.into(), &config).await?;
        Self::from_stream(
            stream,
            KnownPeer::default(),
            &config,
            &Settings::new(&config, Origin::Connected),
            None,
        )
    }

    /// Makes a connection of a TCP stream that you connected or accepted, and sets its [options](ConnConfig::tcp).
    /// `TCP_NODELAY` is on by default.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the socket is not connected any more.
    /// - [`is_config`](Error::is_config): the configuration contradicts itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[expect(clippy::needless_pass_by_value, reason = "as everywhere: most callers have no other use for it")]
    pub fn from_tcp(stream: TcpStream, config: ConnConfig) -> Result<Self, Error> {
        config.check_without_connect()?;
        Self::from_stream(
            PlainStream::Tcp(stream).into(),
            KnownPeer::default(),
            &config,
            &Settings::new(&config, Origin::Unknown),
            None,
        )
    }

    pub(crate) fn core(&self) -> &Arc<ConnCore> {
        self.sender.core()
    }

    pub(crate) fn from_stream(
        stream: ByteStream,
        known_peer: impl Into<KnownPeer>,
        config: &ConnConfig,
        settings: &Arc<Settings>,
        membership: Option<Box<dyn Membership>>,
    ) -> Result<Self, Error> {
        if config.slow_consumer == SlowConsumer::Block {
            stream.set_options(&config.tcp)?;
        } else {
            stream.set_options(&config.tcp.clone().with_few_unsent())?;
        }
        let endpoints = Endpoints::of(&stream, known_peer.into());
        let (reader, writer) = stream.split();
        let core = ConnCore::new(config, settings, writer, endpoints, membership);
        Ok(Self::from_core(&core, reader))
    }

    /// Makes a connection over any byte stream, such as an in-memory pipe or a TLS stream of your own. For a
    /// `TcpStream` use [`from_tcp`](Self::from_tcp), which sets its [options](ConnConfig::tcp) and knows its addresses.
    ///
    /// # Errors
    ///
    /// [`is_config`](Error::is_config): the configuration contradicts itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[expect(clippy::needless_pass_by_value, reason = "as everywhere: most callers have no other use for it")]
    pub fn new<T>(io: T, config: ConnConfig) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        config.check_without_connect()?;
        let endpoints = Endpoints::of_credentials(peer_credentials_of_any(&io));
        let (reader, writer) = split_any(io);
        if let Some(stream) = writer.tcp().filter(|_| config.slow_consumer != SlowConsumer::Block) {
            // If that fails, the socket has failed: the next read or write returns the error.
            let _ = config.tcp.clone().with_few_unsent().set_notsent_lowat(stream);
        }
        let settings = Settings::new(&config, Origin::Unknown);
        let core = ConnCore::new(&config, &settings, writer, endpoints, None);
        Ok(Self::from_core(&core, reader))
    }

    fn from_core(core: &Arc<ConnCore>, reader: Reader) -> Self {
        Self { sender: PacketSender::new(core), receiver: PacketReceiver::new(core, reader) }
    }

    /// Receives the next packet. Returns `None` after the peer has closed its side between two frames.
    ///
    /// See [`PacketReceiver::recv`]. It borrows the connection mutably: to send while it waits, for example in another
    /// arm of a `select!`, use a [`sender`](Self::sender) or [`split`](Self::split):
    ///
    /// ```
    /// # use pktconn::{Error, Packet, PacketConn};
    /// # async fn example(mut conn: PacketConn, mut updates: tokio::sync::mpsc::Receiver<Packet>) -> Result<(), Error> {
    /// let sender = conn.sender();
    /// let mut next = None;
    /// loop {
    ///     tokio::select! {
    ///         received = conn.recv() => match received? {
    ///             Some(packet) => println!("{packet:?}"),
    ///             None => break,
    ///         },
    ///         Some(update) = updates.recv(), if next.is_none() => next = Some(update),
    ///         permit = sender.reserve(), if next.is_some() => {
    ///             if let Some(update) = next.take() {
    ///                 permit?.send(update)?;
    ///             }
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The connection has ended; every later call returns the same: [`is_truncated`](Error::is_truncated),
    /// [`is_protocol`](Error::is_protocol), [`is_timeout`](Error::is_timeout),
    /// [`is_slow_consumer`](Error::is_slow_consumer), [`is_over_budget`](Error::is_over_budget) or
    /// [`is_io`](Error::is_io); after `close`, [`is_local_close`](Error::is_local_close).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call continues where it stopped.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        let guard = self.receiver.recv_guard();
        poll_fn(|cx| guard.0.poll_recv(cx)).await
    }

    /// Queues a packet. Waits while the send queue has no room for it ([`send_high_water`](ConnConfig::send_high_water),
    /// by default 1 MiB; an empty queue accepts a packet of any size), or does what
    /// [`slow_consumer`](ConnConfig::slow_consumer) says.
    ///
    /// `Ok` means that the packet is queued, not that it was sent. With [`DropNewest`](SlowConsumer::DropNewest) it can
    /// also mean that the packet was dropped. See [`PacketSender::send`].
    ///
    /// Do not await it in the loop that calls `recv` if the peer may do the same: both sides can then wait for each
    /// other. See the guide on [deadlocks](crate::guide::backpressure).
    ///
    /// # Errors
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit. The connection is not
    ///   affected.
    /// - Any other: the connection has ended or is closing, and this is the reason. After a clean close by the peer,
    ///   sending still works if [`half_close`](ConnConfig::half_close) is on.
    ///
    /// The packet comes back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted when the future completes. If the future is dropped before that, nothing was accepted,
    /// and the packet is dropped with it: clone it, or use [`PacketSender::reserve`].
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.send(packet).await
    }

    /// Receives the packets that have arrived, up to `limit`, and appends them to `packets`. Waits for the first.
    /// Returns their number, or 0 after the peer has closed its side between two frames.
    ///
    /// See [`PacketReceiver::recv_many`].
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv), after the packets that came before the error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: `packets` is unchanged, and the next call continues where it stopped.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        let guard = self.receiver.recv_guard();
        poll_fn(|cx| guard.0.poll_recv_many(cx, packets, limit)).await
    }

    /// Queues all `packets` in order and removes them from the vector. Waits while the send queue has no room.
    ///
    /// See [`PacketSender::send_many`].
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send). The packets that were not accepted stay in `packets`, the one that failed first;
    /// they are not in the error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the packets that were not accepted stay in `packets`.
    pub async fn send_many(&self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        self.sender.send_many(packets).await
    }

    /// Queues one packet whose payload is the concatenation of `parts`, without copying large parts. See
    /// [`PacketSender::send_parts`].
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), of the joined payload. It comes back as one packet in
    /// [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted when the future completes. If the future is dropped before that, nothing was accepted,
    /// and the packet is dropped with it: clone it, or use [`PacketSender::reserve`].
    pub async fn send_parts(&self, parts: &[Bytes]) -> Result<(), Error> {
        self.sender.send_parts(parts).await
    }

    /// Queues a packet if the send queue has room for it. Does not wait.
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) if there is no room, or if other senders wait for room; otherwise those of
    /// [`send`](Self::send). The packet comes back in [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.try_send(packet)
    }

    /// Queues a packet that replaces the queued packet with the same `key`. Does not wait. See
    /// [`PacketSender::try_send_latest`].
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) if there is no room for a new key; otherwise those of [`send`](Self::send). The
    /// packet comes back in [`into_unsent`](Error::into_unsent).
    pub fn try_send_latest(&self, key: u64, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.try_send_latest(key, packet)
    }

    /// The number of bytes that are accepted and not yet taken by the transport. See [`PacketSender::queued_bytes`].
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.sender.queued_bytes()
    }

    /// Waits until the send queue is below [`send_high_water`](ConnConfig::send_high_water). See
    /// [`PacketSender::writable`].
    ///
    /// # Errors
    ///
    /// The connection has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn writable(&self) -> Result<(), Error> {
        self.sender.writable().await
    }

    /// Waits until everything that was accepted before this call is written to the transport. Packets leave without it.
    /// See [`PacketSender::flush`].
    ///
    /// # Errors
    ///
    /// The connection ended before everything was written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: accepted packets are written anyway.
    pub async fn flush(&self) -> Result<(), Error> {
        self.sender.flush().await
    }

    /// Closes the connection and loses nothing: writes what was accepted, sends FIN, and waits until the peer closes
    /// its side. What arrives meanwhile is discarded.
    ///
    /// The deadline is [`close_timeout`](ConnConfig::close_timeout) after the first call. See [`PacketSender::close`].
    ///
    /// # Errors
    ///
    /// - [`is_timeout`](Error::is_timeout): the deadline passed before everything was written.
    /// - [`is_io`](Error::is_io): the transport failed.
    /// - Any other: the connection had failed before, for this reason.
    ///
    /// Packets that were not completely written come back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the close goes on while the connection exists. A second call waits for its end.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.sender.core().close();
        self.stop_receiving();
        self.sender.close().await
    }

    /// Discards from now on what arrives: this side was closed.
    pub(crate) fn stop_receiving(&mut self) {
        self.receiver.stop();
    }

    /// A sender beside the connection: to send from another task, or in a `select!` beside [`recv`](Self::recv).
    ///
    /// The connection ends when it and all its senders are dropped.
    #[must_use]
    pub fn sender(&self) -> PacketSender {
        self.sender.clone()
    }

    /// Splits the connection into a sender, which can be cloned, and a receiver, for different tasks.
    ///
    /// To [`close`](PacketSender::close) it then, keep receiving or drop the receiver. If the receiver is kept and not
    /// polled, a close does not see the peer's close and waits until [`close_grace`](ConnConfig::close_grace) or
    /// [`close_timeout`](ConnConfig::close_timeout).
    #[must_use]
    pub fn split(self) -> (PacketSender, PacketReceiver) {
        (self.sender, self.receiver)
    }

    /// Waits until the connection ends or begins to end. Returns the first reason. See [`PacketSender::closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> Error {
        self.sender.closed().await
    }

    /// Why the connection ended or began to end: the first reason. `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.sender.close_reason()
    }

    /// Counts of packets, bytes, reads and writes so far.
    #[must_use]
    pub fn stats(&self) -> ConnStats {
        self.sender.stats()
    }

    /// The connection's number: unique in the process, never used again, and the same for all handles of the connection.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.sender.id()
    }

    /// The address of this side, of a TCP connection that was made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.sender.local_addr()
    }

    /// The address of the peer, of a TCP connection that was made by `connect`, `from_tcp` or a server. See
    /// [`PacketSender::peer_addr`].
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.sender.peer_addr()
    }

    /// The user, group and process of the peer. Only over a Unix socket. See [`PacketSender::peer_credentials`].
    #[must_use]
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.sender.peer_credentials()
    }

    /// What the proxy said about the connection. Only on a listener with the PROXY protocol. See
    /// [`PacketSender::proxy_header`].
    #[cfg(feature = "proxy-protocol")]
    #[must_use]
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.sender.proxy_header()
    }

    /// The facts from the TLS handshake. `None` without TLS, and for a connection that was made of your own stream, even
    /// if that is a TLS stream.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.sender.tls()
    }
}

/// For a [`Group`](crate::Group).
impl AsRef<PacketSender> for PacketConn {
    fn as_ref(&self) -> &PacketSender {
        &self.sender
    }
}

impl Stream for PacketConn {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}
