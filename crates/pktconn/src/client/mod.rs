//! A client that keeps a connection up.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use pktconn_codec::Packet;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Addr, ConnConfig, Error, PacketConn};

mod config;
pub use config::ClientConfig;

mod event;
pub use event::{ClientEvent, ClientState, Lost};

mod inbox;

mod link;
use link::Link;

#[cfg(feature = "metrics")]
mod metrics;

mod receive;

mod reconnect;

/// A client that keeps a connection up: it connects by itself, and again when the connection is lost, after pauses that
/// grow.
///
/// What was sent and not yet written when a connection is lost goes out over the next one, in order and once. What was
/// written may have been received, or may be lost: which packets these are, [`ClientEvent::Lost`] tells, and none of
/// them is sent again.
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
/// client.send(b"hello").await?; // Number 0; it waits for a connection in the client.
/// while let Some(event) = client.recv().await {
///     match event {
///         ClientEvent::Packet(packet) => {
///             assert_eq!(packet.payload(), b"hello");
///             break;
///         }
///         ClientEvent::Lost(lost) => println!("{:?}; received or not: {:?}", lost.error, lost.written),
///         _ => {}
///     }
/// }
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// An attempt to connect that fails is no event: its error is in the [`state`](Self::state), and goes to `tracing` at
/// the level of debugging.
///
/// The client runs a task of its own, through which all packets pass; a [`PacketConn`] is faster.
///
/// # Memory
///
/// Bounded in both directions. To be sent: [`send_high_water`](ConnConfig::send_high_water) bytes in the client, and as
/// much again in the send queue of the connection or given back by the last one.
///
/// Received, and not yet taken by [`recv`](Self::recv): while the connection lives, one batch, which is at most 256
/// packets of one read of 64 KiB, or one larger packet; and as much again in the connection. Nothing is dropped: a
/// client that does not receive holds the server up, and a clean close by the server is noticed only behind what came
/// before it.
///
/// When the connection has failed (a write failed or timed out), the client takes out of it what has arrived, so that
/// it can connect again: until 1,024 packets or 1 MiB of payload wait, and at most two batches more. The limit holds
/// for all connections together. At the limit the client waits one second for room, in all, and it reads 8 MiB at most.
/// The rest is dropped, and [`Lost::undelivered`] says so. So senders and the next connection do not depend on the
/// receiver, and a receiver that works loses nothing that it takes within that second.
///
/// If you never receive, keep only a [`sender`](Self::sender) and drop the client.
///
/// Dropping it and all of its senders closes the connection at once: what the transport takes without waiting is still
/// written, and the rest is lost. [`close`](Self::close) loses nothing silently.
pub struct Client {
    sender: ClientSender,
}

/// The sending side of a [`Client`], to be cloned and handed to any task.
///
/// It keeps the connection up as well, also when the client itself is gone. What arrives is discarded then, and nobody
/// is told of what was written when a connection is lost.
#[derive(Clone)]
pub struct ClientSender {
    link: Arc<Link>,
    _task: Arc<DropGuard>,
}

impl Client {
    /// A client that connects to an [address](Addr), over TCP, by a Unix socket or with TLS, as its
    /// [`ConnConfig`] says. Returns at once.
    ///
    /// # Errors
    ///
    /// [`is_config`](Error::is_config): the configuration contradicts itself, or the address can never be connected to,
    /// such as one without a port. With TLS, [`is_tls`](Error::is_tls): its host can have no certificate. That an
    /// attempt fails is no error here, but a [state](Self::state).
    ///
    /// A server that takes clients only after a word of theirs, or refuses their certificates by TLS 1.3, is a
    /// connection until it ends: packets are sent over it. Have [`with_connector`](Self::with_connector) wait for a
    /// first packet there.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(addr: impl Into<Addr>, config: ClientConfig) -> Result<Self, Error> {
        let addr = addr.into();
        // What can never work is not tried again and again.
        crate::connection::connect::check(&addr, &config.conn)?;
        Self::with_connector(config, move |config| {
            let addr = addr.clone();
            async move { Ok(PacketConn::connect_with(addr, config).await?) }
        })
    }

    /// A client that calls `connector` for each connection: where each begins with a login, where there are several
    /// addresses to choose from, or for another transport.
    ///
    /// The connection is to be made with the [`ConnConfig`] that is passed. What the connector receives is no event,
    /// and what it sends has no number and is never sent again. What it fails with, boxed, is the `source` of an
    /// [`is_io`](Error::is_io) where it is no [`Error`]. One that is [`is_config`](Error::is_config) ends the client:
    /// another attempt would fail as well. Nothing else may send over the connection later, as a
    /// [`Group`](crate::Group) would: the client's account of what was written would be wrong. Put a
    /// `tokio::time::timeout` around what waits for the peer: but for the [`close_timeout`](ConnConfig::close_timeout)
    /// of a client that is closed, nothing else ends an attempt.
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
    ///
    /// # Errors
    ///
    /// [`is_config`](Error::is_config): the configuration contradicts itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn with_connector<C, F>(config: ClientConfig, connector: C) -> Result<Self, Error>
    where
        C: Fn(ConnConfig) -> F + Send + Sync + 'static,
        F: Future<Output = Result<PacketConn, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        config.check()?;
        let connector: reconnect::Connector = Box::new(move |config| {
            let connecting = connector(config);
            Box::pin(async move { connecting.await.map_err(into_error) })
        });
        let link = Arc::new(Link::new(&config.conn));
        let gone = CancellationToken::new();
        tokio::spawn(reconnect::keep(Arc::clone(&link), config, connector, gone.clone()));
        Ok(Self { sender: ClientSender { link, _task: Arc::new(gone.drop_guard()) } })
    }

    /// Waits for the next event; `None` when the client has ended, and all was told.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<ClientEvent> {
        self.sender.link.next().await
    }

    /// Accepts a packet to be sent over this connection or the next. See [`ClientSender::send`].
    ///
    /// # Errors
    ///
    /// [`is_payload_too_large`](Error::is_payload_too_large): the client goes on. Any other: it has ended, or is
    /// closed. The packet comes back in [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted whole when the future completes, and not at all when it is dropped before.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        self.sender.send(packet).await
    }

    /// Accepts a packet to be sent if there is room for it. See [`ClientSender::try_send`].
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) when there is no room now; otherwise as [`send`](Self::send). The packet comes back
    /// in [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        self.sender.try_send(packet)
    }

    /// A handle to send with from elsewhere.
    #[must_use]
    pub fn sender(&self) -> ClientSender {
        self.sender.clone()
    }

    /// What the client is doing, and how that changes. See [`ClientSender::state`].
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.sender.state()
    }

    /// Sends what was accepted, closes the connection, and ends the client. See [`ClientSender::close`].
    ///
    /// # Errors
    ///
    /// Why not all was sent, or why the client had ended before. The packets that were not written come back in
    /// [`into_unsent`](Error::into_unsent).
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped, as long as a handle is there; a further call waits for its end.
    pub async fn close(&self) -> Result<(), Error> {
        self.sender.close().await
    }
}

