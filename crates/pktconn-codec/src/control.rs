//! Control frames: frames of a protocol above packets, such as sessions, between the frames of packets.
//!
//! ```text
//!   0xFFFFFF00 | type (u32)   body_len (u16)   body   [crc32 over all before it]
//! ```
//!
//! No packet has such a length. This module finds where a control frame ends; what it says is for the crate that defines it.

use crate::HeaderFormat;
use crate::config::Framing;

/// The first length that is not the length of a payload. Its low byte is the type of the control frame.
#[doc(hidden)]
pub const FIRST_CONTROL_LEN: u32 = 0xFFFF_FF00;

/// The longest body of a control frame, in bytes.
#[doc(hidden)]
pub const MAX_CONTROL_BODY_LEN: usize = 1024;

/// The length field and the length of the body, in bytes.
#[doc(hidden)]
pub const CONTROL_PREFIX_LEN: usize = 6;

/// How long the control frame at the front of `src` is, and how many of its last bytes are a checksum. `None` while its
/// prefix is incomplete. A frame with an over-long body is its prefix alone, so that it can be refused before more arrives.
pub(crate) fn control_frame_len(src: &[u8], framing: Framing) -> Option<(usize, usize)> {
    let body_len = src.get(CONTROL_PREFIX_LEN - 2..)?.first_chunk()?;
    let body_len = match framing.header {
        HeaderFormat::U32Be => u16::from_be_bytes(*body_len),
        _ => u16::from_le_bytes(*body_len),
    };
    if usize::from(body_len) > MAX_CONTROL_BODY_LEN {
        return Some((CONTROL_PREFIX_LEN, 0));
    }
    let checksum_len = framing.checksum.checksum_len();
    Some((CONTROL_PREFIX_LEN + usize::from(body_len) + checksum_len, checksum_len))
}
