//! Finds whole frames in the bytes that a server reads, and keeps an incomplete frame until its end arrives.

use std::mem;

use super::format::{HEADER_LEN, Oversized, frame_len};

/// The result of [`scan_frames`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameScan {
    /// Length of the whole frames at the beginning, headers included.
    pub whole_len: usize,
    /// After the whole frames comes a header that announces a frame above the limit.
    pub is_oversized: bool,
}

/// Finds the whole frames at the beginning of `bytes`, which start with a header.
#[inline]
pub fn scan_frames(bytes: &[u8]) -> FrameScan {
    let mut whole_len = 0;
    loop {
        match frame_len(&bytes[whole_len..]) {
            Err(Oversized) => return FrameScan { whole_len, is_oversized: true },
            Ok(Some(frame_len)) if frame_len <= bytes.len() - whole_len => whole_len += frame_len,
            Ok(_) => return FrameScan { whole_len, is_oversized: false },
        }
    }
}

/// The result of [`PartialFrame::complete`].
#[derive(Debug, PartialEq, Eq)]
pub struct Completed<'a> {
    /// The frame that is complete now; empty if there was none to complete.
    pub frame: Vec<u8>,
    /// The new bytes after that frame: they start with a header.
    pub rest: &'a [u8],
}

/// The beginning of a frame whose end has not arrived. Holds no memory between frames, and never more than twice the
/// bytes that arrived, regardless of the length in the header.
#[derive(Debug, Default)]
pub struct PartialFrame {
    bytes: Vec<u8>,
}

impl PartialFrame {
    /// Keeps `rest`, the bytes after the last whole frame.
    ///
    /// # Panics
    ///
    /// In debug builds, if it already holds a frame.
    #[inline]
    pub fn start(&mut self, rest: &[u8]) {
        debug_assert!(self.bytes.is_empty(), "the previous partial frame was not completed");
        if !rest.is_empty() {
            self.bytes = rest.to_vec();
        }
    }

    /// Adds the first bytes of `bytes` to the frame. Returns `None` while the frame is incomplete.
    ///
    /// # Errors
    ///
    /// [`Oversized`], as soon as the header is complete.
    #[inline]
    pub fn complete<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Completed<'a>>, Oversized> {
        if self.bytes.is_empty() {
            return Ok(Some(Completed { frame: Vec::new(), rest: bytes }));
        }
        let bytes = self.fill_to(HEADER_LEN, bytes);
        let Some(frame_len) = frame_len(&self.bytes)? else { return Ok(None) };
        let rest = self.fill_to(frame_len, bytes);
        let is_complete = self.bytes.len() == frame_len;
        Ok(is_complete.then(|| Completed { frame: mem::take(&mut self.bytes), rest }))
    }

    /// Adds bytes up to a total of `target_len`, and returns those that are left.
    fn fill_to<'a>(&mut self, target_len: usize, bytes: &'a [u8]) -> &'a [u8] {
        let missing_len = target_len.saturating_sub(self.bytes.len()).min(bytes.len());
        let (added, rest) = bytes.split_at(missing_len);
        self.bytes.extend_from_slice(added);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_FRAMES: &[u8] = b"\x02\0\0\0hi\0\0\0\0";

    #[test]
    fn whole_frames_end_before_an_incomplete_header_or_payload() {
        for cut in 0..=TWO_FRAMES.len() {
            let expected = [0, 6, 10][usize::from(cut >= 6) + usize::from(cut >= 10)];
            let scan = scan_frames(&TWO_FRAMES[..cut]);
            assert_eq!(scan, FrameScan { whole_len: expected, is_oversized: false }, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_of_32_mib_is_accepted_and_one_more_byte_is_not() {
        assert_eq!(scan_frames(&[0, 0, 0, 2]), FrameScan { whole_len: 0, is_oversized: false });
        assert_eq!(scan_frames(&[0, 0, 0, 0, 1, 0, 0, 2]), FrameScan { whole_len: 4, is_oversized: true });
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
}
