//! The run over time, and its sum, made from what workers publish.

use std::time::{Duration, SystemTime};

use crate::document::{Config, Interval};
use crate::event_loop::Published;
use crate::intervals::{Intervals, Whole};
use crate::latency::percentile;
use crate::output::Sinks;
use crate::plan::Plan;
use crate::recording::Recording;

pub(crate) struct OverTime {
    intervals: Intervals,
    interval: Duration,
    total: Recording,
    lines: Vec<Interval>,
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
        while !self.intervals.have_ended() {
            let Some(whole) = self.intervals.next_whole() else { break };
            self.show(&whole, self.end_of(whole.interval));
        }
    }

    /// Shows the last intervals of a run that was measured for `time`, and gives all of it.
    pub(crate) fn end(mut self, time: Duration) -> (Recording, Vec<Interval>, Sinks) {
        while let Some(whole) = self.intervals.next_whole() {
            let is_last = self.intervals.is_empty();
            let end = if is_last { time } else { self.end_of(whole.interval).min(time) };
            self.show(&whole, end);
        }
        // Of a number of packets the last one may have come back before the workers noticed the end.
        let within = self.lines.partition_point(|line| line.t_s < time.as_secs_f64());
        self.lines.truncate(within + 1);
        if let Some(last) = self.lines.last_mut() {
            last.t_s = last.t_s.min(time.as_secs_f64());
        }
        (self.total, self.lines, self.sinks)
    }

    fn end_of(&self, interval: u64) -> Duration {
        self.interval.mul_f64((interval + 1) as f64)
    }

    fn show(&mut self, Whole { recording, .. }: &Whole, end: Duration) {
        self.total.merge(recording);
        let t_s = end.as_secs_f64();
        let begins_at = self.lines.last().map_or(0.0, |line| line.t_s);
        // Nothing comes back after the end but what does not count.
        if t_s > begins_at {
            let line = line(t_s, recording);
            self.sinks.show(begins_at, &line, recording);
            self.lines.push(line);
        }
    }
}

fn line(t_s: f64, recording: &Recording) -> Interval {
    let latency_ns = recording.of_users();
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
    use crate::output::{Format, Output};
    use crate::plan::tests::plan;

    fn sinks() -> Sinks {
        let output = Output { format: Format::Text, path: None, hdr_log: None, hgrm: None, html: None };
        output.open().unwrap()
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
        publish(&mut over_time, 2, u64::MAX, 0);
        let (_, lines, _) = over_time.end(SECOND * 9 / 10);
        assert_eq!(lines.iter().map(|line| line.t_s).collect::<Vec<_>>(), [0.9]);
    }
}
