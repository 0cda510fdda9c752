//! What happens when time passes.

use std::time::Instant;

use super::{ConnectionId, EndReason, Session};
use crate::frame::ByeReason;

impl Session {
    /// When to call the wrapper's `handle_timeout`.
    ///
    /// After that, this is later than `now`, also if nothing could be written.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        let mut times = [None; 5];
        if let Some(connection) = &self.connection {
            times[0] = Some(connection.liveness.timeout());
            times[1] = self.incoming.ack_at().filter(|_| !connection.owes_ack);
        } else {
            times[0] = self.expires_at();
        }
        times[2] = self.closing.as_ref().and_then(|closing| closing.deadline);
        if self.ended.is_none() {
            if let Some(departure) = &self.departure {
                times[3] = match self.closing {
                    None => Some(departure.move_at),
                    Some(_) => Some(departure.deadline),
                };
            }
            times[4] = self.go_away.as_ref().map(|go_away| go_away.1);
        }
        times.into_iter().flatten().min()
    }

    fn expires_at(&self) -> Option<Instant> {
        Some(self.detached_since? + self.config.ttl)
    }

    /// Lets time pass. Returns a connection that is lost.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<ConnectionId> {
        if let Some(departure) = self.departure.take_if(|departure| departure.deadline <= now) {
            let deadline = departure.deadline + self.config.close_timeout;
            self.stop();
            self.close_with(ByeReason::Closed, false, Some(deadline), now);
        } else if self.departure.as_ref().is_some_and(|departure| departure.move_at <= now)
            && self.closing.is_none()
        {
            self.close_with(ByeReason::Moved, false, None, now);
        }
        if self.go_away.take_if(|go_away| go_away.1 <= now).is_some() {
            self.stop();
            self.close_with(ByeReason::Shutdown, false, Some(now + self.config.close_timeout), now);
        }
        if self.closing.as_mut().is_some_and(|closing| closing.deadline.take_if(|at| *at <= now).is_some()) {
            self.end(EndReason::CloseTimeout);
            self.is_over = true;
        }
        if let Some(connection) = &mut self.connection {
            connection.owes_ack |= self.incoming.ack_at().is_some_and(|at| at <= now);
            connection.liveness.handle_timeout(now);
        }
        if self.connection.is_none() && self.expires_at().is_some_and(|at| at <= now) {
            self.end(EndReason::Expired);
            self.is_over = true;
        }
        let dead = self.connection.as_ref().filter(|connection| connection.liveness.is_dead(now))?;
        let id = dead.id;
        self.detach(now);
        Some(id)
    }
}
