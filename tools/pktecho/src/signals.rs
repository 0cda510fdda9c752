//! The signals that stop the server (SIGINT, SIGTERM) or reload its certificate (SIGHUP).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` without a certificate: then SIGHUP ends the process, which is its default action.
    hangup: Option<Signal>,
}

impl Signals {
    /// Starts to listen for the signals, and for SIGHUP if `has_certificate` is true.
    pub(crate) fn new(has_certificate: bool) -> io::Result<Self> {
        let hangup = has_certificate.then(|| signal(SignalKind::hangup())).transpose()?;
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// Waits for a signal that stops the server. Ignores SIGHUP if there is a certificate.
    pub(crate) async fn stop(&mut self) {
        self.stop_or_reload(|| {}).await;
    }

    /// Waits for a signal that stops the server, and calls `reload` at each SIGHUP.
    pub(crate) async fn stop_or_reload(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                () = async {
                    match &mut self.hangup {
                        Some(hangup) => { hangup.recv().await; }
                        None => std::future::pending().await,
                    }
                } => reload(),
            }
        }
    }
}
