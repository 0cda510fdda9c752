//! How the handles and the server end a connection: close, cut and abandon it, and wait for its end.
//!
//! The rules are in the [machine](crate::connection::machine).

use std::sync::Arc;
use std::task::{Context, Poll};

use pktconn_codec::Packet;
use tokio::time::Instant;

use super::{CLOSED, ConnCore};
use crate::connection::machine::Phase;
use crate::error::Reason;
use crate::transport::Writer;
use crate::{ConnStats, CutConn, Error};

impl ConnCore {
    /// Why the connection ended or started to end. `None` while it is open.
    pub(crate) fn reason(self: &Arc<Self>) -> Option<Reason> {
        self.with_state(|state| state.machine.reason())
    }

    /// Fails if packets can no longer be sent.
    pub(crate) fn check_open(self: &Arc<Self>) -> Result<(), Reason> {
        self.with_state(|state| state.machine.check_open())
    }

    /// Why sending or receiving has stopped. Call it only after it has.
    pub(crate) fn stop_reason(self: &Arc<Self>) -> Reason {
        self.with_state(|state| state.machine.stop_reason())
    }

    /// Waits until the connection ends or starts to end, and returns the reason.
    pub(crate) fn poll_reason(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Reason> {
        self.with_state(|state| match state.machine.reason() {
            Some(reason) => Poll::Ready(reason),
            None => {
                state.wait_for_end(key, cx);
                Poll::Pending
            }
        })
    }

    /// Closes this side: accepts and receives nothing more, and lets the flusher write the queue. Ends the connection at
    /// once if there is nothing to write and the peer has closed its side.
    pub(crate) fn close(self: &Arc<Self>) {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            self.set_signal(CLOSED);
            state.machine.close(self.rules(), Instant::now());
            state.finish_close_now(self.settings.owns_socket);
        });
    }

    /// Waits for the end of a connection that is closing. If the connection has failed, returns the failure with the
    /// packets that were not completely written.
    pub(crate) fn poll_close(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<Result<(), Error>> {
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

    /// Waits for the end, clean or not. Leaves the unwritten packets in place.
    pub(crate) fn poll_ended(self: &Arc<Self>, key: u64, cx: &Context<'_>) -> Poll<()> {
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

    /// Whether the connection is ending. It then ends within a bounded time without further calls.
    pub(crate) fn is_ending(self: &Arc<Self>) -> bool {
        self.with_state(|state| !matches!(state.machine.phase(), Phase::Open | Phase::Ended))
    }

    /// Ends the connection because the time to close it has run out, and takes the packets that were not completely
    /// written. `None` if nothing is cut: the connection has ended, or everything was written and only the peer's close
    /// is missing.
    pub(crate) fn cut(self: &Arc<Self>) -> Option<CutConn> {
        self.with_state_catching_panics(|state| {
            let phase = state.machine.phase();
            if phase == Phase::Ended {
                return None;
            }
            self.set_signal(CLOSED);
            if !state.machine.is_blocked() {
                state.write_out();
            }
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            // Everything was written, and only the peer's close is missing. Nothing is lost.
            if phase == Phase::Finished {
                state.machine.end(false);
                return None;
            }
            // A caller that waits for the close must not get `Ok`.
            state.machine.fail(Reason::LocalClose);
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            state.machine.abort(undelivered, Instant::now());
            Some(CutConn { peer_addr: self.endpoints.peer(), unsent })
        })
    }

    /// Ends the connection, and takes the packets that were not completely written. They are not written any more,
    /// because the caller sends them over another connection.
    pub(crate) fn abandon(self: &Arc<Self>) -> Vec<Packet> {
        self.with_state(|state| {
            state.machine.stop(Reason::LocalClose);
            let (unsent, is_torn) = state.machine.take_unsent(self.rules());
            let looks_clean = !unsent.is_empty() && !is_torn;
            let undelivered = looks_clean || self.has_undelivered() || state.has_unread();
            // A close that loses nothing, such as one after the peer's close, continues. An abort would end TLS without
            // a close notification.
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
            self.set_signal(CLOSED);
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

    /// A read that began before this side closed may find the peer's close while the flusher waits for that close.
    #[tokio::test(start_paused = true)]
    async fn the_peers_end_found_while_closing_ends_the_close_before_its_deadline() {
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        for failure in [None, Some(Reason::Frame(truncated))] {
            let config = ConnConfig::new();
            let settings = Settings::new(&config, Origin::Unknown);
            let (_reader, writer) =
                split(CustomStream::new(tokio::io::join(tokio::io::empty(), tokio::io::sink())));
            let core = ConnCore::new(&config, &settings, writer, Endpoints::Unknown, None);
            let started = tokio::time::Instant::now();
            core.close();
            tokio::task::yield_now().await;
            match &failure {
                None => assert!(matches!(core.remote_closed(), Err(Reason::LocalClose))),
                Some(reason) => core.receive_failed(reason),
            }
            assert!(matches!(core.stop_reason(), Reason::LocalClose));
            let waiter = core.waiter();
            let closed = poll_fn(|cx| core.poll_close(waiter.key, cx)).await;
            assert_eq!(closed.is_err(), failure.is_some());
            assert!(started.elapsed().is_zero(), "the close waited for its deadline");
        }
    }

    /// A connection with a queued packet that its transport does not accept, and the other end of that transport.
    fn stuck() -> (Arc<ConnCore>, tokio::io::DuplexStream) {
        let config = ConnConfig::new();
        let (here, there) = tokio::io::duplex(1);
        let (_reader, writer) = split(CustomStream::new(tokio::io::join(tokio::io::empty(), here)));
        let settings = Settings::new(&config, Origin::Unknown);
        let core = ConnCore::new(&config, &settings, writer, Endpoints::Unknown, None);
        core.add_handle();
        assert!(core.offer(&Packet::from(vec![7; 100])).is_ok());
        (core, there)
    }

    /// The server counts exactly the connections whose callers get this error.
    #[tokio::test(start_paused = true)]
    async fn the_budget_counts_only_connections_in_use_that_had_not_failed() {
        let ((open, _open), (failed, _failed), (unused, _unused)) = (stuck(), stuck(), stuck());
        let truncated = FrameError::Truncated { needed: 9, available: 1 };
        failed.receive_failed(&Reason::Frame(truncated));
        unused.note_undelivered(true);
        unused.drop_handle();
        assert!([&open, &failed, &unused].iter().all(|core| !core.has_ended()));
        let closed = [&open, &failed, &unused].map(|core| core.end_over_budget(1));
        assert_eq!(closed, [true, false, false]);
        assert!([&open, &failed, &unused].iter().all(|core| core.has_ended()));
        let have_error =
            [&open, &failed, &unused].map(|core| matches!(core.stop_reason(), Reason::OverBudget { .. }));
        assert_eq!(have_error, closed);
        assert!(!open.end_over_budget(1), "the connection has already ended");
    }
}
