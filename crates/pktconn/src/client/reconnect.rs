//! The task that keeps a client's connection up.
//!
//! ```text
//!   Connecting --> Connected --> Waiting --> Connecting ...          close(), max_tries --> Ended
//!        '---------- fails ---------^
//! ```
//!
//! What a connection has not written goes back to the front of the queue, for the next one.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use pktconn_codec::Packet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::config::{Backoff, ClientConfig};
use super::event::{ClientEvent, ClientState, Lost};
use super::link::Link;
use super::receive::{Received, receive};
use crate::connection::deferred::catch_panic;
use crate::error::{Reason, Timeout};
use crate::{ConnConfig, Error, PacketConn, PacketSender, SlowConsumer};

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<PacketConn, Error>> + Send>>;
pub(super) type Connector = Box<dyn Fn(ConnConfig) -> Connecting + Send + Sync>;

struct Reconnector {
    link: Arc<Link>,
    config: ClientConfig,
    connector: Connector,
    /// Once there is no handle any more.
    gone: CancellationToken,
    session: Option<Session>,
    /// How many packets were ever written.
    written: u64,
    backoff: Backoff,
    failed_tries: u32,
    has_ended: bool,
}

/// What was given to the present connection.
struct Session {
    sender: PacketSender,
    /// Packets that were taken for it and that it has not accepted yet.
    pending: Vec<Packet>,
    /// How many were ever taken for it.
    taken: usize,
    /// Whether packets that have arrived may never come to the inbox. True until receiving has come to its end.
    undelivered: bool,
}

/// How a connection came to its end.
enum Served {
    Lost(Reason),
    /// With the client: why not all was sent, if so.
    Ended(Option<Reason>),
}

