//! The configuration of a codec: the format of frames, which must be the same on both sides, and the payload limit.

use crate::{Checksum, HeaderFormat};

/// The format of frames and the largest allowed payload.
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
    /// A `u32`, because no length field holds more.
    max_payload_len: u32,
    pub(crate) has_control_frames: bool,
}

/// The format of the bytes around a payload. The same payload in the same framing is always the same frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    pub(crate) header: HeaderFormat,
    pub(crate) checksum: Checksum,
}

impl Framing {
    /// The length of header and checksum together, in bytes.
    #[inline]
    pub(crate) fn overhead_len(self) -> usize {
        self.header.header_len() + self.checksum.checksum_len()
    }
}

impl CodecConfig {
    /// The default payload limit in bytes: 32 MiB, as in the Go library.
    pub const DEFAULT_MAX_PAYLOAD_LEN: usize = 32 * 1024 * 1024;

    /// The format of the Go library: a little-endian `u32` header, no checksum, payloads of up to 32 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            framing: Framing::default(),
            max_payload_len: Self::DEFAULT_MAX_PAYLOAD_LEN as u32,
            has_control_frames: false,
        }
    }

    /// Sets the length field. Both sides must use the same one. Default: [`HeaderFormat::U32Le`].
    #[must_use]
    pub fn header(mut self, header: HeaderFormat) -> Self {
        self.framing.header = header;
        self
    }

    /// Sets the checksum. Both sides must use the same one. Default: [`Checksum::None`].
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.framing.checksum = checksum;
        self
    }

    /// Sets the largest payload that can be sent and received, in bytes. Default: 32 MiB.
    ///
    /// If a header announces more, decoding fails with [`PayloadTooLarge`](crate::FrameError::PayloadTooLarge). If the
    /// length field holds less than this, its maximum is the limit.
    ///
    /// A large limit alone costs no memory: buffers grow with the bytes that arrive, not with the announced length. But
    /// a peer can make one connection hold a payload of this size.
    #[must_use]
    pub fn max_payload_len(mut self, bytes: usize) -> Self {
        self.max_payload_len = u32::try_from(bytes).unwrap_or(u32::MAX);
        self
    }

    /// Sets whether [control frames](crate::Packet::is_control) are decoded. Needs a `u32` header and a payload limit below
    /// 0xFFFFFF00. Default: `false`.
    #[doc(hidden)]
    #[must_use]
    pub fn control_frames(mut self, has_control_frames: bool) -> Self {
        self.has_control_frames = has_control_frames;
        self
    }

    /// Whether control frames are decoded.
    #[doc(hidden)]
    #[must_use]
    pub fn has_control_frames(&self) -> bool {
        self.has_control_frames
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

    /// The largest payload that can be sent and received, in bytes: [`max_payload_len`](Self::max_payload_len) or the
    /// maximum of the length field, whichever is smaller.
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
