//! How much memory rustls uses for what it has not written yet. rustls does not report it.

use std::io::IoSlice;

/// The memory of the encrypted records that rustls 0.23 holds, from what it offers to the socket: all of them, unless
/// they are too many for one write.
#[derive(Debug, Default)]
pub(super) struct WriteMemory {
    bytes: usize,
    /// How many bytes of the first record the socket has taken. They stay in memory until it has taken all of it.
    taken_of_first: usize,
}

impl WriteMemory {
    /// rustls offers at most this many records at a time.
    const MAX_RECORDS: usize = 64;
    /// The default limit of rustls's buffer, in bytes.
    const MAX_BYTES: usize = 64 * 1024;
    /// What a record takes beyond its bytes: a `Vec` in a list, and an allocation.
    const RECORD_OVERHEAD: usize = 40;

    /// The socket has taken `taken_len` bytes of `records`.
    pub(super) fn offered(&mut self, records: &[IoSlice<'_>], mut taken_len: usize) {
        let (mut left_len, mut left) = (0, 0);
        for record in records {
            if taken_len >= record.len() {
                taken_len -= record.len();
                self.taken_of_first = 0;
                continue;
            }
            self.taken_of_first += taken_len;
            left_len += record.len() - taken_len;
            left += 1;
            taken_len = 0;
        }
        if records.len() >= Self::MAX_RECORDS {
            (left_len, left) = (left_len.max(Self::MAX_BYTES), records.len());
        }
        self.bytes = if left > 0 { left_len + self.taken_of_first + left * Self::RECORD_OVERHEAD } else { 0 };
    }

    /// The memory in use, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_until_the_socket_has_taken_them() {
        let (record, mut memory) = ([0; 1022], WriteMemory::default());
        assert_eq!(memory.bytes(), 0);
        memory.offered(&[IoSlice::new(&record); 3], 0);
        assert_eq!(memory.bytes(), 3 * (1022 + 40));
        memory.offered(&[IoSlice::new(&record); 3], 2000);
        assert_eq!(
            memory.bytes(),
            2 * (1022 + 40),
            "978 B of the second record are taken, and still in memory"
        );
        let rest = [IoSlice::new(&record[978..]), IoSlice::new(&record)];
        memory.offered(&rest, 22);
        assert_eq!(memory.bytes(), 2 * (1022 + 40));
        memory.offered(&rest, 22 + 1022);
        assert_eq!(memory.bytes(), 1022 + 40);
        memory.offered(&[IoSlice::new(&record[..1])], 1);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn more_records_than_one_write_has_room_for_count_as_a_full_buffer() {
        let (record, mut memory) = ([0; 100], WriteMemory::default());
        for taken_len in [0, 1000, 6400] {
            memory.offered(&[IoSlice::new(&record); 64], taken_len);
            assert_eq!(memory.bytes(), 64 * 1024 + 64 * 40);
        }
        memory.offered(&[IoSlice::new(&record); 63], 6300);
        assert_eq!(memory.bytes(), 0);
    }
}
