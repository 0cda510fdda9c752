//! The public handles of a session.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pktconn_codec::Packet;
use pktconn_session::frame::{ControlFrame, Reject, RejectReason, SessionId};
use pktconn_session::{EndReason, Ended, SessionState};
use tokio::sync::watch;

use super::control_codec::ControlCodec;
use super::core::SessionCore;
use super::end_reason::end_reason;
use super::machine::Machine;
use crate::connection::yielding;
use crate::error::Reason;
use crate::{Error, PacketConn, PacketReceiver, PacketSender};

/// How many packets a receiver gets before it yields to other tasks on its thread.
const PACKETS_A_TURN: u32 = 512;

/// A session: whole, ordered packets, exactly once over any number of lost connections.
///
/// Its API is that of a [`PacketConn`](crate::PacketConn). The end of a connection is not the end of the session: the client
/// connects again, and both sides go on where they were. [`state`](Self::state) says whether there is a connection.
///
/// A peer without sessions has one, too, if that is [allowed](crate::SessionMode::Auto): then this is a connection, and ends with
/// it. See [`is_resumable`](Self::is_resumable).
///
/// # Dropping
///
/// Without `close`, the peer is told that the application has failed, and packets that were not sent are lost. If `recv` has
/// returned `None`, a drop is like [`close`](Self::close), in the background.
#[derive(Debug)]
pub struct Session {
    sender: SessionSender,
    receiver: SessionReceiver,
}

/// The sending side of a [`Session`]. Clone it and move it to any task.
pub struct SessionSender(Sender);

enum Sender {
    Session(Arc<SessionCore>),
    Conn(PacketSender),
}

/// The receiving side of a [`Session`] that was [split](Session::split).
pub struct SessionReceiver {
    receiver: Receiver,
    packets_in_turn: u32,
}

enum Receiver {
    Session(Arc<SessionCore>),
    /// Boxed: most receivers are those of sessions, and tasks hold them.
    Conn(Box<ConnReceiver>),
}

/// The receiver of a connection without a session.
struct ConnReceiver {
    receiver: PacketReceiver,
    /// It was received already.
    first: Option<Packet>,
    /// HELLO has come, too late.
    is_refused: bool,
}

// Methods that only pass on are no `async fn`: the task of each session would have room for another future.
impl Session {
    /// The first handles.
    pub(crate) fn new(core: &Arc<SessionCore>) -> Self {
        core.add_handle();
        core.add_handle();
        Self {
            sender: SessionSender(Sender::Session(Arc::clone(core))),
            receiver: SessionReceiver { receiver: Receiver::Session(Arc::clone(core)), packets_in_turn: 0 },
        }
    }

    /// That of a peer without sessions.
    ///
    /// `first` was received from it already.
    pub(crate) fn of_conn(conn: PacketConn, first: Option<Packet>) -> Self {
        let (sender, receiver) = conn.split();
        let receiver = Receiver::Conn(Box::new(ConnReceiver { receiver, first, is_refused: false }));
        Self {
            sender: SessionSender(Sender::Conn(sender)),
            receiver: SessionReceiver { receiver, packets_in_turn: 0 },
        }
    }

    /// Receives the next packet. Returns `None` after the peer has ended its direction, and all packets were received.
    ///
    /// Waits also while there is no connection, up to the [`ttl`](crate::SessionConfig::ttl) of the session. A packet counts as
    /// delivered once this has returned it.
    ///
    /// # Errors
    ///
    /// The session has ended; every later call returns the same.
    ///
    /// - [`is_session`](Error::is_session): it had no connection for too long, was taken by another connection, or the two
    ///   sides disagree. [`ended`](Self::ended) says what became of the packets.
    /// - [`is_local_close`](Error::is_local_close): another handle has closed it.
    /// - Those of [`PacketConn::recv`](crate::PacketConn::recv), if the peer has no sessions.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses nothing.
    pub fn recv(&mut self) -> impl Future<Output = Result<Option<Packet>, Error>> + Send {
        self.receiver.recv()
    }

    /// Receives the packets that have arrived, up to `limit`, and appends them to `packets`. Waits for the first. Returns
    /// their number, or 0 at the end. A `limit` of 0 returns 0.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses nothing.
    pub fn recv_many(
        &mut self,
        packets: &mut Vec<Packet>,
        limit: usize,
    ) -> impl Future<Output = Result<usize, Error>> + Send {
        self.receiver.recv_many(packets, limit)
    }

