//! The time series of a run (one row per interval) and its totals, from the recordings that the workers publish.
//!
//! A row is written to the sinks as soon as all workers have passed the interval.

use std::time::{Duration, SystemTime};

use crate::judge::abort::AbortWatch;
use crate::plan::clock::{unix_ns, whole_ns};
use crate::plan::schedule::Grid;
use crate::plan::{Amount, MAX_INTERVALS, Plan};
use crate::record::intervals::{CompleteInterval, Intervals};
use crate::record::recording::{FailureNote, Published, Recording, Traffic};
use crate::report::output::Sinks;
use crate::report::status::RunStatus;
use crate::result::document::{Aborted, Config, Interval, StageResult};
use crate::result::latency::percentile;
use crate::run::stage_results::StageResults;

pub(crate) struct TimeSeries {
    intervals: Intervals,
    grid: Grid,
    total: Recording,
    rows: Vec<Interval>,
    stages: Option<StageResults>,
    /// The start of the load, and that of the measurement.
    started: SystemTime,
    measured_from: SystemTime,
    /// The end of the last row, in seconds from the start of the measurement.
    end_s: f64,
    /// Intervals without an answer at the end so far, not yet written. A run of a number of packets ends with its last
    /// response: intervals after it are not part of the run.
    held_back: Vec<HeldBack>,
    holds_back: bool,
    sinks: Sinks,
    abort: AbortWatch,
    aborted: Option<Aborted>,
}

/// What a time series measured.
pub(crate) struct Measured {
    pub(crate) total: Recording,
    pub(crate) rows: Vec<Interval>,
    /// Empty without `--stages`.
    pub(crate) stages: Vec<StageResult>,
    pub(crate) sinks: Sinks,
}

/// The part of a recording without histograms, which are empty: a long stall holds back many intervals.
struct HeldBack {
    interval: u64,
    traffic: Traffic,
    failed: u64,
    failures: Vec<FailureNote>,
}

impl TimeSeries {
    pub(crate) fn new(plan: &Plan, sinks: Sinks, abort: AbortWatch) -> Self {
        let is_open = plan.is_open();
        Self {
            intervals: Intervals::new(plan.threads, is_open),
            grid: plan.grid(),
            total: Recording::new(is_open),
            rows: Vec::new(),
            stages: plan.stages.as_ref().map(|stages| StageResults::new(stages, &plan.percentiles)),
            started: SystemTime::UNIX_EPOCH,
            measured_from: SystemTime::UNIX_EPOCH,
            end_s: 0.0,
            held_back: Vec::new(),
            holds_back: matches!(plan.amount, Amount::Packets(_)),
            sinks,
            abort,
            aborted: None,
        }
    }

    /// Writes the configuration, the start of the load and that of the measurement to the sinks.
    pub(crate) fn begin(&mut self, config: &Config, started: SystemTime, measured_from: SystemTime) {
        (self.started, self.measured_from) = (started, measured_from);
        self.sinks.begin(config, started, measured_from);
    }

    /// Adds the recording of a worker, and writes the intervals that all workers have now passed.
    pub(crate) fn add(&mut self, worker: usize, published: Published) {
        self.intervals.add(worker, published);
        // The length of the last ones is known only at the end.
        while !self.intervals.all_ended() {
            let Some(CompleteInterval { interval, mut recording }) = self.intervals.next_complete() else {
                break;
            };
            self.judge(interval, &recording);
            recording.outstanding = None;
            if self.holds_back && recording.traffic.received_packets == 0 {
                self.total.merge(&recording);
                let Recording { traffic, failed, failures, .. } = recording;
                self.held_back.push(HeldBack { interval, traffic, failed, failures });
                continue;
            }
            self.write_held_back(Duration::MAX);
            self.write(&recording, self.end_of(interval));
        }
    }

    /// Judges the condition of `--abort-on`, until one is met.
    fn judge(&mut self, interval: u64, recording: &Recording) {
        if self.aborted.is_some() {
            return;
        }
        let start_ns = interval.checked_sub(1).map_or(0, |before| self.grid.end_ns(before));
        let end_ns = self.grid.end_ns(interval);
        self.aborted = self
            .abort
            .add(start_ns, end_ns, recording)
            .map(|condition| Aborted { condition: condition.to_string(), at_s: end_ns as f64 / 1e9 });
    }

    /// The condition of `--abort-on` that was met in an interval so far.
    pub(crate) fn aborted(&self) -> Option<&Aborted> {
        self.aborted.as_ref()
    }

    fn write_held_back(&mut self, measured_time: Duration) {
        if self.held_back.is_empty() {
            return;
        }
        let mut recording = Recording::new(self.total.response.is_some());
        for HeldBack { interval, traffic, failed, failures } in std::mem::take(&mut self.held_back) {
            recording = Recording { traffic, failed, failures, ..recording };
            self.show(&recording, self.end_of(interval).min(measured_time));
        }
    }

    pub(crate) fn sinks(&mut self) -> &mut Sinks {
        &mut self.sinks
    }

    /// The rows so far.
    pub(crate) fn rows(&self) -> &[Interval] {
        &self.rows
    }

    /// Updates the metrics.
    pub(crate) fn show_status(&self, status: &RunStatus<'_>) {
        if let Some(metrics) = &self.sinks.metrics {
            metrics.show(status);
        }
    }

    /// The number of connections that failed in the intervals so far.
    pub(crate) fn failed_conns(&self) -> u64 {
        self.total.failed
    }

