//! The frames that a server is judged by, made by hand: a judge that used the codec of `pktconn` would share its mistakes.
//!
//! ```text
//!   | length: 2 or 4 bytes | payload | CRC-32 over both, u32 LE, if on |
//! ```

use pktconn::HeaderFormat;

use crate::traffic::payload::{PayloadBlock, PayloadSequence};
use crate::traffic::sizes::Distribution;

/// What the server says it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) header: HeaderFormat,
    pub(crate) crc: bool,
    /// The longest payload that the server takes; never more than the header can say.
    pub(crate) max_payload_len: u32,
}

impl Format {
    /// The length field of a payload of `len` bytes, which it can say.
    pub(crate) fn header(&self, len: u32) -> Vec<u8> {
        let mut bytes = len.to_le_bytes()[..self.header.header_len()].to_vec();
        if matches!(self.header, HeaderFormat::U32Be | HeaderFormat::U16Be) {
            bytes.reverse();
        }
        bytes
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(payload.len() + 8);
        frame.extend(self.header(payload.len() as u32));
        frame.extend_from_slice(payload);
        if self.crc {
            frame.extend(crc32fast::hash(&frame).to_le_bytes());
        }
        frame
    }
}

/// Packets with contents of their own: from 8 bytes on, no two that follow each other are alike.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    pub(crate) format: Format,
    block: PayloadBlock,
}

/// Any would do; the same one has a server meet the same bytes each time.
const SEED: u64 = 1;

impl Frames {
    /// It holds as much memory as the longest payload has, to the end of the process.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, block: PayloadBlock::new(format.max_payload_len, 1) }
    }

    /// The frame of packet `number`. Its payload has `len` bytes, or the limit's where those are fewer.
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

    /// The frames of packets of these lengths, one behind the other.
    pub(crate) fn frames(&self, lens: impl IntoIterator<Item = u32>) -> Vec<u8> {
        lens.into_iter().zip(0..).flat_map(|(len, number)| self.frame(number, len)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const GO: Format =
        Format { header: HeaderFormat::U32Le, crc: false, max_payload_len: 32 << 20 };

    #[test]
    fn frames_are_those_that_the_go_library_writes() {
        let with_sum = Format { crc: true, ..GO };
        assert_eq!(GO.frame(b""), b"\x00\x00\x00\x00");
        assert_eq!(with_sum.frame(b""), b"\x00\x00\x00\x00\x1c\xdf\x44\x21");
        assert_eq!(GO.frame(b"hello, packet"), b"\x0d\x00\x00\x00hello, packet");
        assert_eq!(with_sum.frame(b"hello, packet"), b"\x0d\x00\x00\x00hello, packet\xa2\xa5\x78\xc1");
    }

    #[test]
    fn each_header_has_its_width_and_its_order() {
        let cases: [(HeaderFormat, &[u8]); 4] = [
            (HeaderFormat::U32Le, &[0x02, 0x01, 0, 0]),
            (HeaderFormat::U32Be, &[0, 0, 0x01, 0x02]),
            (HeaderFormat::U16Le, &[0x02, 0x01]),
            (HeaderFormat::U16Be, &[0x01, 0x02]),
        ];
        for (header, bytes) in cases {
            assert_eq!(Format { header, ..GO }.header(0x0102), bytes, "{header}");
        }
    }

    #[test]
    fn no_payload_is_over_the_limit() {
        let frames = Frames::new(Format { max_payload_len: 3, ..GO });
        assert_eq!(frames.frame(0, 100).len(), 4 + 3);
        assert_eq!(frames.frames([0, 1, 100]).len(), 4 + 5 + 7);
    }
}
