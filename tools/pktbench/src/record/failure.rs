//! Why a connection failed.

use std::fmt;
use std::io;

use pktconn::FrameError;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The server closed it between two packets.
    Closed,
    /// The server closed it in the middle of a packet, or sent one that is not acceptable.
    Frame(FrameError),
    Io(io::Error),
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
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::Frame(error @ FrameError::Truncated { .. }) => {
                write!(f, "the peer closed the connection in the middle of a frame: {error}")
            }
            Self::Frame(error) => write!(f, "the peer sent a frame that is not acceptable: {error}"),
            Self::Io(error) => write!(f, "the transport failed: {error}"),
        }
    }
}
