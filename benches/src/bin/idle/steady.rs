//! Decides whether a server has settled: memory and open files have not changed for a time. The last reading then counts
//! as its memory.

use std::time::{Duration, Instant};

/// The state of a server at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Open files: one per accepted connection, and some of the server itself. They show that all connections were
    /// accepted, and that none was closed.
    pub(crate) open_files: usize,
}

/// Tells when readings have been the same for long enough.
#[derive(Debug)]
pub(crate) struct Steady {
    span: Duration,
    /// The last reading, and when it was first seen.
    since: Option<(Reading, Instant)>,
}

impl Steady {
    /// Readings must be the same for `span`.
    pub(crate) fn new(span: Duration) -> Self {
        Self { span, since: None }
    }

    /// Adds a reading. Returns true if an equal one was added at least `span` ago, and no different one since.
    pub(crate) fn add(&mut self, reading: Reading, now: Instant) -> bool {
        match self.since {
            Some((same, since)) if same == reading => now.duration_since(since) >= self.span,
            _ => {
                self.since = Some((reading, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_steady_after_the_span_without_a_change() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut steady = Steady::new(ms(500));
        let reading = |rss_bytes, open_files| Reading { rss_bytes, open_files };
        assert!(!steady.add(reading(1, 9), start));
        assert!(!steady.add(reading(1, 9), start + ms(499)));
        assert!(!steady.add(reading(2, 9), start + ms(500)), "the memory changed");
        assert!(!steady.add(reading(2, 8), start + ms(900)), "a file was closed");
        assert!(!steady.add(reading(2, 8), start + ms(1399)));
        assert!(steady.add(reading(2, 8), start + ms(1400)));
    }
}
