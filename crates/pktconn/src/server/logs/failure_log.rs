//! Logs failed connections of a server: at most one warning per second and kind of failure, so that peers cannot fill
//! the log. Further failures are logged at DEBUG and counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pktconn_codec::FrameError;
use tokio::time::Instant;

use crate::error::Reason;

/// The shortest time between two warnings of one kind. A person can read one line per second, and 10 kinds with lines of
/// 200 bytes make at most 180 MB a day.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The kind of a failure. Each kind has its own rate limit, so that one kind cannot hide another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Truncated,
    Protocol,
    Checksum,
    Timeout,
    Io,
    SlowConsumer,
    OverBudget,
    Handshake,
    Refused,
    OverRate,
}

impl FailureKind {
    const COUNT: usize = Self::OverRate as usize + 1;

    /// The kind of the reason for which a connection ended. `None` for a close by the application or the peer, and for
    /// reasons that do not end a connection.
    pub(crate) fn of(reason: &Reason) -> Option<Self> {
        match reason {
            Reason::Frame(FrameError::Truncated { .. }) => Some(Self::Truncated),
            Reason::Frame(FrameError::ChecksumMismatch { .. }) => Some(Self::Checksum),
            Reason::Frame(_) | Reason::Control(_) => Some(Self::Protocol),
            Reason::Io(_) | Reason::Tls(_) => Some(Self::Io),
            Reason::Timeout(..)
            | Reason::NamedTimeout(..)
            | Reason::TooSlow { .. }
            | Reason::MutualStall(_) => Some(Self::Timeout),
            Reason::SlowConsumer { .. } => Some(Self::SlowConsumer),
            Reason::OverBudget { .. } => Some(Self::OverBudget),
            Reason::LocalClose
            | Reason::RemoteClose
            | Reason::Full
            | Reason::TooLarge(_)
            | Reason::Config(_)
            | Reason::BadValue(_)
            | Reason::Session(_) => None,
        }
    }
}

/// Admits one failure per second and kind, and counts the others.
#[derive(Debug, Default)]
struct RateLimit([KindState; FailureKind::COUNT]);

#[derive(Clone, Copy, Debug, Default)]
struct KindState {
    shown_at: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// Decides whether to show a failure of `kind`. If so, returns how many were suppressed since the last one.
    fn admit(&mut self, kind: FailureKind, now: Instant) -> Option<u64> {
        let state = &mut self.0[kind as usize];
        if state.shown_at.is_some_and(|shown_at| now.saturating_duration_since(shown_at) < MIN_INTERVAL) {
            state.suppressed += 1;
            return None;
        }
        state.shown_at = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// The failure log of one server.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<RateLimit>);

impl FailureLog {
    /// Logs the message `what` for `peer`: at WARN if it is the first of its kind within a second, otherwise at DEBUG.
    pub(crate) fn log(
        &self,
        kind: FailureKind,
        peer: Option<SocketAddr>,
        what: &'static str,
        error: impl fmt::Display,
    ) {
        // Do not take the lock if nothing is logged.
        if !tracing::enabled!(tracing::Level::WARN) {
            return;
        }
        let admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(kind, Instant::now());
        let peer = peer.map(tracing::field::display);
        match admitted {
            Some(0) => tracing::warn!(peer, %error, "{what}"),
            Some(suppressed) => tracing::warn!(peer, %error, suppressed, "{what}"),
            None => tracing::debug!(peer, %error, "{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_per_second_is_admitted_with_the_count_of_the_others() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limit.admit(FailureKind::Io, at(0)), Some(0));
        for ms in [0, 1, 500, 999] {
            assert_eq!(limit.admit(FailureKind::Io, at(ms)), None);
        }
        assert_eq!(limit.admit(FailureKind::Io, at(1000)), Some(4));
        assert_eq!(limit.admit(FailureKind::Io, at(1999)), None);
        assert_eq!(limit.admit(FailureKind::Io, at(60_000)), Some(1));
        assert_eq!(limit.admit(FailureKind::Io, at(61_000)), Some(0));
    }

    #[test]
    fn no_kind_hides_another() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        let kinds = [
            FailureKind::Truncated,
            FailureKind::Protocol,
            FailureKind::Checksum,
            FailureKind::Timeout,
            FailureKind::Io,
            FailureKind::SlowConsumer,
            FailureKind::OverBudget,
            FailureKind::Handshake,
            FailureKind::Refused,
            FailureKind::OverRate,
        ];
        assert_eq!(kinds.len(), FailureKind::COUNT);
        for kind in kinds {
            assert_eq!(limit.admit(kind, now), Some(0), "{kind:?}");
            assert_eq!(limit.admit(kind, now), None, "{kind:?}");
        }
    }

    /// Two threads may read the clock in one order and take the lock in the other.
    #[test]
    fn a_clock_that_seems_to_go_back_does_not_panic() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        assert_eq!(limit.admit(FailureKind::Io, start + MIN_INTERVAL), Some(0));
        assert_eq!(limit.admit(FailureKind::Io, start), None);
    }
}
