//! The commands of the conductor to the workers, and the progress that workers report.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::plan::schedule::Schedule;
use crate::record::tally::Tally;

/// The current command for all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    /// Make the connections.
    Connect,
    /// Start the load.
    Go(Schedule),
    /// End all connections now.
    Stop(Stop),
}

/// Why unfinished connections must end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Outstanding packets have not come back in time.
    GaveUp,
    /// The run was interrupted.
    Interrupted,
}

/// The progress of one worker, or the sum of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Packets sent, including the warm-up.
    pub(crate) sent: u64,
    /// Packets answered.
    pub(crate) answers: u64,
    /// Whether a connection waits for responses or for the socket.
    pub(crate) has_outstanding: bool,
}

/// The progress of a worker, shared with the conductor.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) sent: AtomicU64,
    pub(super) answers: AtomicU64,
    /// Connections that wait for responses or for the socket.
    pub(super) awaiting_peer: AtomicUsize,
}

impl Progress {
    pub(crate) fn update(&self, tally: &Tally, awaiting_peer: usize) {
        self.sent.store(tally.sent, Relaxed);
        self.answers.store(tally.answers, Relaxed);
        self.awaiting_peer.store(awaiting_peer, Relaxed);
    }
}
