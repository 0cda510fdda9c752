//! Ctrl-C, and what others end a program by: what was measured so far is of interest to them, too.

use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) struct Interrupts {
    signals: Vec<Signal>,
}

impl Interrupts {
    /// To be called inside of a runtime. From then on the process does not end by them any more; a signal that cannot be
    /// watched ends it, as it does by default.
    pub(crate) fn listen() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self { signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let came = self.signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    }
}
