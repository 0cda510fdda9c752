//! The checksum behind every payload, where it is on.

use crate::wire::Inline;

/// What stands behind each payload to tell altered bytes.
///
/// Both sides of a connection configure the same one: nothing on the wire announces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checksum {
    /// Nothing: the default, like the Go library's.
    #[default]
    None,
    /// CRC-32 (IEEE 802.3, as in zlib) over the header and the payload; 4 bytes, little-endian.
    Crc32,
}

impl Checksum {
    /// The length of the longest checksum there is, in bytes.
    pub(crate) const MAX_LEN: usize = 4;

    /// The length of the checksum itself, in bytes: 0 or 4.
    #[must_use]
    #[inline]
    pub const fn checksum_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 => 4,
        }
    }

    /// The bytes after a payload: the checksum of header and payload, which are the concatenation of `parts`.
    pub(crate) fn trailer<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> Inline {
        match self {
            Self::None => Inline::default(),
            Self::Crc32 => Inline::new(crc32(parts).to_le_bytes()),
        }
    }

    /// Compares the end of a whole `frame` with what comes before it; `Err` holds the expected and the actual sum.
    #[inline]
    pub(crate) fn verify(self, frame: &[u8]) -> Result<(), (u32, u32)> {
        match self {
            Self::None => Ok(()),
            Self::Crc32 => {
                // A frame is whole when this is called, so the sum is there; were it not, it would not match.
                let (summed, sum) = frame.split_last_chunk().unwrap_or((frame, &[0; 4]));
                let expected = u32::from_le_bytes(*sum);
                let actual = crc32([summed]);
                if expected == actual { Ok(()) } else { Err((expected, actual)) }
            }
        }
    }
}

fn crc32<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
