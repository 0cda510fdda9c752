//! Reads small files within a time limit. A file that hangs, such as one on a network file system that is gone, then
//! stops neither a thread of the runtime nor its shutdown.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time to read all files of one configuration. A disk needs milliseconds; an operator who reloads waits for
/// the result.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a file with certificates or a key. A file with all authorities of a browser has 0.3 MB.
pub(super) const MAX_LEN: u64 = 1024 * 1024;

/// Maximum length of a file with revocation lists: about 300,000 revoked certificates.
pub(super) const MAX_CRL_LEN: u64 = 16 * 1024 * 1024;

/// Maximum number of reads that hang after their time limit. Each holds a thread, and each reload may add one.
const MAX_HUNG_READS: usize = 8;

/// The reads that have passed their time limit. A read that still hangs keeps its entry alive.
static HUNG_READS: Mutex<Vec<Weak<()>>> = Mutex::new(Vec::new());

pub(super) struct FileBytes {
    pub(super) bytes: Vec<u8>,
    /// Unix: whether the group or other users may read the file.
    pub(super) is_readable_by_others: bool,
}

/// Reads a regular file of at most `max_len` bytes, until `deadline`.
pub(super) fn read(path: &Path, max_len: u64, deadline: Instant) -> io::Result<FileBytes> {
    let path = path.to_owned();
    within(&HUNG_READS, deadline, move || read_regular(&path, max_len))?
}

fn read_regular(path: &Path, max_len: u64) -> io::Result<FileBytes> {
    // Before the file is opened: to open a FIFO blocks until another process writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let is_readable_by_others = is_readable_by_others(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(max_len + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_len {
        let problem = format!("the file is larger than {} MiB", max_len / (1024 * 1024));
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(FileBytes { bytes, is_readable_by_others })
}

#[cfg(unix)]
fn is_readable_by_others(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o044 != 0
}

#[cfg(not(unix))]
fn is_readable_by_others(_: &fs::Metadata) -> bool {
    false
}

/// Runs `work` in a thread of its own, and waits for it until `deadline`. The thread stays if it hangs: nothing can
/// interrupt it.
fn within<T: Send + 'static>(
    hung_reads: &Mutex<Vec<Weak<()>>>,
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let hung_reads = || hung_reads.lock().unwrap_or_else(PoisonError::into_inner);
    let timed_out = |problem: String| io::Error::new(io::ErrorKind::TimedOut, problem);
    let hung_count = {
        let mut hung = hung_reads();
        hung.retain(|read| read.strong_count() > 0);
        hung.len()
    };
    if hung_count >= MAX_HUNG_READS {
        return Err(timed_out(format!("{hung_count} earlier reads of certificate files still hang")));
    }
    let running = Arc::new(());
    let hung = Arc::downgrade(&running);
    let (sender, receiver) = sync_channel(1);
    thread::Builder::new().name("pktconn-file".to_owned()).spawn(move || {
        let _ = sender.send(work());
        drop(running);
    })?;
    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            hung_reads().push(hung);
            timed_out(format!("reading it takes longer than {READ_TIMEOUT:?}"))
        }
        RecvTimeoutError::Disconnected => io::Error::other("the thread that reads it panicked"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a busy machine. It passes only if a test fails.
    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn a_read_that_hangs_ends_at_its_deadline_and_only_some_may_hang_at_once() {
        let hung_reads = Mutex::default();
        let mut releases = Vec::new();
        for _ in 0..MAX_HUNG_READS {
            let (release, released) = sync_channel::<()>(0);
            let hang = move || {
                let _ = released.recv();
            };
            let error = within(&hung_reads, Instant::now(), hang).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            releases.push(release);
        }
        let error = within(&hung_reads, Instant::now() + GUARD, || ()).unwrap_err();
        assert!(error.to_string().contains("8 earlier reads"), "{error}");
        drop(releases);
        let give_up_at = Instant::now() + GUARD;
        while within(&hung_reads, Instant::now() + GUARD, || ()).is_err()
            || !hung_reads.lock().unwrap().is_empty()
        {
            assert!(Instant::now() < give_up_at, "the reads have ended and still count");
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_in_the_thread_is_an_error() {
        let result = within(&Mutex::default(), Instant::now() + GUARD, || {
            std::panic::resume_unwind(Box::new("as a panic, without its message"))
        });
        let result: io::Result<()> = result;
        assert!(result.unwrap_err().to_string().contains("panicked"));
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let deadline = Instant::now() + GUARD;
        for path in [&fifo, Path::new("/dev/zero"), dir.path()] {
            let error = read(path, 10, deadline).err().unwrap();
            assert!(error.to_string().contains("not a regular file"), "{}: {error}", path.display());
        }
        let file = dir.path().join("file");
        for (len, fits) in [(0, true), (1 << 20, true), ((1 << 20) + 1, false)] {
            fs::write(&file, vec![7; len]).unwrap();
            let read = read(&file, MAX_LEN, deadline);
            assert_eq!(read.map(|file| file.bytes.len()).ok(), fits.then_some(len));
        }
        assert_eq!(
            read(&dir.path().join("missing"), 10, deadline).err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_mode_says_whether_others_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o600, false), (0o640, true), (0o604, true), (0o622, false)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let read = read(file.path(), 10, Instant::now() + GUARD).unwrap();
            assert_eq!(read.is_readable_by_others, expected, "{mode:o}");
        }
    }
}
