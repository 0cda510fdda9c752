//! The destination of a result: standard output or a file. A write error is kept and reported once, by [`Sink::end`].

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

pub(crate) struct Sink {
    name: String,
    to: To,
    failed: Option<io::Error>,
}

enum To {
    Stdout(io::Stdout),
    /// An existing file keeps its content until the first write.
    Untouched(File),
    File(File),
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self { name: "standard output".to_owned(), to: To::Stdout(io::stdout()), failed: None }
    }

    /// Opens or creates the file. An existing file is emptied at the first write, so a run that does not start
    /// leaves it unchanged.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot write to {name}"))?;
        Ok(Self { name, to: To::Untouched(file), failed: None })
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
        if let To::Untouched(file) = &self.to {
            // The length of a pipe or a device cannot be set.
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            self.to = To::File(file.try_clone()?);
        }
        match &mut self.to {
            To::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            To::Untouched(file) | To::File(file) => file.write_all(bytes),
        }
    }

    /// Writes `text` and finishes. An error is a failed write.
    pub(crate) fn all(mut self, text: &str) -> anyhow::Result<()> {
        self.line(text.trim_end_matches('\n'));
        self.end()
    }

    /// Finishes. An error is the first failed write.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        match self.failed {
            // A reader that closed the pipe, such as `head`, does not change the exit code.
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).with_context(|| format!("cannot write to {}", self.name))
            }
            _ => Ok(()),
        }
    }
}
