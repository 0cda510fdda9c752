//! The reasons behind the public `Error`: cheap to clone, so that every handle of a connection can return one. Also
//! their texts and metric labels.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pktconn_codec::FrameError;

use super::failure::{Failure, Operation};
use super::length_hint;

/// Which deadline passed. [`Error::timeout`](crate::Error::timeout) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// Connecting took longer than [`connect_timeout`](crate::ConnConfig::connect_timeout).
    Connect,
    /// The TLS or PROXY handshake took longer than `ConnConfig::handshake_timeout`.
    Handshake,
    /// The peer started a frame and did not complete it within [`frame_timeout`](crate::ConnConfig::frame_timeout).
    Frame,
    /// The peer sent nothing, and accepted nothing that was sent to it, for
    /// [`idle_timeout`](crate::ConnConfig::idle_timeout).
    Idle,
    /// The peer accepted nothing from the send queue for [`write_timeout`](crate::ConnConfig::write_timeout).
    Write,
    /// `close` could not write everything within [`close_timeout`](crate::ConnConfig::close_timeout).
    Close,
    /// The peer sent no whole packet within [`first_packet_timeout`](crate::ConnConfig::first_packet_timeout).
    FirstPacket,
    /// The peer sent a frame more slowly than [`min_recv_rate`](crate::ConnConfig::min_recv_rate).
    MinRecvRate,
    /// The peer took queued bytes more slowly than [`min_send_rate`](crate::ConnConfig::min_send_rate).
    MinSendRate,
    /// The connection reached its [`max_connection_age`](crate::ConnConfig::max_connection_age), and this side did not
    /// close it within the grace. For a [`Client`](crate::Client): it reached that age, and was replaced.
    MaxAge,
}

/// Why a connection ended or a call failed.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    LocalClose,
    RemoteClose,
    /// The peer sent an invalid frame. The connection ends.
    Frame(FrameError),
    Io(Arc<Failure>),
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "keeps matches the same with every feature"))]
    Tls(Arc<Failure>),
    /// The deadline that passed, and its length.
    Timeout(Timeout, Duration),
    /// Like `Timeout`, with a text that says what did not happen in time.
    NamedTimeout(Timeout, Duration, Arc<str>),
    /// The peer was slower than a minimum rate: it moved `moved` bytes in `window`, and at least `expected` were due.
    TooSlow {
        which: Timeout,
        moved: u64,
        expected: u64,
        window: Duration,
    },
    /// The write timeout passed, of this length, while received bytes waited unread here.
    MutualStall(Duration),
    /// `queued`: bytes in the send queue.
    SlowConsumer {
        queued: usize,
    },
    /// `held`: bytes that the connection held in memory.
    OverBudget {
        held: usize,
    },
    /// The peer sent a control frame that it must not send. The connection ends.
    #[cfg_attr(
        not(feature = "session"),
        allow(dead_code, reason = "keeps matches the same with every feature")
    )]
    Control(Arc<str>),
    /// The session has ended without the peer, or against it.
    #[cfg_attr(
        not(feature = "session"),
        allow(dead_code, reason = "keeps matches the same with every feature")
    )]
    Session(Arc<str>),
    Full,
    /// The caller's packet exceeds the limit. The connection stays open.
    TooLarge(FrameError),
    Config(&'static str),
    /// Like `Config`, with a text that contains the invalid value.
    BadValue(Arc<str>),
}

impl Reason {
    /// Whether trying again would fail in the same way.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Config(_) | Self::BadValue(_))
    }
}

impl Reason {
    /// The labels of all reasons that end a connection.
    #[cfg(feature = "metrics")]
    pub(crate) const LABELS: [&str; 10] = [
        "local_close",
        "remote_close",
        "truncated",
        "protocol",
        "io",
        "timeout",
        "too_slow",
        "max_age",
        "slow_consumer",
        "over_budget",
    ];

    /// The label for the end of a connection, in metrics and in the access log.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::LocalClose => "local_close",
            Self::RemoteClose => "remote_close",
            Self::Frame(FrameError::Truncated { .. }) => "truncated",
            Self::Frame(_) | Self::Control(_) => "protocol",
            Self::Io(_) | Self::Tls(_) => "io",
            Self::Timeout(Timeout::MaxAge, _) => "max_age",
            Self::Timeout(..) | Self::NamedTimeout(..) | Self::MutualStall(_) => "timeout",
            Self::TooSlow { .. } => "too_slow",
            Self::SlowConsumer { .. } => "slow_consumer",
            Self::OverBudget { .. } => "over_budget",
            // These do not end a connection.
            Self::Full | Self::TooLarge(_) | Self::Config(_) | Self::BadValue(_) | Self::Session(_) => {
                "other"
            }
        }
    }
}

