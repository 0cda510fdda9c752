//! The length field before each payload: its formats, how to encode it, how to decode it.
//!
//! Also holds [`InlineBytes`], the bytes of a header or a checksum.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};

/// The format of the length field before each payload.
///
/// Both sides of a connection must use the same one. Default: [`U32Le`](Self::U32Le), the format of the Go library
/// `pktconn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// 4 bytes, little-endian: the default, and the format of the Go library.
    #[default]
    U32Le,
    /// 4 bytes, big-endian: Erlang's `{packet, 4}`.
    U32Be,
    /// 2 bytes, little-endian.
    U16Le,
    /// 2 bytes, big-endian: Erlang's `{packet, 2}`.
    U16Be,
}

/// The name of the format, as used on command lines: `u32le`, `u32be`, `u16le`, `u16be`.
impl fmt::Display for HeaderFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::U32Le => "u32le",
            Self::U32Be => "u32be",
            Self::U16Le => "u16le",
            Self::U16Be => "u16be",
        })
    }
}

impl FromStr for HeaderFormat {
    type Err = UnknownHeaderFormat;

    fn from_str(name: &str) -> Result<Self, UnknownHeaderFormat> {
        let formats = [Self::U32Le, Self::U32Be, Self::U16Le, Self::U16Be];
        formats.into_iter().find(|format| format.to_string() == name).ok_or(UnknownHeaderFormat)
    }
}

/// The error of parsing an unknown name as a [`HeaderFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown header format; use u32le, u32be, u16le or u16be")]
#[non_exhaustive]
pub struct UnknownHeaderFormat;

impl HeaderFormat {
    /// The length of the longest header, in bytes.
    pub(crate) const MAX_LEN: usize = 4;

    /// The length of the header in bytes: 2 or 4.
    #[must_use]
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Self::U32Le | Self::U32Be => 4,
            Self::U16Le | Self::U16Be => 2,
        }
    }

    /// The largest payload length that the length field can hold, in bytes.
    #[must_use]
    #[inline]
    pub const fn max_payload_len(self) -> usize {
        match self {
            Self::U32Le | Self::U32Be => u32::MAX as usize,
            Self::U16Le | Self::U16Be => u16::MAX as usize,
        }
    }

    /// The payload length in the header at the front of `frame`, or `None` while the header is incomplete.
    #[inline]
    pub(crate) fn decode_len(self, frame: &[u8]) -> Option<usize> {
        let len = match self {
            Self::U32Le => u32::from_le_bytes(*frame.first_chunk()?) as usize,
            Self::U32Be => u32::from_be_bytes(*frame.first_chunk()?) as usize,
            Self::U16Le => u16::from_le_bytes(*frame.first_chunk()?).into(),
            Self::U16Be => u16::from_be_bytes(*frame.first_chunk()?).into(),
        };
        Some(len)
    }

    /// The header for a payload of `payload_len` bytes, or `None` if the length field cannot hold this length.
    #[inline]
    pub(crate) fn encode_len(self, payload_len: usize) -> Option<InlineBytes> {
        Some(match self {
            Self::U32Le => InlineBytes::new(u32::try_from(payload_len).ok()?.to_le_bytes()),
            Self::U32Be => InlineBytes::new(u32::try_from(payload_len).ok()?.to_be_bytes()),
            Self::U16Le => InlineBytes::new(u16::try_from(payload_len).ok()?.to_le_bytes()),
            Self::U16Be => InlineBytes::new(u16::try_from(payload_len).ok()?.to_be_bytes()),
        })
    }
}

/// Up to four bytes without an allocation: a header, a checksum, or nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct InlineBytes {
    bytes: [u8; 4],
    len: u8,
}

impl InlineBytes {
    #[inline]
    pub(crate) fn new<const N: usize>(from: [u8; N]) -> Self {
        let mut bytes = [0; 4];
        bytes[..N].copy_from_slice(&from);
        Self { bytes, len: N as u8 }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Appends the bytes to `buffer`.
    // Each arm has a constant length, so that the compiler emits a store instead of a call to `memcpy`.
    #[inline]
    pub(crate) fn put_into(&self, buffer: &mut BytesMut) {
        match self.len {
            4 => buffer.put_slice(&self.bytes),
            2 => buffer.put_slice(&self.bytes[..2]),
            _ => debug_assert_eq!(self.len, 0, "no header or checksum has this length"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_encodes_and_decodes_its_own_bytes() {
        let cases: [(HeaderFormat, &[u8]); 4] = [
            (HeaderFormat::U32Le, &[0x02, 0x01, 0, 0]),
            (HeaderFormat::U32Be, &[0, 0, 0x01, 0x02]),
            (HeaderFormat::U16Le, &[0x02, 0x01]),
            (HeaderFormat::U16Be, &[0x01, 0x02]),
        ];
        for (format, bytes) in cases {
            assert_eq!(format.encode_len(0x0102).unwrap().as_slice(), bytes, "{format:?}");
            assert_eq!(format.decode_len(bytes), Some(0x0102), "{format:?}");
            assert_eq!(format.header_len(), bytes.len(), "{format:?}");
            assert_eq!(format.decode_len(&bytes[1..]), None, "{format:?} decoded an incomplete header");
        }
    }

    #[test]
    fn each_format_parses_from_its_name() {
        for (name, format) in [
            ("u32le", HeaderFormat::U32Le),
            ("u32be", HeaderFormat::U32Be),
            ("u16le", HeaderFormat::U16Le),
            ("u16be", HeaderFormat::U16Be),
        ] {
            assert_eq!((format.to_string().as_str(), name.parse()), (name, Ok(format)));
        }
        for name in ["", "u32", "U32LE", "u64le"] {
            assert_eq!(name.parse::<HeaderFormat>(), Err(UnknownHeaderFormat));
        }
    }

    #[test]
    fn a_length_that_exceeds_the_length_field_has_no_header() {
        for format in [HeaderFormat::U16Le, HeaderFormat::U16Be] {
            assert!(format.encode_len(65_535).is_some());
            assert!(format.encode_len(65_536).is_none());
        }
        assert!(HeaderFormat::U32Le.encode_len(u32::MAX as usize).is_some());
        #[cfg(target_pointer_width = "64")]
        assert!(HeaderFormat::U32Be.encode_len(u32::MAX as usize + 1).is_none());
    }
}
