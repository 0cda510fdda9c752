//! The file of a Unix socket that listens.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A file that was made by listening at its path. It is removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`. A socket there that nobody listens on any more, as a program leaves it that was killed, is
    /// replaced; one that somebody listens on is not, and neither is any other file.
    pub(crate) async fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let Some(stale) = stale(path).await else { return Err(error) };
                // Another that starts at this moment may have replaced it. Between this look and the next line it still can.
                if fs::symlink_metadata(path).is_ok_and(|file| identity(&file) == stale) {
                    fs::remove_file(path)?;
                }
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        // By the full path, which another working directory does not change.
        let path = std::path::absolute(path)?;
        let identity = identity(&fs::symlink_metadata(&path)?);
        Ok((listener, Self { path, identity }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            // Where it cannot be removed, the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Which file is there, where it is a socket that nobody listens on.
async fn stale(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok().filter(|file| file.file_type().is_socket())?;
    // A server with a full backlog says that it would block, one of another user that it is not permitted: both live.
    let error = UnixStream::connect(path).await.err()?;
    (error.kind() == io::ErrorKind::ConnectionRefused).then(|| identity(&file))
}
