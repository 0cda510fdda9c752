//! A file for the results, as JSON or text.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// An open file that is written once.
#[derive(Debug)]
pub struct OutputFile(File);

impl OutputFile {
    /// Creates or empties the file. Call this before measuring, so that an unwritable path is reported before a
    /// comparison that takes minutes.
    ///
    /// # Errors
    ///
    /// The file cannot be created; the error names its path.
    pub fn create(path: &Path) -> Result<Self> {
        File::create(path).map(Self).with_context(|| format!("cannot create {}", path.display()))
    }

    /// Writes `results` as indented JSON.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_json(self, results: &impl Serialize) -> Result<()> {
        self.write_text(&serde_json::to_string_pretty(results)?)
    }

    /// Writes `text`, with a newline at its end.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_text(mut self, text: &str) -> Result<()> {
        writeln!(self.0, "{}", text.trim_end()).context("cannot write the results")
    }
}
