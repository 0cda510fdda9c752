//! Why a connection ended, or why a call could not do what was asked.

use std::fmt;
use std::io;

use pktconn_codec::{FrameError, Packet};

pub(crate) mod failure;

mod hint;

mod reason;
pub(crate) use reason::Reason;
pub use reason::Timeout;

/// The error of every call of this crate.
///
/// Ask what it is by its `is_*` methods. Its text says what happened, with the address, the numbers and the error of the system:
/// `cannot connect to 127.0.0.1:1: Connection refused (os error 111)`. [`source`](std::error::Error::source) leads to the
/// [`FrameError`](crate::FrameError) or the [`io::Error`] behind it; print one of both.
///
/// | | the connection | |
/// |---|---|---|
/// | [`is_local_close`](Self::is_local_close) | ended | closed on this side: by `close`, by dropping it, or when the time to [shut down](crate::ServerHandle::shutdown_within) was over |
/// | [`is_remote_close`](Self::is_remote_close) | may still send | the peer closed its side between two frames: from `closed`, `close_reason` and [`Lost`](crate::Lost) alone |
/// | [`is_truncated`](Self::is_truncated) | ended | the peer closed in the middle of a frame |
/// | [`is_protocol`](Self::is_protocol) | ended | the peer sent a frame over the limit, or one with a wrong checksum |
/// | [`is_io`](Self::is_io) | ended | the transport failed, or the runtime of the connection was shut down |
/// | [`is_tls`](Self::is_tls) | was never made | the handshake of TLS failed, or a file that it needs is no good |
/// | [`is_timeout`](Self::is_timeout) | ended | a deadline passed; [`timeout`](Self::timeout) says which |
/// | [`is_slow_consumer`](Self::is_slow_consumer) | ended | the peer was too slow for what was sent, and the policy is to disconnect it |
/// | [`is_over_budget`](Self::is_over_budget) | ended | all connections of the server held too much, and this one the most |
/// | [`is_full`](Self::is_full) | goes on | `try_send` found no room |
/// | [`is_payload_too_large`](Self::is_payload_too_large) | goes on | the packet to be sent is over the limit |
/// | [`is_config`](Self::is_config) | was never made | the configuration contradicts itself, or the address can never work |
///
/// Packets that a failed `send`, `try_send` or `close` did not hand to the transport come back in
/// [`into_unsent`](Self::into_unsent).
pub struct Error(Box<Inner>);

struct Inner {
    reason: Reason,
    unsent: Vec<Packet>,
}

impl Error {
    pub(crate) fn new(reason: Reason, unsent: Vec<Packet>) -> Self {
        Self(Box::new(Inner { reason, unsent }))
    }

    pub(crate) fn into_reason(self) -> Reason {
        self.0.reason
    }

    pub(crate) fn reason(&self) -> Reason {
        self.0.reason.clone()
    }

    pub(crate) fn take_unsent(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.0.unsent)
    }

    /// The connection was closed on this side.
    #[must_use]
    pub fn is_local_close(&self) -> bool {
        matches!(self.0.reason, Reason::LocalClose)
    }

    /// The peer closed its side between two frames: a clean end. It may still receive.
    #[must_use]
    pub fn is_remote_close(&self) -> bool {
        matches!(self.0.reason, Reason::RemoteClose)
    }

    /// The peer closed in the middle of a frame.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(self.0.reason, Reason::Frame(FrameError::Truncated { .. }))
    }

    /// The peer sent a frame that is not acceptable: over the limit, or with a wrong checksum.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        matches!(self.0.reason, Reason::Frame(_)) && !self.is_truncated()
    }

    /// The transport failed.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self.0.reason, Reason::Io(_))
    }

    /// The handshake of TLS failed, because a certificate was not good or the peer speaks no TLS; or a file that it needs
    /// cannot be read or used. That a server refuses the client's certificate shows later with TLS 1.3, as
    /// [`is_io`](Self::is_io) of the first `recv`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0.reason, Reason::Tls(_))
    }

    /// A deadline passed, of those that [`timeout`](Self::timeout) tells apart.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.timeout().is_some()
    }

    /// The deadline that passed, where that is what happened.
    #[must_use]
    pub fn timeout(&self) -> Option<Timeout> {
        match self.0.reason {
            Reason::Timeout(timeout, _) | Reason::TimeoutOf(timeout, ..) => Some(timeout),
            Reason::MutualStall(_) => Some(Timeout::Write),
            _ => None,
        }
    }

    /// The peer was too slow for what was sent, under [`SlowConsumer::Disconnect`](crate::SlowConsumer::Disconnect).
    #[must_use]
    pub fn is_slow_consumer(&self) -> bool {
        matches!(self.0.reason, Reason::SlowConsumer { .. })
    }

    /// All connections of the server together were over its [`memory_budget`](crate::ServerConfig::memory_budget), and this
    /// one was among those that held the most. What was queued is lost with it.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        matches!(self.0.reason, Reason::OverBudget { .. })
    }

    /// `try_send` found the send queue full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.0.reason, Reason::Full)
    }

    /// The packet to be sent is larger than the configured limit.
    #[must_use]
    pub fn is_payload_too_large(&self) -> bool {
        matches!(self.0.reason, Reason::TooLarge(_))
    }

    /// The configuration contradicts itself, or an address can never be connected to or listened on: trying again does not
    /// help.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.reason.is_config()
    }

    /// The packets that the failed call did not hand to the transport, in their order.
    ///
    /// Of `send` and `try_send`: the packet itself. Of `close`: all that were accepted and not wholly written. The first
    /// of these may have been written in part, so that the peer saw the connection end in the middle of it. They are
    /// handed out once: where several handles close the connection, one of them gets them.
    #[must_use]
    pub fn unsent(&self) -> &[Packet] {
        &self.0.unsent
    }

    /// Takes the packets of [`unsent`](Self::unsent) out.
    #[must_use]
    pub fn into_unsent(self) -> Vec<Packet> {
        self.0.unsent
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self::new(reason, Vec::new())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Reason::from(error).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("reason", &self.0.reason).field("unsent", &self.0.unsent.len()).finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.reason.source()
    }
}

