//! The public client that reconnects by itself, and its sender handle.
//!
//! This layer uses connections through their public handles. It must not know servers or groups.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use pktconn_codec::Packet;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connection::connect::keep_server_name;
use crate::{Addr, ConnConfig, Error, PacketConn};

mod config;
pub use config::ClientConfig;

mod event;
pub use event::{ClientEvent, ClientState, Lost};

mod receive_queue;

mod channel;
use channel::{ClientChannel, Reservation};

#[cfg(feature = "metrics")]
mod metrics;

mod receive;

#[cfg(feature = "session")]
mod sessions;

mod reconnect;
use reconnect::Connector;

/// A client that connects in the background, and reconnects with growing pauses when the connection is lost.
///
/// Packets that are still in the send queue when a connection is lost are sent over the next one, in order and once.
/// Packets that were already written may or may not have reached the server. [`ClientEvent::Lost`] has their numbers,
/// and the client never sends them again.
///
/// A failed attempt to connect is not an event. Its error is in the [`state`](Self::state), and is logged with
/// `tracing` at DEBUG.
///
/// The client runs one task, and all packets pass through it. A [`PacketConn`] is faster.
///
/// If you never receive, keep only a [`sender`](Self::sender) and drop the client.
///
/// ```
/// use pktconn::{Client, ClientConfig, ClientEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = pktconn::PacketServer::bind("127.0.0.1:0").await?;
/// # let addr = server.local_addr();
/// # tokio::spawn(server.serve(|mut conn| async move {
/// #     while let Some(packet) = conn.recv().await? { conn.send(packet).await?; }
/// #     Ok(conn.close().await?)
/// # }));
/// let mut client = Client::new(addr, ClientConfig::new())?;
/// client.send(b"hello").await?; // Number 0. It waits in the client until there is a connection.
/// while let Some(event) = client.recv().await {
///     match event {
///         ClientEvent::Packet(packet) => {
///             assert_eq!(packet.payload(), b"hello");
///             break;
///         }
///         ClientEvent::Lost(lost) => println!("{}; delivery unknown: {:?}", lost.error, lost.delivery_unknown),
///         _ => {}
///     }
/// }
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// Memory is bounded in both directions.
///
/// Sending: up to [`send_high_water`](ConnConfig::send_high_water) bytes in the client, and the same again in the send
/// queue of the connection or returned by the last connection.
///
/// Receiving, while a connection is open: one batch that [`recv`](Self::recv) has not returned yet, and the same again
/// in the connection. A batch is at most 256 packets from one read of 64 KiB, or one larger packet. Nothing is dropped:
/// if the application does not receive, the server is slowed down (backpressure), and a clean close by the server is
/// noticed only after the packets before it.
///
/// Receiving, after a connection has failed (a write failed or timed out): the client first takes the packets that have
/// arrived out of the connection, so that it can reconnect. It keeps them until 1,024 packets or 1 MiB of payload are
/// waiting, plus at most two batches. This limit covers all connections together. At the limit it waits up to 1 s in
/// total for the application to receive, and it takes at most 8 MiB. The rest is dropped, and
/// [`Lost::may_miss_packets`] reports it. So neither senders nor the next connection depend on the receiver, and an
/// application that receives loses nothing that it takes within that second.
///
/// # Sessions
///
/// With [`ClientConfig::session`] (feature `session`) and a server that has sessions, packets arrive exactly once over any
/// number of lost connections. `Lost` then reports the end of a session, not of a connection. See the chapter `sessions` of
/// the [guide](crate::guide).
///
/// # Dropping
///
/// Dropping the client and all of its senders closes the connection at once: bytes that the transport accepts without
/// waiting are still written, the rest is lost. [`close`](Self::close) first sends everything, or returns what it could
/// not send.
pub struct Client {
    sender: ClientSender,
}

