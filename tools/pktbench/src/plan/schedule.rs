//! The times at which a run measures, changes its interval and stops. They are known once all connections are open.
//!
//! ```text
//!   0 ---- ramp, warm-up ----> measure_from ---- interval 0 | interval 1 | ... ----> stop_at ---- drain ---->
//!                              '------------------- the window ------------------'
//! ```
//!
//! Throughput is the answers that arrive in the window, whenever they were sent. Latency is that of the packets that are
//! due in the window, whenever they are answered; those of the drain belong to the last interval.
//!
//! The end of a stage of `--stages` ends an interval, too: then the figures of a stage are those of its intervals.

use crate::plan::clock::Clock;
use crate::traffic::profile::Profile;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) clock: Clock,
    /// Packets that are due from this time on are measured.
    pub(crate) measure_from_ns: u64,
    /// Nothing is sent from this time on; `None` if a number of packets ends the run.
    pub(crate) stop_at_ns: Option<u64>,
    pub(crate) grid: Grid,
    /// When packets are due in an open loop, or connections in an open loop of connections.
    pub(crate) profile: Option<&'static Profile>,
}

/// The ends of the intervals, in ns from the start of the measurement: multiples of a length, and other times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    length_ns: u64,
    /// In order, and no multiples. Never freed: there is one list per run.
    others_ns: &'static [u64],
}

impl Grid {
    /// `ends_ns` are further ends, in order.
    pub(crate) fn new(length_ns: u64, ends_ns: impl Iterator<Item = u64>) -> Self {
        let others_ns: Vec<u64> = ends_ns.filter(|end_ns| end_ns % length_ns != 0).collect();
        Self { length_ns, others_ns: others_ns.leak() }
    }

    /// The interval that contains the time.
    fn interval(self, ns: u64) -> u64 {
        ns / self.length_ns + self.others_ns.partition_point(|end_ns| *end_ns <= ns) as u64
    }

    pub(crate) fn end_ns(self, interval: u64) -> u64 {
        // The interval after each of the other ends grows with it.
        let before = |end_ns: &u64| self.interval(*end_ns) <= interval;
        let others = self.others_ns.partition_point(before);
        let multiple_ns = (interval + 1 - others as u64) * self.length_ns;
        self.others_ns.get(others).map_or(multiple_ns, |end_ns| multiple_ns.min(*end_ns))
    }
}

impl Schedule {
    /// The interval that contains `now_ns`. Ramp and warm-up, which are not measured, belong to the first one.
    pub(crate) fn interval(&self, now_ns: u64) -> u64 {
        self.grid.interval(now_ns.saturating_sub(self.measure_from_ns)).min(self.last_interval())
    }

    /// The end of an interval; `None` for the last one, which lasts to the end of the run.
    pub(crate) fn end_of_interval(&self, interval: u64) -> Option<u64> {
        (interval < self.last_interval()).then(|| self.measure_from_ns + self.grid.end_ns(interval))
    }

    fn last_interval(&self) -> u64 {
        self.stop_at_ns.map_or(u64::MAX, |stop_at_ns| {
            self.grid.interval((stop_at_ns - self.measure_from_ns).saturating_sub(1))
        })
    }

    /// Whether an answer that arrives at `now_ns` is in the window.
    pub(crate) fn is_in_window(&self, now_ns: u64) -> bool {
        now_ns >= self.measure_from_ns && !self.is_stopped(now_ns)
    }

    pub(crate) fn is_stopped(&self, now_ns: u64) -> bool {
        self.stop_at_ns.is_some_and(|stop_at_ns| now_ns >= stop_at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn schedule(stop_at_ns: Option<u64>) -> Schedule {
        staged(stop_at_ns, &[])
    }

    /// With stages that end at these times after the start of the measurement.
    fn staged(stop_at_ns: Option<u64>, ends_ns: &[u64]) -> Schedule {
        Schedule {
            clock: Clock::new(Instant::now()),
            measure_from_ns: 100,
            stop_at_ns,
            grid: Grid::new(10, ends_ns.iter().copied()),
            profile: None,
        }
    }

    #[test]
    fn a_stage_ends_an_interval_wherever_it_ends() {
        let schedule = staged(Some(147), &[10, 13, 17, 35, 40, 47]);
        let ends: Vec<_> = (0..8).map(|interval| schedule.end_of_interval(interval)).collect();
        let expected = [110, 113, 117, 120, 130, 135, 140].map(Some);
        assert_eq!(ends, [&expected[..], &[None]].concat());
        for now_ns in 0..200 {
            let interval = schedule.interval(now_ns);
            assert!(schedule.end_of_interval(interval).is_none_or(|end_ns| now_ns < end_ns), "{now_ns}");
            let before = interval.checked_sub(1).and_then(|before| schedule.end_of_interval(before));
            assert!(before.is_none_or(|end_ns| now_ns >= end_ns), "{now_ns}");
        }
        assert_eq!(schedule.interval(u64::MAX), 7);
    }

    #[test]
    fn intervals_begin_after_the_warm_up_and_the_last_one_includes_late_responses() {
        let cases = [(0, 0), (100, 0), (109, 0), (110, 1), (124, 2), (125, 2), (999, 2)];
        for (now_ns, interval) in cases {
            assert_eq!(schedule(Some(125)).interval(now_ns), interval, "{now_ns}");
        }
        assert_eq!(schedule(Some(120)).interval(120), 1, "an end on a boundary begins no empty interval");
        assert_eq!(schedule(None).interval(999), 89);
    }

    #[test]
    fn the_window_is_from_the_end_of_the_warm_up_to_the_end_of_sending() {
        let timed = schedule(Some(125));
        let in_window = [99, 100, 124, 125].map(|now_ns| timed.is_in_window(now_ns));
        assert_eq!(in_window, [false, true, true, false]);
        assert!(schedule(None).is_in_window(u64::MAX));
    }

    #[test]
    fn the_last_interval_lasts_to_the_end_of_the_run() {
        let ends = [0, 1, 2].map(|interval| schedule(Some(125)).end_of_interval(interval));
        assert_eq!(ends, [Some(110), Some(120), None]);
        assert_eq!(schedule(None).end_of_interval(89), Some(1000));
    }
}
