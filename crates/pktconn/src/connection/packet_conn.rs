//! A connection as its user holds it: both sides in one.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;
use pktconn_codec::Packet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use crate::TlsInfo;
use crate::connection::config::{Origin, Settings};
use crate::connection::connect::connect;
use crate::connection::shared::{Membership, Shared};
use crate::transport::Reader;
use crate::transport::addr::Addr;
use crate::transport::byte_stream::{ByteStream, split_any};
use crate::transport::endpoints::Endpoints;
use crate::transport::plain_stream::PlainStream;
use crate::{ConnConfig, ConnStats, Error, PacketReceiver, PacketSender, SlowConsumer};

/// A connection of packets over TCP, or over anything that is `AsyncRead + AsyncWrite`.
///
/// One type whatever the transport is. Also a [`Stream`] of received packets and a [`Sink`] of those to be sent.
/// [`split`](Self::split) it to send from other tasks.
///
/// # Dropping
///
/// [`close`](Self::close) loses nothing. Dropping a connection without it ends the connection:
///
/// - After [`recv`](Self::recv) has returned `None`, as if it had been closed, in the background.
/// - While packets of the peer are undelivered (they have arrived, and were not received), by a reset: the peer must not take
///   the end for a clean one. What was sent has up to 1 s to be written and acknowledged before that. With TLS there is no
///   `close_notify`. A Unix socket shows the peer a reset only where the kernel still holds what it has sent.
/// - Otherwise at once: what the transport takes without waiting is still written, and the rest of the send queue is lost.
///
/// The same holds when the handler of a server returns, fails or panics. A reset that comes when FIN is out already, because
/// the peer sent something later, looks like a clean close to a peer that has read FIN.
#[derive(Debug)]
pub struct PacketConn {
    sender: PacketSender,
    receiver: PacketReceiver,
}

