//! The time of a run: ns from its start. A packet keeps two of them while it is outstanding.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    pub(crate) fn now_ns(self) -> u64 {
        self.ns_of(Instant::now())
    }

    /// 0 for what was before the start.
    pub(crate) fn ns_of(self, instant: Instant) -> u64 {
        whole_ns(instant.saturating_duration_since(self.start))
    }

    pub(crate) fn instant(self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }
}

/// A run takes less than the 584 years that there is room for.
pub(crate) fn whole_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
