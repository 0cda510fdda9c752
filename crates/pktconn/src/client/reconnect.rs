//! The task of a client: connects, runs the connection, and reconnects.
//!
//! ```text
//!   Connecting --> Connected --> Waiting --> Connecting ...          close(), max_tries --> Ended
//!        '---------- fails ---------^
//! ```
//!
//! Packets that a lost connection has not written go back to the front of the queue, for the next connection.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::channel::ClientChannel;
use super::config::{Backoff, ClientConfig};
use super::event::{ClientEvent, ClientState, Lost};
use super::receive::{Received, receive};
#[cfg(feature = "session")]
use super::sessions::{ClientSessions, SessionServed};
use crate::connection::deferred::catch_panic;
use crate::error::{Reason, Timeout};
use crate::{ConnConfig, Error, PacketConn, PacketSender, SlowConsumer};

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<PacketConn, Error>> + Send>>;
/// Makes a connection. The text is the address at which to resume a session, if its server has named one.
pub(super) type Connector = Box<dyn Fn(ConnConfig, Option<String>) -> Connecting + Send + Sync>;

struct Reconnector {
    channel: Arc<ClientChannel>,
    config: ClientConfig,
    connector: Connector,
    /// Cancelled when the last handle is dropped.
    handles_gone: CancellationToken,
    active: Option<ActiveConn>,
    #[cfg(feature = "session")]
    sessions: Option<ClientSessions>,
    /// How many packets were written over all connections.
    written: u64,
    backoff: Backoff,
    failed_tries: u32,
    has_ended: bool,
}

/// The current connection, and the packets that were given to it.
struct ActiveConn {
    sender: PacketSender,
    /// Packets that were taken from the queue and that the connection has not accepted yet.
    pending: Vec<Packet>,
    /// How many packets were taken from the queue for this connection.
    taken: usize,
    /// Whether packets that arrived may be missing in the receive queue. `true` until receiving has ended.
    undelivered: bool,
}

/// How running a connection ended.
enum ServeEnd {
    Lost {
        reason: Reason,
        /// When to connect again. `None`: after the usual pause.
        retry_in: Option<Duration>,
    },
    /// Connect again at once.
    #[cfg_attr(not(feature = "session"), allow(dead_code, reason = "only sessions move"))]
    Again,
    /// The client ends too. The reason why not everything was sent, or `None`.
    Ended(Option<Reason>),
}

pub(super) fn run_client(
    channel: Arc<ClientChannel>,
    config: ClientConfig,
    connector: Connector,
    handles_gone: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    #[cfg(feature = "metrics")]
    super::metrics::describe();
    let backoff = config.backoff();
    #[cfg(feature = "session")]
    let sessions = config.session.clone().map(|session| ClientSessions::new(session, &config.conn));
    // Made before the first poll: a runtime that is shut down drops the task without polling it, and `drop` must still
    // run.
    let mut reconnector = Reconnector {
        channel,
        config,
        connector,
        handles_gone,
        active: None,
        #[cfg(feature = "session")]
        sessions,
        written: 0,
        backoff,
        failed_tries: 0,
        has_ended: false,
    };
    async move {
        let reason = reconnector.run().await;
        reconnector.end(reason);
    }
}

/// If the task is dropped (its runtime is shut down) or panics, this still ends the client: no caller waits forever,
/// and every packet is accounted for.
impl Drop for Reconnector {
    fn drop(&mut self) {
        if !self.has_ended {
            let problem = "the client's runtime was shut down, or its connector or transport panicked";
            let reason = Reason::from(std::io::Error::other(problem));
            self.abandon_conn(&reason);
            self.end(Some(reason));
        }
    }
}

impl Reconnector {
    fn end(&mut self, reason: Option<Reason>) {
        self.has_ended = true;
        #[cfg(feature = "session")]
        if let Some(sessions) = &mut self.sessions {
            sessions.abandon(&self.channel, &mut self.written);
        }
        self.channel.end(reason);
    }

