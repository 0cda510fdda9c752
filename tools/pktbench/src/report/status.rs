//! How far a run is, as it is shown while it goes on.

use std::time::Duration;

use crate::result::document::Interval;

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RunStatus<'a> {
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
