//! What a run shows of itself while it goes on: a bar, or with `--tui` the whole terminal. Both go to standard error, so that
//! the result has standard output for itself.

use std::io::{IsTerminal, stderr, stdout};
use std::net::SocketAddr;

use crate::plan::Plan;
use crate::report::output::{Format, Output};
use crate::report::progress::Bar;
use crate::report::status::RunStatus;
use crate::report::tui::Tui;

pub(crate) enum View {
    Bar(Bar),
    Tui(Box<Tui>),
}

impl View {
    pub(crate) fn open(plan: &Plan, own_addr: Option<SocketAddr>) -> anyhow::Result<Self> {
        Ok(match plan.tui {
            true => Self::Tui(Box::new(Tui::open(plan, own_addr)?)),
            false => Self::Bar(Bar::new(plan)),
        })
    }

    /// Shows the status. Whether a key has asked for the end of the run.
    pub(crate) fn show(&mut self, status: &RunStatus<'_>) -> bool {
        match (self, status) {
            (Self::Bar(bar), RunStatus::Connecting(_)) => bar.wait(),
            (Self::Bar(bar), RunStatus::Running(running)) => bar.show(running.elapsed, running.answers),
            (Self::Tui(tui), status) => return tui.show(status),
        }
        false
    }
}

/// Refuses `--tui` where it has no terminal for itself.
pub(crate) fn check(output: &Output) -> Result<(), String> {
    if !stderr().is_terminal() {
        return Err("--tui needs a terminal, and standard error is none; leave it out".to_owned());
    }
    let is_live = matches!(output.format, Format::Ndjson | Format::Csv);
    if is_live && output.path.is_none() && stdout().is_terminal() {
        return Err(
            "--tui and lines of an interval each need a terminal of their own; write the lines into a \
                    file with --output"
                .to_owned(),
        );
    }
    Ok(())
}
