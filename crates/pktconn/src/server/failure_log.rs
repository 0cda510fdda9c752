//! What a server logs about connections that fail: enough to see what is wrong, and at most one warning a second of
//! each kind, so that peers cannot fill the log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pktconn_codec::FrameError;
use tokio::time::Instant;

use crate::error::Reason;

/// The shortest time between two warnings of one kind. A person can read a line a second, and 9 kinds of 200 bytes are
/// 150 MB a day at most.
const PAUSE: Duration = Duration::from_secs(1);

/// What has failed. Each kind has its own line a second: one of them must not hide another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Truncated,
    Protocol,
    Checksum,
    Timeout,
    Io,
    SlowConsumer,
    OverBudget,
    Handshake,
    Refused,
}

impl Kind {
    const COUNT: usize = Self::Refused as usize + 1;

    /// That of the end of a connection. `None` for an end that the application or the peer has asked for, and for what
    /// ends none.
    pub(crate) fn of(reason: &Reason) -> Option<Self> {
        match reason {
            Reason::Frame(FrameError::Truncated { .. }) => Some(Self::Truncated),
            Reason::Frame(FrameError::ChecksumMismatch { .. }) => Some(Self::Checksum),
            Reason::Frame(_) => Some(Self::Protocol),
            Reason::Io(_) | Reason::Tls(_) => Some(Self::Io),
            Reason::Timeout(..) | Reason::NamedTimeout(..) | Reason::MutualStall(_) => Some(Self::Timeout),
            Reason::SlowConsumer { .. } => Some(Self::SlowConsumer),
            Reason::OverBudget { .. } => Some(Self::OverBudget),
            Reason::LocalClose
            | Reason::RemoteClose
            | Reason::Full
            | Reason::TooLarge(_)
            | Reason::Config(_)
            | Reason::BadValue(_) => None,
        }
    }
}

/// Lets one of each kind pass a second, and counts the others.
#[derive(Debug, Default)]
struct Limit([OfKind; Kind::COUNT]);

#[derive(Clone, Copy, Debug, Default)]
struct OfKind {
    shown_at: Option<Instant>,
    suppressed: u64,
}

impl Limit {
    /// Whether one of `kind` is to be shown at `now`: if so, how many were not since the last one.
    fn admit(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        let of_kind = &mut self.0[kind as usize];
        if of_kind.shown_at.is_some_and(|shown_at| now.saturating_duration_since(shown_at) < PAUSE) {
            of_kind.suppressed += 1;
            return None;
        }
        of_kind.shown_at = Some(now);
        Some(std::mem::take(&mut of_kind.suppressed))
    }
}

/// The log of one server.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<Limit>);

impl FailureLog {
    /// Logs `what` has happened to `peer` and why: as a warning if it is the first of its kind within a second, else at
    /// DEBUG.
    pub(crate) fn tell(
        &self,
        kind: Kind,
        peer: Option<SocketAddr>,
        what: &'static str,
        error: impl fmt::Display,
    ) {
        // No lock where nothing is logged.
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
    fn one_of_a_kind_passes_a_second_and_tells_how_many_did_not() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limit.admit(Kind::Io, at(0)), Some(0));
        for ms in [0, 1, 500, 999] {
            assert_eq!(limit.admit(Kind::Io, at(ms)), None);
        }
        assert_eq!(limit.admit(Kind::Io, at(1000)), Some(4));
        assert_eq!(limit.admit(Kind::Io, at(1999)), None);
        assert_eq!(limit.admit(Kind::Io, at(60_000)), Some(1));
        assert_eq!(limit.admit(Kind::Io, at(61_000)), Some(0));
    }

    #[test]
    fn no_kind_hides_another() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let kinds = [
            Kind::Truncated,
            Kind::Protocol,
            Kind::Checksum,
            Kind::Timeout,
            Kind::Io,
            Kind::SlowConsumer,
            Kind::OverBudget,
            Kind::Handshake,
            Kind::Refused,
        ];
        assert_eq!(kinds.len(), Kind::COUNT);
        for kind in kinds {
            assert_eq!(limit.admit(kind, now), Some(0), "{kind:?}");
            assert_eq!(limit.admit(kind, now), None, "{kind:?}");
        }
    }

    /// Two threads may read the clock in one order and take the lock in the other.
    #[test]
    fn a_clock_that_seems_to_go_back_is_no_panic() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        assert_eq!(limit.admit(Kind::Io, start + PAUSE), Some(0));
        assert_eq!(limit.admit(Kind::Io, start), None);
    }
}
