//! Where a result goes: standard output, or a file. What cannot be written is told once, at the end of the run.

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
    /// What was in it is there until something is written.
    Old(File),
    File(File),
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self { name: "standard output".to_owned(), to: To::Stdout(io::stdout()), failed: None }
    }

    /// A new file, or an old one that is emptied before the first line: a run that does not begin leaves it as it is.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot write to {name}"))?;
        Ok(Self { name, to: To::Old(file), failed: None })
    }

    /// Writes all of `text` and a line end, for whoever reads along. After a failure it writes no more.
    pub(crate) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            let mut line = String::with_capacity(text.len() + 1);
            line.push_str(text);
            line.push('\n');
            self.failed = self.write(line.as_bytes()).err();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let To::Old(file) = &self.to {
            // A pipe has no length.
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            self.to = To::File(file.try_clone()?);
        }
        match &mut self.to {
            To::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            To::Old(file) | To::File(file) => file.write_all(bytes),
        }
    }

    /// Writes `text`, which is all there is.
    pub(crate) fn all(mut self, text: &str) -> anyhow::Result<()> {
        self.line(text.trim_end_matches('\n'));
        self.end()
    }

    /// Whether all was written.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        match self.failed {
            // A reader that has gone away is no reason for another exit code.
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).with_context(|| format!("cannot write to {}", self.name))
            }
            _ => Ok(()),
        }
    }
}
