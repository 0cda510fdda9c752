//! The ends of a connection, as its handles and its server bring them about.

use std::sync::Arc;
use std::task::{Context, Poll};

use pktconn_codec::Packet;
use tokio::time::Instant;

use super::{CLOSED, Shared};
use crate::connection::machine::Phase;
use crate::error::Reason;
use crate::transport::Writer;
use crate::{ConnStats, CutConn, Error};

impl Shared {
    pub(crate) fn reason(self: &Arc<Self>) -> Option<Reason> {
        self.with_state(|state| state.machine.reason())
    }

    /// Fails where nothing is sent any more.
    pub(crate) fn check_open(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| state.machine.check_open())
    }

    /// Why nothing is sent or received any more, of a connection of which that holds.
    pub(crate) fn stop_reason(self: &Arc<Self>) -> Reason {
        self.with_state(|state| state.machine.stop_reason())
    }

    pub(crate) fn poll_reason(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        self.with_state(|state| match state.machine.reason() {
            Some(reason) => Poll::Ready(reason),
            None => {
                state.wait_for_end(key, cx);
                Poll::Pending
            }
        })
    }

    /// Closes this side: accepts and receives nothing more, and has the rest written.
    pub(crate) fn close(self: &Arc<Self>) {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            self.signal(CLOSED);
            state.machine.close(self.rules(), Instant::now());
        });
    }

    /// Waits for the end of a connection that is closing.
    pub(crate) fn poll_ended(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.with_state(|state| {
            if state.machine.phase() < Phase::Ended {
                state.wait_for_progress(key, cx);
                return Poll::Pending;
            }
            Poll::Ready(match state.machine.failure() {
                Some(failure) => Err(Error::new(failure, state.machine.take_unsent(self.rules()).0)),
                None => Ok(()),
            })
        })
    }

    /// Waits for the end, however it comes.
    pub(crate) fn poll_over(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<()> {
        self.with_state(|state| {
            if state.machine.phase() == Phase::Ended {
                return Poll::Ready(());
            }
            state.wait_for_progress(key, cx);
            Poll::Pending
        })
    }

    pub(crate) fn has_ended(self: &Arc<Self>) -> bool {
        self.with_state(|state| state.machine.phase() == Phase::Ended)
    }

    /// Whether it ends by itself, within a time that is bounded.
    pub(crate) fn is_ending(self: &Arc<Self>) -> bool {
        self.with_state(|state| !matches!(state.machine.phase(), Phase::Open | Phase::Ended))
    }

    /// Ends the connection because the time to close it is over, and takes what was not written. `None` where it had ended
    /// before, but for the peer's close.
    pub(crate) fn cut(self: &Arc<Self>) -> Option<CutConn> {
        self.with_state_contained(|state| {
            let phase = state.machine.phase();
            if phase == Phase::Ended {
                return None;
            }
            self.signal(CLOSED);
            if !state.machine.is_blocked() {
                state.write_out();
            }
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            // Where all was written and the peer alone has not closed yet, nothing is lost.
            if phase == Phase::Finished {
                state.machine.end(false);
                return None;
            }
            // A close that is waited for is not to be taken for a clean one.
            state.machine.fail(Reason::LocalClose);
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            state.machine.abort(undelivered, Instant::now());
            Some(CutConn { peer_addr: self.ends.peer(), unsent })
        })
    }

    /// Ends the connection, and takes what was not wholly written. Nothing more is written of it: it will be sent elsewhere.
    pub(crate) fn abandon(self: &Arc<Self>) -> Vec<Packet> {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            // A close that loses nothing, as after that of the peer, goes on: over TLS the peer would miss its end.
            let is_closing = matches!(state.machine.phase(), Phase::Closing | Phase::Finished);
            if undelivered || !unsent.is_empty() || !is_closing {
                state.machine.abort(undelivered, Instant::now());
            }
            unsent
        })
    }

    /// Ends the connection for its handles without ending the transport, and takes the writing half. `None` while bytes
    /// are not written yet.
    pub(crate) fn detach_writer(self: &Arc<Self>) -> Result<Option<Writer>, Reason> {
        self.with_state(|state| {
            state.machine.check_open()?;
            if state.machine.has_output() {
                return Ok(None);
            }
            state.machine.stop(Reason::LocalClose);
            self.signal(CLOSED);
            let writer = state.take_writer();
            state.machine.end(false);
            Ok(writer)
        })
    }

    pub(crate) fn stats(self: &Arc<Self>) -> ConnStats {
        self.with_state(|state| state.machine.stats(&self.received))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use pktconn_codec::FrameError;

    use super::*;
    use crate::ConnConfig;
    use crate::connection::config::Origin;
    use crate::connection::config::Settings;
    use crate::transport::endpoints::Endpoints;
    use crate::transport::halves::split;
    use crate::transport::transport_stream::CustomStream;

    /// A read that had begun before this side closed may find the peer's end when the flusher waits for just that.
    #[tokio::test(start_paused = true)]
    async fn the_peers_end_found_while_closing_ends_the_close_before_its_deadline() {
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        for failure in [None, Some(Reason::Frame(truncated))] {
            let config = ConnConfig::new();
            let settings = Settings::new(&config, Origin::Unknown);
            let (_reader, writer) =
                split(CustomStream::new(tokio::io::join(tokio::io::empty(), tokio::io::sink())));
            let shared = Shared::new(&config, &settings, writer, Endpoints::Unknown, None);
            let started = tokio::time::Instant::now();
            shared.close();
            tokio::task::yield_now().await;
            match &failure {
                None => assert!(matches!(shared.remote_closed(), Err(Reason::LocalClose))),
                Some(reason) => shared.receive_failed(reason),
            }
            assert!(matches!(shared.stop_reason(), Reason::LocalClose));
            let wait = shared.wait();
            let closed = poll_fn(|cx| shared.poll_ended(wait.key, cx)).await;
            assert_eq!(closed.is_err(), failure.is_some());
            assert!(started.elapsed().is_zero(), "it took until the deadline");
        }
    }

    /// A connection whose transport does not take the packet in its queue, and the other end of that transport.
    fn stuck() -> (Arc<Shared>, tokio::io::DuplexStream) {
        let config = ConnConfig::new();
        let (here, there) = tokio::io::duplex(1);
        let (_reader, writer) = split(CustomStream::new(tokio::io::join(tokio::io::empty(), here)));
        let settings = Settings::new(&config, Origin::Unknown);
        let shared = Shared::new(&config, &settings, writer, Endpoints::Unknown, None);
        shared.add_handle();
        assert!(shared.offer(&Packet::from(vec![7; 100])).is_ok());
        (shared, there)
    }

    /// The server counts exactly the connections whose users get this error.
    #[tokio::test(start_paused = true)]
    async fn the_budget_closes_what_is_in_use_and_has_not_failed() {
        let ((open, _open), (failed, _failed), (unused, _unused)) = (stuck(), stuck(), stuck());
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        failed.receive_failed(&Reason::Frame(truncated));
        unused.note_undelivered(true);
        unused.drop_handle();
        assert!([&open, &failed, &unused].iter().all(|shared| !shared.has_ended()));
        let closed = [&open, &failed, &unused].map(|shared| shared.end_over_budget(1));
        assert_eq!(closed, [true, false, false]);
        assert!([&open, &failed, &unused].iter().all(|shared| shared.has_ended()));
        let told =
            [&open, &failed, &unused].map(|shared| matches!(shared.stop_reason(), Reason::OverBudget { .. }));
        assert_eq!(told, closed);
        assert!(!open.end_over_budget(1), "it has ended");
    }
}