pub(super) fn keep(
    link: Arc<Link>,
    config: ClientConfig,
    connector: Connector,
    gone: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    #[cfg(feature = "metrics")]
    super::metrics::describe();
    let backoff = config.backoff();
    // Made before the first turn, which a runtime that is shut down does not grant.
    let mut reconnector = Reconnector {
        link,
        config,
        connector,
        gone,
        session: None,
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

/// One whose task is dropped, because its runtime is shut down, or ended by a panic, leaves nobody waiting and no
/// packet untold.
impl Drop for Reconnector {
    fn drop(&mut self) {
        if !self.has_ended {
            let problem = "the runtime of the client was shut down, or its connector or transport panicked";
            let reason = Reason::from(std::io::Error::other(problem));
            self.lose(&reason);
            self.end(Some(reason));
        }
    }
}

impl Reconnector {
    fn end(&mut self, reason: Option<Reason>) {
        self.has_ended = true;
        self.link.end(reason);
    }

    /// Keeps the connection up until the end, and tells why not all was sent, if so.
    async fn run(&mut self) -> Option<Reason> {
        let (closing, gone) = (self.link.closing.clone(), self.gone.clone());
        let close_timeout = self.config.conn.timeouts.close;
        // What `close` grants to an attempt that it finds under way, or that is made for it.
        let mut closed_long_ago = std::pin::pin!(async {
            closing.cancelled().await;
            sleep(close_timeout).await;
        });
        loop {
            if closing.is_cancelled() && !self.has_unsent() {
                return None;
            }
            self.set_state(ClientState::Connecting);
            let connected = tokio::select! {
                biased;
                () = gone.cancelled() => return self.dropped(),
                () = closed_with_nothing_to_send(&self.link) => return None,
                connected = (self.connector)(self.config.conn.clone()) => connected,
                () = &mut closed_long_ago => return Some(Reason::Timeout(Timeout::Close, close_timeout)),
            };
            let reason = match connected.map_err(Error::into_reason) {
                Ok(conn) => match self.serve(conn).await {
                    Served::Lost(reason) => reason,
                    Served::Ended(reason) => return reason,
                },
                Err(reason) => {
                    self.failed_tries += 1;
                    #[cfg(feature = "metrics")]
                    super::metrics::failed();
                    reason
                }
            };
            if closing.is_cancelled() {
                return self.has_unsent().then_some(reason);
            }
            let has_tried_enough = self.config.max_tries.is_some_and(|most| self.failed_tries >= most);
            if has_tried_enough || reason.is_config() {
                return Some(reason);
            }
            let delay = self.backoff.next();
            let (failed_tries, error) = (self.failed_tries, Arc::new(Error::from(reason)));
            tracing::debug!(error = &*error as &dyn std::error::Error, ?delay, "connects again");
            self.set_state(ClientState::Waiting { failed_tries, delay, error });
            tokio::select! {
                biased;
                () = gone.cancelled() => return self.dropped(),
                () = closing.cancelled() => {}
                () = sleep(delay) => {}
            }
        }
    }

    fn has_unsent(&self) -> bool {
        self.link.queued_bytes() > 0
    }

    /// The end of a client without handles.
    fn dropped(&self) -> Option<Reason> {
        let bytes = self.link.queued_bytes();
        if bytes == 0 {
            return None;
        }
        tracing::debug!(bytes, "the client was dropped with packets that were not sent");
        Some(Reason::LocalClose)
    }

    fn set_state(&self, state: ClientState) {
        self.link.set_state(state);
    }

    /// Has packets go both ways over `conn` until it or the client ends.
    async fn serve(&mut self, conn: PacketConn) -> Served {
        let rules = &conn.shared().settings.rules;
        if rules.slow_consumer != SlowConsumer::Block
            || rules.codec.config().payload_limit() < self.link.codec().config().payload_limit()
        {
            let problem = "a client's connection must take all that the client has accepted: connect with its ConnConfig";
            return Served::Ended(Some(Reason::Config(problem)));
        }
        let since = Instant::now();
        #[cfg(feature = "metrics")]
        super::metrics::connected();
        self.set_state(ClientState::Connected);
        self.link.tell([ClientEvent::Connected]);
        let (sender, mut receiver) = conn.split();
        let session = Session { sender: sender.clone(), pending: Vec::new(), taken: 0, undelivered: true };
        let session = self.session.insert(session);
        let mut has_received = false;
        let lost = tokio::select! {
            received = receive(&self.link, &sender, &mut receiver, &mut has_received) => Some(received),
            never = session.send(&self.link) => match never {},
            () = self.link.closing.cancelled() => None,
            () = self.gone.cancelled() => None,
        };
        if let Some(Received { reason, undelivered }) = lost {
            session.undelivered = undelivered;
            self.lose(&reason);
            if has_received || since.elapsed() >= self.config.max_backoff {
                (self.backoff, self.failed_tries) = (self.config.backoff(), 0);
            } else {
                self.failed_tries += 1;
            }
            return Served::Lost(reason);
        }
        session.hand_over(&self.link);
        // It would have `close` wait for its bytes to be read.
        drop(receiver);
        if self.link.closing.is_cancelled() {
            let all_is_out = session.pending.is_empty() && self.link.queued_bytes() == 0;
            let (reason, unsent) = match sender.close().await {
                Err(mut error) => (error.reason(), error.take_unsent()),
                Ok(()) if all_is_out => {
                    self.session = None;
                    return Served::Ended(None);
                }
                // It was closed before, by who has made it.
                Ok(()) => (Reason::LocalClose, Vec::new()),
            };
            self.account(&reason, unsent);
            return Served::Ended(Some(reason));
        }
        if self.link.has_discarded() {
            sender.shared().note_undelivered(true);
        }
        // What the transport takes without waiting still goes.
        let unsent = sender.shared().cut().map_or_else(|| sender.shared().abandon(), |cut| cut.unsent);
        self.account(&Reason::LocalClose, unsent);
        Served::Ended(self.dropped())
    }

    /// Ends the present connection, if there is one.
    fn lose(&mut self, reason: &Reason) {
        if let Some(session) = &self.session {
            let unsent = session.sender.shared().abandon();
            self.account(reason, unsent);
        }
    }

    /// Takes back what the present connection, which has ended, has not written, and tells of what it has.
    fn account(&mut self, reason: &Reason, mut unsent: Vec<Packet>) {
        let Some(Session { mut pending, taken, undelivered, .. }) = self.session.take() else { return };
        let accepted = taken - pending.len();
        // What the connector has sent stands before.
        let own = unsent.len().min(accepted);
        unsent.drain(..unsent.len() - own);
        unsent.append(&mut pending);
        self.link.put_back(unsent);
        let first = self.written;
        self.written += (accepted - own) as u64;
        let lost = Lost { error: reason.clone().into(), written: first..self.written, undelivered };
        self.link.tell([ClientEvent::Lost(lost)]);
    }
}

impl Session {
    /// Sends what is queued. Never ends: that of the connection is found in receiving, after all that has arrived.
    async fn send(&mut self, link: &Link) -> std::convert::Infallible {
        loop {
            if self.pending.is_empty() {
                link.take(&mut self.pending).await;
                self.taken += self.pending.len();
            }
            // One that panics has failed its connection, where it was the transport's doing: the next one says so.
            let sent = unless_it_panics(self.sender.send_many(&mut self.pending)).await;
            if sent.is_some_and(|sent| sent.is_err()) {
                return pending().await;
            }
        }
    }

    /// Moves all that is queued into the send queue, over its mark: `close`, or a last write, takes it from there.
    fn hand_over(&mut self, link: &Link) {
        loop {
            // One under which the transport panics was accepted before, and the next one fails.
            let force =
                |packet: &&Packet| catch_panic(|| self.sender.shared().force(packet)).unwrap_or(Ok(()));
            let sent = self.pending.iter().take_while(|packet| force(packet).is_ok()).count();
            catch_panic(|| drop(self.pending.drain(..sent)));
            if !self.pending.is_empty() || !link.try_take(&mut self.pending) {
                return;
            }
            self.taken += self.pending.len();
        }
    }
}

/// `None` where it panics: to send drops the memory of packets, which is code of the application's.
async fn unless_it_panics<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        catch_panic(|| future.as_mut().poll(cx)).map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Ready when the client is closed while nothing is to be sent.
async fn closed_with_nothing_to_send(link: &Link) {
    link.closing.cancelled().await;
    if link.queued_bytes() > 0 {
        pending::<()>().await;
    }
}