    /// Queues a packet. Waits while the queue is full. See [`SessionSender::send`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionSender::send`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if the future is dropped before it completes, the packet is not queued.
    pub fn send(&self, packet: impl Into<Packet>) -> impl Future<Output = Result<(), Error>> + Send {
        self.sender.send(packet.into())
    }

    /// Queues packets, in order, and removes them from `packets`. See [`SessionSender::send_many`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionSender::send_many`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: `packets` keeps those that were not queued.
    pub fn send_many(&self, packets: &mut Vec<Packet>) -> impl Future<Output = Result<(), Error>> + Send {
        self.sender.send_many(packets)
    }

    /// Queues a packet if there is room now. See [`SessionSender::try_send`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionSender::try_send`].
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        self.sender.try_send(packet)
    }

    /// Delivers what was sent, receives nothing more, and ends the session. See [`SessionSender::close`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionSender::close`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the close continues if the future is dropped. A further call waits for it.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.receiver.stop();
        self.sender.close().await
    }

    /// Returns a handle that sends from other tasks.
    #[must_use]
    pub fn sender(&self) -> SessionSender {
        self.sender.clone()
    }

    /// Splits the session into its sending and its receiving side.
    #[must_use]
    pub fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }

    /// The id of the session, for logs. `None` if the peer has no sessions.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.sender.id()
    }

    /// Whether the session outlives its connection: the peer has sessions.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.sender.is_resumable()
    }

    /// The last measured round-trip time, from PING to PONG. `None` before the first one, and if the peer has no sessions.
    ///
    /// A PING is sent only after [`ping_interval`](crate::SessionConfig::ping_interval) without a byte from the peer.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.sender.rtt()
    }

    /// Whether the session has a connection: a value to watch. `None` if the peer has no sessions.
    #[must_use]
    pub fn state(&self) -> Option<watch::Receiver<SessionState>> {
        self.sender.state()
    }

    /// The address of the peer, over the newest connection. `None` for a Unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.sender.peer_addr()
    }

    /// What became of the packets, once the session has ended. `None` before, and if the peer has no sessions.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.sender.ended()
    }

    /// How many packets the [`slow_consumer`](crate::ConnConfig::slow_consumer) policy has dropped.
    #[must_use]
    pub fn packets_dropped(&self) -> u64 {
        self.sender.packets_dropped()
    }
}

impl SessionReceiver {
    /// Receives the next packet. See [`Session::recv`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::recv`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses nothing.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        let packets_in_turn = &mut self.packets_in_turn;
        match &mut self.receiver {
            Receiver::Session(core) => {
                let received = poll_fn(|cx| {
                    ready!(poll_turn(packets_in_turn, cx));
                    let received = core.poll_recv(cx);
                    *packets_in_turn = if received.is_pending() { 0 } else { *packets_in_turn + 1 };
                    received
                });
                Ok(received.await?)
            }
            Receiver::Conn(conn) => Box::pin(conn.recv()).await,
        }
    }

    /// Receives the packets that have arrived. See [`Session::recv_many`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::recv`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future loses nothing.
    pub async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        if limit == 0 {
            return Ok(0);
        }
        let packets_in_turn = &mut self.packets_in_turn;
        match &mut self.receiver {
            Receiver::Session(core) => {
                let received = poll_fn(|cx| {
                    ready!(poll_turn(packets_in_turn, cx));
                    let received = core.poll_recv_each(cx, limit, |packet| packets.push(packet));
                    *packets_in_turn = match received {
                        Poll::Ready(Ok(count)) => *packets_in_turn + count as u32,
                        _ => 0,
                    };
                    received
                });
                Ok(received.await?)
            }
            Receiver::Conn(conn) => Box::pin(conn.recv_many(packets, limit)).await,
        }
    }

    fn stop(&mut self) {
        if let Receiver::Conn(conn) = &mut self.receiver {
            conn.first = None;
            conn.receiver.stop();
        }
    }
}