impl PacketConn {
    /// Connects to an [address](Addr), over TCP or by a Unix socket, with the default configuration.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, or none of its addresses can be reached.
    /// [`is_timeout`](Error::is_timeout): it took longer than 10 s.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(addr: impl Into<Addr>) -> Result<Self, Error> {
        Self::connect_with(addr, ConnConfig::new()).await
    }

    /// Connects to an [address](Addr), over TCP or by a Unix socket, with a configuration of the caller's.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, or none of its addresses can be reached.
    /// [`is_timeout`](Error::is_timeout): it took longer than [`connect_timeout`](ConnConfig::connect_timeout), or with TLS
    /// then longer than its `handshake_timeout`. [`is_tls`](Error::is_tls): the handshake of TLS failed.
    /// [`is_config`](Error::is_config): the configuration contradicts itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect_with(addr: impl Into<Addr>, config: ConnConfig) -> Result<Self, Error> {
        config.check()?;
        let stream = connect(&addr.into(), &config).await?;
        Self::from_stream(stream, None, &config, &Settings::new(&config, Origin::Connected), None)
    }

    /// Makes a connection of a TCP stream that was connected or accepted elsewhere, and sets its
    /// [options](ConnConfig::tcp), of which `TCP_NODELAY` is on by default.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the socket is no longer connected. [`is_config`](Error::is_config): the configuration
    /// contradicts itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[expect(clippy::needless_pass_by_value, reason = "as everywhere: most callers have no other use for it")]
    pub fn from_tcp(stream: TcpStream, config: ConnConfig) -> Result<Self, Error> {
        config.check_without_connect()?;
        Self::from_stream(
            PlainStream::Tcp(stream).into(),
            None,
            &config,
            &Settings::new(&config, Origin::Unknown),
            None,
        )
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.sender.shared()
    }

    pub(crate) fn from_stream(
        stream: ByteStream,
        peer_addr: Option<SocketAddr>,
        config: &ConnConfig,
        settings: &Arc<Settings>,
        membership: Option<Box<dyn Membership>>,
    ) -> Result<Self, Error> {
        if config.slow_consumer == SlowConsumer::Block {
            stream.set_options(&config.tcp)?;
        } else {
            stream.set_options(&config.tcp.clone().with_few_unsent())?;
        }
        let ends = Endpoints::of(&stream, peer_addr);
        let (reader, writer) = stream.split();
        let shared = Shared::new(config, settings, writer, ends, membership);
        Ok(Self::from_shared(&shared, reader))
    }

    /// Makes a connection over any byte stream: a pipe in memory, a stream of TLS that was made elsewhere.
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
        let (reader, writer) = split_any(io);
        if let Some(stream) = writer.tcp().filter(|_| config.slow_consumer != SlowConsumer::Block) {
            // If that fails, the socket has failed: the next read or write returns the error.
            let _ = config.tcp.clone().with_few_unsent().set_notsent_lowat(stream);
        }
        let settings = Settings::new(&config, Origin::Unknown);
        let shared = Shared::new(&config, &settings, writer, Endpoints::Unknown, None);
        Ok(Self::from_shared(&shared, reader))
    }

    fn from_shared(shared: &Arc<Shared>, reader: Reader) -> Self {
        Self { sender: PacketSender::new(shared), receiver: PacketReceiver::new(shared, reader) }
    }

    /// Receives the next packet, or `None` once the peer has closed its side between two frames.
    ///
    /// See [`PacketReceiver::recv`].
    ///
    /// # Errors
    ///
    /// The connection has ended, and every later call says the same: [`is_truncated`](Error::is_truncated),
    /// [`is_protocol`](Error::is_protocol), [`is_timeout`](Error::is_timeout),
    /// [`is_slow_consumer`](Error::is_slow_consumer) or [`is_io`](Error::is_io); after `close`,
    /// [`is_local_close`](Error::is_local_close).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call goes on where it stopped.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        let waiting = self.receiver.waiting();
        poll_fn(|cx| waiting.0.poll_recv(cx)).await
    }

    /// Accepts a packet to be sent, and waits for room in the send queue first where there is none.
    ///
    /// See [`PacketSender::send`].
    ///
    /// # Errors
    ///
    /// [`is_payload_too_large`](Error::is_payload_too_large): the connection goes on. Any other: the connection has
    /// ended, and says why. The packet comes back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted whole when the future completes, and not at all when it is dropped before.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.send(packet).await
    }

    /// Receives the packets that have arrived, at most `limit`, and appends them to `packets`; waits for the first. Returns
    /// how many, or 0 once the peer has closed its side between two frames.
    ///
    /// See [`PacketReceiver::recv_many`].
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv). What came before an error is received first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: `packets` is as it was, and the next call goes on where it stopped.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        let waiting = self.receiver.waiting();
        poll_fn(|cx| waiting.0.poll_recv_many(cx, packets, limit)).await
    }

    /// Accepts all of `packets` to be sent, in their order, and takes them out of there; waits for room in the send queue where
    /// there is none.
    ///
    /// See [`PacketSender::send_many`].
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send). The packets that were not accepted, the one that failed first, are still in
    /// `packets`, and not in the error.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the packets that were not accepted are still in `packets`.
    pub async fn send_many(&self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        self.sender.send_many(packets).await
    }

    /// Accepts a packet to be sent if the send queue has room for it.
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) when there is no room now; otherwise as [`send`](Self::send). The packet comes back in
    /// [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.try_send(packet)
    }

    /// How many bytes of accepted packets the transport has not taken yet. See [`PacketSender::queued_bytes`].
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.sender.queued_bytes()
    }

    /// Waits until the send queue is below [`send_high_water`](ConnConfig::send_high_water). See [`PacketSender::writable`].
    ///
    /// # Errors
    ///
    /// The connection has ended, or ends before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn writable(&self) -> Result<(), Error> {
        self.sender.writable().await
    }

    /// Waits until everything that was accepted before this call is written to the transport.
    ///
    /// Not needed for packets to leave. See [`PacketSender::flush`].
    ///
    /// # Errors
    ///
    /// The connection ended before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was accepted is written all the same.
    pub async fn flush(&self) -> Result<(), Error> {
        self.sender.flush().await
    }

    /// Closes the connection and loses nothing: writes out what was accepted, sends FIN, and reads on until the peer
    /// closes its side too. What arrives meanwhile is discarded.
    ///
    /// The deadline is [`close_timeout`](ConnConfig::close_timeout) after the first call. See [`PacketSender::close`].
    ///
    /// # Errors
    ///
    /// [`is_timeout`](Error::is_timeout) when the deadline passed before all was written, [`is_io`](Error::is_io) when
    /// the transport failed, and the error of a connection that had already failed. The packets that were not wholly
    /// written come back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped, as long as the connection is there; a further call waits for its
    /// end.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.sender.shared().close();
        self.receiver.stop();
        self.sender.close().await
    }

    /// Splits the connection into a sender, which can be cloned, and a receiver, for different tasks.
    ///
    /// To [`close`](PacketSender::close) it then, go on receiving or drop the receiver. With one that is kept and not polled,
    /// a close does not see the peer's own, and takes until [`close_grace`](ConnConfig::close_grace) or
    /// [`close_timeout`](ConnConfig::close_timeout).
    #[must_use]
    pub fn split(self) -> (PacketSender, PacketReceiver) {
        (self.sender, self.receiver)
    }

    /// Waits until the connection ends or begins to, and tells why. See [`PacketSender::closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> Error {
        self.sender.closed().await
    }

    /// Why the connection ended or begins to: the first reason of all, or `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.sender.close_reason()
    }

    /// What went through the connection so far.
    #[must_use]
    pub fn stats(&self) -> ConnStats {
        self.sender.stats()
    }

    /// The address of this side, of a TCP connection made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.sender.local_addr()
    }

    /// The address of the peer, of a TCP connection made by `connect`, `from_tcp` or a server.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.sender.peer_addr()
    }

    /// What the handshake has shown, of a connection with TLS that was made by `connect` or a server.
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

/// For code that wants a `Sink`: see [that of `PacketSender`](PacketSender#impl-Sink<Packet>-for-PacketSender).
impl Sink<Packet> for PacketConn {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_ready(Pin::new(&mut self.sender), cx)
    }

    fn start_send(mut self: Pin<&mut Self>, packet: Packet) -> Result<(), Error> {
        Sink::start_send(Pin::new(&mut self.sender), packet)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_flush(Pin::new(&mut self.sender), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sender.shared().close();
        self.receiver.stop();
        Sink::poll_close(Pin::new(&mut self.sender), cx)
    }
}
