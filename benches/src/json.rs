//! A file for what was measured, to be worked on further.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// A file that takes the results as JSON, once.
#[derive(Debug)]
pub struct JsonFile(File);

impl JsonFile {
    /// Makes the file, or empties it. To be done first: a path that cannot be written is better known before the minutes
    /// that a comparison takes.
    ///
    /// # Errors
    ///
    /// Names the path that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        File::create(path).map(Self).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes `results`, with line breaks for readers.
    ///
    /// # Errors
    ///
    /// When the disk does not take them.
    pub fn write(mut self, results: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(results)?;
        writeln!(self.0, "{text}").context("cannot write the results as JSON")
    }
}
