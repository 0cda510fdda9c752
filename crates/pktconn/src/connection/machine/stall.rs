//! What is known of a transport that takes no more, and of bytes that will not be written.

use tokio::time::Instant;

/// Since when a transport that is blocked has taken nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    pub(super) since: Instant,
    /// When the acknowledgements are looked at next: at first at once, to tell later whether there were more. `None`
    /// where there are none to look at.
    pub(super) sample_at: Option<Instant>,
    pub(super) unacked: Option<usize>,
    /// Whether bytes that the peer has sent wait unread here.
    pub(super) has_unread: bool,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, sample_at: Some(now), unacked: None, has_unread: false }
    }

    /// The first time at once: the stall may have begun after `now`, in this very turn.
    pub(super) fn is_sample_due(&self, now: Instant) -> bool {
        self.sample_at.is_some_and(|at| at <= now || self.unacked.is_none())
    }
}

/// The bytes that were accepted and dropped, for those who wait for bytes to be written.
#[derive(Default)]
pub(super) struct DroppedBytes {
    bytes: u64,
    /// Those that were dropped behind a frame which was being written, and where that ends.
    after_partial: u64,
    partial_end: u64,
}

impl DroppedBytes {
    /// How many of them are behind what is written, when so much is.
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
