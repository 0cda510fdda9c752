//! Where the bytes that have arrived end in a record of TLS. rustls does not tell.

#[derive(Debug, Default)]
pub(super) struct Records {
    /// That of the present record, as far as it has arrived.
    header: [u8; Self::HEADER_LEN],
    /// How many bytes of the present record have arrived; 0 between two of them.
    pub(super) arrived: usize,
    /// How many are missing, where the header is whole.
    missing: usize,
}

impl Records {
    /// A type, a version, and the length of what follows (RFC 8446, 5.1).
    const HEADER_LEN: usize = 5;

    pub(super) fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_header = self.arrived < Self::HEADER_LEN;
            let missing = if in_header { Self::HEADER_LEN - self.arrived } else { self.missing };
            let (these, others) = bytes.split_at(missing.min(bytes.len()));
            if in_header {
                self.header[self.arrived..][..these.len()].copy_from_slice(these);
            }
            self.arrived += these.len();
            self.missing = match (in_header, these.len() == missing) {
                (true, true) => u16::from_be_bytes([self.header[3], self.header[4]]).into(),
                _ => missing - these.len(),
            };
            if self.missing == 0 {
                self.arrived = 0;
            }
            bytes = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_of_a_record_is_known_however_it_is_cut() {
        // Records of 0, 1 and 700 bytes.
        let record = |len: u16| [&[0x17, 3, 3][..], &len.to_be_bytes(), &vec![0xff; len.into()]].concat();
        let stream = [record(0), record(1), record(700), record(0)].concat();
        let starts = [0, 5, 11, 716, 721];
        for step in [1, 2, 3, 5, 7, 300, 1000] {
            let mut records = Records::default();
            for (number, part) in stream.chunks(step).enumerate() {
                records.note(part);
                let end = number * step + part.len();
                let start = starts.iter().rfind(|start| **start <= end).unwrap();
                assert_eq!(records.arrived, end - start, "{end} bytes in steps of {step}");
            }
        }
    }
}
