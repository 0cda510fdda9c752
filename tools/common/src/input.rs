//! Opens files that a user names as input.

use std::fs::File;
use std::io;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_refused() {
        let problem = open(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(problem.to_string(), "it is a device; give a file");
        assert!(open(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path()).is_ok());
    }
}
