//! The byte order and the checksum of a connection.

use pktconn_codec::{Checksum, CodecConfig, HeaderFormat};

use super::FIRST_CONTROL_LEN;

/// The byte order and the checksum of control frames: those of the data frames around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireFormat {
    pub(crate) is_big_endian: bool,
    pub(crate) has_crc: bool,
}

/// A configuration whose data frames leave no room for control frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableFraming {
    /// The header has two bytes.
    #[error("sessions need a u32 header, not {format}")]
    Header {
        /// The configured header.
        format: HeaderFormat,
    },
    /// The payload limit is 0xFFFFFF00 bytes or more.
    #[error("sessions need a payload limit below {FIRST_CONTROL_LEN} bytes, not {limit}")]
    PayloadLimit {
        /// The configured limit, in bytes.
        limit: usize,
    },
}

impl WireFormat {
    /// The format of control frames among data frames of this configuration.
    ///
    /// # Errors
    ///
    /// If the header is not a `u32`, or the payload limit is 0xFFFFFF00 bytes or more.
    pub fn new(config: &CodecConfig) -> Result<Self, UnusableFraming> {
        let is_big_endian = match config.header_format() {
            HeaderFormat::U32Le => false,
            HeaderFormat::U32Be => true,
            format => return Err(UnusableFraming::Header { format }),
        };
        let limit = config.payload_limit();
        if limit >= FIRST_CONTROL_LEN as usize {
            return Err(UnusableFraming::PayloadLimit { limit });
        }
        Ok(Self { is_big_endian, has_crc: config.checksum_kind() != Checksum::None })
    }

    pub(crate) fn u16(self, bytes: [u8; 2]) -> u16 {
        if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    pub(crate) fn u32(self, bytes: [u8; 4]) -> u32 {
        if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    pub(crate) fn u64(self, bytes: [u8; 8]) -> u64 {
        if self.is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
    }
}
