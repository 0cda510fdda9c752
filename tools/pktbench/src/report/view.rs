//! What a run shows while it goes on: a progress bar, or with `--tui` a view that fills the terminal. Both go to
//! standard error, so that standard output has only the result.

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
    /// `metrics_url` is where the metrics are served, if they are.
    pub(crate) fn open(
        plan: &Plan,
        own_addr: Option<SocketAddr>,
        metrics_url: Option<String>,
    ) -> anyhow::Result<Self> {
        Ok(match plan.tui {
            true => Self::Tui(Box::new(Tui::open(plan, own_addr, metrics_url)?)),
            false => Self::Bar(Bar::new(plan)),
        })
    }

    /// Shows the status. Returns whether a key asks to end the run.
    pub(crate) fn show(&mut self, status: &RunStatus<'_>) -> bool {
        match (self, status) {
            (Self::Bar(bar), RunStatus::Connecting(_)) => bar.restart_clock(),
            (Self::Bar(bar), RunStatus::Running(running)) => bar.show(running.elapsed, running.answers),
            (Self::Tui(tui), status) => return tui.show(status),
        }
        false
    }
}

/// An error if `--tui` has no terminal, or if other output would go to the same terminal.
pub(crate) fn check(output: &Output) -> Result<(), String> {
    if !stderr().is_terminal() {
        return Err("--tui needs a terminal, but standard error is not one; run without --tui".to_owned());
    }
    let is_live = matches!(output.format, Format::Ndjson | Format::Csv);
    if is_live && output.path.is_none() && stdout().is_terminal() {
        return Err(
            "--tui and --format csv or ndjson would both write to this terminal; write the lines into a file with \
             --output"
                .to_owned(),
        );
    }
    Ok(())
}
