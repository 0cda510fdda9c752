//! Opens and reads files that a user names as input.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens a file or a pipe for reading. Limit what you read: a pipe may never end.
///
/// # Errors
///
/// Those of the system, and [`io::ErrorKind::InvalidInput`] for a device: reading `/dev/zero` never ends.
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device; give a file"));
    }
    Ok(file)
}

/// Reads a whole file or pipe of at most `max_len` bytes.
///
/// # Errors
///
/// Those of [`open`] and of the system, and [`io::ErrorKind::FileTooLarge`] if it is longer.
pub fn read(path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more byte, to notice a longer file.
    open(path)?.take(max_len.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max_len {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {max_len} bytes, the limit"),
        )),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        let problem = read(&path, 9).unwrap_err();
        assert_eq!(problem.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(problem.to_string(), "it has more than 9 bytes, the limit");
    }

    #[test]
    fn a_device_is_refused() {
        let problem = open(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(problem.to_string(), "it is a device; give a file");
        assert!(open(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path()).is_ok());
    }
}
