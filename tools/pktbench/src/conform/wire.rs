//! Encodes the frames of the test by hand: with the codec of `pktconn`, the test would share its mistakes.
//!
//! ```text
//!   | length: 2 or 4 bytes | payload | CRC-32 of both, u32 LE, with --crc |
//! ```

use pktconn::HeaderFormat;

use crate::traffic::payload::{PayloadBlock, PayloadSequence};
use crate::traffic::sizes::Distribution;

/// The wire format that the server should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireFormat {
    pub(crate) header: HeaderFormat,
    pub(crate) crc: bool,
    /// The largest payload that the server accepts; at most the maximum of the header.
    pub(crate) max_payload_len: u32,
}

impl WireFormat {
    /// The length field for a payload of `len` bytes, which must not exceed the maximum of the header.
    pub(crate) fn length_field(&self, len: u32) -> Vec<u8> {
        let mut bytes = len.to_le_bytes()[..self.header.header_len()].to_vec();
        if matches!(self.header, HeaderFormat::U32Be | HeaderFormat::U16Be) {
            bytes.reverse();
        }
        bytes
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(payload.len() + 8);
        frame.extend(self.length_field(payload.len() as u32));
        frame.extend_from_slice(payload);
        if self.crc {
            frame.extend(crc32fast::hash(&frame).to_le_bytes());
        }
        frame
    }
}

/// Makes frames with generated payloads. From 8 bytes on, successive payloads are different.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    pub(crate) format: WireFormat,
    block: PayloadBlock,
}

/// An arbitrary seed. It is fixed, so that every test sends the same bytes.
const SEED: u64 = 1;

impl Frames {
    /// Allocates as much memory as the largest payload has, and never frees it.
    pub(crate) fn new(format: WireFormat) -> Self {
        Self { format, block: PayloadBlock::new(format.max_payload_len, 1) }
    }

    /// The frame of packet `number`. Its payload has `len` bytes, or the limit of the format if that is lower.
    pub(crate) fn frame(&self, number: u64, len: u32) -> Vec<u8> {
        let len = len.min(self.format.max_payload_len);
        let packets = PayloadSequence::new(
            self.block,
            Distribution::Uniform { min_len: len, max_len: len },
            SEED,
            0,
            1,
        );
        self.format.frame(packets.payload(number))
    }

    /// The frames of packets of these lengths, in sequence.
    pub(crate) fn frames(&self, lens: impl IntoIterator<Item = u32>) -> Vec<u8> {
        lens.into_iter().zip(0..).flat_map(|(len, number)| self.frame(number, len)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The defaults of the Go library.
    pub(crate) const GO_DEFAULTS: WireFormat =
        WireFormat { header: HeaderFormat::U32Le, crc: false, max_payload_len: 32 << 20 };

    #[test]
    fn frames_equal_those_of_the_go_library() {
        let with_crc = WireFormat { crc: true, ..GO_DEFAULTS };
        assert_eq!(GO_DEFAULTS.frame(b""), b"\x00\x00\x00\x00");
        assert_eq!(with_crc.frame(b""), b"\x00\x00\x00\x00\x1c\xdf\x44\x21");
        assert_eq!(GO_DEFAULTS.frame(b"hello, packet"), b"\x0d\x00\x00\x00hello, packet");
        assert_eq!(with_crc.frame(b"hello, packet"), b"\x0d\x00\x00\x00hello, packet\xa2\xa5\x78\xc1");
    }

    #[test]
    fn each_header_has_its_width_and_byte_order() {
        let cases: [(HeaderFormat, &[u8]); 4] = [
            (HeaderFormat::U32Le, &[0x02, 0x01, 0, 0]),
            (HeaderFormat::U32Be, &[0, 0, 0x01, 0x02]),
            (HeaderFormat::U16Le, &[0x02, 0x01]),
            (HeaderFormat::U16Be, &[0x01, 0x02]),
        ];
        for (header, bytes) in cases {
            assert_eq!(WireFormat { header, ..GO_DEFAULTS }.length_field(0x0102), bytes, "{header}");
        }
    }

    #[test]
    fn no_payload_is_over_the_limit() {
        let frames = Frames::new(WireFormat { max_payload_len: 3, ..GO_DEFAULTS });
        assert_eq!(frames.frame(0, 100).len(), 4 + 3);
        assert_eq!(frames.frames([0, 1, 100]).len(), 4 + 5 + 7);
    }
}