#[cfg(test)]
mod tests {
    use super::failure::{Failure, Operation};
    use super::*;
    use std::error::Error as _;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn the_source_is_the_error_behind_it_with_its_numbers() {
        let error = Error::from(Reason::Frame(FrameError::PayloadTooLarge { len: 9, max: 8 }));
        let source = error.source().unwrap().downcast_ref::<FrameError>();
        assert_eq!(source, Some(&FrameError::PayloadTooLarge { len: 9, max: 8 }));

        let error = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);

        assert!(Error::from(Reason::LocalClose).source().is_none());
    }

    #[test]
    fn a_frame_that_is_not_acceptable_is_told_with_its_numbers_and_what_may_be_the_reason() {
        let max = 32 * 1024 * 1024;
        for (error, expected) in [
            (
                FrameError::PayloadTooLarge { len: 542_393_671, max },
                "frame of 542393671 bytes exceeds the limit of 33554432; the bytes look like an HTTP request",
            ),
            (
                FrameError::PayloadTooLarge { len: 0x0500_0000, max },
                "frame of 83886080 bytes exceeds the limit of 33554432; in the other byte order the length is 5: both sides must use one header format",
            ),
            (
                FrameError::PayloadTooLarge { len: 33_554_433, max },
                "frame of 33554433 bytes exceeds the limit of 33554432",
            ),
            (
                FrameError::Truncated { needed: 197_401, available: 7 },
                "the peer closed the connection in the middle of a frame: the stream ended after 7 of the 197401 bytes of a frame; the bytes look like TLS",
            ),
            (
                FrameError::Truncated { needed: 4, available: 1 },
                "the peer closed the connection in the middle of a frame: the stream ended after 1 of the 4 bytes of a frame",
            ),
            (
                FrameError::ChecksumMismatch { expected: 1, actual: 2 },
                "the checksum of a frame is 0x00000001, its bytes sum up to 0x00000002; the bytes were altered on their way, or the peer sends no checksums",
            ),
        ] {
            assert_eq!(Error::from(Reason::Frame(error)).to_string(), expected);
        }
    }

    #[test]
    fn each_reason_is_one_thing_alone() {
        let truncated = FrameError::Truncated { needed: 4, available: 1 };
        let checksum = FrameError::ChecksumMismatch { expected: 1, actual: 2 };
        let reasons = [
            Reason::LocalClose,
            Reason::RemoteClose,
            Reason::Frame(truncated),
            Reason::Frame(checksum),
            io::Error::from(io::ErrorKind::BrokenPipe).into(),
            Reason::Tls(Arc::new(Failure::new(
                Operation::TlsSetup,
                None::<SocketAddr>,
                io::ErrorKind::InvalidData.into(),
            ))),
            Reason::Timeout(Timeout::Close, Duration::from_secs(1)),
            Reason::SlowConsumer { queued: 1 },
            Reason::OverBudget { held: 1 },
            Reason::Full,
            Reason::TooLarge(FrameError::PayloadTooLarge { len: 2, max: 1 }),
            Reason::Config(""),
        ];
        let predicates = [
            Error::is_local_close,
            Error::is_remote_close,
            Error::is_truncated,
            Error::is_protocol,
            Error::is_io,
            Error::is_tls,
            Error::is_timeout,
            Error::is_slow_consumer,
            Error::is_over_budget,
            Error::is_full,
            Error::is_payload_too_large,
            Error::is_config,
        ];
        for (i, reason) in reasons.into_iter().enumerate() {
            let error = Error::from(reason);
            for (j, is) in predicates.iter().enumerate() {
                assert_eq!(is(&error), i == j, "{error:?} against predicate {j}");
            }
        }
    }
}