impl Timeout {
    /// What did not happen in time.
    fn description(self) -> &'static str {
        match self {
            Self::Connect => "not connected",
            Self::Handshake => "the peer did not complete the handshake",
            Self::Frame => "the peer did not send the rest of a frame",
            Self::Idle => "the peer sent nothing and accepted nothing",
            Self::Write => "the peer accepted nothing from the send queue",
            Self::Close => "the send queue was not completely written",
            Self::FirstPacket => "the peer did not send a whole packet",
            Self::MinRecvRate => "the peer did not send enough of a frame",
            Self::MinSendRate => "the peer did not take enough of the send queue",
            Self::MaxAge => "the connection was not closed",
        }
    }

    /// The setting of `ConnConfig` that sets the limit.
    fn setting(self) -> &'static str {
        match self {
            Self::Connect => "connect_timeout",
            Self::Handshake => "handshake_timeout",
            Self::Frame => "frame_timeout",
            Self::Idle => "idle_timeout",
            Self::Write => "write_timeout",
            Self::Close => "close_timeout",
            Self::FirstPacket => "first_packet_timeout",
            Self::MinRecvRate => "min_recv_rate",
            Self::MinSendRate => "min_send_rate",
            Self::MaxAge => "max_connection_age_grace",
        }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::io(Operation::Transport, None::<SocketAddr>, error)
    }
}

impl Reason {
    /// Adds the peer's address to the error of a failed transport.
    pub(crate) fn name_peer(&self, peer: SocketAddr) {
        if let Self::Io(failure) = self {
            failure.address.get_or_init(|| peer.to_string());
        }
    }

    pub(crate) fn io(operation: Operation, address: Option<impl ToString>, error: io::Error) -> Self {
        Self::Io(Arc::new(Failure::new(operation, address, error)))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(operation: Operation, address: Option<impl ToString>, error: io::Error) -> Self {
        Self::Tls(Arc::new(Failure::new(operation, address, error)))
    }
}

impl Reason {
    /// The original error.
    pub(crate) fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Frame(error) | Self::TooLarge(error) => Some(error),
            Self::Io(failure) | Self::Tls(failure) => Some(&failure.error),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout(Timeout::MaxAge, grace) => {
                return write!(
                    f,
                    "the connection reached its max_connection_age; this side had {grace:?} to close it \
                     (max_connection_age_grace)"
                );
            }
            Self::Timeout(timeout, limit) => {
                return write!(f, "{} within {limit:?} ({})", timeout.description(), timeout.setting());
            }
            Self::NamedTimeout(timeout, limit, what) => {
                return write!(f, "{what} within {limit:?} ({})", timeout.setting());
            }
            Self::TooSlow { which, moved, expected, window } => {
                let (verb, meanwhile) = match which {
                    Timeout::MinSendRate => ("took", "more were queued for it"),
                    _ => ("sent", "a frame was incomplete"),
                };
                return write!(
                    f,
                    "the peer {verb} {moved} bytes in {window:?} while {meanwhile}; at least {expected} were expected \
                     ({})",
                    which.setting()
                );
            }
            Self::MutualStall(limit) => {
                return write!(
                    f,
                    "the peer does not read: it took nothing within {limit:?} ({}), and received bytes wait unread here: \
                     both sides may be sending only",
                    Timeout::Write.setting()
                );
            }
            Self::SlowConsumer { queued } => {
                return write!(f, "the peer reads too slowly: its send queue holds {queued} bytes");
            }
            Self::OverBudget { held } => {
                return write!(f, "the server exceeded its memory_budget: this connection held {held} bytes");
            }
            Self::LocalClose => "the connection was closed on this side",
            Self::RemoteClose => "the peer closed the connection",
            Self::Frame(error) => return write_frame_error(error, f),
            Self::Io(failure) | Self::Tls(failure) => return failure.fmt(f),
            Self::Full => "the send queue is full",
            Self::TooLarge(error) => return write!(f, "the packet is too large to be sent: {error}"),
            Self::Config(problem) => problem,
            Self::BadValue(problem) | Self::Session(problem) => problem,
            Self::Control(problem) => return write!(f, "the peer sent an invalid control frame: {problem}"),
        })
    }
}

/// Writes what is wrong with the peer's frame, and the likely cause.
fn write_frame_error(error: &FrameError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match *error {
        FrameError::PayloadTooLarge { len, max } => {
            write!(f, "frame of {len} bytes exceeds the limit of {max}")?;
            if let Some(protocol) = length_hint::protocol_of_len(len) {
                write!(f, "; the bytes look like {protocol}")
            } else if let Some(swapped) = length_hint::swapped_len(len, max) {
                write!(
                    f,
                    "; in the other byte order the length is {swapped}: both sides must use one header format"
                )
            } else {
                Ok(())
            }
        }
        FrameError::Truncated { needed, .. } => {
            write!(f, "the peer closed the connection in the middle of a frame: {error}")?;
            // `needed` includes a header of 4 bytes, and a checksum of 4 bytes if there is one.
            let mut payload_lens = [4, 8].into_iter().filter_map(|overhead| needed.checked_sub(overhead));
            match payload_lens.find_map(length_hint::protocol_of_len) {
                Some(protocol) => write!(f, "; the bytes look like {protocol}"),
                None => Ok(()),
            }
        }
        FrameError::ChecksumMismatch { .. } => write!(f, "{error}"),
        _ => write!(f, "the peer sent an invalid frame: {error}"),
    }
}
