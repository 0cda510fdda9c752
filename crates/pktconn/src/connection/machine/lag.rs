//! How far a peer lags behind: the age of the oldest byte that its kernel has not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many marks a lag is divided into: the age is known to a sixteenth of what is granted.
const STEPS: u32 = 16;

/// More marks than this are thinned out: a peer that takes nothing for long is far beyond its lag anyway.
const MAX_MARKS: usize = 4 * STEPS as usize;

/// When bytes were queued, and how far the peer has got.
#[derive(Debug)]
pub(crate) struct Lag {
    max: Duration,
    /// The byte at this position of the stream, and those up to the next mark, were queued at this time or later.
    marks: VecDeque<(u64, Instant)>,
}

impl Lag {
    pub(crate) fn new(max: Duration) -> Self {
        Self { max, marks: VecDeque::new() }
    }

    /// A packet was queued, whose first byte will be the one at `position` of the stream. Whether it is the first on
    /// its way.
    pub(crate) fn queued(&mut self, position: u64, now: Instant) -> bool {
        let is_first = self.marks.is_empty();
        let is_due = self.marks.back().is_none_or(|(_, last)| now.duration_since(*last) >= self.max / STEPS);
        if !is_due {
            return false;
        }
        if self.marks.len() >= MAX_MARKS {
            // Every second one.
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((position, now));
        is_first
    }

    /// All bytes before `position` are with the peer. `end` is where the stream will be when all that is queued has
    /// left.
    pub(crate) fn reached(&mut self, position: u64, end: u64) {
        if position >= end {
            self.marks.clear();
            return;
        }
        // The mark of the byte at `position` is the last one that is not behind it.
        while self.marks.get(1).is_some_and(|(next, _)| *next <= position) {
            self.marks.pop_front();
        }
    }

    /// `count` bytes that would have followed `from` were dropped: later ones move up.
    pub(crate) fn dropped(&mut self, from: u64, count: u64) {
        for (position, _) in &mut self.marks {
            if *position > from {
                *position = position.saturating_sub(count).max(from);
            }
        }
    }

    /// When the oldest byte will have been on its way for too long. A time beyond what the clock can say is none.
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
    fn the_lag_counts_from_when_the_oldest_byte_on_its_way_was_queued() {
        let start = Instant::now();
        let mut lag = Lag::new(MAX);
        assert_eq!(lag.due(), None);
        lag.queued(0, start);
        lag.queued(10, start + ms(500));
        lag.queued(20, start + ms(1000));
        assert_eq!(lag.due(), Some(start + MAX));
        lag.reached(9, 30);
        assert_eq!(lag.due(), Some(start + MAX), "one byte of the first is missing");
        lag.reached(15, 30);
        assert_eq!(lag.due(), Some(start + ms(500) + MAX));
        lag.reached(30, 30);
        assert_eq!(lag.due(), None);
    }

    #[test]
    fn what_was_dropped_is_waited_for_no_more() {
        let start = Instant::now();
        let mut lag = Lag::new(MAX);
        lag.queued(0, start);
        lag.queued(10, start + ms(500));
        lag.queued(20, start + ms(1000));
        // The first packet is begun; the second one goes.
        lag.dropped(10, 10);
        lag.reached(10, 20);
        assert_eq!(lag.due(), Some(start + ms(1000) + MAX));
    }

    proptest! {
        /// Whatever is queued and acknowledged: the age is that of the oldest byte, to a sixteenth.
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
