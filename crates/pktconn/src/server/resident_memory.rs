//! The resident memory of this process, as Linux reports it.

use std::io;

/// Reads the resident memory of this process.
#[derive(Debug)]
pub(super) struct ResidentMemory {
    /// `/proc/self/statm`. It stays open, so that it can also be read when the process has too many open files.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    statm: std::fs::File,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl ResidentMemory {
    pub(super) fn open() -> io::Result<Self> {
        let memory = Self { statm: std::fs::File::open("/proc/self/statm")? };
        memory.bytes()?;
        Ok(memory)
    }

    /// The resident memory, in bytes.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        // Seven numbers of up to 20 digits.
        let mut text = [0; 160];
        let len = std::os::unix::fs::FileExt::read_at(&self.statm, &mut text, 0)?;
        let pages = std::str::from_utf8(&text[..len])
            .ok()
            .and_then(resident_pages)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl ResidentMemory {
    pub(super) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_self, reason = "as on Linux")]
    pub(super) fn bytes(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The second number of `/proc/self/statm`, as in `5432 1234 987 12 0 345 0`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_the_second_number() {
        assert_eq!(resident_pages("5432 1234 987 12 0 345 0\n"), Some(1234));
        for text in ["", "5432", "5432 many", "5432 -1 987"] {
            assert_eq!(resident_pages(text), None, "{text:?}");
        }
    }

    #[test]
    fn memory_that_is_touched_is_resident() {
        const LEN: usize = 64 << 20;
        let memory = ResidentMemory::open().unwrap();
        let before = memory.bytes().unwrap();
        let touched = std::hint::black_box(vec![1_u8; LEN]);
        let after = memory.bytes().unwrap();
        drop(touched);
        // Other tests may have freed memory meanwhile.
        assert!(before > 0 && after > before + LEN as u64 / 2, "{before} and then {after} bytes");
    }
}
