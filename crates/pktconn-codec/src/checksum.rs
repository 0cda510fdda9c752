//! The optional checksum after each payload: its length, how to compute it, how to verify it.

use crate::wire::InlineBytes;

/// The checksum after each payload, which detects corrupted bytes.
///
/// Both sides of a connection must use the same setting: nothing on the wire announces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checksum {
    /// No checksum. This is the default, as in the Go library.
    #[default]
    None,
    /// CRC-32 (IEEE 802.3, as in zlib) of the header and the payload: 4 bytes, little-endian.
    Crc32,
}

impl Checksum {
    /// The length of the longest checksum, in bytes.
    pub(crate) const MAX_LEN: usize = 4;

    /// The length of the checksum in bytes: 0 or 4.
    #[must_use]
    #[inline]
    pub const fn checksum_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 => 4,
        }
    }

    /// The bytes after a payload. `parts` are the header and the payload, in any number of pieces.
    pub(crate) fn trailer<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> InlineBytes {
        match self {
            Self::None => InlineBytes::default(),
            Self::Crc32 => InlineBytes::new(crc32(parts).to_le_bytes()),
        }
    }

    /// Verifies the checksum of a complete `frame`. `Err` contains the checksum in the frame, then the computed one.
    // Inlined into the decoder: a call for each packet costs as much as a fifth of decoding it.
    #[inline(always)]
    pub(crate) fn verify(self, frame: &[u8]) -> Result<(), (u32, u32)> {
        match self {
            Self::None => Ok(()),
            Self::Crc32 => verify_crc32(frame),
        }
    }
}

fn verify_crc32(frame: &[u8]) -> Result<(), (u32, u32)> {
    // A complete frame ends with 4 bytes of checksum. The fallback only avoids a panic.
    let (covered, checksum) = frame.split_last_chunk().unwrap_or((frame, &[0; 4]));
    let expected = u32::from_le_bytes(*checksum);
    let actual = crc32([covered]);
    if expected == actual { Ok(()) } else { Err((expected, actual)) }
}

fn crc32<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
