//! Finds the ends of replies in the bytes that a client reads, across reads of any size.

use super::format::HEADER_LEN;

/// A reply does not have the length of the packet that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnexpectedReply {
    /// Payload length in the header of the reply, in bytes.
    pub actual_len: u32,
    /// Payload length of the packet that was sent, in bytes.
    pub expected_len: u32,
}

/// Counts the bytes of one reply after the other. Keeps no payloads and verifies no checksums.
#[derive(Debug, Default)]
pub struct ReplyReader {
    trailer_len: usize,
    header: [u8; HEADER_LEN],
    header_len: usize,
    body_read_len: usize,
}

impl ReplyReader {
    /// Creates a reader of replies with `trailer_len` bytes after each payload.
    pub fn with_trailer(trailer_len: usize) -> Self {
        Self { trailer_len, ..Self::default() }
    }

    /// Removes the bytes of one reply from the beginning of `bytes`. Returns true once that reply is complete.
    ///
    /// # Errors
    ///
    /// [`UnexpectedReply`], as soon as the header is complete.
    #[inline]
    pub fn advance(&mut self, bytes: &mut &[u8], expected_len: u32) -> Result<bool, UnexpectedReply> {
        let (header_part, rest) = bytes.split_at((HEADER_LEN - self.header_len).min(bytes.len()));
        self.header[self.header_len..][..header_part.len()].copy_from_slice(header_part);
        self.header_len += header_part.len();
        *bytes = rest;
        if self.header_len < HEADER_LEN {
            return Ok(false);
        }
        let actual_len = u32::from_le_bytes(self.header);
        if actual_len != expected_len {
            return Err(UnexpectedReply { actual_len, expected_len });
        }
        let body_len = actual_len as usize + self.trailer_len;
        let part_len = (body_len - self.body_read_len).min(bytes.len());
        self.body_read_len += part_len;
        *bytes = &bytes[part_len..];
        let is_complete = self.body_read_len == body_len;
        if is_complete {
            *self = Self::with_trailer(self.trailer_len);
        }
        Ok(is_complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::CHECKSUM_LEN;

    const TWO_FRAMES: &[u8] = b"\x02\0\0\0hi\0\0\0\0";

    #[test]
    fn replies_are_found_in_pieces_of_any_size() {
        assert_two_replies(TWO_FRAMES, 0);
    }

    #[test]
    fn the_trailer_is_part_of_the_reply() {
        assert_two_replies(b"\x02\0\0\0hi\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", CHECKSUM_LEN);
    }

    fn assert_two_replies(two_frames: &[u8], trailer_len: usize) {
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
