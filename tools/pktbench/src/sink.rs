//! Where a result goes: standard output, or a file. What cannot be written is told once, at the end of the run.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

pub(crate) struct Sink {
    name: String,
    writer: Box<dyn Write>,
    failed: Option<io::Error>,
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self { name: "standard output".to_owned(), writer: Box::new(io::stdout()), failed: None }
    }

    /// A new file, or an old one that is emptied.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).with_context(|| format!("cannot write to {name}"))?;
        Ok(Self { name, writer: Box::new(file), failed: None })
    }

    /// Writes all of `text` and a line end, for whoever reads along. After a failure it writes no more.
    pub(crate) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            let mut line = String::with_capacity(text.len() + 1);
            line.push_str(text);
            line.push('\n');
            self.failed = self.writer.write_all(line.as_bytes()).and_then(|()| self.writer.flush()).err();
        }
    }

    /// Writes `text`, which is all there is.
    pub(crate) fn all(mut self, text: &str) -> anyhow::Result<()> {
        self.line(text);
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