    /// Runs the client until it ends. Returns why not everything was sent, or `None`.
    async fn run(&mut self) -> Option<Reason> {
        let (closing, handles_gone) = (self.channel.closing.clone(), self.handles_gone.clone());
        let close_timeout = self.config.conn.timeouts.close;
        // Limits an attempt that is running when `close` is called, or that is made because of it.
        let mut close_deadline = std::pin::pin!(async {
            closing.cancelled().await;
            sleep(close_timeout).await;
        });
        loop {
            self.report_expired_session();
            if closing.is_cancelled() && !self.has_unsent() {
                return None;
            }
            self.set_state(ClientState::Connecting);
            let (config, resume_at) = self.next_connection();
            let connected = tokio::select! {
                biased;
                () = handles_gone.cancelled() => return self.reason_without_handles(),
                () = self.closed_with_nothing_to_send() => return None,
                () = self.session_expired() => None,
                connected = (self.connector)(config, resume_at) => Some(connected),
                () = &mut close_deadline => return Some(Reason::Timeout(Timeout::Close, close_timeout)),
            };
            // `None` if the session has expired meanwhile.
            let Some(connected) = connected else { continue };
            let (reason, retry_in) = match connected.map_err(Error::into_reason) {
                Ok(conn) => match self.serve(conn).await {
                    ServeEnd::Lost { reason, retry_in } => (reason, retry_in),
                    ServeEnd::Again => continue,
                    ServeEnd::Ended(reason) => return reason,
                },
                Err(reason) => {
                    self.failed_tries += 1;
                    #[cfg(feature = "metrics")]
                    super::metrics::record_failed_try();
                    (reason, None)
                }
            };
            // A session is closed over another connection, within `close_deadline`.
            let was_closing = closing.is_cancelled();
            if was_closing && !self.has_open_session() {
                return self.has_unsent().then_some(reason);
            }
            let is_out_of_tries = self.config.max_tries.is_some_and(|max| self.failed_tries >= max);
            if is_out_of_tries || reason.is_config() {
                return Some(reason);
            }
            let delay = retry_in.unwrap_or_else(|| self.backoff.next());
            let (failed_tries, error) = (self.failed_tries, Arc::new(Error::from(reason)));
            tracing::debug!(
                error = &*error as &dyn std::error::Error,
                ?delay,
                "not connected, trying again after the delay"
            );
            self.set_state(ClientState::Waiting { failed_tries, delay, error });
            tokio::select! {
                biased;
                () = handles_gone.cancelled() => return self.reason_without_handles(),
                () = closing.cancelled(), if !was_closing => {}
                () = &mut close_deadline => return Some(Reason::Timeout(Timeout::Close, close_timeout)),
                () = self.session_expired() => {}
                () = sleep(delay) => {}
            }
        }
    }

    /// Whether a close has to send something, or to confirm the end of a session.
    fn has_unsent(&self) -> bool {
        self.channel.queued_bytes() > 0 || self.has_open_session()
    }

    /// Completes when the client is closed and has nothing more to do.
    async fn closed_with_nothing_to_send(&self) {
        self.channel.closing.cancelled().await;
        if self.has_unsent() {
            pending::<()>().await;
        }
    }

    /// The configuration of the next connection, and where to resume a session.
    #[cfg(feature = "session")]
    fn next_connection(&mut self) -> (ConnConfig, Option<String>) {
        let mut config = self.config.conn.clone();
        let Some(sessions) = &mut self.sessions else { return (config, None) };
        let is_without = sessions.is_without(&self.channel);
        config.codec = config.codec.control_frames(!is_without);
        (config, sessions.resume_at())
    }

    #[cfg(not(feature = "session"))]
    fn next_connection(&mut self) -> (ConnConfig, Option<String>) {
        (self.config.conn.clone(), None)
    }

    /// Whether there is a session that the server knows, and that has not ended.
    fn has_open_session(&self) -> bool {
        #[cfg(feature = "session")]
        return self.sessions.as_ref().is_some_and(ClientSessions::is_open);
        #[cfg(not(feature = "session"))]
        return false;
    }

    fn report_expired_session(&mut self) {
        #[cfg(feature = "session")]
        if let Some(sessions) = &mut self.sessions {
            sessions.report_end(&self.channel, &mut self.written);
        }
    }

    /// Completes when the session expires without a connection.
    async fn session_expired(&self) {
        #[cfg(feature = "session")]
        if let Some(sessions) = &self.sessions {
            return sessions.expired().await;
        }
        pending::<()>().await;
    }

    /// Why a client whose handles are dropped has not sent everything, or `None`.
    fn reason_without_handles(&self) -> Option<Reason> {
        let bytes = self.channel.queued_bytes();
        if bytes == 0 {
            return None;
        }
        tracing::debug!(bytes, "all handles of the client were dropped before its queued bytes were sent");
        Some(Reason::LocalClose)
    }

    fn set_state(&self, state: ClientState) {
        self.channel.set_state(state);
    }