impl ConnReceiver {
    async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        if self.first.is_some() {
            return Ok(self.first.take());
        }
        if !self.is_refused {
            match self.receiver.recv().await {
                Ok(Some(packet)) if packet.is_control() => self.is_refused = true,
                received => return received,
            }
        }
        Err(refuse_control(&mut self.receiver))
    }

    async fn recv_many(&mut self, packets: &mut Vec<Packet>, limit: usize) -> Result<usize, Error> {
        if self.first.is_some() || self.is_refused {
            let received = self.recv().await?;
            let count = usize::from(received.is_some());
            packets.extend(received);
            return Ok(count);
        }
        let before = packets.len();
        let count = self.receiver.recv_many(packets, limit).await?;
        let Some(control) = packets[before..].iter().position(Packet::is_control) else { return Ok(count) };
        self.is_refused = true;
        packets.truncate(before + control);
        if control > 0 { Ok(control) } else { Err(refuse_control(&mut self.receiver)) }
    }
}

impl SessionSender {
    /// Queues a packet for this connection or the next. Waits while the queue is full, in order with other senders.
    ///
    /// `Ok` means that the packet is queued. Once it is written, it is kept until the peer's application has received it. When the
    /// kept packets exceed [`replay_bytes`](crate::SessionConfig::replay_bytes), or while there is no connection, packets wait in
    /// the queue, up to [`send_high_water`](crate::ConnConfig::send_high_water). Then the
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer) policy applies. It drops only packets that were not written.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packet.
    ///
    /// - [`is_payload_too_large`](Error::is_payload_too_large): the packet exceeds the limit; the session stays usable.
    /// - [`is_remote_close`](Error::is_remote_close): the peer receives no more packets.
    /// - [`is_local_close`](Error::is_local_close): the session was closed on this side.
    /// - [`is_session`](Error::is_session): the session has ended.
    /// - [`is_slow_consumer`](Error::is_slow_consumer): the policy is to disconnect.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if the future is dropped before it completes, the packet is not queued.
    // Not an `async fn`, whose future would hold the packet twice: the task of each session has room for it.
    pub fn send(&self, packet: impl Into<Packet>) -> impl Future<Output = Result<(), Error>> + Send {
        let packet = packet.into();
        async move {
            match &self.0 {
                Sender::Session(core) => match core.try_send(&packet) {
                    Ok(()) => Ok(()),
                    // Boxed, as the other: most senders are those of sessions that have room.
                    Err(Reason::Full) => Box::pin(send(core, packet)).await,
                    Err(reason) => Err(Error::new(reason, vec![packet])),
                },
                Sender::Conn(sender) => Box::pin(sender.send(packet)).await,
            }
        }
    }

    /// Queues packets, in order, and removes them from `packets`. Waits while the queue is full.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send). `packets` keeps those that were not queued.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: `packets` keeps those that were not queued.
    pub async fn send_many(&self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        match &self.0 {
            Sender::Session(core) => {
                let mut batch = Batch { packets, sent: 0 };
                let Batch { packets, sent } = &mut batch;
                if core.try_send_many(packets, sent)? {
                    return Ok(());
                }
                Ok(Box::pin(core.send_in_turn(packets, sent)).await?)
            }
            Sender::Conn(sender) => Box::pin(sender.send_many(packets)).await,
        }
    }

    /// Queues a packet if there is room now.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and [`is_full`](Error::is_full) if there is no room and the policy is to wait.
    pub fn try_send(&self, packet: impl Into<Packet>) -> Result<(), Error> {
        match &self.0 {
            Sender::Session(core) => {
                let packet = packet.into();
                let offered = core.try_send(&packet);
                offered.map_err(|reason| Error::new(reason, vec![packet]))
            }
            Sender::Conn(sender) => sender.try_send(packet),
        }
    }

    /// Delivers what was sent, receives nothing more, and ends the session.
    ///
    /// Waits until the peer's application has received everything, up to
    /// [`close_timeout`](crate::SessionConfig::close_timeout), also for a peer that has lost its connection. Then the peer gets
    /// its undelivered packets back.
    ///
    /// # Errors
    ///
    /// [`into_unsent`](Error::into_unsent) returns the packets that the peer's application has not certainly received, in
    /// order. [`ended`](Session::ended) says which of them it may have received.
    ///
    /// - [`is_session`](Error::is_session): the peer did not answer in time, or the session had ended before.
    /// - [`is_remote_close`](Error::is_remote_close): the peer was closed, too, and has not received all packets.
    /// - Those of [`PacketConn::close`](crate::PacketConn::close), if the peer has no sessions.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the close continues if the future is dropped. A further call waits for it.
    pub async fn close(&self) -> Result<(), Error> {
        // Boxed: a task that may close its session is not larger for it.
        match &self.0 {
            Sender::Session(core) => Box::pin(close(core)).await,
            Sender::Conn(sender) => Box::pin(sender.close()).await,
        }
    }

    /// The id of the session. See [`Session::id`].
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.core()?.look(Machine::id)
    }

    /// Whether the session outlives its connection. See [`Session::is_resumable`].
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.core().is_some()
    }

    /// The last measured round-trip time. See [`Session::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.core()?.look(|machine| machine.session().rtt())
    }

    /// Whether the session has a connection: a value to watch. See [`Session::state`].
    #[must_use]
    pub fn state(&self) -> Option<watch::Receiver<SessionState>> {
        Some(self.core()?.watch_state())
    }

    /// The address of the peer. See [`Session::peer_addr`].
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Sender::Session(core) => core.peer_addr(),
            Sender::Conn(sender) => sender.peer_addr(),
        }
    }

    /// What became of the packets, once the session has ended. See [`Session::ended`].
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.core()?.look(|machine| machine.session().ended().cloned())
    }

    /// How many packets were dropped. See [`Session::packets_dropped`].
    #[must_use]
    pub fn packets_dropped(&self) -> u64 {
        match &self.0 {
            Sender::Session(core) => core.dropped(),
            Sender::Conn(sender) => sender.stats().packets_dropped,
        }
    }

    fn core(&self) -> Option<&SessionCore> {
        match &self.0 {
            Sender::Session(core) => Some(core),
            Sender::Conn(_) => None,
        }
    }
}

