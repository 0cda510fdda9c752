//! The session of a client: one connection after another, until it ends, then the next session.
//!
//! ```text
//!   connection --> HELLO, WELCOME --> packets of the channel <--> session --> connection ended --> resumed by the next one
//!                        |                                           '------> ended --> events, and a new session
//!                        '--> no answer, again and again --> the server has no sessions
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pktconn_codec::Packet;
use pktconn_session::frame::{ByeReason, RejectReason};
use pktconn_session::{ClientSession, ConnectionId, EndReason, Ended, Fallback, NoAnswer};
use tokio_util::sync::CancellationToken;

use super::channel::ClientChannel;
use super::event::{ClientEvent, ClientState, Lost};
use super::receive_queue::BATCH;
use crate::connection::config::{Origin, Settings};
use crate::error::Reason;
use crate::session::core::SessionCore;
use crate::session::driver::{DriveEnd, SessionConn};
use crate::session::end_reason::end_reason;
use crate::session::{ControlCodec, Machine, random};
use crate::{ConnConfig, PacketConn, Session, SessionConfig, SessionMode, SessionReceiver, SessionSender};

pub(super) struct ClientSessions {
    config: SessionConfig,
    settings: Arc<Settings>,
    fallback: Fallback,
    current: Option<Current>,
    next_connection: u64,
    /// Whether `WithoutSession` was reported.
    is_reported_without: bool,
}

struct Current {
    core: Arc<SessionCore>,
    sender: SessionSender,
    receiver: SessionReceiver,
    /// Packets that were taken from the channel, and not yet accepted by the session.
    pending: Vec<Packet>,
    /// Whether `Connected` was reported.
    is_reported: bool,
    /// Whether its end was reported.
    is_end_reported: bool,
    /// How many packets had arrived and were acknowledged when the last connection began.
    progress: (u64, u64),
}

/// How a connection of a session ended.
pub(super) enum SessionServed {
    /// The session goes on, or another one begins.
    Lost {
        reason: Reason,
        /// When to connect again. `None`: after the usual pause.
        retry_in: Option<Duration>,
        /// Whether packets were delivered over it, so that it does not count as a failed try.
        has_progress: bool,
    },
    /// The session has moved to another server.
    Moved,
    /// The client ends. The reason why not everything was sent, or `None`.
    Ended(Option<Reason>),
}

impl ClientSessions {
    pub(super) fn new(config: SessionConfig, conn: &ConnConfig) -> Self {
        let settings = Settings::new(conn, Origin::Connected);
        let (fallback, current) = (Fallback::default(), None);
        Self { config, settings, fallback, current, next_connection: 0, is_reported_without: false }
    }

    /// Whether the next connection is without a session, because the server has none.
    pub(super) fn is_without(&mut self, channel: &ClientChannel) -> bool {
        let is_without =
            self.config.mode == SessionMode::Auto && !self.is_known() && self.fallback.is_legacy(now());
        if is_without {
            // No packet was given to it: a server without sessions has not answered.
            self.current = None;
            if !std::mem::replace(&mut self.is_reported_without, true) {
                channel.push_events([ClientEvent::WithoutSession]);
            }
        }
        is_without
    }