    /// Writes the last rows of a run that was measured for `measured_time`.
    pub(crate) fn finish(mut self, measured_time: Duration) -> Measured {
        self.intervals.end_all();
        let last: Vec<_> = std::iter::from_fn(|| self.intervals.next_complete()).collect();
        self.write_held_back(measured_time);
        let count = last.len();
        for (index, CompleteInterval { interval, recording }) in last.into_iter().enumerate() {
            let is_last = index + 1 == count;
            let end = if is_last { measured_time } else { self.end_of(interval).min(measured_time) };
            self.write(&recording, end);
        }
        let stages = self.stages.map(|stages| stages.finish(whole_ns(measured_time)));
        Measured { total: self.total, rows: self.rows, stages: stages.unwrap_or_default(), sinks: self.sinks }
    }

    fn end_of(&self, interval: u64) -> Duration {
        Duration::from_nanos(self.grid.end_ns(interval))
    }

    fn write(&mut self, recording: &Recording, end: Duration) {
        self.total.merge(recording);
        if let Some(stages) = &mut self.stages {
            stages.add(recording, whole_ns(end));
        }
        self.show(recording, end);
    }

    /// Writes a row that is already in the total.
    fn show(&mut self, recording: &Recording, end: Duration) {
        for failure in &recording.failures {
            let at = self.started + Duration::from_nanos(failure.at_ns);
            self.sinks.show_failure(unix_ns(at), failure);
        }
        let start_s = self.end_s;
        let end_s = end.as_secs_f64();
        // After the end of the measurement there are no rows: what still comes back is not measured.
        if end_s > start_s {
            self.end_s = end_s;
            let row = row(end_s, unix_ns(self.measured_from + end), recording);
            self.sinks.show(start_s, &row, recording);
            // `Plan::check` limits the intervals of a duration; how long a number of packets takes is not known before.
            if self.rows.len() < MAX_INTERVALS as usize {
                self.rows.push(row);
            }
        }
    }
}

fn row(t_s: f64, unix_ns: u64, recording: &Recording) -> Interval {
    let latency_ns = recording.primary();
    let Traffic { sent_packets, sent_bytes, received_packets, received_bytes, .. } = recording.traffic;
    Interval {
        t_s,
        unix_ns,
        sent: sent_packets,
        received: received_packets,
        bytes_sent: sent_bytes,
        bytes_received: received_bytes,
        errors: recording.failed,
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
        let mut series = TimeSeries::new(&plan(), sinks(), AbortWatch::default());
        publish(&mut series, 0, 2, 5);
        publish(&mut series, 2, u64::MAX, 7);
        let Measured { total, rows, .. } = series.finish(SECOND * 5 / 2);
        let rows: Vec<_> = rows.iter().map(|row| (row.t_s, row.received, row.p50_ns)).collect();
        assert_eq!(rows, [(1.0, 5, Some(1000)), (2.0, 0, None), (2.5, 7, Some(3001))]);
        assert_eq!((total.service.len(), total.traffic.received_packets), (12, 12));
    }

    #[test]
    fn a_row_has_the_end_time_and_the_counts_of_its_interval_even_without_an_answer() {
        let mut series = TimeSeries::new(&plan(), sinks(), AbortWatch::default());
        let started = SystemTime::UNIX_EPOCH + 100 * SECOND;
        series.measured_from = started;
        let mut publish = |interval, next, received| {
            let mut recording = Recording::new(false);
            recording.traffic = Traffic {
                sent_packets: interval + 10,
                sent_bytes: 7 * (interval + 10),
                received_packets: received,
                received_bytes: 7 * received,
                ..Traffic::default()
            };
            recording.failed = interval;
            series.add(0, Published { interval, next, recording });
        };
        publish(0, 1, 5);
        publish(1, 2, 0);
        publish(2, u64::MAX, 6);
        let Measured { total, rows, .. } = series.finish(SECOND * 5 / 2);
        let figures =
            |row: &Interval| (row.unix_ns, row.sent, row.bytes_sent, row.bytes_received, row.errors);
        let expected = [
            (101_000_000_000, 10, 70, 35, 0),
            (102_000_000_000, 11, 77, 0, 1),
            (102_500_000_000, 12, 84, 42, 2),
        ];
        assert_eq!(rows.iter().map(figures).collect::<Vec<_>>(), expected);
        assert_eq!((total.traffic.sent_packets, total.traffic.sent_bytes, total.failed), (33, 231, 3));
    }

    #[test]
    fn no_row_ends_after_the_measurement() {
        let mut series = TimeSeries::new(&plan(), sinks(), AbortWatch::default());
        publish(&mut series, 0, 1, 5);
        publish(&mut series, 1, 2, 0);
        publish(&mut series, 2, 3, 5);
        publish(&mut series, 3, 6, 0);
        publish(&mut series, 6, u64::MAX, 0);
        let Measured { rows, .. } = series.finish(SECOND * 29 / 10);
        assert_eq!(rows.iter().map(|row| row.t_s).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    /// Adds the recordings of two workers of an open loop: so many intervals of 20 s, at half a million packets per
    /// second.
    fn gather(intervals: u64) -> u64 {
        let pace = Pace::Open { rate: 5e5, arrival: Arrival::Poisson, max_outstanding: 1 };
        let mut series = TimeSeries::new(
            &Plan { pace, threads: 2, interval: 20 * SECOND, ..plan() },
            sinks(),
            AbortWatch::default(),
        );
        for interval in 0..intervals {
            for worker in 0..2 {
                let mut recording = Recording::new(true);
                recording.traffic.received_packets = 5_000_000;
                for step in 0..100 {
                    recording.record(10_000 + step * interval, 20_000 + step * step * 50, 50_000);
                }
                let next = if interval + 1 == intervals { u64::MAX } else { interval + 1 };
                series.add(worker, Published { interval, next, recording });
            }
        }
        let Measured { total, rows, .. } = series.finish(20 * SECOND * intervals as u32);
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