async fn send(core: &SessionCore, packet: Packet) -> Result<(), Error> {
    let sent = core.send_in_turn(std::slice::from_ref(&packet), &mut 0).await;
    sent.map_err(|reason| Error::new(reason, vec![packet]))
}

async fn close(core: &SessionCore) -> Result<(), Error> {
    core.begin_close();
    let Ended { reason, not_acknowledged, unsent, .. } = core.ended().await;
    let mut lost = not_acknowledged;
    lost.extend(unsent);
    match reason {
        EndReason::Settled { .. } if lost.is_empty() => Ok(()),
        EndReason::Settled { .. } => Err(Error::new(Reason::RemoteClose, lost)),
        reason => Err(Error::new(end_reason(reason), lost)),
    }
}

/// Packets that are being sent. Those that were queued are removed at the end, all at once.
struct Batch<'a> {
    packets: &'a mut Vec<Packet>,
    sent: usize,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.packets.drain(..self.sent);
    }
}

/// Yields to other tasks after [`PACKETS_A_TURN`] packets, so that a peer that sends without pause does not block them.
fn poll_turn(packets_in_turn: &mut u32, cx: &mut Context<'_>) -> Poll<()> {
    if *packets_in_turn < PACKETS_A_TURN {
        return Poll::Ready(());
    }
    *packets_in_turn = 0;
    yielding::yield_turn(cx);
    Poll::Pending
}

/// A connection that was taken for one without sessions has sent a control frame: HELLO, late. The client tries again.
fn refuse_control(receiver: &mut PacketReceiver) -> Error {
    let sender = receiver.sender();
    if let Ok(control) = ControlCodec::of(&sender) {
        let busy = ControlFrame::Reject(Reject { reason: RejectReason::Busy, retry_after_ms: 0 });
        let _ = sender.core().push(&[control.encode(&busy)]);
    }
    receiver.stop();
    sender.core().close();
    Reason::Control("HELLO came too late, after hello_wait".into()).into()
}

impl Clone for SessionSender {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Sender::Session(core) => {
                core.add_handle();
                Sender::Session(Arc::clone(core))
            }
            Sender::Conn(sender) => Sender::Conn(sender.clone()),
        })
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        if let Sender::Session(core) = &self.0 {
            core.drop_handle();
        }
    }
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        if let Receiver::Session(core) = &self.receiver {
            core.drop_handle();
        }
    }
}

impl std::fmt::Debug for SessionSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionSender").field("id", &self.id()).field("peer_addr", &self.peer_addr()).finish()
    }
}

impl std::fmt::Debug for SessionReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionReceiver").finish_non_exhaustive()
    }
}