    /// Sends and receives over `conn` until the connection or the client ends.
    async fn serve(&mut self, conn: PacketConn) -> ServeEnd {
        let rules = &conn.core().settings.rules;
        if rules.slow_consumer != SlowConsumer::Block
            || rules.codec.config().payload_limit() < self.channel.codec().config().payload_limit()
        {
            let problem = "the connector returned a connection that may drop packets or has a lower payload limit: connect with the ConnConfig that is passed to it";
            return ServeEnd::Ended(Some(Reason::Config(problem)));
        }
        let connected_at = Instant::now();
        #[cfg(feature = "metrics")]
        super::metrics::record_connected();
        #[cfg(feature = "session")]
        if self.sessions.is_some() && conn.core().settings.rules.codec.config().has_control_frames() {
            return self.serve_session(conn).await;
        }
        self.set_state(ClientState::Connected);
        self.channel.push_events([ClientEvent::Connected]);
        let (sender, mut receiver) = conn.split();
        let active = ActiveConn { sender: sender.clone(), pending: Vec::new(), taken: 0, undelivered: true };
        let active = self.active.insert(active);
        let mut has_received = false;
        let lost = tokio::select! {
            received = receive(&self.channel, &sender, &mut receiver, &mut has_received) => Some(received),
            never = active.send(&self.channel) => match never {},
            () = self.channel.closing.cancelled() => None,
            () = self.handles_gone.cancelled() => None,
        };
        if let Some(Received { reason, undelivered }) = lost {
            active.undelivered = undelivered;
            self.abandon_conn(&reason);
            if has_received || connected_at.elapsed() >= self.config.max_backoff {
                (self.backoff, self.failed_tries) = (self.config.backoff(), 0);
            } else {
                self.failed_tries += 1;
            }
            return ServeEnd::Lost { reason, retry_in: None };
        }
        active.move_all_to_conn(&self.channel);
        // A receiver that is kept and not polled would make `close` wait in vain for the peer's close.
        drop(receiver);
        if self.channel.closing.is_cancelled() {
            let all_queued_in_conn = active.pending.is_empty() && self.channel.queued_bytes() == 0;
            let (reason, unsent) = match sender.close().await {
                Err(mut error) => (error.reason(), error.take_unsent()),
                Ok(()) if all_queued_in_conn => {
                    self.active = None;
                    return ServeEnd::Ended(None);
                }
                // The connector, or code that it gave a handle to, has closed the connection before.
                Ok(()) => (Reason::LocalClose, Vec::new()),
            };
            self.settle(&reason, unsent);
            return ServeEnd::Ended(Some(reason));
        }
        if self.channel.has_discarded() {
            sender.core().note_undelivered(true);
        }
        // Writes what the transport accepts without waiting.
        let unsent = sender.core().cut().map_or_else(|| sender.core().abandon(), |cut| cut.unsent);
        self.settle(&Reason::LocalClose, unsent);
        ServeEnd::Ended(self.reason_without_handles())
    }

    /// Runs a connection of the session until it ends.
    #[cfg(feature = "session")]
    async fn serve_session(&mut self, conn: PacketConn) -> ServeEnd {
        let Some(sessions) = &mut self.sessions else { return ServeEnd::Again };
        let connected_at = Instant::now();
        match sessions.serve(conn, &self.channel, &self.handles_gone, &mut self.written).await {
            SessionServed::Lost { reason, retry_in, has_progress } => {
                if has_progress || connected_at.elapsed() >= self.config.max_backoff {
                    (self.backoff, self.failed_tries) = (self.config.backoff(), 0);
                } else {
                    self.failed_tries += 1;
                }
                ServeEnd::Lost { reason, retry_in }
            }
            SessionServed::Moved => ServeEnd::Again,
            SessionServed::Ended(reason) => ServeEnd::Ended(reason),
        }
    }

    /// Ends the current connection, if there is one.
    fn abandon_conn(&mut self, reason: &Reason) {
        if let Some(active) = &self.active {
            let unsent = active.sender.core().abandon();
            self.settle(reason, unsent);
        }
    }

    /// Requeues the packets that the ended connection has not written, and reports the written ones in a `Lost` event.
    fn settle(&mut self, reason: &Reason, mut unsent: Vec<Packet>) {
        let Some(ActiveConn { mut pending, taken, undelivered, .. }) = self.active.take() else { return };
        let accepted = taken - pending.len();
        // Packets that the connector sent come first in `unsent`. They are not the client's.
        let unwritten = unsent.len().min(accepted);
        unsent.drain(..unsent.len() - unwritten);
        unsent.append(&mut pending);
        self.channel.requeue(unsent);
        let first = self.written;
        self.written += (accepted - unwritten) as u64;
        let lost = Lost {
            error: reason.clone().into(),
            delivery_unknown: first..self.written,
            may_miss_packets: undelivered,
        };
        self.channel.push_events([ClientEvent::Lost(lost)]);
    }
}

impl ActiveConn {
    /// Sends the queued packets. Never returns: the receiving side finds the end of the connection, after all packets
    /// that have arrived.
    async fn send(&mut self, channel: &ClientChannel) -> std::convert::Infallible {
        loop {
            if self.pending.is_empty() {
                channel.take_packets(&mut self.pending).await;
                self.taken += self.pending.len();
            }
            // If the transport panicked, the connection has failed, and the next call returns the error.
            let sent = none_on_panic(self.sender.send_many(&mut self.pending)).await;
            if sent.is_some_and(|sent| sent.is_err()) {
                return pending().await;
            }
        }
    }

    /// Moves all queued packets into the connection's send queue, beyond the high-water mark, for `close` or a last
    /// write.
    fn move_all_to_conn(&mut self, channel: &ClientChannel) {
        loop {
            // If the transport panics, this packet was accepted already, and the next call returns the error.
            let force = |packet: &&Packet| {
                catch_panic(|| self.sender.core().accept_without_room(packet)).unwrap_or(Ok(()))
            };
            let sent = self.pending.iter().take_while(|packet| force(packet).is_ok()).count();
            catch_panic(|| drop(self.pending.drain(..sent)));
            if !self.pending.is_empty() || !channel.try_take_packets(&mut self.pending) {
                return;
            }
            self.taken += self.pending.len();
        }
    }
}

/// Returns `None` if the future panics. Sending drops memory of packets, which may run application code.
async fn none_on_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        catch_panic(|| future.as_mut().poll(cx)).map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}
