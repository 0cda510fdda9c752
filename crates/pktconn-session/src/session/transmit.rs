//! What to write next.

use std::time::Instant;

use pktconn_codec::Packet;

use super::{ConnectionId, Session};
use crate::config::millis;
use crate::frame::{Bye, ByeReason, ControlFrame, GoAway};

/// What to write to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A control frame.
    Control(ControlFrame),
    /// A data frame with this payload. It has a number now.
    Data(Packet),
}

impl Session {
    /// The next frame for the connection, in the order in which frames must be written.
    pub(crate) fn transmit(&mut self, id: ConnectionId, now: Instant) -> Option<Transmit> {
        let is_settled = self.is_settled();
        let connection = self.connection.as_mut().filter(|connection| connection.id == id)?;
        if connection.is_done_written {
            return None;
        }
        if self.ended.is_some() && !is_settled {
            let is_due = std::mem::take(&mut self.owes_farewell);
            let bye = Bye { reason: ByeReason::Diverged, sent: 0 };
            return is_due.then_some(Transmit::Control(ControlFrame::Bye(bye)));
        }
        if let Some(data) = connection.pong.take() {
            return Some(Transmit::Control(ControlFrame::Pong { data }));
        }
        let is_all_handed_over = self.peer_bye.is_some() && self.incoming.is_empty();
        if connection.owes_ack
            || self.incoming.is_ack_due(now)
            || (is_all_handed_over && !self.incoming.is_acknowledged())
        {
            connection.owes_ack = false;
            let received = self.incoming.acknowledge();
            self.settle(now);
            return Some(Transmit::Control(ControlFrame::Ack { received }));
        }
        if connection.owes_go_away {
            connection.owes_go_away = false;
            if let Some((go_away, deadline)) = self.go_away.as_deref() {
                let deadline_ms = millis(deadline.saturating_duration_since(now));
                let spread_ms = go_away.spread_ms.min(deadline_ms);
                let go_away = GoAway { deadline_ms, spread_ms, ..go_away.clone() };
                return Some(Transmit::Control(ControlFrame::GoAway(go_away)));
            }
        }
        if let Some(data) = connection.liveness.poll_ping(now) {
            return Some(Transmit::Control(ControlFrame::Ping { data }));
        }
        if self.is_stopped && self.is_confirmed && !connection.is_stop_written {
            connection.is_stop_written = true;
            let received = self.incoming.acknowledge();
            self.settle(now);
            return Some(Transmit::Control(ControlFrame::Stop { received }));
        }
        if connection.is_bye_written {
            if !is_settled || !connection.has_peer_bye {
                return None;
            }
            connection.is_done_written = true;
            self.is_over |= connection.has_peer_done;
            return Some(Transmit::Control(ControlFrame::Done));
        }
        let closing = self.closing.as_ref();
        let may_number = self.is_confirmed && closing.is_none_or(|closing| closing.sends_unsent);
        if self.incoming.is_ack_due_with_data(now) && self.outgoing.has_next(may_number) {
            return Some(Transmit::Control(ControlFrame::Ack { received: self.incoming.acknowledge() }));
        }
        if let Some(packet) = self.outgoing.next(may_number) {
            return Some(Transmit::Data(packet));
        }
        // A replay is over: its packets are written before.
        let closing = closing.filter(|closing| {
            self.is_confirmed && !(closing.sends_unsent && self.outgoing.unsent_len() > 0)
        })?;
        connection.is_bye_written = true;
        let bye = Bye { reason: closing.reason, sent: self.outgoing.sent() };
        self.settle(now);
        Some(Transmit::Control(ControlFrame::Bye(bye)))
    }
}
