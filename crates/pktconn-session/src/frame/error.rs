//! Why bytes are not a control frame.

/// Why bytes are not a control frame. The connection is unusable then; the session is not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A type from 0x0A to 0x7F.
    #[error("unknown control frame type {type_code:#04x}")]
    UnknownType {
        /// The low byte of the length field.
        type_code: u8,
    },
    /// The body is shorter than its fields, longer than allowed, or has bytes after its fields.
    #[error("control frame of type {type_code:#04x} has a body of {body_len} bytes; expected {expected}")]
    Length {
        /// The low byte of the length field.
        type_code: u8,
        /// The length of the body.
        body_len: usize,
        /// The length that the fields have, or the limit.
        expected: usize,
    },
    /// A string is not UTF-8, or `resumed` is neither 0 nor 1.
    #[error("field {field} of a control frame of type {type_code:#04x} is invalid")]
    Field {
        /// The low byte of the length field.
        type_code: u8,
        /// The name of the field.
        field: &'static str,
    },
    /// The CRC-32 is wrong.
    #[error("control frame with the CRC-32 {actual:#010x}; its bytes have {expected:#010x}")]
    Checksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum in the frame.
        actual: u32,
    },
}
