//! A file for what was measured, to be worked on further or looked at.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// A file that takes the results, once.
#[derive(Debug)]
pub struct OutputFile(File);

impl OutputFile {
    /// Makes the file, or empties it. To be done first: a path that cannot be written is better known before the minutes
    /// that a comparison takes.
    ///
    /// # Errors
    ///
    /// Names the path that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        File::create(path).map(Self).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes `results` as JSON, with line breaks for readers.
    ///
    /// # Errors
    ///
    /// When the disk does not take them.
    pub fn write_json(self, results: &impl Serialize) -> Result<()> {
        self.write_text(&serde_json::to_string_pretty(results)?)
    }

    /// Writes `text`, and ends its last line.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn write_text(mut self, text: &str) -> Result<()> {
        writeln!(self.0, "{}", text.trim_end()).context("cannot write the results")
    }
}
