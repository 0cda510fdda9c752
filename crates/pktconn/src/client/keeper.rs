//! The task that keeps a client's connection up.
//!
//! ```text
//!   Connecting --> Connected --> Waiting --> Connecting ...          close(), max_tries --> Ended
//!        '---------- fails ---------^
//! ```
//!
//! What it has taken from the queue and the connection has not written is `pending`, and comes first in the next one.

use std::future::pending;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use pktconn_codec::Packet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::config::Backoff;
use super::link::Link;
use super::{ClientConfig, ClientEvent, ClientState, Lost};
use crate::error::Reason;
use crate::{ConnConfig, Error, PacketConn, PacketReceiver, PacketSender, SlowConsumer};

/// How many packets the receiver gets at a time.
const BATCH: usize = 256;

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<PacketConn, Error>> + Send>>;
pub(super) type Connector = Box<dyn Fn(ConnConfig) -> Connecting + Send + Sync>;

struct Keeper {
    link: Arc<Link>,
    config: ClientConfig,
    connector: Connector,
    /// Once there is no handle any more.
    gone: CancellationToken,
    pending: Vec<Packet>,
    /// How many packets were ever written.
    written: u64,
    backoff: Backoff,
    failed_tries: u32,
}

/// How a connection came to its end.
enum Served {
    Lost(Reason),
    /// With the client: why not all was sent, if so.
    Ended(Option<Reason>),
}

/// A keeper whose task is dropped, because its runtime is shut down, leaves nobody waiting.
struct EndWithTask(Arc<Link>);

impl Drop for EndWithTask {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            let lost =
                std::io::Error::other("the runtime of the client was shut down, or its connector panicked");
            self.0.end(Some(lost.into()), Vec::new());
        }
    }
}

pub(super) fn keep(
    link: Arc<Link>,
    config: ClientConfig,
    connector: Connector,
    gone: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    #[cfg(feature = "metrics")]
    crate::metrics::describe_client();
    // Made before the first turn, which a runtime that is shut down does not grant.
    let end = EndWithTask(Arc::clone(&link));
    let backoff = config.backoff();
    let mut keeper =
        Keeper { link, config, connector, gone, pending: Vec::new(), written: 0, backoff, failed_tries: 0 };
    async move {
        let reason = keeper.run().await;
        end.0.end(reason, keeper.pending);
    }
}

