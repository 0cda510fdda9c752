//! The clock of a run: nanoseconds since its start, in a `u64`. Every outstanding packet stores two such times, which
//! need half the memory of an `Instant`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

    /// 0 for a time before the start.
    pub(crate) fn ns_of(self, instant: Instant) -> u64 {
        whole_ns(instant.saturating_duration_since(self.start))
    }

    pub(crate) fn instant(self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }
}

/// A time in ns since 1970 (UTC). 0 for an earlier one.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    whole_ns(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A time in ns. A `u64` has room for 584 years, more than any run.
pub(crate) fn whole_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
