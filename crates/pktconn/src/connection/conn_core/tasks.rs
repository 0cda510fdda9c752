//! The operations of a connection's background tasks, the [flusher](crate::connection::flush) and the
//! [sweeper](crate::connection::sweep). They delegate to the state.

use std::sync::Arc;
use std::task::Context;

use tokio::time::Instant;

use super::{CLOSED, ConnCore, DRAINING};
use crate::connection::flush::{FlushTarget, Next};
use crate::connection::machine::AgeEvent;
use crate::connection::state::State;
use crate::connection::sweep::SweepTarget;
use crate::error::{Reason, Timeout};

const RUNTIME_GONE: &str = "the runtime of the connection was shut down";

impl SweepTarget for ConnCore {
    fn sweep(self: &Arc<Self>) {
        self.with_state(State::run_sweeper);
    }

    fn leave_to_flusher(self: &Arc<Self>) {
        self.with_state(State::leave_to_flusher);
    }
}

impl FlushTarget for ConnCore {
    fn run_flusher(self: &Arc<Self>, is_first: bool, cx: &mut Context<'_>) -> Next {
        self.with_state_catching_panics(|state| {
            if state.machine.has_age() {
                self.check_age(state);
            }
            state.run_flusher(self.rules(), is_first, self.has_undelivered(), cx)
        })
    }

    /// Writes what the transport accepts without waiting, and ends the connection.
    fn flusher_gone(self: &Arc<Self>) {
        self.with_state_catching_panics(|state| {
            state.write_last();
            state.lost(RUNTIME_GONE, self.has_undelivered());
        });
    }
}

impl ConnCore {
    /// Stops receiving, or ends the connection, if its age requires it.
    #[cold]
    fn check_age(&self, state: &mut State) {
        match state.machine.check_age(Instant::now()) {
            None => {}
            Some(AgeEvent::Drain) => {
                self.set_signal(DRAINING);
                state.machine.wake_receiver();
            }
            Some(AgeEvent::End(grace)) => {
                state.machine.fail(Reason::Timeout(Timeout::MaxAge, grace));
                self.set_signal(CLOSED);
                self.abort_after_last_write(state, false);
            }
        }
    }
}
