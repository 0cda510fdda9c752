//! The lock file beside a socket file. Only the process that holds its lock may replace or remove the socket file.
//!
//! The lock is one of the kernel (`flock`): it ends when its file is closed, and so when a program is killed. A lock file
//! that was left behind is harmless.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How often to open the lock file again if it was replaced. Each time means that another server has ended meanwhile.
const MAX_TRIES: usize = 1000;

/// A held lock. Dropping this removes the file, then releases the lock.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    file: File,
    /// Whether a process has recorded itself before, and did not remove the file at its end.
    was_used: bool,
}

impl LockFile {
    /// Takes the lock at `path` without waiting. Fails with `AddrInUse` if another process, or another part of this one,
    /// holds it.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        for _ in 0..MAX_TRIES {
            // Only for the owner: anyone who can open it can take the lock. It is never a link to another file.
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
                .open(path)
                .map_err(|error| describe(&error, path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(held_by_another(file, path)),
                Err(error) => return Err(describe(&error.into(), path)),
            }
            let pid = read_content(&mut file).map_err(|error| describe(&error, path))?;
            // Another process may have removed the file between the two calls. The lock of a removed file is worth
            // nothing: the next process would create a new one.
            if fs::symlink_metadata(path).is_ok_and(|there| is_file(&file, &there)) {
                return Ok(Self { path: path.to_owned(), file, was_used: pid.is_some() });
            }
        }
        Err(describe(&io::Error::other("other servers replace it all the time"), path))
    }

    /// Whether a process that recorded itself left the file behind: it was killed.
    pub(crate) fn was_used(&self) -> bool {
        self.was_used
    }

    /// Records this process, for the messages of others and for [`was_used`](Self::was_used). It is no part of the lock.
    pub(crate) fn record_process(&self) {
        let line = format!("{}\n", std::process::id());
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(line.as_bytes(), 0));
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // While the lock is held. A process that has opened the file already takes the lock of a removed file, and
        // notices that. If it cannot be removed, the next process takes its lock.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| is_file(&self.file, &there)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `there` is the open `file`. Its inode number is not used again while it is open.
fn is_file(file: &File, there: &fs::Metadata) -> bool {
    file.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (there.dev(), there.ino()))
}

/// The process that is recorded in the file. Refuses a file that is not certainly a lock file: it would be overwritten
/// and removed.
fn read_content(file: &mut File) -> io::Result<Option<u32>> {
    let no_lock_file = |problem| Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    let metadata = file.metadata()?;
    // Otherwise a user who can write to the folder could make a server of root overwrite any file.
    if !metadata.is_file() || metadata.nlink() > 1 {
        return no_lock_file("it is a link or no file");
    }
    let mut text = Vec::new();
    file.take(16).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    match std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok()) {
        Some(pid) => Ok(Some(pid)),
        None => no_lock_file("it has other content than the number of a process"),
    }
}

fn held_by_another(mut file: File, path: &Path) -> io::Error {
    let pid = read_content(&mut file).ok().flatten();
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("address in use: another server{process} holds the lock {}", path.display()),
    )
}

fn describe(error: &io::Error, path: &Path) -> io::Error {
    let problem = format!(
        "cannot take the lock {}: {error}; a server needs this file to know that no other one uses the socket: make it \
         writable for this user, remove it, or use another path",
        path.display()
    );
    io::Error::new(error.kind(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_and_the_file_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LockFile::take(&path).unwrap();
        assert!(!first.was_used());
        first.record_process();
        let error = LockFile::take(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_file_that_was_left_behind_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for (content, was_used) in [("", false), ("12345\n", true)] {
            fs::write(&path, content).unwrap();
            let lock = LockFile::take(&path).unwrap();
            assert_eq!(lock.was_used(), was_used, "{content:?}");
            lock.record_process();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        }
    }

    #[test]
    fn a_file_that_is_no_lock_file_is_neither_changed_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("lock"), dir.path().join("link"));
        for content in ["of value", "12345 of value", "123456789012345678", "\n"] {
            fs::write(&path, content).unwrap();
            let error = LockFile::take(&path).unwrap_err();
            assert!(error.to_string().contains("it has other content"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::write(&path, "").unwrap();
        fs::hard_link(&path, &link).unwrap();
        assert!(LockFile::take(&link).unwrap_err().to_string().contains("it is a link"));
        assert!(link.exists());
    }

    #[test]
    fn a_lock_file_of_another_server_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LockFile::take(&path).unwrap();
        // By hand, against the rules.
        fs::remove_file(&path).unwrap();
        let _second = LockFile::take(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn what_is_not_a_plain_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "of value").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [link, dir.path().to_owned(), dir.path().join("none/lock")] {
            let error = LockFile::take(&path).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_ne!(error.kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "of value");
    }

    /// The file is created and removed all the time, so that each race between opening, locking and removing happens.
    #[test]
    fn many_threads_never_hold_the_lock_at_the_same_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (holders, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(lock) = LockFile::take(&path) {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 0);
        assert!(!path.exists());
    }
}
