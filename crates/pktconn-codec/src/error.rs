//! The errors of this crate: of frames, of typed reads and writes, and of the stream under a codec.

use std::io;
use std::str::Utf8Error;

/// An invalid frame: one that cannot be sent, or that the peer should not have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is longer than the configured limit, or than the length field can hold.
    #[error("payload of {len} bytes exceeds the limit of {max} bytes (max_payload_len or the header format)")]
    PayloadTooLarge {
        /// The length of the payload, or the length that the peer announced, in bytes.
        len: usize,
        /// The limit, in bytes: see [`CodecConfig::payload_limit`](crate::CodecConfig::payload_limit).
        max: usize,
    },
    /// The bytes of a frame were corrupted, or only one side uses the checksum.
    #[error(
        "checksum mismatch: the frame contains {expected:#010x}, its bytes have {actual:#010x}; \
         the bytes were corrupted, or only one side uses checksums"
    )]
    ChecksumMismatch {
        /// The checksum in the frame.
        expected: u32,
        /// The checksum computed from the bytes that arrived.
        actual: u32,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended after {available} of the {needed} bytes of a frame")]
    Truncated {
        /// The length of the frame in bytes, or of its header if the header is incomplete.
        needed: usize,
        /// The number of bytes that arrived.
        available: usize,
    },
}

/// The error of a [`PacketCodec`](crate::PacketCodec) in a `Framed` and of the functions of
/// [`blocking`](crate::blocking).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A frame is invalid.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Reading or writing the stream failed; [`source`](std::error::Error::source) is the [`io::Error`].
    #[error("reading or writing the stream failed")]
    Io(#[from] io::Error),
}

/// A typed read that failed. The cursor of the packet did not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The packet has fewer bytes left than the value needs.
    #[error("cannot read {needed} bytes: the packet has only {available} bytes left")]
    UnexpectedEnd {
        /// The number of bytes that the value needs, including its length prefix. For a seek, the position.
        needed: usize,
        /// The number of bytes left. For a seek, the length of the payload.
        available: usize,
    },
    /// The bytes of a string are not UTF-8.
    #[error("the string is not valid UTF-8; `read_var_bytes_u16` and `read_var_bytes_u32` read any bytes")]
    InvalidUtf8(#[source] Utf8Error),
}

/// A typed write that failed. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The bytes or the string are longer than their length prefix can hold.
    #[error(
        "value of {len} bytes exceeds the {max} bytes of its length prefix; use a `u32` prefix or split the value"
    )]
    TooLong {
        /// The length of the value, in bytes.
        len: usize,
        /// The largest length that the prefix can hold, in bytes.
        max: usize,
    },
}
