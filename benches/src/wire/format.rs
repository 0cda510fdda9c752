//! The sizes of the wire format, and the length of a frame from its header.

/// Length of the header, in bytes: the payload length as a little-endian `u32`.
pub const HEADER_LEN: usize = 4;

/// Length of the optional CRC-32 after each payload, in bytes.
pub const CHECKSUM_LEN: usize = 4;

/// The largest payload that a peer may announce, in bytes: the default of `pktconn` and of the Go library.
pub const MAX_PAYLOAD_LEN: usize = 32 << 20;

/// Length of a read buffer, in bytes. With 16 KiB, a pipelined load costs the server about twice the CPU time.
pub const READ_BUFFER_LEN: usize = 64 << 10;

/// A header announces a payload above [`MAX_PAYLOAD_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversized;

/// The length of the frame at the beginning of `bytes`, header included; `None` if the header is incomplete.
#[inline]
pub(super) fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Oversized> {
    let Some(header) = bytes.first_chunk() else { return Ok(None) };
    match u32::from_le_bytes(*header) as usize {
        payload_len if payload_len <= MAX_PAYLOAD_LEN => Ok(Some(HEADER_LEN + payload_len)),
        _ => Err(Oversized),
    }
}
