//! The destination of a result: standard output or a file. A write error is kept and reported once, by [`Sink::end`].
//!
//! ```text
//!   whole document   collected in memory -> temporary file beside FILE -> renamed to FILE at the end
//!   live lines       FILE is created, or emptied, at the first line
//!   pipe, device     opened before the run, written as the text comes
//! ```
//!
//! So a run that does not start leaves an existing file as it was and creates none, and a program that reads FILE never
//! finds a part of a document.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};

use crate::report::paths::{is_stdout, parent};

pub(crate) struct Sink {
    name: String,
    to: To,
    failed: Option<io::Error>,
}

enum To {
    /// For output that nobody asked for.
    Nowhere,
    Stdout(io::Stdout),
    /// A pipe or a device.
    Stream(File),
    /// A file for live lines; `None` before the first one.
    Live(PathBuf, Option<File>),
    /// A file for a whole document, and its text so far.
    Whole(PathBuf, Vec<u8>),
}

impl Sink {
    pub(crate) fn nowhere() -> Self {
        Self { name: String::new(), to: To::Nowhere, failed: None }
    }

    pub(crate) fn stdout() -> Self {
        Self { name: "standard output".to_owned(), to: To::Stdout(io::stdout()), failed: None }
    }

    /// A file for lines that are written while the run goes on; `-` is standard output. An error if it cannot be
    /// written.
    pub(crate) fn live(path: &Path) -> anyhow::Result<Self> {
        Self::open(path, || To::Live(path.to_owned(), None))
    }

    /// A file for a document that is written at the end; `-` is standard output. An error if it cannot be written.
    pub(crate) fn whole(path: &Path) -> anyhow::Result<Self> {
        Self::open(path, || To::Whole(path.to_owned(), Vec::new()))
    }

    fn open(path: &Path, file: impl FnOnce() -> To) -> anyhow::Result<Self> {
        if is_stdout(path) {
            return Ok(Self::stdout());
        }
        let name = path.display().to_string();
        let stream = open_stream(path).with_context(|| format!("cannot write to {name}"))?;
        Ok(Self { name, to: stream.map_or_else(file, To::Stream), failed: None })
    }

    /// Writes `text` and a line end, and flushes. Does nothing after an earlier failure.
    pub(crate) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            let mut line = String::with_capacity(text.len() + 1);
            line.push_str(text);
            line.push('\n');
            self.failed = self.write(line.as_bytes()).err();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.to {
            To::Nowhere => Ok(()),
            To::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            To::Stream(file) | To::Live(_, Some(file)) => file.write_all(bytes),
            To::Live(path, file) => file.insert(File::create(path)?).write_all(bytes),
            To::Whole(_, text) => {
                text.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.to, To::Stdout(_))
    }

    /// Whether this is standard output, and its reader has gone away.
    pub(crate) fn has_no_reader(&self) -> bool {
        let To::Stdout(stdout) = &self.to else { return false };
        let failed = self.failed.as_ref().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe);
        let mut fds = [PollFd::new(stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        failed || poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    /// Writes `text` and finishes. An error is a failed write.
    pub(crate) fn all(mut self, text: &str) -> anyhow::Result<()> {
        self.line(text.trim_end_matches('\n'));
        self.end()
    }

    /// Finishes. An error is the first failed write.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        let ended = match (self.failed, self.to) {
            (Some(error), _) => Err(error),
            (None, To::Whole(path, text)) => replace(&path, &text),
            (None, _) => Ok(()),
        };
        match ended {
            // A reader that closed the pipe, such as `head`, is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            ended => ended.with_context(|| format!("cannot write to {}", self.name)),
        }
    }
}

/// Opens a pipe or a device. `None` for a file, or a name that does not exist yet, after a check that it can be
/// written. It changes nothing.
fn open_stream(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        // The names of open files: they must not be replaced.
        Ok(_) if path.starts_with("/dev") || path.starts_with("/proc") => {
            File::options().write(true).open(path).map(Some)
        }
        Ok(metadata) => {
            let file = File::options().write(true).open(path)?;
            Ok(Some(file).filter(|_| !metadata.is_file()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(ErrorKind::IsADirectory.into());
            }
            access(parent(path), Access::WRITE_OK | Access::EXEC_OK)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Replaces the content of a file at once, by renaming a temporary file. Where that would lose something, such as an
/// owner or a hard link, it writes into the file.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays, and the file that it leads to is replaced.
    let target = fs::canonicalize(path);
    let is_dangling_link = target.is_err() && path.is_symlink();
    let target = target.unwrap_or_else(|_| path.to_owned());
    let old = fs::metadata(&target).ok();
    let in_place = || File::create(path)?.write_all(bytes);
    let Some(name) = target.file_name().filter(|_| !is_dangling_link) else { return in_place() };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = target.with_file_name(temporary_name);
    let Ok(file) = File::options().write(true).create_new(true).open(&temporary) else { return in_place() };
    let replaced = match &old {
        Some(old) if !may_be_replaced(old, &file) => in_place(),
        _ => write_and_rename(file, &temporary, &target, old.as_ref(), bytes),
    };
    // Exists only if it was not renamed.
    let _ = fs::remove_file(&temporary);
    replaced
}

fn may_be_replaced(old: &Metadata, new: &File) -> bool {
    let owner = |metadata: &Metadata| (metadata.uid(), metadata.gid());
    old.nlink() == 1 && new.metadata().is_ok_and(|new| owner(&new) == owner(old))
}

fn write_and_rename(
    mut file: File,
    temporary: &Path,
    target: &Path,
    old: Option<&Metadata>,
    bytes: &[u8],
) -> io::Result<()> {
    file.write_all(bytes)?;
    if let Some(old) = old {
        file.set_permissions(old.permissions())?;
    }
    fs::rename(temporary, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_sink_that_is_not_written_changes_no_file_and_creates_none() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::write(&old, "old").unwrap();
        for path in [&old, &new] {
            drop(Sink::live(path).unwrap());
            let mut whole = Sink::whole(path).unwrap();
            whole.line("text");
            drop(whole);
        }
        assert_eq!(files(dir.path()), ["old"]);
        assert_eq!(fs::read_to_string(old).unwrap(), "old");
    }

    #[test]
    fn a_whole_document_replaces_a_file_at_its_end_and_live_lines_at_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "a long old content\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut whole = Sink::whole(&path).unwrap();
        whole.line("new");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a long old content\n");
        whole.end().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut live = Sink::live(&path).unwrap();
        live.line("1");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        live.line("2");
        live.end().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n");
        assert_eq!(files(dir.path()), ["file"]);
    }

    #[test]
    fn links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let [file, hard, link, dangling] =
            ["file", "hard", "link", "dangling"].map(|name| dir.path().join(name));
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        symlink(dir.path().join("created"), &dangling).unwrap();
        Sink::whole(&link).unwrap().all("by link").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "by link\n");
        fs::hard_link(&file, &hard).unwrap();
        Sink::whole(&hard).unwrap().all("by name").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "by name\n");
        Sink::whole(&dangling).unwrap().all("new").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("created")).unwrap(), "new\n");
        assert_eq!(files(dir.path()), ["created", "dangling", "file", "hard", "link"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        for path in [path(""), path("nowhere/file"), path("file/below"), path("folder/")] {
            assert!(Sink::whole(&path).is_err() && Sink::live(&path).is_err(), "{}", path.display());
        }
        assert_eq!(files(dir.path()), ["file"]);
    }
}
