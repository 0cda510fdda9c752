//! Documents from files.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::document::{Document, SCHEMA};

/// What every version of the document has.
#[derive(Deserialize)]
struct Head {
    schema: String,
}

impl Document {
    /// The error is one line that names the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        match serde_json::from_str(&text) {
            Ok(Head { schema }) if schema == SCHEMA => {}
            Ok(Head { schema }) => bail!("{name} is of {schema:?}, and this program reads {SCHEMA} alone"),
            Err(problem) => bail!("{name} is no result of 'pktbench --json': {problem}"),
        }
        serde_json::from_str(&text).with_context(|| format!("{name} is not what {SCHEMA} says"))
    }
}