    /// Whether the server knows the session.
    fn is_known(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.core.look(|machine| machine.id().is_some()))
    }

    /// Where to connect, if the server of the session has named an address.
    pub(super) fn resume_at(&self) -> Option<String> {
        let core = &self.current.as_ref()?.core;
        core.look(|machine| match machine {
            Machine::Client(client) => client.resume_at().map(str::to_owned),
            Machine::Server(_) => None,
        })
    }

    /// Whether there is a session that the server knows, and that may still need it.
    pub(super) fn is_open(&self) -> bool {
        let core = self.current.as_ref().map(|current| &current.core);
        core.is_some_and(|core| core.look(|machine| machine.id().is_some() && !machine.session().is_over()))
    }

    /// Waits, without a connection, until the session expires. Forever if there is none.
    pub(super) async fn expired(&self) {
        let Some(current) = &self.current else { return std::future::pending().await };
        loop {
            let Some(at) = current.core.look(Machine::timeout) else { return std::future::pending().await };
            tokio::time::sleep_until(at.into()).await;
            current.core.handle_timeout_detached();
            if current.core.look(|machine| machine.session().ended().is_some()) {
                return;
            }
        }
    }

    /// Ends the session without the server, because the client ends. Its packets come back or are reported.
    pub(super) fn abandon(&mut self, channel: &ClientChannel, written: &mut u64) {
        if let Some(current) = &self.current {
            current.core.expire_detached();
        }
        self.report_end(channel, written);
    }

    /// Runs a connection until it ends. `written`: how many packets of the client were sent, over all sessions.
    pub(super) async fn serve(
        &mut self,
        conn: PacketConn,
        channel: &ClientChannel,
        handles_gone: &CancellationToken,
        written: &mut u64,
    ) -> SessionServed {
        let (control, random) = match (ControlCodec::of(&conn.sender()), random()) {
            (Ok(control), Ok(random)) => (control, u32::from_le_bytes(random)),
            (Err(error), _) => return SessionServed::Ended(Some(Reason::BadValue(error.to_string().into()))),
            (_, Err(reason)) => return SessionServed::Ended(Some(reason)),
        };
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let current = self.current.get_or_insert_with(|| Current::new(&self.config, &self.settings));
        current.progress = current.core.progress();
        current.core.connect(id, conn.sender(), control);
        let core = Arc::clone(&current.core);
        let mut conn = SessionConn::new(core, id, conn, random);
        let end = tokio::select! {
            end = current.run(&mut conn, id, channel, self.config.close_timeout) => end,
            () = handles_gone.cancelled() => {
                current.send_what_has_room(channel);
                current.core.begin_close();
                DriveEnd::Over
            }
        };
        if current.core.has_answered() {
            self.fallback.answered();
        } else if !self.is_known() {
            let why = if matches!(end, DriveEnd::Silent) { NoAnswer::Silence } else { NoAnswer::Ended };
            self.fallback.failed(why, now());
        }
        conn.end(&end).await;
        if handles_gone.is_cancelled() {
            self.current = None;
            let has_rest = channel.queued_bytes() > 0;
            return SessionServed::Ended(has_rest.then_some(Reason::LocalClose));
        }
        self.served(end, channel, written)
    }

    fn served(&mut self, end: DriveEnd, channel: &ClientChannel, written: &mut u64) -> SessionServed {
        if let Some(ended) = self.report_end(channel, written) {
            return match ended {
                EndReason::Settled { own: ByeReason::Moved, .. } => SessionServed::Moved,
                EndReason::Settled { .. }
                    if channel.closing.is_cancelled() && channel.queued_bytes() == 0 =>
                {
                    SessionServed::Ended(None)
                }
                EndReason::Rejected(RejectReason::Superseded) => {
                    SessionServed::Ended(Some(end_reason(ended)))
                }
                EndReason::Settled { .. } => {
                    SessionServed::Lost { reason: Reason::RemoteClose, retry_in: None, has_progress: true }
                }
                ended if channel.closing.is_cancelled() => SessionServed::Ended(Some(end_reason(ended))),
                ended => {
                    SessionServed::Lost { reason: end_reason(ended), retry_in: None, has_progress: false }
                }
            };
        }
        let reason = match end {
            DriveEnd::Lost(Some(error)) => error.into_reason(),
            DriveEnd::Lost(None) | DriveEnd::Replaced | DriveEnd::Over => Reason::RemoteClose,
            DriveEnd::Silent => Reason::Session("the server did not answer in time".into()),
            DriveEnd::Refused(fault) => Reason::Control(fault.to_string().into()),
        };
        let Some(current) = &self.current else {
            return SessionServed::Lost { reason, retry_in: None, has_progress: false };
        };
        let retry_at = current.core.look(|machine| match machine {
            Machine::Client(client) => client.retry_at(),
            Machine::Server(_) => None,
        });
        let has_progress = current.core.progress() != current.progress;
        // The first try is made at once. Without progress since the one before, it is not the first.
        let retry_in = match retry_at {
            Some(at) => Some(at.saturating_duration_since(now())).filter(|pause| !pause.is_zero()),
            None => has_progress.then_some(Duration::ZERO),
        };
        SessionServed::Lost { reason, retry_in, has_progress }
    }

    /// If the session has ended: reports what became of its packets, once, and puts those back that the server certainly
    /// does not have. Returns the reason when nothing is to be done for the server any more.
    pub(super) fn report_end(&mut self, channel: &ClientChannel, written: &mut u64) -> Option<EndReason> {
        let current = self.current.as_mut()?;
        let ended = current.core.look(|machine| machine.session().ended().cloned())?;
        let reason = ended.reason;
        if !std::mem::replace(&mut current.is_end_reported, true) {
            current.report(ended, channel, written);
        }
        // A settled session may have to tell the server so, over another connection.
        if !current.core.look(|machine| machine.session().is_over()) {
            return None;
        }
        // Those that were taken after the report.
        channel.requeue(std::mem::take(&mut current.pending));
        self.current = None;
        Some(reason)
    }
}

