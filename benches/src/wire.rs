//! The wire format, as far as an echo needs it: where frames end.
//!
//! ```text
//! +----------------+---------------------+------------------------+
//! | length: u32 LE | payload: length B   | crc32: u32 LE, if on   |
//! +----------------+---------------------+------------------------+
//! ```
//!
//! Nothing here looks at a payload, and the checksum is off but for a client that is asked for it: the comparison is about
//! moving frames.

use std::mem;

/// Bytes of the length field in front of each payload.
pub const HEADER_LEN: usize = 4;

/// Bytes of the CRC-32 behind each payload, where it is on.
pub const CHECKSUM_LEN: usize = 4;

/// The largest payload that a peer may announce: the default of `pktconn` and of the Go original.
pub const MAX_PAYLOAD_LEN: usize = 32 << 20;

/// Bytes taken from a socket at once. With 16 KiB a pipelined load costs the server about twice the CPU time.
pub const READ_BUFFER_LEN: usize = 64 << 10;

/// A peer announced a payload above [`MAX_PAYLOAD_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversized;

/// What [`scan_frames`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameScan {
    /// Bytes at the front that are whole frames, headers included.
    pub whole_len: usize,
    /// What follows the whole frames is the header of a frame that is too large.
    pub oversized: bool,
}

/// Finds the whole frames at the front of `bytes`, which begin with a header.
#[inline]
pub fn scan_frames(bytes: &[u8]) -> FrameScan {
    let mut whole_len = 0;
    loop {
        match frame_len(&bytes[whole_len..]) {
            Err(Oversized) => return FrameScan { whole_len, oversized: true },
            Ok(Some(frame_len)) if frame_len <= bytes.len() - whole_len => whole_len += frame_len,
            Ok(_) => return FrameScan { whole_len, oversized: false },
        }
    }
}

/// Bytes of the frame that `bytes` begin with, header included; `None` while the header is not whole.
#[inline]
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, Oversized> {
    let Some(header) = bytes.first_chunk() else { return Ok(None) };
    match u32::from_le_bytes(*header) as usize {
        payload_len if payload_len <= MAX_PAYLOAD_LEN => Ok(Some(HEADER_LEN + payload_len)),
        _ => Err(Oversized),
    }
}

/// What [`PartialFrame::complete`] gives back.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed<'a> {
    /// The frame that is whole now; empty when there was none to complete.
    pub frame: Vec<u8>,
    /// The fresh bytes behind it: they begin with a header.
    pub rest: &'a [u8],
}

/// The front of a frame whose end has not arrived. Holds no memory between frames, and never more than twice the bytes
/// that arrived, whatever the header claims.
#[derive(Debug, Default)]
pub struct PartialFrame {
    bytes: Vec<u8>,
}

impl PartialFrame {
    /// Keeps `rest`, what follows the last whole frame.
    ///
    /// # Panics
    ///
    /// In debug builds when a frame is being kept already.
    #[inline]
    pub fn start(&mut self, rest: &[u8]) {
        debug_assert!(self.bytes.is_empty(), "one partial frame at a time");
        if !rest.is_empty() {
            self.bytes = rest.to_vec();
        }
    }

    /// Adds the front of `fresh` to the frame; `None` while it is not whole.
    ///
    /// # Errors
    ///
    /// [`Oversized`], as soon as the header is whole.
    #[inline]
    pub fn complete<'a>(&mut self, fresh: &'a [u8]) -> Result<Option<Completed<'a>>, Oversized> {
        if self.bytes.is_empty() {
            return Ok(Some(Completed { frame: Vec::new(), rest: fresh }));
        }
        let fresh = self.fill_to(HEADER_LEN, fresh);
        let Some(frame_len) = frame_len(&self.bytes)? else { return Ok(None) };
        let rest = self.fill_to(frame_len, fresh);
        let whole = self.bytes.len() == frame_len;
        Ok(whole.then(|| Completed { frame: mem::take(&mut self.bytes), rest }))
    }

    fn fill_to<'a>(&mut self, target_len: usize, fresh: &'a [u8]) -> &'a [u8] {
        let missing_len = target_len.saturating_sub(self.bytes.len()).min(fresh.len());
        let (now, rest) = fresh.split_at(missing_len);
        self.bytes.extend_from_slice(now);
        rest
    }
}

/// A reply did not have the length of the packet that it should answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnexpectedReply {
    /// What the header says, in bytes.
    pub actual_len: u32,
    /// What was sent, in bytes.
    pub expected_len: u32,
}

/// Follows replies through reads of any size, without keeping their payloads, or looking at their checksums.
#[derive(Debug, Default)]
pub struct ReplyReader {
    trailer_len: usize,
    header: [u8; HEADER_LEN],
    header_len: usize,
    body_read_len: usize,
}

