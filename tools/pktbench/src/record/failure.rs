//! Why a connection failed after it was made.

use std::fmt;
use std::io;

use pktconn::FrameError;

use crate::record::tls_problem::TlsProblem;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The server closed the connection between two packets.
    Closed,
    /// The server closed the connection in the middle of a frame, or sent an invalid frame.
    Frame(FrameError),
    Io(io::Error),
    /// A packet was not answered within `--packet-timeout`.
    TimedOut,
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Frame(error @ FrameError::Truncated { .. }) => {
                write!(f, "the server closed the connection in the middle of a frame: {error}")
            }
            Self::Frame(error) => write!(f, "the server sent an invalid frame: {error}"),
            Self::Io(error) => match TlsProblem::of(error) {
                Some(problem) => write!(f, "the connection failed: {}; {}", problem.reason, problem.advice),
                None => write!(f, "the connection failed: {error}"),
            },
            Self::TimedOut => f.write_str("a packet was not answered within --packet-timeout"),
        }
    }
}