impl Current {
    fn new(config: &SessionConfig, settings: &Arc<Settings>) -> Self {
        let machine = ClientSession::new(config.machine()).hello_timeout(config.hello_timeout);
        let core = SessionCore::new(
            Machine::Client(Box::new(machine)),
            Arc::clone(settings),
            config.recv_bytes,
            None,
        );
        let (sender, receiver) = Session::new(&core).split();
        Self {
            core,
            sender,
            receiver,
            pending: Vec::new(),
            is_reported: false,
            is_end_reported: false,
            progress: (0, 0),
        }
    }

    fn report(&mut self, ended: Ended, channel: &ClientChannel, written: &mut u64) {
        let Ended { reason, handed_over, in_doubt, not_acknowledged, mut unsent, .. } = ended;
        let delivery_unknown = *written + in_doubt.start..*written + in_doubt.end;
        let mut rest = if in_doubt.is_empty() { not_acknowledged } else { Vec::new() };
        *written += if in_doubt.is_empty() { handed_over } else { in_doubt.end };
        rest.append(&mut unsent);
        rest.append(&mut self.pending);
        channel.requeue(rest);
        let is_settled = matches!(reason, EndReason::Settled { .. });
        let event = match reason {
            EndReason::Settled { own: ByeReason::Moved, .. } if in_doubt.is_empty() => ClientEvent::Moved,
            EndReason::Settled { .. } if channel.closing.is_cancelled() => return,
            // It has never existed for the application.
            _ if !self.is_reported => return,
            _ => {
                let error = if is_settled { Reason::RemoteClose } else { end_reason(reason) };
                let lost = Lost { error: error.into(), delivery_unknown, may_miss_packets: !is_settled };
                ClientEvent::Lost(lost)
            }
        };
        channel.push_events([event]);
    }

    /// Runs a connection, and moves packets between the channel and the session.
    async fn run(
        &mut self,
        conn: &mut SessionConn,
        id: ConnectionId,
        channel: &ClientChannel,
        close_timeout: Duration,
    ) -> DriveEnd {
        if let Some(end) = conn.run_until(|core| core.has_connection(id)).await {
            return end;
        }
        channel.set_state(ClientState::Connected);
        if !std::mem::replace(&mut self.is_reported, true) {
            channel.push_events([ClientEvent::Connected]);
        }
        let Self { core, sender, receiver, pending, .. } = self;
        let app = async {
            tokio::join!(
                send(core, sender, pending, channel, close_timeout),
                receive(core, receiver, channel)
            );
            std::future::pending().await
        };
        tokio::select! {
            biased;
            never = app => never,
            end = conn.run_until(|_| false) => end.unwrap_or(DriveEnd::Over),
        }
    }

    /// Gives the session the queued packets that it has room for, without waiting.
    fn send_what_has_room(&mut self, channel: &ClientChannel) {
        while !self.pending.is_empty() || channel.try_take_packets(&mut self.pending) {
            let sent = self.pending.iter().take_while(|packet| self.core.try_send(packet).is_ok()).count();
            self.pending.drain(..sent);
            if !self.pending.is_empty() {
                return;
            }
        }
    }
}

/// Sends the packets of the channel, until the session takes no more. Once the client is closed and everything was sent,
/// begins to close the session.
async fn send(
    core: &SessionCore,
    sender: &SessionSender,
    pending: &mut Vec<Packet>,
    channel: &ClientChannel,
    close_timeout: Duration,
) {
    let mut late = pin!(async {
        channel.closing.cancelled().await;
        tokio::time::sleep(close_timeout).await;
    });
    loop {
        tokio::select! {
            biased;
            sent = sender.send_many(pending) => if sent.is_err() { return },
            // What is left comes back.
            () = &mut late => break,
        }
        tokio::select! {
            biased;
            () = channel.take_packets(pending) => {}
            () = channel.closing.cancelled() => break,
        }
    }
    core.begin_close();
}

/// Hands packets to the channel, until the server sends no more. Then closes this side, too.
async fn receive(core: &SessionCore, receiver: &mut SessionReceiver, channel: &ClientChannel) {
    let mut packets = Vec::new();
    loop {
        channel.wait_until_no_packets().await;
        match receiver.recv_many(&mut packets, BATCH).await {
            Ok(1..) => channel.push_events(packets.drain(..).map(ClientEvent::Packet)),
            Ok(0) | Err(_) => break,
        }
    }
    core.begin_close();
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
