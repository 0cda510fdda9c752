//! The run over time, and its sum, made from what workers publish.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::plan::{Amount, MAX_INTERVALS, Plan};
use crate::record::intervals::{CompleteInterval, Intervals};
use crate::record::recording::Published;
use crate::record::recording::Recording;
use crate::report::output::Sinks;
use crate::result::document::{Config, Interval};
use crate::result::latency::percentile;

pub(crate) struct OverTime {
    intervals: Intervals,
    interval: Duration,
    total: Recording,
    lines: Vec<Interval>,
    /// Up to where intervals were shown.
    shown_s: f64,
    /// The last intervals of a run whose end is its last answer, if nothing came back in them.
    held: Range<u64>,
    holds: bool,
    sinks: Sinks,
}

impl OverTime {
    pub(crate) fn new(plan: &Plan, sinks: Sinks) -> Self {
        let is_open = plan.is_open();
        Self {
            intervals: Intervals::new(plan.threads, is_open),
            interval: plan.interval,
            total: Recording::new(is_open),
            lines: Vec::new(),
            shown_s: 0.0,
            held: 0..0,
            holds: matches!(plan.amount, Amount::Packets(_)),
            sinks,
        }
    }

    /// Shows what begins, and counts from this time on.
    pub(crate) fn begin(&mut self, config: &Config, since: SystemTime) {
        self.sinks.begin(config, since);
    }

    /// Takes what a worker has published, and shows the intervals that are whole by that.
    pub(crate) fn add(&mut self, worker: usize, published: Published) {
        self.intervals.add(worker, published);
        // How long the last ones are is known at the end alone.
        while !self.intervals.all_ended() {
            let Some(CompleteInterval { interval, recording }) = self.intervals.next_complete() else {
                break;
            };
            if self.holds && recording.traffic.received_packets == 0 {
                self.total.merge(&recording);
                self.held.end = interval + 1;
                continue;
            }
            self.show_held(Duration::MAX);
            self.show(&recording, self.end_of(interval));
            self.held = interval + 1..interval + 1;
        }
    }

    fn show_held(&mut self, time: Duration) {
        if self.held.is_empty() {
            return;
        }
        let nothing = Recording::new(self.total.response.is_some());
        for interval in std::mem::take(&mut self.held) {
            self.show(&nothing, self.end_of(interval).min(time));
        }
    }

    /// The intervals that are whole.
    pub(crate) fn so_far(&self) -> &[Interval] {
        &self.lines
    }

    /// Connections that failed in them.
    pub(crate) fn failed(&self) -> u64 {
        self.total.failed
    }

    /// Shows the last intervals of a run that was measured for `time`, and gives all of it.
    pub(crate) fn end(mut self, time: Duration) -> (Recording, Vec<Interval>, Sinks) {
        self.intervals.end();
        let last: Vec<_> = std::iter::from_fn(|| self.intervals.next_complete()).collect();
        self.show_held(time);
        let count = last.len();
        for (index, CompleteInterval { interval, recording }) in last.into_iter().enumerate() {
            let end = if index + 1 == count { time } else { self.end_of(interval).min(time) };
            self.show(&recording, end);
        }
        (self.total, self.lines, self.sinks)
    }

    fn end_of(&self, interval: u64) -> Duration {
        self.interval.mul_f64((interval + 1) as f64)
    }

    fn show(&mut self, recording: &Recording, end: Duration) {
        self.total.merge(recording);
        let t_s = end.as_secs_f64();
        let begins_at = self.shown_s;
        // Nothing comes back after the end but what does not count.
        if t_s > begins_at {
            self.shown_s = t_s;
            let line = line(t_s, recording);
            self.sinks.show(begins_at, &line, recording);
            // Of a number of packets nobody knows beforehand how long they take.
            if self.lines.len() < MAX_INTERVALS as usize {
                self.lines.push(line);
            }
        }
    }
}

fn line(t_s: f64, recording: &Recording) -> Interval {
    let latency_ns = recording.primary();
    Interval {
        t_s,
        received: recording.traffic.received_packets,
        p50_ns: percentile(latency_ns, 50.0),
        p99_ns: percentile(latency_ns, 99.0),
        p999_ns: percentile(latency_ns, 99.9),
        max_ns: percentile(latency_ns, 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Pace;
    use crate::plan::tests::plan;
    use crate::report::output::Output;
    use crate::traffic::arrivals::Arrival;

    fn sinks() -> Sinks {
        Output::default().open().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn publish(over_time: &mut OverTime, interval: u64, next: u64, packets: u64) {
        let mut recording = Recording::new(false);
        recording.record(1000 * (interval + 1), 0, packets);
        recording.traffic.received_packets = packets;
        over_time.add(0, Published { interval, next, recording });
    }

    #[test]
    fn every_interval_has_a_line_and_the_last_one_ends_with_the_run() {
        let mut over_time = OverTime::new(&plan(), sinks());
        publish(&mut over_time, 0, 2, 5);
        publish(&mut over_time, 2, u64::MAX, 7);
        let (total, lines, _) = over_time.end(SECOND * 5 / 2);
        let lines: Vec<_> = lines.iter().map(|line| (line.t_s, line.received, line.p50_ns)).collect();
        assert_eq!(lines, [(1.0, 5, Some(1000)), (2.0, 0, None), (2.5, 7, Some(3001))]);
        assert_eq!((total.service.len(), total.traffic.received_packets), (12, 12));
    }

    #[test]
    fn no_line_is_behind_the_end_of_what_was_measured() {
        let mut over_time = OverTime::new(&plan(), sinks());
        publish(&mut over_time, 0, 1, 5);
        publish(&mut over_time, 1, 2, 0);
        publish(&mut over_time, 2, 3, 5);
        publish(&mut over_time, 3, 6, 0);
        publish(&mut over_time, 6, u64::MAX, 0);
        let (_, lines, _) = over_time.end(SECOND * 29 / 10);
        assert_eq!(lines.iter().map(|line| line.t_s).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    /// Takes what two workers of an open loop have measured in so many intervals of 20 s, at half a million packets a second.
    fn gather(intervals: u64) -> u64 {
        let pace = Pace::Open { rate: 5e5, arrival: Arrival::Poisson, max_outstanding: 1 };
        let mut over_time =
            OverTime::new(&Plan { pace, threads: 2, interval: 20 * SECOND, ..plan() }, sinks());
        for interval in 0..intervals {
            for worker in 0..2 {
                let mut recording = Recording::new(true);
                for step in 0..100 {
                    recording.record(10_000 + step * interval, 20_000 + step * step * 50, 50_000);
                }
                let next = if interval + 1 == intervals { u64::MAX } else { interval + 1 };
                over_time.add(worker, Published { interval, next, recording });
            }
        }
        let (total, lines, _) = over_time.end(20 * SECOND * intervals as u32);
        assert_eq!(lines.len() as u64, intervals);
        total.primary().len()
    }

    #[test]
    fn four_hours_take_no_more_memory_than_four_minutes_but_for_their_lines() {
        let measured = |intervals| {
            let mut samples = 0;
            let memory = allocation_counter::measure(|| samples = gather(intervals));
            (memory.bytes_max, samples)
        };
        let (minutes, hours) = (measured(12), measured(720));
        assert_eq!(hours.1, 7_200_000_000);
        // A list that grows is there twice, once of double the size.
        let lines = 3 * 720 * size_of::<Interval>() as u64;
        assert!(hours.0 <= minutes.0 + lines, "{hours:?}, and {minutes:?} in four minutes");
        assert!(minutes.0 < 8 << 20, "{minutes:?}");
    }
}
