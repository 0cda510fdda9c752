//! The time series of a run (one row per interval) and its totals, from the recordings that the workers publish.
//!
//! A row is written to the sinks as soon as all workers have passed the interval.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::plan::{Amount, MAX_INTERVALS, Plan};
use crate::record::intervals::{CompleteInterval, Intervals};
use crate::record::recording::Published;
use crate::record::recording::Recording;
use crate::report::output::Sinks;
use crate::result::document::{Config, Interval};
use crate::result::latency::percentile;

pub(crate) struct TimeSeries {
    intervals: Intervals,
    /// The length of an interval.
    interval: Duration,
    total: Recording,
    rows: Vec<Interval>,
    /// The end of the last row, in seconds from the start of the measurement.
    end_s: f64,
    /// Empty intervals at the end so far, not yet written. A run of a number of packets ends with its last response:
    /// empty intervals after it are not part of the run.
    held_back: Range<u64>,
    holds_back: bool,
    sinks: Sinks,
}

impl TimeSeries {
    pub(crate) fn new(plan: &Plan, sinks: Sinks) -> Self {
        let is_open = plan.is_open();
        Self {
            intervals: Intervals::new(plan.threads, is_open),
            interval: plan.interval,
            total: Recording::new(is_open),
            rows: Vec::new(),
            end_s: 0.0,
            held_back: 0..0,
            holds_back: matches!(plan.amount, Amount::Packets(_)),
            sinks,
        }
    }

    /// Writes the configuration and the start of the measurement to the sinks.
    pub(crate) fn begin(&mut self, config: &Config, measured_from: SystemTime) {
        self.sinks.begin(config, measured_from);
    }

    /// Adds the recording of a worker, and writes the intervals that all workers have now passed.
    pub(crate) fn add(&mut self, worker: usize, published: Published) {
        self.intervals.add(worker, published);
        // The length of the last ones is known only at the end.
        while !self.intervals.all_ended() {
            let Some(CompleteInterval { interval, recording }) = self.intervals.next_complete() else {
                break;
            };
            if self.holds_back && recording.traffic.received_packets == 0 {
                self.total.merge(&recording);
                self.held_back.end = interval + 1;
                continue;
            }
            self.write_held_back(Duration::MAX);
            self.write(&recording, self.end_of(interval));
            self.held_back = interval + 1..interval + 1;
        }
    }

    fn write_held_back(&mut self, measured_time: Duration) {
        if self.held_back.is_empty() {
            return;
        }
        let empty = Recording::new(self.total.response.is_some());
        for interval in std::mem::take(&mut self.held_back) {
            self.write(&empty, self.end_of(interval).min(measured_time));
        }
    }

    pub(crate) fn sinks(&mut self) -> &mut Sinks {
        &mut self.sinks
    }

    /// The rows so far.
    pub(crate) fn rows(&self) -> &[Interval] {
        &self.rows
    }

    /// The number of connections that failed in the intervals so far.
    pub(crate) fn failed_conns(&self) -> u64 {
        self.total.failed
    }

    /// Writes the last rows of a run that was measured for `measured_time`, and returns the totals and all rows.
    pub(crate) fn finish(mut self, measured_time: Duration) -> (Recording, Vec<Interval>, Sinks) {
        self.intervals.end_all();
        let last: Vec<_> = std::iter::from_fn(|| self.intervals.next_complete()).collect();
        self.write_held_back(measured_time);
        let count = last.len();
        for (index, CompleteInterval { interval, recording }) in last.into_iter().enumerate() {
            let is_last = index + 1 == count;
            let end = if is_last { measured_time } else { self.end_of(interval).min(measured_time) };
            self.write(&recording, end);
        }
        (self.total, self.rows, self.sinks)
    }

    fn end_of(&self, interval: u64) -> Duration {
        self.interval.mul_f64((interval + 1) as f64)
    }

    fn write(&mut self, recording: &Recording, end: Duration) {
        self.total.merge(recording);
        let start_s = self.end_s;
        let end_s = end.as_secs_f64();
        // After the end of the measurement there are no rows: what still comes back is not measured.
        if end_s > start_s {
            self.end_s = end_s;
            let row = row(end_s, recording);
            self.sinks.show(start_s, &row, recording);
            // `Plan::check` limits the intervals of a duration; how long a number of packets takes is not known before.
            if self.rows.len() < MAX_INTERVALS as usize {
                self.rows.push(row);
            }
        }
    }
}

fn row(t_s: f64, recording: &Recording) -> Interval {
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

    fn publish(series: &mut TimeSeries, interval: u64, next: u64, packets: u64) {
        let mut recording = Recording::new(false);
        recording.record(1000 * (interval + 1), 0, packets);
        recording.traffic.received_packets = packets;
        series.add(0, Published { interval, next, recording });
    }

    #[test]
    fn every_interval_has_a_row_and_the_last_one_ends_with_the_run() {
        let mut series = TimeSeries::new(&plan(), sinks());
        publish(&mut series, 0, 2, 5);
        publish(&mut series, 2, u64::MAX, 7);
        let (total, rows, _) = series.finish(SECOND * 5 / 2);
        let rows: Vec<_> = rows.iter().map(|row| (row.t_s, row.received, row.p50_ns)).collect();
        assert_eq!(rows, [(1.0, 5, Some(1000)), (2.0, 0, None), (2.5, 7, Some(3001))]);
        assert_eq!((total.service.len(), total.traffic.received_packets), (12, 12));
    }

    #[test]
    fn no_row_ends_after_the_measurement() {
        let mut series = TimeSeries::new(&plan(), sinks());
        publish(&mut series, 0, 1, 5);
        publish(&mut series, 1, 2, 0);
        publish(&mut series, 2, 3, 5);
        publish(&mut series, 3, 6, 0);
        publish(&mut series, 6, u64::MAX, 0);
        let (_, rows, _) = series.finish(SECOND * 29 / 10);
        assert_eq!(rows.iter().map(|row| row.t_s).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    /// Adds the recordings of two workers of an open loop: so many intervals of 20 s, at half a million packets per
    /// second.
    fn gather(intervals: u64) -> u64 {
        let pace = Pace::Open { rate: 5e5, arrival: Arrival::Poisson, max_outstanding: 1 };
        let mut series =
            TimeSeries::new(&Plan { pace, threads: 2, interval: 20 * SECOND, ..plan() }, sinks());
        for interval in 0..intervals {
            for worker in 0..2 {
                let mut recording = Recording::new(true);
                for step in 0..100 {
                    recording.record(10_000 + step * interval, 20_000 + step * step * 50, 50_000);
                }
                let next = if interval + 1 == intervals { u64::MAX } else { interval + 1 };
                series.add(worker, Published { interval, next, recording });
            }
        }
        let (total, rows, _) = series.finish(20 * SECOND * intervals as u32);
        assert_eq!(rows.len() as u64, intervals);
        total.primary().len()
    }

    #[test]
    fn four_hours_use_only_the_memory_of_their_rows_more_than_four_minutes() {
        let measured = |intervals| {
            let mut samples = 0;
            let memory = allocation_counter::measure(|| samples = gather(intervals));
            (memory.bytes_max, samples)
        };
        let (minutes, hours) = (measured(12), measured(720));
        assert_eq!(hours.1, 7_200_000_000);
        // A vector that grows exists twice for a moment: the old one, and a new one of double the size.
        let rows = 3 * 720 * size_of::<Interval>() as u64;
        assert!(hours.0 <= minutes.0 + rows, "bytes, samples: {hours:?}; in four minutes: {minutes:?}");
        assert!(minutes.0 < 8 << 20, "{minutes:?}");
    }
}