impl ClientSender {
    /// Accepts a packet to be sent over this connection or the next, and waits for room first where there is none: as
    /// many bytes as [`send_high_water`](ConnConfig::send_high_water) wait in the client. Returns the packet's number:
    /// the first is 0.
    ///
    /// # Errors
    ///
    /// [`is_payload_too_large`](Error::is_payload_too_large): the client goes on. Any other: it has ended, or is
    /// closed. The packet comes back in [`into_unsent`](Error::into_unsent).
    ///
    /// While there is no connection nothing leaves, and a full queue has the caller wait: put a `tokio::time::timeout`
    /// around it where that matters. Poll or drop a future that waits: it stands in the line, before all that come
    /// later.
    ///
    /// # Cancel safety
    ///
    /// The packet is accepted whole when the future completes, and not at all when it is dropped before.
    pub async fn send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        let packet = packet.into();
        self.link.accept(&packet).await.map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// Accepts a packet to be sent if there is room for it, and nobody waits for that. Returns its number.
    ///
    /// # Errors
    ///
    /// [`is_full`](Error::is_full) when there is no room now; otherwise as [`send`](Self::send). The packet comes back
    /// in [`into_unsent`](Error::into_unsent).
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<u64, Error> {
        let packet = packet.into();
        self.link.try_accept(&packet).map_err(|reason| Error::new(reason, vec![packet]))
    }

    /// How many bytes of accepted packets wait in the client: frames, with their headers and checksums. Those that the
    /// present connection has taken are not among them.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.link.queued_bytes()
    }

    /// What the client is doing, and how that changes.
    ///
    /// ```
    /// # async fn example(client: pktconn::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.state().wait_for(|state| state.is_connected() || state.is_ended()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A client that has ended does not connect again: who waits should wait for that too. A `watch` shows the latest
    /// state alone. What must not be missed is an [event](Client::recv).
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.link.state().subscribe()
    }

    /// Accepts nothing more, sends what was accepted, closes the connection as
    /// [`PacketConn::close`](PacketConn::close) does, and ends the client.
    ///
    /// Where there is no connection and something to be sent, an attempt that is under way is waited for, or else one
    /// is made, until [`close_timeout`](ConnConfig::close_timeout). No other follows when that fails.
    ///
    /// # Errors
    ///
    /// Why not all was sent, or why the client had ended before: [`is_timeout`](Error::is_timeout) when the deadline
    /// passed. The packets that were not wholly written come back in [`into_unsent`](Error::into_unsent), once: where
    /// several handles close the client, one of them gets them. Of those that were written by a connection that failed,
    /// [`ClientEvent::Lost`] tells.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped, as long as a handle is there; a further call waits for its end.
    pub async fn close(&self) -> Result<(), Error> {
        self.link.close();
        let mut state = self.state();
        // Its sender is here: it cannot fail.
        let reason = match state.wait_for(ClientState::is_ended).await.as_deref() {
            Ok(ClientState::Ended(Some(error))) => error.reason(),
            _ => return Ok(()),
        };
        Err(Error::new(reason, self.link.take_unsent()))
    }
}

/// What a connector failed with.
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
        self.sender.link.desert();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sender.debug("Client", f)
    }
}

impl fmt::Debug for ClientSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.debug("ClientSender", f)
    }
}

impl ClientSender {
    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("state", &*self.link.state().borrow()).finish_non_exhaustive()
    }
}
