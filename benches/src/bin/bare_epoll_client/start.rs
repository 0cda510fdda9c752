//! The start of a run on a signal, so that a measurement of the server can leave out the time of connecting.

use std::io::{self, Write};

use anyhow::{Context, Result};
use pktconn_benches::load::CONNECTED_LINE;

/// Prints that all connections are open, and waits for a line on standard input.
pub(crate) fn wait_for_start() -> Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{CONNECTED_LINE}").and_then(|()| stdout.flush()).context("cannot print")?;
    io::stdin().read_line(&mut String::new()).context("cannot read from standard input")?;
    Ok(())
}
