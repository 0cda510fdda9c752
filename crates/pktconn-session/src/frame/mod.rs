//! Control frames: their fields, and their bytes.
//!
//! ```text
//! +-------------------------+---------------+------------------+------------------+
//! | 0xFFFFFF00 | type: u32  | body_len: u16 | body: body_len B | crc32: u32,      |
//! |                         |               |                  | if configured    |
//! +-------------------------+---------------+------------------+------------------+
//! ```
//!
//! A length from 0xFFFFFF00 on marks a control frame, so the payload limit of data frames must be below it. This layer knows no
//! counter and no state.

mod decode;
pub use decode::{Decoded, decode_control};

mod encode;
pub use encode::encode_control;

mod error;
pub use error::ControlError;

mod types;
pub use types::{
    Bye, ByeReason, ControlFrame, GoAway, GoAwayReason, Hello, Reject, RejectReason, Secret, SessionId,
    VERSION, Welcome,
};

mod wire;
pub use wire::{UnusableFraming, WireFormat};

/// The first length that is not the length of a payload. Its low byte is the type of the control frame.
pub const FIRST_CONTROL_LEN: u32 = 0xFFFF_FF00;

/// The longest body, in bytes. WELCOME with the longest string has 322; the rest is for later versions.
pub const MAX_BODY_LEN: usize = 1024;

/// The length field and the length of the body, in bytes.
pub(crate) const PREFIX_LEN: usize = 6;

/// From here on, types have no meaning yet.
pub(crate) const FIRST_UNKNOWN_TYPE: u8 = 0x0A;

/// Types from here on are ignored by peers that do not know them.
pub(crate) const FIRST_IGNORED_TYPE: u8 = 0x80;
