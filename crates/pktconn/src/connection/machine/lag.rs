//! The lag of a peer: the age of the oldest byte that its kernel has not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Marks per maximum lag. The age is known to a sixteenth of the maximum.
const STEPS: u32 = 16;

/// Limit on the number of marks. Beyond it every second mark is removed. Precision is not needed then: the peer is far
/// beyond its maximum lag.
const MAX_MARKS: usize = 4 * STEPS as usize;

/// The queue times of the bytes that the peer has not acknowledged.
#[derive(Debug)]
pub(crate) struct Lag {
    max: Duration,
    /// Position in the stream and queue time. The bytes from this position to the next mark were queued at this time or
    /// later.
    marks: VecDeque<(u64, Instant)>,
}

impl Lag {
    pub(crate) fn new(max: Duration) -> Self {
        Self { max, marks: VecDeque::new() }
    }

    /// A packet was queued whose first byte is at `position` of the stream. Returns whether no other byte is
    /// unacknowledged.
    pub(crate) fn queued(&mut self, position: u64, now: Instant) -> bool {
        let is_first = self.marks.is_empty();
        let is_due = self.marks.back().is_none_or(|(_, last)| now.duration_since(*last) >= self.max / STEPS);
        if !is_due {
            return false;
        }
        if self.marks.len() >= MAX_MARKS {
            // Keep every second mark.
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((position, now));
        is_first
    }

    /// The peer has acknowledged all bytes before `position`. `end` is the position after the last queued byte.
    pub(crate) fn reached(&mut self, position: u64, end: u64) {
        if position >= end {
            self.marks.clear();
            return;
        }
        // The last mark at or before `position` covers the byte there. Earlier marks are obsolete.
        while self.marks.get(1).is_some_and(|(next, _)| *next <= position) {
            self.marks.pop_front();
        }
    }

    /// `count` bytes after position `from` were dropped. Later bytes move up.
    pub(crate) fn dropped(&mut self, from: u64, count: u64) {
        for (position, _) in &mut self.marks {
            if *position > from {
                *position = position.saturating_sub(count).max(from);
            }
        }
    }

    /// When the oldest byte exceeds the maximum lag. `None` if all bytes are acknowledged, or if the time overflows the
    /// clock.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.marks.front()?.1.checked_add(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: Duration = Duration::from_millis(1600);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_lag_starts_when_the_oldest_unacknowledged_byte_was_queued() {
        let start = Instant::now();
        let mut lag = Lag::new(MAX);
        assert_eq!(lag.due(), None);
        lag.queued(0, start);
        lag.queued(10, start + ms(500));
        lag.queued(20, start + ms(1000));
        assert_eq!(lag.due(), Some(start + MAX));
        lag.reached(9, 30);
        assert_eq!(lag.due(), Some(start + MAX), "one byte of the first packet is not acknowledged");
        lag.reached(15, 30);
        assert_eq!(lag.due(), Some(start + ms(500) + MAX));
        lag.reached(30, 30);
        assert_eq!(lag.due(), None);
    }

    #[test]
    fn dropped_bytes_no_longer_count() {
        let start = Instant::now();
        let mut lag = Lag::new(MAX);
        lag.queued(0, start);
        lag.queued(10, start + ms(500));
        lag.queued(20, start + ms(1000));
        // The first packet is partly written, and the second one is dropped.
        lag.dropped(10, 10);
        lag.reached(10, 20);
        assert_eq!(lag.due(), Some(start + ms(1000) + MAX));
    }

    proptest! {
        /// For any bytes queued and acknowledged: the result is the age of the oldest byte. It is too old by less than
        /// an eighth of the maximum.
        #[test]
        fn the_age_is_that_of_the_oldest_byte(
            steps in prop::collection::vec((0..50_u64, 0..400_u64, 0..60_u64), 1..40),
        ) {
            let start = Instant::now();
            let mut lag = Lag::new(MAX);
            let (mut now, mut end, mut reached) = (start, 0_u64, 0_u64);
            let mut queued: Vec<(u64, Instant)> = Vec::new();
            for (len, wait, acked) in steps {
                now += ms(wait);
                if len > 0 {
                    lag.queued(end, now);
                    queued.push((end, now));
                    end += len;
                }
                reached = (reached + acked).min(end);
                lag.reached(reached, end);
                let oldest = queued.iter().rev().find(|(position, _)| *position <= reached);
                let exact = oldest.filter(|_| reached < end).map(|(_, at)| *at + MAX);
                match (lag.due(), exact) {
                    (None, None) => {}
                    (Some(due), Some(exact)) => {
                        prop_assert!(due <= exact && exact - due < MAX / 8, "{:?}", exact - due);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
