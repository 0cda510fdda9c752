//! `--tui`: a live view of the run that fills the terminal.
//!
//! ```text
//!   conductor -- status, every tick --> phase: phase, time left, speed --> layout --> screen
//!             <------------- a key asks to end the run --------------------- keys -----'
//! ```
//!
//! Everything runs on the conductor's thread and uses only what the workers report anyway: the view does not slow down
//! the load.

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
use layout::FrameData;
use phase::PhaseTracker;
use screen::Screen;

/// Draw on every second tick of the conductor, which is five times a second. Faster is unreadable.
const TICKS_PER_FRAME: u64 = 2;

pub(crate) struct Tui {
    config: Config,
    metrics_url: Option<String>,
    tracker: PhaseTracker,
    ticks: u64,
    screen: Screen,
}

impl Tui {
    /// Takes over the terminal until the value is dropped.
    pub(crate) fn open(
        plan: &Plan,
        own_addr: Option<SocketAddr>,
        metrics_url: Option<String>,
    ) -> anyhow::Result<Self> {
        let screen = Screen::enter().context("--tui cannot use the terminal; run without --tui")?;
        Ok(Self {
            config: config::config(plan, own_addr),
            metrics_url,
            tracker: PhaseTracker::new(plan),
            ticks: 0,
            screen,
        })
    }

    /// Draws the status if a redraw is due. Returns whether a key asks to end the run.
    pub(crate) fn show(&mut self, status: &RunStatus<'_>) -> bool {
        self.tracker.record(status);
        if self.ticks.is_multiple_of(TICKS_PER_FRAME) {
            let Self { config, metrics_url, tracker, screen, .. } = self;
            let data = FrameData { config, metrics_url: metrics_url.as_deref(), tracker, status };
            screen.draw(|frame| layout::draw(frame, &data));
        }
        self.ticks += 1;
        self.screen.end_requested()
    }
}
