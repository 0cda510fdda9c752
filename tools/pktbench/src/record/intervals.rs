//! Merges the recordings of all workers, interval by interval.
//!
//! ```text
//!   worker 0 -- 0: ... --- 1: ... --- 2: ... ---->
//!   worker 1 -- 0: ... ------- 1: ... ---------->        an interval is complete when all workers have passed it
//! ```

use std::collections::BTreeMap;

use crate::record::recording::Published;
use crate::record::recording::Recording;

/// Collects what the workers publish, and merges it by interval.
pub(crate) struct Intervals {
    is_open_loop: bool,
    /// The interval that each worker records now; `u64::MAX` if it has ended.
    reached: Vec<u64>,
    /// Recordings of intervals that are not complete.
    pending: BTreeMap<u64, Recording>,
    /// The next interval to return.
    next: u64,
}

/// The merged recording of an interval.
pub(crate) struct CompleteInterval {
    pub(crate) interval: u64,
    pub(crate) recording: Recording,
}

impl Intervals {
    pub(crate) fn new(workers: usize, is_open_loop: bool) -> Self {
        Self { is_open_loop, reached: vec![0; workers], pending: BTreeMap::new(), next: 0 }
    }

    /// Adds what a worker has published.
    pub(crate) fn add(&mut self, worker: usize, published: Published) {
        let Published { interval, next, recording } = published;
        self.reached[worker] = next;
        match self.pending.get_mut(&interval) {
            Some(pending) => pending.merge(&recording),
            None => drop(self.pending.insert(interval, recording)),
        }
    }

    /// Treats all workers as ended, even those that have not published their last recording.
    pub(crate) fn end_all(&mut self) {
        self.reached.fill(u64::MAX);
    }

    /// Whether all workers have ended.
    pub(crate) fn all_ended(&self) -> bool {
        self.reached.iter().all(|reached| *reached == u64::MAX)
    }

    /// Returns the next complete interval, also if nothing was recorded in it. `None` if the next one is not complete,
    /// or if all workers have ended and no recordings are left.
    pub(crate) fn next_complete(&mut self) -> Option<CompleteInterval> {
        let passed = self.reached.iter().copied().min()?;
        if self.next >= passed || (self.all_ended() && self.pending.is_empty()) {
            return None;
        }
        let interval = self.next;
        self.next += 1;
        let recording = self.pending.remove(&interval).unwrap_or_else(|| Recording::new(self.is_open_loop));
        Some(CompleteInterval { interval, recording })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(intervals: &mut Intervals, worker: usize, interval: u64, next: u64, packets: u64) {
        let mut recording = Recording::new(false);
        recording.record(1000, 1000, packets);
        intervals.add(worker, Published { interval, next, recording });
    }

    fn complete(intervals: &mut Intervals) -> Vec<(u64, u64)> {
        let next = || intervals.next_complete();
        std::iter::from_fn(next)
            .map(|complete| (complete.interval, complete.recording.service.len()))
            .collect()
    }

    #[test]
    fn an_interval_is_complete_when_the_slowest_worker_has_passed_it() {
        let mut intervals = Intervals::new(2, false);
        publish(&mut intervals, 0, 0, 1, 5);
        publish(&mut intervals, 0, 1, 2, 6);
        assert_eq!(complete(&mut intervals), []);
        publish(&mut intervals, 1, 0, 1, 7);
        assert_eq!(complete(&mut intervals), [(0, 12)]);
        publish(&mut intervals, 1, 1, 2, 8);
        assert_eq!(complete(&mut intervals), [(1, 14)]);
    }

    #[test]
    fn an_interval_without_packets_is_returned_too() {
        let mut intervals = Intervals::new(1, false);
        publish(&mut intervals, 0, 0, 3, 5);
        assert_eq!(complete(&mut intervals), [(0, 5), (1, 0), (2, 0)]);
    }

    #[test]
    fn after_the_last_recording_there_are_no_more() {
        let mut intervals = Intervals::new(2, false);
        publish(&mut intervals, 0, 0, u64::MAX, 1);
        publish(&mut intervals, 1, 0, 2, 2);
        publish(&mut intervals, 1, 2, u64::MAX, 4);
        assert_eq!(complete(&mut intervals), [(0, 3), (1, 0), (2, 4)]);
    }
}