/// The sending side of a [`Client`]. Clone it and move it to any task.
///
/// It keeps the client running even after the [`Client`] itself is dropped. Received packets and events are then
/// discarded, including [`ClientEvent::Lost`].
#[derive(Clone)]
pub struct ClientSender {
    channel: Arc<ClientChannel>,
    _stop_on_last_drop: Arc<DropGuard>,
}

impl Client {
    /// Starts a client that connects to an [address](Addr), and returns without waiting for the connection.
    /// [`ClientConfig::conn`] configures each connection.
    ///
    /// If the server can reject a client after connecting (a login, or a client certificate with TLS 1.3), use
    /// [`with_connector`](Self::with_connector) and wait there for the server's first packet. Otherwise the client
    /// sends packets over a connection that the server then closes: they are lost, because the client never sends a
    /// written packet again.
    ///
    /// # Errors
    ///
    /// A failed attempt to connect is not an error of this call: see [`state`](Self::state).
    ///
    /// - [`is_config`](Error::is_config): the configuration is invalid, or the address can never work, for example
    ///   because it has no port.
    /// - [`is_tls`](Error::is_tls): with TLS, a certificate or key file cannot be read or used, or the host of the
    ///   address is not a valid DNS name or IP address.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    pub fn new(addr: impl Into<Addr>, config: ClientConfig) -> Result<Self, Error> {
        let addr = addr.into();
        // Otherwise the client would retry forever what can never work.
        crate::connection::connect::check(&addr, &config.conn)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &config.conn.tls {
            // Reads the files. The connections use the result.
            tls.to_rustls()?;
        }
        let connector: Connector = Box::new(move |mut config, resume_at| {
            let first = addr.clone();
            Box::pin(async move {
                let Some(resume_at) = resume_at else { return PacketConn::connect_with(first, config).await };
                keep_server_name(&mut config, &first);
                PacketConn::connect_with(resume_at, config).await
            })
        });
        Self::start(config, connector)
    }

    /// Starts a client that calls `connector` for each connection. Returns at once.
    ///
    /// Use it if each connection starts with a login, if there are several addresses to choose from, or for another
    /// transport. The connector must follow these rules:
    ///
    /// - Make the connection with the [`ConnConfig`] that is passed. A connection that may drop packets, or that has a
    ///   lower payload limit, ends the client with [`is_config`](Error::is_config).
    /// - Put a `tokio::time::timeout` around waits for the peer. Nothing else limits an attempt, except
    ///   [`close_timeout`](ConnConfig::close_timeout) once the client is closed.
    /// - With [sessions](ClientConfig::session), do not send or receive over it: the client begins or resumes the session
    ///   with the first frame. [`SessionConfig::resume_at`](crate::SessionConfig::resume_at) of the server has no effect.
    /// - Do not send over the connection later from elsewhere, for example from a [`Group`](crate::Group). The client
    ///   would count packets wrongly in [`Lost::delivery_unknown`].
    ///
    /// Packets that the connector receives are not events. Packets that it sends have no number, and are never sent
    /// again.
    ///
    /// If the connector fails with an [`Error`] of this crate, the [`state`](Self::state) contains this error. Any
    /// other error is wrapped in an [`io::Error`] as [`is_io`](Error::is_io); [`io::Error::get_ref`] returns the
    /// original. An error that is [`is_config`](Error::is_config) ends the client, because another attempt would fail
    /// too.
    ///
    /// # Errors
    ///
    /// - [`is_config`](Error::is_config): the configuration is invalid.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use pktconn::{Client, ClientConfig, PacketConn};
    ///
    /// # async fn example() -> Result<(), pktconn::Error> {
    /// let addr = "example.org:14572".to_owned();
    /// let client = Client::with_connector(ClientConfig::new(), move |config| {
    ///     let addr = addr.clone();
    ///     async move {
    ///         let mut conn = PacketConn::connect_with(addr, config).await?;
    ///         conn.send(b"my name is alice").await?;
    ///         tokio::time::timeout(Duration::from_secs(10), conn.recv()).await??.ok_or("refused")?;
    ///         Ok(conn)
    ///     }
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_connector<C, F>(config: ClientConfig, connector: C) -> Result<Self, Error>
    where
        C: Fn(ConnConfig) -> F + Send + Sync + 'static,
        F: Future<Output = Result<PacketConn, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        let connector: Connector = Box::new(move |config, _| {
            let connecting = connector(config);
            Box::pin(async move { connecting.await.map_err(into_error) })
        });
        Self::start(config, connector)
    }

    fn start(config: ClientConfig, connector: Connector) -> Result<Self, Error> {
        config.check()?;
        let channel = Arc::new(ClientChannel::new(&config.conn));
        let handles_gone = CancellationToken::new();
        tokio::spawn(reconnect::run_client(Arc::clone(&channel), config, connector, handles_gone.clone()));
        Ok(Self { sender: ClientSender { channel, _stop_on_last_drop: Arc::new(handles_gone.drop_guard()) } })
    }

    /// Waits for the next event. Returns `None` once the client has ended and all events have been returned.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses no event.
    pub async fn recv(&mut self) -> Option<ClientEvent> {
        self.sender.channel.next_event().await
    }

    /// Queues a packet for this connection or the next. Waits while the queue is full. See [`ClientSender::send`].
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit; the client stays usable.
    /// - Any other error: the client was closed or has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if the future is dropped before it completes, the packet is not queued.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        self.sender.send(packet).await
    }

    /// Waits for room, and returns the number of the next packet with a permit to send it. See
    /// [`ClientSender::reserve`].
    ///
    /// # Errors
    ///
    /// The client was closed or has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future changes nothing.
    pub async fn reserve(&self) -> Result<ClientPermit<'_>, Error> {
        self.sender.reserve().await
    }

    /// Queues a packet if there is room now. See [`ClientSender::try_send`].
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_full`](Error::is_full): the queue is full, other senders wait for room, or a [permit](Self::reserve) is
    ///   held.
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit; the client stays usable.
    /// - Any other error: the client was closed or has ended, and this is the reason.
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        self.sender.try_send(packet)
    }

    /// Returns a handle that sends from other tasks.
    #[must_use]
    pub fn sender(&self) -> ClientSender {
        self.sender.clone()
    }

    /// Returns a `watch` receiver of the client's state. See [`ClientSender::state`].
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.sender.state()
    }

    /// Sends the queued packets, closes the connection, and ends the client. See [`ClientSender::close`].
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packets that were not completely written.
    ///
    /// - [`is_timeout`](Error::is_timeout): [`close_timeout`](ConnConfig::close_timeout) passed.
    /// - Any other error: why the connection failed, or why the client had ended before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the close continues if the future is dropped, as long as a handle of the client exists. A further
    /// call waits for it.
    pub async fn close(&self) -> Result<(), Error> {
        self.sender.close().await
    }
}

impl ClientSender {
    /// Queues a packet for this connection or the next, and returns its number. The first packet has number 0.
    ///
    /// `Ok` means that the packet is queued in the client. If a connection is lost after it was written, it is not sent
    /// again: see [`Lost`](crate::Lost).
    ///
    /// Waits while its frame would take the client's queue over [`send_high_water`](ConnConfig::send_high_water)
    /// (1 MiB), and while a [permit](Self::reserve) is held. Packets that come back from a lost connection do not count.
    /// Without a connection nothing leaves the queue, so the wait can be long: put a `tokio::time::timeout` around it if
    /// that matters. Waiting senders are served in order. Do not keep a waiting future without polling it: later
    /// senders wait behind it.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit; the client stays usable.
    /// - Any other error: the client was closed or has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if the future is dropped before it completes, the packet is not queued.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        let packet = packet.into();
        self.channel.send(&packet).await.map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Waits for room, and returns the number of the next packet with a permit to send it: to note the number before
    /// the packet is sent, because a reply can arrive before [`send`](Self::send) returns.
    ///
    /// Until the permit is used or dropped, [`send`](Self::send) waits and [`try_send`](Self::try_send) fails: use it
    /// at once. A task that awaits `send` or `reserve` while it holds a permit waits forever. A permit that is dropped
    /// uses no number. The packet may exceed [`send_high_water`](ConnConfig::send_high_water).
    ///
    /// ```
    /// # use std::collections::HashMap;
    /// # async fn example(client: pktconn::Client) -> Result<(), pktconn::Error> {
    /// # let mut pending = HashMap::new();
    /// let permit = client.reserve().await?;
    /// pending.insert(permit.number(), "what to do with the reply");
    /// permit.send("request")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The client was closed or has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future changes nothing.
    pub async fn reserve(&self) -> Result<ClientPermit<'_>, Error> {
        Ok(ClientPermit(self.channel.reserve().await?))
    }

    /// Queues a packet if there is room now, and returns its number.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_full`](Error::is_full): the queue is full, other senders wait for room, or a [permit](Self::reserve) is
    ///   held.
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit; the client stays usable.
    /// - Any other error: the client was closed or has ended, and this is the reason.
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        let packet = packet.into();
        self.channel.try_send(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Bytes that are queued in the client, with frame headers and checksums. Does not include what the current
    /// connection has taken from the queue.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.channel.queued_bytes()
    }

    /// Returns a `watch` receiver of the client's state.
    ///
    /// A `watch` receiver shows only the latest state. For every connect and loss, use the [events](Client::recv). If
    /// you wait for a connection, also wait for the end: a client that has ended does not connect again.
    ///
    /// # Example
    ///
    /// ```
    /// # async fn example(client: pktconn::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.state().wait_for(|state| state.is_connected() || state.is_ended()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.channel.state().subscribe()
    }

    /// Sends the queued packets, closes the connection like [`PacketConn::close`](PacketConn::close), and ends the
    /// client. Later sends fail.
    ///
    /// If packets are queued and there is no connection, the client waits for the running attempt to connect, or makes
    /// one more attempt, within [`close_timeout`](ConnConfig::close_timeout). If that attempt fails, it makes no other.
    /// Packets that arrive during the close are discarded. If everything was sent, no [`ClientEvent::Lost`] follows.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packets that were not completely written. If several handles
    /// close the client, one of them gets all packets. [`ClientEvent::Lost`] has the numbers of packets that a failed
    /// connection has written.
    ///
    /// - [`is_timeout`](Error::is_timeout): [`close_timeout`](ConnConfig::close_timeout) passed.
    /// - Any other error: why the connection failed, or why the client had ended before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the close continues if the future is dropped, as long as a handle of the client exists. A further
    /// call waits for it.
    pub async fn close(&self) -> Result<(), Error> {
        self.channel.close();
        let mut state = self.state();
        // `wait_for` cannot fail: `channel` owns the `watch` sender.
        let reason = match state.wait_for(ClientState::is_ended).await.as_deref() {
            Ok(ClientState::Ended(Some(error))) => error.reason(),
            _ => return Ok(()),
        };
        Err(Error::new(reason, self.channel.take_unsent()))
    }
}

fn into_error(error: Box<dyn StdError + Send + Sync>) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) => Error::from(*error),
            Err(error) => io::Error::other(error).into(),
        },
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.sender.channel.receiver_dropped();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sender.debug("Client", f)
    }
}

/// A permit to send one packet under a number that is known before: from [`Client::reserve`].
#[must_use = "a permit sends nothing by itself, and other packets wait for it"]
pub struct ClientPermit<'a>(Reservation<'a>);

impl ClientPermit<'_> {
    /// The number of the packet, as [`ClientSender::send`] would return it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Queues the packet. Does not wait.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit. The number was not used.
    /// - Any other error: the client was closed or has ended since, and this is the reason.
    pub fn send(self, packet: impl Into<Packet>) -> Result<(), Error> {
        let packet = packet.into();
        self.0.send(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }
}

impl fmt::Debug for ClientPermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPermit").field("number", &self.number()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.debug("ClientSender", f)
    }
}

impl ClientSender {
    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("state", &*self.channel.state().borrow()).finish_non_exhaustive()
    }
}
