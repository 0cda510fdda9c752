//! Waits for SIGINT (Ctrl-C), SIGTERM and SIGHUP, so that the results so far can be printed before the program ends.

use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) struct Interrupts {
    signals: Vec<Signal>,
}

impl Interrupts {
    /// Call it inside a tokio runtime. From then on these signals no longer end the process by themselves. A signal for
    /// which no handler can be installed keeps its default action.
    pub(crate) fn listen() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self { signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let came = self.signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    }
}
