//! The signals that stop the server (SIGINT, SIGTERM, SIGUSR1) or reload its certificate (SIGHUP).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// SIGUSR1.
    user: Signal,
}

/// How the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Clients of sessions are to move to another server at once.
    Now,
    /// They are to move one after the other.
    Move,
}

impl Signals {
    /// Starts to listen for the signals. SIGHUP no longer ends the process, even if nothing waits for it.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal that stops the server.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for a signal that stops the server, and runs `reload` at each SIGHUP. A SIGHUP that comes while `reload`
    /// runs is kept, and `reload` runs once more after it. A signal that stops the server ends `reload`.
    pub(crate) async fn stop_or_reload(&mut self, reload: impl AsyncFn()) -> Stop {
        loop {
            let Self { interrupt, terminate, hangup, user } = self;
            let reload_once = async {
                hangup.recv().await;
                reload().await;
            };
            tokio::select! {
                _ = interrupt.recv() => return Stop::Now,
                _ = terminate.recv() => return Stop::Now,
                _ = user.recv() => return Stop::Move,
                () = reload_once => {}
            }
        }
    }
}
