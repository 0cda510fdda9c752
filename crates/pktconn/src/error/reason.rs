//! Why a connection ended, as every part of it can say it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pktconn_codec::FrameError;

use super::failure::{Failure, Operation};
use super::hint;

/// A deadline that passed: what [`Error::timeout`](crate::Error::timeout) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// The connection was not made in time: [`connect_timeout`](crate::ConnConfig::connect_timeout).
    Connect,
    /// What comes before the first packet, TLS or the header of a proxy, was not there in time:
    /// `ConnConfig::handshake_timeout`.
    Handshake,
    /// The peer began a frame and did not end it in time: [`frame_timeout`](crate::ConnConfig::frame_timeout).
    Frame,
    /// The peer sent nothing for too long: [`idle_timeout`](crate::ConnConfig::idle_timeout).
    Idle,
    /// The peer took nothing of what was queued for it: [`write_timeout`](crate::ConnConfig::write_timeout).
    Write,
    /// `close` could not write everything in time: [`close_timeout`](crate::ConnConfig::close_timeout).
    Close,
}

/// What an [`Error`](crate::Error) is about. Cheap to clone, so that every handle of a connection can tell it.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    LocalClose,
    RemoteClose,
    /// From the peer: the connection is at its end.
    Frame(FrameError),
    Io(Arc<Failure>),
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "a match is the same with every feature"))]
    Tls(Arc<Failure>),
    /// And what was granted.
    Timeout(Timeout, Duration),
    /// The same, where the text says who or what was waited for.
    TimeoutOf(Timeout, Duration, Arc<str>),
    /// The write timeout passed while received bytes waited unread here. And what was granted.
    MutualStall(Duration),
    /// And what waited for it, in bytes.
    SlowConsumer {
        queued: usize,
    },
    /// And what the connection held, in bytes.
    OverBudget {
        held: usize,
    },
    Full,
    /// From the caller: the connection is unharmed.
    TooLarge(FrameError),
    Config(&'static str),
    /// The same, where the text names the value that cannot work.
    BadValue(Arc<str>),
}

impl Reason {
    /// Whether another try would fail as well.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Config(_) | Self::BadValue(_))
    }
}

#[cfg(feature = "metrics")]
impl Reason {
    /// All that end a connection.
    pub(crate) const LABELS: [&str; 8] = [
        "local_close",
        "remote_close",
        "truncated",
        "protocol",
        "io",
        "timeout",
        "slow_consumer",
        "over_budget",
    ];

    /// A word for the end of a connection, for a label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::LocalClose => "local_close",
            Self::RemoteClose => "remote_close",
            Self::Frame(FrameError::Truncated { .. }) => "truncated",
            Self::Frame(_) => "protocol",
            Self::Io(_) | Self::Tls(_) => "io",
            Self::Timeout(..) | Self::TimeoutOf(..) | Self::MutualStall(_) => "timeout",
            Self::SlowConsumer { .. } => "slow_consumer",
            Self::OverBudget { .. } => "over_budget",
            // These end no connection.
            Self::Full | Self::TooLarge(_) | Self::Config(_) | Self::BadValue(_) => "other",
        }
    }
}

impl Timeout {
    /// What did not happen.
    fn missed(self) -> &'static str {
        match self {
            Self::Connect => "the connection was not made",
            Self::Handshake => "the peer did not end the handshake",
            Self::Frame => "the peer did not send the rest of a frame",
            Self::Idle => "the peer sent nothing",
            Self::Write => "the peer took nothing of what was sent",
            Self::Close => "not everything was written",
        }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::io(Operation::Transport, None::<SocketAddr>, error)
    }
}

impl Reason {
    /// Names the peer of the connection whose transport failed.
    pub(crate) fn name_peer(&self, peer: SocketAddr) {
        if let Self::Io(failure) = self {
            failure.of.get_or_init(|| peer.to_string());
        }
    }

    /// Something else failed, with the address or the host `of`.
    pub(crate) fn io(operation: Operation, of: Option<impl ToString>, error: io::Error) -> Self {
        Self::Io(Arc::new(Failure::new(operation, of, error)))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(operation: Operation, of: Option<impl ToString>, error: io::Error) -> Self {
        Self::Tls(Arc::new(Failure::new(operation, of, error)))
    }
}

impl Reason {
    /// The error behind it.
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
            Self::Timeout(timeout, granted) => return write!(f, "{} within {granted:?}", timeout.missed()),
            Self::TimeoutOf(_, granted, what) => return write!(f, "{what} within {granted:?}"),
            Self::MutualStall(granted) => {
                return write!(
                    f,
                    "the peer does not read: it took nothing within {granted:?}, and received bytes wait unread here: \
                     both sides may be sending only"
                );
            }
            Self::SlowConsumer { queued } => {
                return write!(f, "the peer was too slow: {queued} bytes waited for it");
            }
            Self::OverBudget { held } => {
                return write!(f, "the server was over its memory budget: the connection held {held} bytes");
            }
            Self::LocalClose => "the connection was closed on this side",
            Self::RemoteClose => "the peer closed the connection",
            Self::Frame(error) => return write_frame_error(error, f),
            Self::Io(failure) | Self::Tls(failure) => return failure.fmt(f),
            Self::Full => "the send queue is full",
            Self::TooLarge(error) => return write!(f, "the packet is too large to be sent: {error}"),
            Self::Config(problem) => problem,
            Self::BadValue(problem) => problem,
        })
    }
}

/// What is wrong with a frame of the peer, and what may be the reason.
fn write_frame_error(error: &FrameError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match *error {
        FrameError::PayloadTooLarge { len, max } => {
            write!(f, "frame of {len} bytes exceeds the limit of {max}")?;
            if let Some(protocol) = hint::protocol(len) {
                write!(f, "; the bytes look like {protocol}")
            } else if let Some(swapped) = hint::swapped(len, max) {
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
            // The length without the header, and without the checksum, if there is one.
            let mut lens = [4, 8].into_iter().filter_map(|around| needed.checked_sub(around));
            match lens.find_map(hint::protocol) {
                Some(protocol) => write!(f, "; the bytes look like {protocol}"),
                None => Ok(()),
            }
        }
        FrameError::ChecksumMismatch { .. } => {
            write!(f, "{error}; the bytes were altered on their way, or the peer sends no checksums")
        }
        _ => write!(f, "the peer sent a frame that is not acceptable: {error}"),
    }
}
