//! What can be wrong: with a frame, with a read or a write of a typed value, with the transport under a codec.

use std::io;
use std::str::Utf8Error;

/// A frame that cannot be sent, or that a peer should not have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is longer than the configured limit, or than the length field can say.
    #[error("a payload of {len} bytes is over the limit of {max}")]
    PayloadTooLarge {
        /// The length of the payload, or the length that the peer announced, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The bytes of a frame are not those that were sent, or the peer does not use the checksum.
    #[error("the checksum of a frame is {expected:#010x}, its bytes sum up to {actual:#010x}")]
    ChecksumMismatch {
        /// The sum that the frame carries.
        expected: u32,
        /// The sum of the bytes that arrived.
        actual: u32,
    },
    /// The stream ended in the middle of a frame.
    #[error("the stream ended after {available} of the {needed} bytes of a frame")]
    Truncated {
        /// The length of the frame in bytes; that of its header, where not even that arrived whole.
        needed: usize,
        /// The bytes of it that arrived.
        available: usize,
    },
}

/// The error of [`PacketCodec`](crate::PacketCodec) as a `Decoder` and `Encoder`: a frame's, or the transport's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A frame is not as it must be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The transport failed. The codec itself never makes this one: `Framed` does.
    #[error("the transport failed")]
    Io(#[from] io::Error),
}

/// A typed read that the rest of the packet cannot serve. The cursor did not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There are fewer bytes left than the value takes.
    #[error("a read of {needed} bytes, with {available} left in the packet")]
    UnexpectedEnd {
        /// The bytes that the value takes, its length prefix included.
        needed: usize,
        /// The bytes that are left.
        available: usize,
    },
    /// The bytes of a string are not UTF-8.
    #[error("a string that is not UTF-8")]
    InvalidUtf8(#[source] Utf8Error),
}

/// A typed write that its format cannot hold. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The bytes or the string are longer than their length prefix can say.
    #[error("a value of {len} bytes is over the {max} that its length prefix can say")]
    TooLong {
        /// The length of the value, in bytes.
        len: usize,
        /// The longest that the prefix can say, in bytes.
        max: usize,
    },
}
