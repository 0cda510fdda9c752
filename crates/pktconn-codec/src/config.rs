//! What both sides of a connection must agree on, and how large a payload may be.

use crate::{Checksum, HeaderFormat};

/// The format of frames and the limit on their size.
///
/// ```
/// use pktconn_codec::{Checksum, CodecConfig, HeaderFormat};
///
/// let config = CodecConfig::new()
///     .checksum(Checksum::Crc32)
///     .header(HeaderFormat::U32Be)
///     .max_payload_len(64 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecConfig {
    pub(crate) framing: Framing,
    /// No length field can say more.
    max_payload_len: u32,
}

/// The bytes around a payload. Two frames of the same framing and payload are the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    pub(crate) header: HeaderFormat,
    pub(crate) checksum: Checksum,
}

impl Framing {
    /// How much longer a frame is than its payload, in bytes.
    #[inline]
    pub(crate) fn around_len(self) -> usize {
        self.header.header_len() + self.checksum.checksum_len()
    }
}

impl CodecConfig {
    /// The default limit on a payload, 32 MiB: that of the Go library.
    pub const DEFAULT_MAX_PAYLOAD_LEN: usize = 32 * 1024 * 1024;

    /// The format of the Go library: a little-endian `u32` header, no checksum, payloads of up to 32 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self { framing: Framing::default(), max_payload_len: Self::DEFAULT_MAX_PAYLOAD_LEN as u32 }
    }

    /// Sets the length field. Default: [`HeaderFormat::U32Le`].
    #[must_use]
    pub fn header(mut self, header: HeaderFormat) -> Self {
        self.framing.header = header;
        self
    }

    /// Sets the checksum. Default: [`Checksum::None`].
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.framing.checksum = checksum;
        self
    }

    /// Sets the longest payload that is sent or accepted, in bytes. Default: 32 MiB.
    ///
    /// A peer that announces more is out of bounds: decoding ends with
    /// [`PayloadTooLarge`](crate::FrameError::PayloadTooLarge). Memory follows the bytes that arrive, never the length
    /// that is announced, so a generous limit costs nothing by itself; a peer that really sends that much is given that
    /// much. Where the length field can say less than this, its own limit holds.
    #[must_use]
    pub fn max_payload_len(mut self, bytes: usize) -> Self {
        self.max_payload_len = u32::try_from(bytes).unwrap_or(u32::MAX);
        self
    }

    /// The length field in use.
    #[must_use]
    pub fn header_format(&self) -> HeaderFormat {
        self.framing.header
    }

    /// The checksum in use.
    #[must_use]
    pub fn checksum_kind(&self) -> Checksum {
        self.framing.checksum
    }

    /// The longest payload that is sent or accepted, in bytes: the smaller of what was set and of what the length field
    /// can say.
    #[must_use]
    #[inline]
    pub fn payload_limit(&self) -> usize {
        (self.max_payload_len as usize).min(self.framing.header.max_payload_len())
    }
}

impl Default for CodecConfig {
    fn default() -> Self {
        Self::new()
    }
}
