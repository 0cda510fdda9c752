//! Tracks how many bytes of an incomplete TLS record have arrived. rustls does not report it.

#[derive(Debug, Default)]
pub(super) struct RecordTracker {
    /// The header of the current record, as far as it has arrived.
    header: [u8; Self::HEADER_LEN],
    /// How many bytes of the current record have arrived; 0 between two records.
    pub(super) partial_len: usize,
    /// How many bytes of the current record are missing, once its header is complete.
    missing_len: usize,
}

impl RecordTracker {
    /// Type, version, and length of the rest (RFC 8446, 5.1).
    const HEADER_LEN: usize = 5;

    /// How many bytes of the current record are missing: of its header, while that is incomplete. 0 between two records.
    pub(super) fn missing_len(&self) -> usize {
        match self.partial_len {
            0 => 0,
            1..Self::HEADER_LEN => Self::HEADER_LEN - self.partial_len,
            _ => self.missing_len,
        }
    }

    /// Accounts for bytes that have arrived.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_header = self.partial_len < Self::HEADER_LEN;
            let missing = if in_header { Self::HEADER_LEN - self.partial_len } else { self.missing_len };
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            if in_header {
                self.header[self.partial_len..][..taken.len()].copy_from_slice(taken);
            }
            self.partial_len += taken.len();
            self.missing_len = match (in_header, taken.len() == missing) {
                (true, true) => u16::from_be_bytes([self.header[3], self.header[4]]).into(),
                _ => missing - taken.len(),
            };
            if self.missing_len == 0 {
                self.partial_len = 0;
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partial_length_is_right_however_the_bytes_are_cut() {
        // Records of 0, 1 and 700 bytes.
        let record = |len: u16| [&[0x17, 3, 3][..], &len.to_be_bytes(), &vec![0xff; len.into()]].concat();
        let stream = [record(0), record(1), record(700), record(0)].concat();
        let stream_len = stream.len();
        let starts = [0, 5, 11, 716, 721];
        for step in [1, 2, 3, 5, 7, 300, 1000] {
            let mut records = RecordTracker::default();
            for (number, part) in stream.chunks(step).enumerate() {
                records.advance(part);
                let end = number * step + part.len();
                let start = starts.iter().rfind(|start| **start <= end).unwrap();
                assert_eq!(records.partial_len, end - start, "{end} bytes in steps of {step}");
                let next = starts.iter().find(|next| *next > start).unwrap_or(&stream_len);
                let missing = match end - start {
                    0 => 0,
                    partial @ 1..5 => 5 - partial,
                    _ => next - end,
                };
                assert_eq!(records.missing_len(), missing, "{end} bytes in steps of {step}");
            }
        }
    }
}
