//! The file of a listening Unix socket: created when the socket is bound, removed when the listener is gone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The file that binding a Unix socket created. Dropping this removes the file, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode number.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`. Replaces a socket file that nobody listens on, as a killed program leaves it. Fails with
    /// `AddrInUse` if somebody listens there, or if the file is not a socket.
    pub(crate) async fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let Some(stale) = stale_socket(path).await else { return Err(error) };
                // Another program that starts now may have replaced the file already. A race remains between this check
                // and the next line.
                if fs::symlink_metadata(path).is_ok_and(|file| identity(&file) == stale) {
                    fs::remove_file(path)?;
                }
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        // An absolute path still names this file after the program changes its working directory.
        let path = std::path::absolute(path)?;
        let identity = identity(&fs::symlink_metadata(&path)?);
        Ok((listener, Self { path, identity }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            // If it cannot be removed, the next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The identity of the file at `path`, if it is a socket that nobody listens on.
async fn stale_socket(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok().filter(|file| file.file_type().is_socket())?;
    // Other errors mean that a server is there: `WouldBlock` if its backlog is full, `PermissionDenied` if it belongs
    // to another user.
    let error = UnixStream::connect(path).await.err()?;
    (error.kind() == io::ErrorKind::ConnectionRefused).then(|| identity(&file))
}
