//! What a run shows of itself while it goes on: a bar, or with `--tui` the whole terminal. Both go to standard error, so that
//! the result has standard output for itself.

use std::io::{IsTerminal, stderr, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use crate::document::Interval;
use crate::output::{Format, Output};
use crate::plan::Plan;
use crate::progress::Bar;
use crate::tui::Tui;

pub(crate) enum View {
    Bar(Bar),
    Tui(Box<Tui>),
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment<'a> {
    /// So many connections are there.
    Connecting(usize),
    Running(Running<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Running<'a> {
    /// Since the start of the load.
    pub(crate) elapsed: Duration,
    /// Packets, the warm-up included.
    pub(crate) sent: u64,
    pub(crate) answers: u64,
    /// Those that are whole.
    pub(crate) intervals: &'a [Interval],
    /// Connections, in these intervals.
    pub(crate) failed: u64,
}

impl View {
    pub(crate) fn open(plan: &Plan, own_addr: Option<SocketAddr>) -> anyhow::Result<Self> {
        Ok(match plan.tui {
            true => Self::Tui(Box::new(Tui::open(plan, own_addr)?)),
            false => Self::Bar(Bar::new(plan)),
        })
    }

    /// Shows the moment. Whether a key has asked for the end of the run.
    pub(crate) fn show(&mut self, moment: &Moment<'_>) -> bool {
        match (self, moment) {
            (Self::Bar(bar), Moment::Connecting(_)) => bar.wait(),
            (Self::Bar(bar), Moment::Running(running)) => bar.show(running.elapsed, running.answers),
            (Self::Tui(tui), moment) => return tui.show(moment),
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
