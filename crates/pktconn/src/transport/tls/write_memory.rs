//! How much memory rustls uses for what it has not written yet. rustls does not report it.

/// The memory of the buffer of rustls 0.23 for writing, from what goes in and out.
///
/// ```text
///   bytes of the application --> encrypted records, until they are written --> socket
/// ```
#[derive(Debug, Default)]
pub(super) struct WriteMemory {
    /// The length of all records since the buffer was empty.
    encrypted_len: u64,
    /// How much of it is written.
    written_len: u64,
}

impl WriteMemory {
    /// The maximum number of bytes of the application in a record.
    const MAX_FRAGMENT: usize = 16 * 1024;
    /// What encryption adds to a record of TLS 1.3: a header of 5 bytes, a type and a tag of 16 bytes.
    const RECORD_OVERHEAD: usize = 22;

    /// rustls has encrypted `len` bytes of the application.
    pub(super) fn encrypted(&mut self, len: usize) {
        let records = len.div_ceil(Self::MAX_FRAGMENT);
        self.encrypted_len += (len + records * Self::RECORD_OVERHEAD) as u64;
    }

    /// The socket has taken `len` bytes of the records.
    pub(super) fn written(&mut self, len: usize) {
        self.written_len += len as u64;
    }

    /// The buffer is empty. Forgets what it was wrong about: records of handshakes, or of older versions of TLS.
    pub(super) fn emptied(&mut self) {
        *self = Self::default();
    }

    /// The memory in use, in bytes. A sixteenth is added for the list of the records, which is that much if they are of
    /// 1 KiB.
    pub(super) fn bytes(&self) -> usize {
        let unwritten = self.encrypted_len.saturating_sub(self.written_len) as usize;
        unwritten + unwritten / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn records_count_until_they_are_written() {
        let mut memory = WriteMemory::default();
        memory.encrypted(16 * KIB);
        memory.encrypted(16 * KIB + 1);
        let records = 32 * KIB + 1 + 3 * WriteMemory::RECORD_OVERHEAD;
        assert_eq!(memory.bytes(), records + records / 16);
        memory.written(records - 160);
        assert_eq!(memory.bytes(), 170);
        memory.written(160);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn the_socket_may_take_a_record_before_it_is_known() {
        let mut memory = WriteMemory::default();
        memory.written(1022);
        assert_eq!(memory.bytes(), 0);
        memory.encrypted(1000);
        assert_eq!(memory.bytes(), 0);
        memory.written(500);
        memory.emptied();
        memory.encrypted(1000);
        assert_eq!(memory.bytes(), 1022 + 63);
    }
}
