//! The state of a blocked transport, and the count of dropped bytes that will never be written.

use tokio::time::Instant;

/// A blocked transport that makes no progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    pub(super) since: Instant,
    /// When to check acknowledgements next. The first check is immediate, to have a value to compare later ones with.
    /// `None` if the transport does not show acknowledgements.
    pub(super) sample_at: Option<Instant>,
    pub(super) unacked: Option<usize>,
    /// Whether received bytes wait unread on this side.
    pub(super) has_unread: bool,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, sample_at: Some(now), unacked: None, has_unread: false }
    }

    /// Whether to check acknowledgements now. Always true for the first check, because the stall may have begun after
    /// `now`, in the same turn.
    pub(super) fn is_sample_due(&self, now: Instant) -> bool {
        self.sample_at.is_some_and(|at| at <= now || self.unacked.is_none())
    }
}

/// The number of bytes that were accepted and then dropped. A flush counts them as written.
#[derive(Default)]
pub(super) struct DroppedBytes {
    bytes: u64,
    /// Bytes dropped after a partly written frame, and the position at which that frame ends.
    after_partial: u64,
    partial_end: u64,
}

impl DroppedBytes {
    /// The number of dropped bytes before the position `written`.
    pub(super) fn up_to(&self, written: u64) -> u64 {
        self.bytes + if written >= self.partial_end { self.after_partial } else { 0 }
    }

    pub(super) fn add(&mut self, bytes: u64, written: u64, partial_end: u64) {
        if written >= self.partial_end {
            (self.bytes, self.after_partial) = (self.bytes + self.after_partial, 0);
        }
        self.partial_end = partial_end;
        self.after_partial += bytes;
    }
}
