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

// Of the bodies, WELCOME with the longest string has 322 bytes; the rest is for later versions.
pub(crate) use pktconn_codec::CONTROL_PREFIX_LEN as PREFIX_LEN;
pub use pktconn_codec::{FIRST_CONTROL_LEN, MAX_CONTROL_BODY_LEN as MAX_BODY_LEN};

/// From here on, types have no meaning yet.
pub(crate) const FIRST_UNKNOWN_TYPE: u8 = 0x0A;

/// Types from here on are ignored by peers that do not know them.
pub(crate) const FIRST_IGNORED_TYPE: u8 = 0x80;
