//! `--tui`: a run as it goes on, over the whole terminal.
//!
//! ```text
//!   conductor -- a status, every tick --> tracker: phase, time left, speed --> frame --> screen
//!             <------------- the end of the run is asked for ---------------- keys -----'
//! ```
//!
//! All of it is on the conductor's thread, and of what workers tell anyway: the load does not know of it.

mod charts;

mod phase;

mod layout;

mod screen;

use std::net::SocketAddr;

use anyhow::Context;

use crate::plan::Plan;
use crate::report::status::RunStatus;
use crate::result::config;
use crate::result::document::Config;
use layout::View;
use phase::PhaseTracker;
use screen::Screen;

/// One frame in so many ticks of the conductor: five a second are as many as anyone reads.
const TICKS_PER_FRAME: u64 = 2;

pub(crate) struct Tui {
    config: Config,
    tracker: PhaseTracker,
    ticks: u64,
    screen: Screen,
}

impl Tui {
    /// Takes the terminal, until it is dropped.
    pub(crate) fn open(plan: &Plan, own_addr: Option<SocketAddr>) -> anyhow::Result<Self> {
        let screen = Screen::enter().context("--tui cannot use the terminal; leave it out")?;
        Ok(Self {
            config: config::config(plan, own_addr),
            tracker: PhaseTracker::new(plan),
            ticks: 0,
            screen,
        })
    }

    /// Draws the status when it is time to. Whether a key has asked for the end of the run.
    pub(crate) fn show(&mut self, status: &RunStatus<'_>) -> bool {
        self.tracker.record(status);
        if self.ticks % TICKS_PER_FRAME == 0 {
            let Self { config, tracker, screen, .. } = self;
            screen.draw(|frame| layout::draw(frame, &View { config, tracker, status }));
        }
        self.ticks += 1;
        self.screen.ends()
    }
}