impl Keeper {
    /// Keeps the connection up until the end, and tells why not all was sent, if so.
    async fn run(&mut self) -> Option<Reason> {
        let closing = self.link.closing.clone();
        let close_timeout = self.config.conn.timeouts.close;
        let gone = self.gone.clone();
        // What `close` grants to an attempt that it finds under way, or that it has made.
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
                () = gone.cancelled() => return None,
                () = closed_with_nothing_to_send(&self.link, self.pending.is_empty()) => return None,
                connected = (self.connector)(self.config.conn.clone()) => connected,
                () = &mut closed_long_ago => return Some(Reason::LocalClose),
            };
            let reason = match connected.map_err(Error::into_reason) {
                Ok(conn) => match self.serve(conn).await {
                    Served::Lost(reason) => reason,
                    Served::Ended(reason) => return reason,
                },
                Err(reason) => {
                    self.failed_tries += 1;
                    #[cfg(feature = "metrics")]
                    crate::metrics::client_failed();
                    reason
                }
            };
            if closing.is_cancelled() {
                return self.has_unsent().then_some(reason);
            }
            if self.config.max_tries.is_some_and(|most| self.failed_tries >= most) {
                return Some(reason);
            }
            let delay = self.backoff.next();
            let (failed_tries, error) = (self.failed_tries, Arc::new(Error::from(reason)));
            tracing::debug!(error = &*error as &dyn std::error::Error, ?delay, "connects again");
            self.set_state(ClientState::Waiting { failed_tries, delay, error });
            tokio::select! {
                biased;
                () = gone.cancelled() => return None,
                () = closing.cancelled() => {}
                () = sleep(delay) => {}
            }
        }
    }

    fn has_unsent(&self) -> bool {
        !self.pending.is_empty() || self.link.queued_bytes() > 0
    }

    fn set_state(&self, state: ClientState) {
        self.link.state().send_replace(state);
    }

    /// Has packets go both ways over `conn` until it or the client ends.
    async fn serve(&mut self, conn: PacketConn) -> Served {
        let settings = &conn.shared().settings;
        if settings.slow_consumer != SlowConsumer::Block
            || settings.codec.config().payload_limit() < self.link.codec().config().payload_limit()
        {
            let problem = "a client's connection must take all that the client has accepted: connect with its ConnConfig";
            return Served::Ended(Some(Reason::Config(problem)));
        }
        let since = Instant::now();
        #[cfg(feature = "metrics")]
        crate::metrics::client_connected();
        self.set_state(ClientState::Connected);
        self.link.tell([ClientEvent::Connected]);
        let (sender, mut receiver) = conn.split();
        let mut given = self.pending.len();
        let mut has_received = false;
        let lost = tokio::select! {
            reason = receive(&self.link, &mut receiver, &mut has_received) => Some(reason),
            never = send(&self.link, &sender, &mut self.pending, &mut given) => match never {},
            () = self.link.closing.cancelled() => None,
            () = self.gone.cancelled() => None,
        };
        if let Some(reason) = lost {
            let written = self.account(given, sender.shared().abandon());
            if has_received || since.elapsed() >= self.config.max_backoff {
                (self.backoff, self.failed_tries) = (self.config.backoff(), 0);
            } else {
                self.failed_tries += 1;
            }
            self.link.tell([ClientEvent::Lost(Lost { error: reason.clone().into(), written })]);
            return Served::Lost(reason);
        }
        // Into the outbox with all that is left, which needs no more memory there: `close` and a drop write that.
        let before = self.pending.len();
        while self.link.try_take(&mut self.pending) {}
        given += self.pending.len() - before;
        let sent = self.pending.iter().take_while(|packet| sender.shared().force(packet).is_ok()).count();
        self.pending.drain(..sent);
        // It would have `close` wait for its bytes to be read.
        drop(receiver);
        if !self.link.closing.is_cancelled() {
            return Served::Ended(None);
        }
        match sender.close().await {
            Ok(()) => Served::Ended(None),
            Err(mut error) => {
                self.account(given, error.take_unsent());
                Served::Ended(Some(error.into_reason()))
            }
        }
    }

    /// Takes back those of `given` packets that a connection has not written, and tells the numbers of those it has.
    fn account(&mut self, given: usize, unsent: Vec<Packet>) -> Range<u64> {
        let accepted = given - self.pending.len();
        // What the connector has sent stands before.
        let own = unsent.len().min(accepted);
        let foreign = unsent.len() - own;
        self.pending.splice(0..0, unsent.into_iter().skip(foreign));
        let first = self.written;
        self.written += (accepted - own) as u64;
        first..self.written
    }
}

/// Ready when the client is closed while nothing is to be sent.
async fn closed_with_nothing_to_send(link: &Link, nothing_is_pending: bool) {
    link.closing.cancelled().await;
    if !nothing_is_pending || link.queued_bytes() > 0 {
        pending::<()>().await;
    }
}

/// Passes on what arrives, as fast as it is received there, and tells why the connection ended.
async fn receive(link: &Link, receiver: &mut PacketReceiver, has_received: &mut bool) -> Reason {
    let mut packets = Vec::new();
    loop {
        link.wait_for_inbox().await;
        match receiver.recv_many(&mut packets, BATCH).await {
            Ok(0) => return Reason::RemoteClose,
            Ok(_) => {
                *has_received = true;
                link.tell(packets.drain(..).map(ClientEvent::Packet));
            }
            Err(error) => return error.into_reason(),
        }
    }
}

/// Sends what is `pending` and what is queued, and counts what it takes from there as `given`. Never ends: that of the
/// connection is found in receiving, after all that has arrived.
async fn send(
    link: &Link,
    sender: &PacketSender,
    pending_packets: &mut Vec<Packet>,
    given: &mut usize,
) -> std::convert::Infallible {
    loop {
        if pending_packets.is_empty() {
            link.take(pending_packets).await;
            *given += pending_packets.len();
        }
        if sender.send_many(pending_packets).await.is_err() {
            return pending().await;
        }
    }
}
