//! The length field in front of every payload, and the few bytes that frame one.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};

/// How the length of a payload is written in front of it.
///
/// Both sides of a connection configure the same one. The default, [`U32Le`](Self::U32Le), is that of the Go library
/// `pktconn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// 4 bytes, little-endian: the Go library's format, and the default.
    #[default]
    U32Le,
    /// 4 bytes, big-endian: Erlang's `{packet, 4}`.
    U32Be,
    /// 2 bytes, little-endian.
    U16Le,
    /// 2 bytes, big-endian: Erlang's `{packet, 2}`.
    U16Be,
}

/// As it is written on a command line: `u32le`, `u32be`, `u16le`, `u16be`.
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

/// A name that is none of a [`HeaderFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header is u32le, u32be, u16le or u16be")]
#[non_exhaustive]
pub struct UnknownHeaderFormat;

impl HeaderFormat {
    /// The length of the longest header there is, in bytes.
    pub(crate) const MAX_LEN: usize = 4;

    /// The length of the header itself, in bytes: 2 or 4.
    #[must_use]
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Self::U32Le | Self::U32Be => 4,
            Self::U16Le | Self::U16Be => 2,
        }
    }

    /// The longest payload that the length field can announce, in bytes.
    #[must_use]
    #[inline]
    pub const fn max_payload_len(self) -> usize {
        match self {
            Self::U32Le | Self::U32Be => u32::MAX as usize,
            Self::U16Le | Self::U16Be => u16::MAX as usize,
        }
    }

    /// The payload length that the first bytes of `frame` announce, or `None` while the header is not whole.
    #[inline]
    pub(crate) fn read(self, frame: &[u8]) -> Option<usize> {
        let len = match self {
            Self::U32Le => u32::from_le_bytes(*frame.first_chunk()?) as usize,
            Self::U32Be => u32::from_be_bytes(*frame.first_chunk()?) as usize,
            Self::U16Le => u16::from_le_bytes(*frame.first_chunk()?).into(),
            Self::U16Be => u16::from_be_bytes(*frame.first_chunk()?).into(),
        };
        Some(len)
    }

    /// The header of a payload of `payload_len` bytes, or `None` where the length field is too small for it.
    #[inline]
    pub(crate) fn write(self, payload_len: usize) -> Option<Inline> {
        Some(match self {
            Self::U32Le => Inline::new(u32::try_from(payload_len).ok()?.to_le_bytes()),
            Self::U32Be => Inline::new(u32::try_from(payload_len).ok()?.to_be_bytes()),
            Self::U16Le => Inline::new(u16::try_from(payload_len).ok()?.to_le_bytes()),
            Self::U16Be => Inline::new(u16::try_from(payload_len).ok()?.to_be_bytes()),
        })
    }
}

/// At most four bytes, held without an allocation: a header, or a checksum.
#[derive(Clone, Copy, Default)]
pub(crate) struct Inline {
    bytes: [u8; 4],
    len: u8,
}

impl Inline {
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

    /// Appends it to `buffer`, where there is room. Of a length that is known, so that it takes no call to copy it.
    #[inline]
    pub(crate) fn put_into(&self, buffer: &mut BytesMut) {
        match self.len {
            4 => buffer.put_slice(&self.bytes),
            2 => buffer.put_slice(&self.bytes[..2]),
            _ => debug_assert_eq!(self.len, 0, "no header or checksum has that length"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_writes_its_own_bytes_and_reads_them_back() {
        let cases: [(HeaderFormat, &[u8]); 4] = [
            (HeaderFormat::U32Le, &[0x02, 0x01, 0, 0]),
            (HeaderFormat::U32Be, &[0, 0, 0x01, 0x02]),
            (HeaderFormat::U16Le, &[0x02, 0x01]),
            (HeaderFormat::U16Be, &[0x01, 0x02]),
        ];
        for (format, bytes) in cases {
            assert_eq!(format.write(0x0102).unwrap().as_slice(), bytes, "{format:?}");
            assert_eq!(format.read(bytes), Some(0x0102), "{format:?}");
            assert_eq!(format.header_len(), bytes.len(), "{format:?}");
            assert_eq!(format.read(&bytes[1..]), None, "{format:?} read a header that is not whole");
        }
    }

    #[test]
    fn each_preset_is_told_by_its_name() {
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
    fn a_length_that_the_field_cannot_hold_has_no_header() {
        for format in [HeaderFormat::U16Le, HeaderFormat::U16Be] {
            assert!(format.write(65_535).is_some());
            assert!(format.write(65_536).is_none());
        }
        assert!(HeaderFormat::U32Le.write(u32::MAX as usize).is_some());
        #[cfg(target_pointer_width = "64")]
        assert!(HeaderFormat::U32Be.write(u32::MAX as usize + 1).is_none());
    }
}
