//! How a session ends: closed on this side, on the other one, or without the peer.

use std::time::Instant;

use super::outcome::{Closing, Departure};
use super::{EndReason, Ended, Session};
use crate::frame::{ByeReason, GoAway};

impl Session {
    /// Ends this direction after all packets that were queued. The application still receives.
    pub fn finish(&mut self, now: Instant) {
        self.close_with(ByeReason::Finished, true, None, now);
    }

    /// Ends the session after all packets that were queued, at the latest after the close timeout. The application receives no
    /// more packets.
    pub fn close(&mut self, now: Instant) {
        self.stop();
        self.close_with(ByeReason::Closed, true, Some(now + self.config.close_timeout), now);
    }

    /// Ends the session because the application has failed. Packets without a number are not sent.
    pub fn fail(&mut self, now: Instant) {
        self.stop();
        self.close_with(ByeReason::Failed, false, Some(now + self.config.close_timeout), now);
    }

    /// The application takes no more packets.
    pub(super) fn stop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.is_stopped = true;
        self.incoming.discard();
    }

    /// The peer takes no more packets.
    pub(super) fn close_outgoing(&mut self) {
        let closing = self.closing.get_or_insert_with(|| {
            Box::new(Closing {
                reason: ByeReason::Finished,
                sends_unsent: false,
                deadline: None,
                is_move: false,
            })
        });
        closing.sends_unsent = false;
    }

    pub(super) fn close_with(
        &mut self,
        mut reason: ByeReason,
        mut sends_unsent: bool,
        mut deadline: Option<Instant>,
        now: Instant,
    ) {
        // An ended session waits for its peer only, and no longer than it was to wait when it ended.
        if self.ended.is_some() {
            return;
        }
        let mut is_move = reason == ByeReason::Moved;
        if let Some(earlier) = &self.closing {
            reason = earlier.reason;
            sends_unsent &= earlier.sends_unsent;
            deadline = deadline.into_iter().chain(earlier.deadline).min();
            is_move |= earlier.is_move;
        }
        self.closing = Some(Box::new(Closing { reason, sends_unsent, deadline, is_move }));
        self.settle(now);
    }

    /// Of a server: asks the client to move. At `deadline` the session is closed.
    pub fn go_away(&mut self, go_away: GoAway, now: Instant) {
        let deadline = now + std::time::Duration::from_millis(go_away.deadline_ms.into());
        self.go_away = Some(Box::new((go_away, deadline)));
        if let Some(connection) = &mut self.connection {
            connection.owes_go_away = true;
        }
    }

    /// A server asked the client to move, at a moment that `random` chooses.
    pub(crate) fn depart(&mut self, go_away: &GoAway, random: u32, now: Instant) {
        let millis = std::time::Duration::from_millis;
        let fraction = f64::from(random) / f64::from(u32::MAX);
        let move_at = now + millis(go_away.spread_ms.min(go_away.deadline_ms).into()).mul_f64(fraction);
        let deadline = now + millis(go_away.deadline_ms.into());
        let earlier = self.departure.take();
        self.departure = Some(Box::new(match earlier {
            None => Departure { move_at, deadline },
            Some(earlier) => {
                Departure { move_at: earlier.move_at.min(move_at), deadline: earlier.deadline.min(deadline) }
            }
        }));
    }

    /// Ends the session if nothing is missing on either side.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        let (Some(closing), Some(peer), Some(connection)) =
            (&mut self.closing, self.peer_bye, &self.connection)
        else {
            return;
        };
        if !connection.is_bye_written || !connection.has_peer_bye {
            return;
        }
        let is_own_fate_known =
            self.peer_stop.is_some() || self.outgoing.first_held() == self.outgoing.sent();
        let is_peer_fate_known = connection.is_stop_written
            || (self.incoming.is_acknowledged() && self.incoming.received() == peer.sent);
        if is_own_fate_known && is_peer_fate_known {
            // The peer may have lost its connection, and need this BYE once more.
            closing.deadline = Some(now + self.config.ttl);
            let reason = EndReason::Settled { own: closing.reason, peer: peer.reason };
            self.end(reason);
        }
    }

    /// Whether the session has ended with both sides knowing all. It may still have to answer a peer that has lost its connection.
    pub(crate) fn is_settled(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| matches!(ended.reason, EndReason::Settled { .. }))
    }

    pub(crate) fn end(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        let (handed_over, sent) = (self.outgoing.first_held(), self.outgoing.sent());
        let is_known = self.peer_stop.is_some();
        self.ended = Some(Box::new(Ended {
            reason,
            handed_over,
            in_doubt: if is_known { sent..sent } else { handed_over..sent },
            not_acknowledged: self.outgoing.held(),
            unsent: self.outgoing.drain_unsent(0..self.outgoing.unsent_len()),
            received: self.incoming.received(),
        }));
        self.incoming.discard();
    }

    /// The end of the session, once it has ended.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_deref()
    }
}