impl ReplyReader {
    /// A reader of replies with so many bytes behind each payload.
    pub fn with_trailer(trailer_len: usize) -> Self {
        Self { trailer_len, ..Self::default() }
    }

    /// Takes bytes of one reply off `fresh`; true once that reply is whole.
    ///
    /// # Errors
    ///
    /// [`UnexpectedReply`], as soon as the header is whole.
    #[inline]
    pub fn advance(&mut self, fresh: &mut &[u8], expected_len: u32) -> Result<bool, UnexpectedReply> {
        let (now, rest) = fresh.split_at((HEADER_LEN - self.header_len).min(fresh.len()));
        self.header[self.header_len..][..now.len()].copy_from_slice(now);
        self.header_len += now.len();
        *fresh = rest;
        if self.header_len < HEADER_LEN {
            return Ok(false);
        }
        let actual_len = u32::from_le_bytes(self.header);
        if actual_len != expected_len {
            return Err(UnexpectedReply { actual_len, expected_len });
        }
        let body_len = actual_len as usize + self.trailer_len;
        let now_len = (body_len - self.body_read_len).min(fresh.len());
        self.body_read_len += now_len;
        *fresh = &fresh[now_len..];
        let whole = self.body_read_len == body_len;
        if whole {
            *self = Self::with_trailer(self.trailer_len);
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_FRAMES: &[u8] = b"\x02\0\0\0hi\0\0\0\0";

    #[test]
    fn whole_frames_end_where_a_header_or_payload_is_cut() {
        for cut in 0..=TWO_FRAMES.len() {
            let expected = [0, 6, 10][usize::from(cut >= 6) + usize::from(cut >= 10)];
            let scan = scan_frames(&TWO_FRAMES[..cut]);
            assert_eq!(scan, FrameScan { whole_len: expected, oversized: false }, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_of_32_mib_is_legal_and_one_more_is_not() {
        assert_eq!(scan_frames(&[0, 0, 0, 2]), FrameScan { whole_len: 0, oversized: false });
        assert_eq!(scan_frames(&[0, 0, 0, 0, 1, 0, 0, 2]), FrameScan { whole_len: 4, oversized: true });
    }

    #[test]
    fn a_partial_frame_is_completed_from_pieces_of_any_size() {
        for piece_len in 1..TWO_FRAMES.len() {
            let mut partial = PartialFrame::default();
            let mut echoed = Vec::new();
            for piece in TWO_FRAMES.chunks(piece_len) {
                let Some(Completed { frame, rest }) = partial.complete(piece).unwrap() else { continue };
                let scan = scan_frames(rest);
                echoed.extend([frame.as_slice(), &rest[..scan.whole_len]].concat());
                partial.start(&rest[scan.whole_len..]);
            }
            assert_eq!(echoed, TWO_FRAMES, "pieces of {piece_len}");
            assert_eq!(partial.bytes.capacity(), 0, "no memory between frames");
        }
    }

    #[test]
    fn a_header_alone_commits_no_memory() {
        let mut partial = PartialFrame::default();
        partial.start(&[0, 0, 0, 2]);
        assert_eq!(partial.complete(&[7]), Ok(None));
        assert!(partial.bytes.capacity() <= 16);
    }

    #[test]
    fn an_oversized_header_is_refused_in_pieces_too() {
        let mut partial = PartialFrame::default();
        partial.start(&[1, 0]);
        assert_eq!(partial.complete(&[0]), Ok(None));
        assert_eq!(partial.complete(&[2]), Err(Oversized));
    }

    #[test]
    fn replies_are_followed_through_pieces_of_any_size() {
        follow(TWO_FRAMES, 0);
    }

    #[test]
    fn what_stands_behind_a_payload_is_part_of_its_reply() {
        follow(b"\x02\0\0\0hi\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", CHECKSUM_LEN);
    }

    fn follow(two_frames: &[u8], trailer_len: usize) {
        for piece_len in 1..=two_frames.len() {
            let mut reader = ReplyReader::with_trailer(trailer_len);
            let mut expected = [2, 0].into_iter().peekable();
            for mut piece in two_frames.chunks(piece_len) {
                while !piece.is_empty() {
                    if reader.advance(&mut piece, *expected.peek().unwrap()).unwrap() {
                        expected.next();
                    }
                }
            }
            assert_eq!(expected.next(), None, "pieces of {piece_len}");
        }
    }

    #[test]
    fn a_reply_of_another_length_is_an_error_at_its_header() {
        let error = ReplyReader::default().advance(&mut &TWO_FRAMES[..4], 3).unwrap_err();
        assert_eq!(error, UnexpectedReply { actual_len: 2, expected_len: 3 });
    }
}
