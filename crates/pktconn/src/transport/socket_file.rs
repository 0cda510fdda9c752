//! The file of a listening Unix socket: created when the socket is bound, removed when the listener is gone.
//!
//! ```text
//!   lock PATH.lock -> bind (replace a stale file) -> owner, group, mode -> listen   ...   remove both files
//!   '-- until the listener is gone: no other server replaces or removes the socket file ------------------'
//! ```
//!
//! Until a socket listens, connecting to it fails. So there is no moment in which others can connect with the
//! permissions that the umask gave.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::transport::bound_sockets::is_bound;
use crate::transport::file_access::set_access;
use crate::transport::lock_file::LockFile;
use crate::transport::unix_options::UnixOptions;

/// How many connections may wait to be accepted. The kernel lowers it to its limit (`net.core.somaxconn` on Linux, 4096 by
/// default).
const BACKLOG: i32 = 4096;

/// A program that binds a socket listens on it within this time. Only for systems that do not tell what is bound.
const START_TIME: Duration = Duration::from_secs(5);

/// The file that binding a Unix socket created. Dropping this removes the file, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode number.
    identity: (u64, u64),
    /// Released after the socket file is removed: see `Drop`.
    _lock: LockFile,
}

impl SocketFile {
    /// Listens at `path`. Replaces a socket file that no program has open, as a killed program leaves it. Fails with
    /// `AddrInUse` if a program has it open, or if the file is not a socket.
    pub(crate) async fn bind(path: &Path, options: &UnixOptions<'_>) -> io::Result<(UnixListener, Self)> {
        // An absolute path still names this file after the program changes its working directory.
        let absolute = std::path::absolute(path)?;
        let lock = LockFile::take(&lock_path(&absolute))?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let addr = SockAddr::unix(path)?;
        match socket.bind(&addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let stale = stale_socket(&absolute, &lock).await?;
                // A program that takes no lock may have replaced the file already. For such programs a race remains
                // between this check and the next line.
                if fs::symlink_metadata(&absolute).is_ok_and(|file| identity(&file) == stale) {
                    fs::remove_file(&absolute)?;
                }
                socket.bind(&addr)?;
            }
            bound => bound?,
        }
        lock.record_process();
        // From here on, an error removes the file.
        let identity = identity(&fs::symlink_metadata(&absolute)?);
        let file = Self { path: absolute, identity, _lock: lock };
        set_access(&file.path, options)?;
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
        let listener = UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
        Ok((listener, file))
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

fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The identity of the file at `path`, if it is a socket that no program has open. Call it with the lock held: the
/// program is then one that takes no lock.
async fn stale_socket(path: &Path, lock: &LockFile) -> io::Result<(u64, u64)> {
    let in_use =
        |problem: String| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("address in use: {problem}")));
    let file = fs::symlink_metadata(path)?;
    if !file.file_type().is_socket() {
        return in_use("the file is not a socket".to_owned());
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // Other errors mean that a server is there: `WouldBlock` if its backlog is full, `PermissionDenied` if it
        // belongs to another user.
        _ => return in_use("another program listens there".to_owned()),
    }
    // A file from the future is as new as can be.
    let age = file.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
    match in_use_by_a_starting_program(is_bound(path), lock.was_used(), age) {
        Some(problem) => in_use(format!("{problem}; remove the file if no program uses it")),
        None => Ok(identity(&file)),
    }
}

/// Why a socket file to which connecting is refused may belong to a program that does not listen yet. `is_bound`:
/// whether a program has it open, if the system tells. `was_locked`: whether a server that was killed left its lock file.
fn in_use_by_a_starting_program(is_bound: Option<bool>, was_locked: bool, age: Duration) -> Option<String> {
    match is_bound {
        Some(true) => Some("another program has bound the socket and does not listen yet".to_owned()),
        None if !was_locked && age < START_TIME => {
            Some(format!("the socket file is {age:.1?} old, so the program that created it may be starting"))
        }
        Some(false) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_socket_is_in_use_if_it_is_bound_or_new_and_unknown() {
        let (new, old) = (Duration::from_millis(4999), Duration::from_secs(5));
        for (is_bound, was_locked, age, is_in_use) in [
            (Some(true), true, old, true),
            (Some(true), false, new, true),
            (Some(false), false, new, false),
            // The system does not tell.
            (None, false, new, true),
            (None, false, old, false),
            (None, true, new, false),
        ] {
            let problem = in_use_by_a_starting_program(is_bound, was_locked, age);
            assert_eq!(problem.is_some(), is_in_use, "{is_bound:?} {was_locked} {age:?}: {problem:?}");
        }
    }
}
