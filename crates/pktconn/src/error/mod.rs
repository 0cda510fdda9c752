//! The public error type. Its private `Reason` says why a connection ended or why a call failed.

use std::fmt;
use std::io;

use pktconn_codec::{FrameError, Packet};

pub(crate) mod failure;

mod length_hint;

mod reason;
pub(crate) use reason::Reason;
pub use reason::Timeout;

/// The error type of this crate.
///
/// Use the `is_*` methods to find out what happened; exactly one of them returns `true`. The text says what happened,
/// with the address, the numbers and the error of the system: `cannot connect to 127.0.0.1:1: Connection refused (os
/// error 111)`. The text includes the [`source`](std::error::Error::source), a [`FrameError`](crate::FrameError) or an
/// [`io::Error`], so do not print both.
///
/// | method | the connection | cause |
/// |---|---|---|
/// | [`is_local_close`](Self::is_local_close) | has ended, or is closing | this side closed it: `close`, dropping, `into_framed`, or the deadline of [`shutdown_within`](crate::ServerHandle::shutdown_within) |
/// | [`is_remote_close`](Self::is_remote_close) | can send, with [`half_close`](crate::ConnConfig::half_close) | the peer closed its side between two frames; `recv` reports this as `None`, not as an error |
/// | [`is_truncated`](Self::is_truncated) | has ended | the peer closed in the middle of a frame |
/// | [`is_protocol`](Self::is_protocol) | has ended | the peer sent a frame that exceeds the limit or has a wrong checksum |
/// | [`is_io`](Self::is_io) | has ended, or was not made | the system or the transport reported an error, or the runtime of the connection was shut down |
/// | [`is_tls`](Self::is_tls) | was not made | the TLS handshake failed, or a certificate or key file is unusable |
/// | [`is_timeout`](Self::is_timeout) | has ended, or was not made | a deadline passed, or the peer was slower than a minimum rate; [`timeout`](Self::timeout) says which |
/// | [`is_slow_consumer`](Self::is_slow_consumer) | has ended | the peer read too slowly, and the policy is [`Disconnect`](crate::SlowConsumer::Disconnect) |
/// | [`is_over_budget`](Self::is_over_budget) | has ended | the server exceeded its memory budget, and this connection held much of it |
/// | `is_session` (feature `session`) | has ended | the session had no connection for too long, was taken by another one, or its sides disagree |
/// | [`is_full`](Self::is_full) | stays open | `try_send` found the send queue full |
/// | [`is_payload_too_large`](Self::is_payload_too_large) | stays open | the packet to send exceeds the limit |
/// | [`is_config`](Self::is_config) | was not made | the configuration is invalid, or the address can never work |
///
/// If `send`, `try_send` or `close` fails, the packets that were not handed to the transport are in
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

    /// Whether this side closed the connection: with `close`, by dropping it, with
    /// [`into_framed`](crate::PacketConn::into_framed), or at the deadline of
    /// [`shutdown_within`](crate::ServerHandle::shutdown_within). For a client: it was closed or dropped.
    ///
    /// `send` and `recv` return it as soon as the close begins, also while the send queue is still written, and if the
    /// `close` itself fails later.
    #[must_use]
    pub fn is_local_close(&self) -> bool {
        matches!(self.0.reason, Reason::LocalClose)
    }

    /// Whether the peer closed its side between two frames, which is a clean end. The peer may still receive.
    ///
    /// `closed`, `close_reason` and [`Lost`](crate::Lost) report it, and sends once
    /// [`half_close`](crate::ConnConfig::half_close) is off. `recv` returns `None` instead.
    #[must_use]
    pub fn is_remote_close(&self) -> bool {
        matches!(self.0.reason, Reason::RemoteClose)
    }

    /// Whether the peer closed in the middle of a frame.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        matches!(self.0.reason, Reason::Frame(FrameError::Truncated { .. }))
    }

    /// Whether the peer sent an invalid frame: over the limit, with a wrong checksum, or one that its session does not allow.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        matches!(self.0.reason, Reason::Frame(_) | Reason::Control(_)) && !self.is_truncated()
    }

    /// Whether the system or the transport reported an error: resolving, connecting, listening, reading or writing
    /// failed.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self.0.reason, Reason::Io(_))
    }

    /// Whether the TLS handshake failed, for example because a certificate is not valid or the peer does not use TLS,
    /// or whether a certificate or key file cannot be read or used.
    ///
    /// With TLS 1.3, a server that refuses the client's certificate does so after the client's handshake: the first
    /// `recv` then fails with [`is_io`](Self::is_io).
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0.reason, Reason::Tls(_))
    }

    /// Whether a deadline passed, or the peer was slower than a minimum rate. [`timeout`](Self::timeout) says which.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.timeout().is_some()
    }

    /// The deadline that passed, or the minimum rate. `None` for every other error.
    #[must_use]
    pub fn timeout(&self) -> Option<Timeout> {
        match self.0.reason {
            Reason::Timeout(timeout, _) | Reason::NamedTimeout(timeout, ..) => Some(timeout),
            Reason::TooSlow { which, .. } => Some(which),
            Reason::MutualStall(_) => Some(Timeout::Write),
            _ => None,
        }
    }

    /// Whether the peer read too slowly under [`SlowConsumer::Disconnect`](crate::SlowConsumer::Disconnect).
    #[must_use]
    pub fn is_slow_consumer(&self) -> bool {
        matches!(self.0.reason, Reason::SlowConsumer { .. })
    }

    /// Whether the server closed the connection because all connections together exceeded its
    /// [`memory_budget`](crate::ServerConfig::memory_budget), and this one was among those that held the most.
    ///
    /// The packets in its send queue are lost.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        matches!(self.0.reason, Reason::OverBudget { .. })
    }

    /// Whether the [session](crate::Session) has ended without the peer, or against it: it had no connection for too long,
    /// was taken by another connection, or the two sides disagree about it.
    #[cfg(feature = "session")]
    #[must_use]
    pub fn is_session(&self) -> bool {
        matches!(self.0.reason, Reason::Session(_))
    }

    /// Whether `try_send` found the send queue full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.0.reason, Reason::Full)
    }

    /// Whether the packet to send exceeds the configured limit.
    #[must_use]
    pub fn is_payload_too_large(&self) -> bool {
        matches!(self.0.reason, Reason::TooLarge(_))
    }

    /// Whether the configuration is invalid, or the address can never work. Trying again does not help.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.reason.is_config()
    }

    /// The packets that the failed call did not hand to the transport, in the order of sending.
    ///
    /// After `send` and `try_send`, the packet itself. After `close`, all packets that were accepted and not completely
    /// written. The first of them may be partly written: the peer then saw the connection end in the middle of it.
    ///
    /// The packets are returned once. If several handles close the connection, one of them gets all packets.
    #[must_use]
    pub fn unsent(&self) -> &[Packet] {
        &self.0.unsent
    }

    /// Returns the packets of [`unsent`](Self::unsent), without a copy.
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
    fn the_source_is_the_original_error_with_its_numbers() {
        let error = Error::from(Reason::Frame(FrameError::PayloadTooLarge { len: 9, max: 8 }));
        let source = error.source().unwrap().downcast_ref::<FrameError>();
        assert_eq!(source, Some(&FrameError::PayloadTooLarge { len: 9, max: 8 }));

        let error = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);

        assert!(Error::from(Reason::LocalClose).source().is_none());
    }

    #[test]
    fn the_text_for_an_invalid_frame_has_its_numbers_and_the_likely_cause() {
        let max = 32 * 1024 * 1024;
        let truncated = |needed, available| FrameError::Truncated { needed, available };
        let checksum = FrameError::ChecksumMismatch { expected: 1, actual: 2 };
        for (error, expected) in [
            (
                FrameError::PayloadTooLarge { len: 542_393_671, max },
                "frame of 542393671 bytes exceeds the limit of 33554432; the bytes look like an HTTP request".to_owned(),
            ),
            (
                FrameError::PayloadTooLarge { len: 0x0500_0000, max },
                "frame of 83886080 bytes exceeds the limit of 33554432; in the other byte order the length is 5: both sides must use one header format".to_owned(),
            ),
            (
                FrameError::PayloadTooLarge { len: 33_554_433, max },
                "frame of 33554433 bytes exceeds the limit of 33554432".to_owned(),
            ),
            (
                truncated(197_401, 7),
                format!("the peer closed the connection in the middle of a frame: {}; the bytes look like TLS", truncated(197_401, 7)),
            ),
            (
                truncated(4, 1),
                format!("the peer closed the connection in the middle of a frame: {}", truncated(4, 1)),
            ),
            (
                checksum,
                "checksum mismatch: the frame contains 0x00000001, its bytes have 0x00000002; \
                 the bytes were corrupted, or only one side uses checksums".to_owned(),
            ),
        ] {
            assert_eq!(Error::from(Reason::Frame(error)).to_string(), expected);
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn the_limits_have_their_own_labels_which_the_crate_documentation_lists() {
        let window = Duration::from_secs(5);
        let too_slow = Reason::TooSlow { which: Timeout::MinSendRate, moved: 1, expected: 2, window };
        let aged = Reason::Timeout(Timeout::MaxAge, window);
        let late = Reason::Timeout(Timeout::FirstPacket, window);
        assert_eq!([too_slow.label(), aged.label(), late.label()], ["too_slow", "max_age", "timeout"]);
        let documentation = include_str!("../lib.rs");
        for label in Reason::LABELS {
            assert!(documentation.contains(&format!("`{label}`")), "{label}");
        }
    }

    #[test]
    fn exactly_one_predicate_is_true_for_each_reason() {
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
