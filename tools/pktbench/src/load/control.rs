//! What the conductor tells the workers, and what they tell of how far they are.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::plan::schedule::Schedule;
use crate::record::tally::Tally;

/// What the conductor has all connections do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    Connect,
    Go(Schedule),
    Stop(Stop),
}

/// Why connections that are not done are to end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// What is outstanding has not come back in time.
    GaveUp,
    /// Nobody waits for it any more.
    Interrupted,
}

/// How far workers are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Packets, the warm-up included.
    pub(crate) sent: u64,
    pub(crate) answers: u64,
    /// Whether something has to be waited for.
    pub(crate) has_outstanding: bool,
}

/// What a worker tells of it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) sent: AtomicU64,
    pub(super) answers: AtomicU64,
    /// Connections of which something has to be waited for.
    pub(super) awaiting_peer: AtomicUsize,
}

impl Progress {
    pub(crate) fn update(&self, tally: &Tally, awaiting_peer: usize) {
        self.sent.store(tally.sent, Relaxed);
        self.answers.store(tally.answers, Relaxed);
        self.awaiting_peer.store(awaiting_peer, Relaxed);
    }
}
