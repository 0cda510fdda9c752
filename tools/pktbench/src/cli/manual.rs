//! Files that a distribution package installs with the program: manual pages and shell completions.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use clap_complete::Shell;

use crate::cli::command;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot print the completion script"),
    }
}

/// Writes `pktbench.1` and one page per subcommand.
pub(crate) fn pages(dir: &Path) -> anyhow::Result<()> {
    let name = dir.display();
    fs::create_dir_all(dir).with_context(|| format!("cannot create {name}"))?;
    clap_mangen::generate_to(command(), dir).with_context(|| format!("cannot write into {name}"))
}
