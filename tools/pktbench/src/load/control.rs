//! What the conductor and the workers exchange while a run goes on: the command of the conductor, and the progress of
//! each worker.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::plan::schedule::Schedule;
use crate::record::tally::Tally;

/// The current command for all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Make the connections. The command at the start.
    Connect,
    /// Start the load at instant 0 of the schedule.
    Go(Schedule),
    /// Stop connecting, or end the load and close the connections in an orderly way. Sent once at the end of every run,
    /// also if the workers have already ended.
    Stop(StopReason),
}

/// Why the run ends. It decides how outstanding packets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Outstanding packets have not come back in time. They count as lost.
    TimedOut,
    /// Any other reason: the run was interrupted or could not start, or all workers have ended. Outstanding packets
    /// count as unanswered.
    Aborted,
}

/// The progress of one worker at a moment, or the sum of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Packets sent, including the warm-up.
    pub(crate) sent: u64,
    /// Answers received, including the warm-up, intact or not. Duplicates do not count.
    pub(crate) answers: u64,
    /// Whether a connection has outstanding packets or unsent bytes, or has to be opened.
    pub(crate) is_awaiting_peer: bool,
    /// Connections that failed or could not be opened.
    pub(crate) failed: u64,
    /// Connections that are open now.
    pub(crate) open: u64,
}

/// The progress of one worker, which the worker updates and the conductor reads.
#[derive(Debug, Default)]
pub(crate) struct SharedProgress {
    sent: AtomicU64,
    answers: AtomicU64,
    /// The number of connections with outstanding packets or unsent bytes, or to be opened.
    conns_awaiting_peer: AtomicUsize,
    failed: AtomicU64,
    open: AtomicUsize,
}

impl SharedProgress {
    /// Stores the progress of the worker. Called before each wait for events, so it must be cheap.
    pub(super) fn store(&self, tally: &Tally, conns_awaiting_peer: usize, open: usize) {
        self.sent.store(tally.sent, Relaxed);
        // `Release` with the `Acquire` in `load`: a reader that sees these answers also sees the packets that they
        // answer, so it never sees more answers than packets.
        self.answers.store(tally.answers, Release);
        self.conns_awaiting_peer.store(conns_awaiting_peer, Relaxed);
        self.failed.store(tally.errors.count(), Relaxed);
        self.open.store(open, Relaxed);
    }

    pub(super) fn load(&self) -> Progress {
        // Before `sent`, see `store`.
        let answers = self.answers.load(Acquire);
        Progress {
            sent: self.sent.load(Relaxed),
            answers,
            is_awaiting_peer: self.conns_awaiting_peer.load(Relaxed) > 0,
            failed: self.failed.load(Relaxed),
            open: self.open.load(Relaxed) as u64,
        }
    }
}
