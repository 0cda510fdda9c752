//! The connection of a session: how it comes, what it brings, and how it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pktconn_codec::Packet;

use super::attachment::{Connection, ConnectionId, PeerCounters};
use super::{EndReason, FrameRefused, Session};
use crate::direction::{Counter, OutOfBounds};
use crate::frame::{Bye, ByeReason, ControlFrame, RejectReason};

impl Session {
    /// Whether the counters of a peer that resumes are within their bounds.
    pub(crate) fn check_resume(&self, peer: PeerCounters) -> Result<(), OutOfBounds> {
        self.outgoing.check_resume(peer.received)?;
        self.incoming.check_resume(peer.first_held)?;
        match self.peer_stop {
            Some(stop) => Counter::Received.check(peer.received, stop..=stop),
            None => Ok(()),
        }
    }

    /// Reads `received` for a handshake, and forgets what older connections brought beyond it.
    pub(crate) fn restart_incoming(&mut self) -> u64 {
        self.incoming.restart()
    }

    pub(crate) fn first_held(&self) -> u64 {
        self.outgoing.first_held()
    }

    /// Takes a connection whose handshake is complete. The counters were checked.
    pub(crate) fn attach(&mut self, id: ConnectionId, peer: PeerCounters, now: Instant) {
        self.outgoing.rewind(peer.received);
        self.incoming.set_peer_replay_bytes(peer.replay_bytes);
        self.connection = Some(Box::new(Connection {
            id,
            liveness: self.new_liveness(now),
            pong: None,
            owes_ack: false,
            owes_go_away: self.go_away.is_some(),
            is_bye_written: false,
            is_stop_written: false,
            has_peer_bye: false,
            is_done_written: false,
            has_peer_done: false,
        }));
    }

    /// What the server's WELCOME sets.
    pub(crate) fn set_times(&mut self, ttl: Duration, ping_interval: Duration, ping_timeout: Duration) {
        let config = Arc::make_mut(&mut self.config);
        config.ttl = ttl;
        config.ping_interval = ping_interval;
        config.ping_timeout = ping_timeout;
    }

    pub(crate) fn forget(&mut self) {
        self.is_over = true;
    }

    pub(crate) fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    pub(crate) fn owe_ack(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.owes_ack = true;
        }
    }

    /// The connection that the session uses.
    #[must_use]
    pub fn connection(&self) -> Option<ConnectionId> {
        self.connection.as_ref().map(|connection| connection.id)
    }

    /// The connection is lost: it failed, or ended without being settled.
    pub(crate) fn detach(&mut self, now: Instant) {
        if self.connection.take().is_some() && self.is_confirmed {
            self.detached_since = Some(now);
        }
    }

    /// A connection has ended. Other connections than the current one have no effect.
    pub(crate) fn connection_ended(&mut self, id: ConnectionId, now: Instant) {
        if self.connection() != Some(id) {
            return;
        }
        self.detach(now);
        self.is_over |= self.ended.is_some() && !self.is_settled();
    }

    /// The handshake was refused.
    pub(crate) fn reject(&mut self, reason: RejectReason, now: Instant) {
        self.detach(now);
        self.end(EndReason::Rejected(reason));
        self.is_over = true;
    }

    /// Bytes arrived, of any kind.
    pub fn heard(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.id == id) {
            connection.liveness.heard(now);
        }
    }

    /// A data frame arrived on the current connection.
    pub(crate) fn receive_data(&mut self, packet: Packet) -> Result<(), FrameRefused> {
        if self.connection.as_ref().is_some_and(|connection| connection.has_peer_bye) {
            let error = one_more_than(self.peer_bye.map_or(0, |bye| bye.sent));
            return Err(self.diverge(error));
        }
        self.incoming.push(packet);
        Ok(())
    }

    /// A control frame arrived on the current connection. HELLO, WELCOME and REJECT belong to the handshake.
    pub(crate) fn receive_control(&mut self, frame: &ControlFrame, now: Instant) -> Result<(), FrameRefused> {
        let is_settled = self.is_settled();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match frame {
            ControlFrame::Ack { received } => {
                self.acknowledge(*received).map_err(|error| self.diverge(error))?;
            }
            ControlFrame::Ping { data } => connection.pong = Some(*data),
            ControlFrame::Pong { data } => {
                if let Some(rtt) = connection.liveness.pong(*data, now) {
                    self.rtt = Some(rtt);
                }
            }
            ControlFrame::Stop { received } => {
                self.receive_stop(*received).map_err(|error| self.diverge(error))?;
            }
            ControlFrame::Done if !is_settled || !connection.has_peer_bye => {
                return Err(FrameRefused::Unexpected { name: frame.name() });
            }
            ControlFrame::Done => {
                connection.has_peer_done = true;
                self.is_over |= connection.is_done_written;
            }
            ControlFrame::Bye(bye) => self.receive_bye(*bye).map_err(|error| self.diverge(error))?,
            ControlFrame::Hello(_)
            | ControlFrame::Welcome(_)
            | ControlFrame::Reject(_)
            | ControlFrame::GoAway(_) => {
                return Err(FrameRefused::Unexpected { name: frame.name() });
            }
        }
        self.settle(now);
        Ok(())
    }

    fn acknowledge(&mut self, received: u64) -> Result<(), OutOfBounds> {
        match self.peer_stop {
            Some(stop) => Counter::Received.check(received, stop..=stop),
            None => self.outgoing.acknowledge(received),
        }
    }

    fn receive_stop(&mut self, received: u64) -> Result<(), OutOfBounds> {
        self.acknowledge(received)?;
        self.peer_stop = Some(received);
        self.close_outgoing();
        Ok(())
    }

    fn receive_bye(&mut self, bye: Bye) -> Result<(), OutOfBounds> {
        if bye.reason == ByeReason::Diverged {
            self.end(EndReason::Rejected(RejectReason::Diverged));
            self.is_over = true;
            return Ok(());
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if connection.has_peer_bye {
            return Err(one_more_than(bye.sent));
        }
        self.incoming.check_sent(bye.sent)?;
        if let Some(earlier) = self.peer_bye {
            Counter::Sent.check(bye.sent, earlier.sent..=earlier.sent)?;
        }
        connection.has_peer_bye = true;
        self.peer_bye = Some(bye);
        Ok(())
    }

    fn diverge(&mut self, error: OutOfBounds) -> FrameRefused {
        if self.ended.is_none() {
            self.owes_farewell = true;
            self.end(EndReason::Diverged(error));
        }
        FrameRefused::Diverged(error)
    }
}

/// The error of a packet, or of another BYE, after a BYE that stated `sent`.
fn one_more_than(sent: u64) -> OutOfBounds {
    let needed = sent.saturating_add(1);
    OutOfBounds { counter: Counter::Sent, value: sent, min: needed, max: needed }
}
