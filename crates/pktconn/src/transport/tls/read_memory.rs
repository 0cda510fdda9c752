//! How much memory rustls uses for what it has read. rustls does not report it.

/// The memory of the buffers of rustls 0.23 for reading, from the reads that it makes.
///
/// ```text
///   socket --> encrypted: the start of a record, and room for the next read
///                 '-- complete records --> decrypted, until they are returned
/// ```
#[derive(Debug, Default)]
pub(super) struct ReadMemory {
    /// The length of the buffer for encrypted bytes.
    encrypted_len: usize,
    /// The length of the records that the last read completed, at most.
    records_len: usize,
    /// Whether some of the bytes of these records were not returned.
    pub(super) has_unread: bool,
}

impl ReadMemory {
    /// The buffer of an idle connection: rustls reads up to this many bytes at a time.
    const IDLE_LEN: usize = 4 * 1024;

    /// rustls is about to read up to `room` bytes, and holds `partial_len` bytes of an incomplete record.
    pub(super) fn before_read(&mut self, partial_len: usize, room: usize) {
        self.encrypted_len = partial_len + room;
    }

    /// rustls has read `read_len` bytes, after `partial_len` bytes of an incomplete record.
    pub(super) fn after_read(&mut self, partial_len: usize, read_len: usize) {
        self.records_len = partial_len + read_len;
    }

    /// The memory in use, in bytes, beyond that of an idle connection.
    pub(super) fn bytes(&self) -> usize {
        // A `Vec` that grows at least doubles. It shrinks before a read that begins with no bytes.
        let encrypted = self.encrypted_len.next_power_of_two().saturating_sub(Self::IDLE_LEN);
        encrypted + if self.has_unread { self.records_len } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn an_incomplete_record_counts_with_the_room_for_the_next_read() {
        let mut memory = ReadMemory::default();
        assert_eq!(memory.bytes(), 0);
        for (partial_len, bytes) in
            [(0, 0), (1, 4 * KIB), (4 * KIB, 4 * KIB), (9000, 12 * KIB), (13_000, 28 * KIB), (0, 0)]
        {
            memory.before_read(partial_len, 4 * KIB);
            assert_eq!(memory.bytes(), bytes, "{partial_len} B");
        }
    }

    #[test]
    fn decrypted_bytes_count_until_all_of_them_are_returned() {
        let mut memory = ReadMemory::default();
        memory.before_read(0, 4 * KIB);
        memory.after_read(0, 3000);
        assert_eq!(memory.bytes(), 0);
        memory.has_unread = true;
        assert_eq!(memory.bytes(), 3000);
        memory.has_unread = false;
        assert_eq!(memory.bytes(), 0);
    }
}
