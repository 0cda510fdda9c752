//! The progress of a run that the conductor passes to the view.

use std::time::Duration;

use crate::result::document::Interval;

#[derive(Clone, Copy, Debug)]
pub(crate) enum RunStatus<'a> {
    /// The number of connections made so far.
    Connecting(usize),
    Running(Running<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Running<'a> {
    /// Since the start of the load.
    pub(crate) elapsed: Duration,
    /// Packets sent, including the warm-up.
    pub(crate) sent: u64,
    /// Packets answered, including the warm-up.
    pub(crate) answers: u64,
    /// Connections that are open now.
    pub(crate) open: u64,
    /// The complete intervals.
    pub(crate) intervals: &'a [Interval],
    /// Connections that failed in these intervals.
    pub(crate) failed: u64,
}
