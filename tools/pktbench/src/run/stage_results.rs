//! The results of the stages of `--stages`, from the recordings of their intervals: the end of a stage is the end of an
//! interval.

use std::sync::Arc;

use crate::record::recording::Recording;
use crate::result::document::StageResult;
use crate::traffic::profile::Profile;
use crate::traffic::stages::Stages;

pub(crate) struct StageResults {
    stages: Arc<Stages>,
    percentiles: Vec<f64>,
    profile: Profile,
    /// The ends of the stages, from the start of the measurement.
    ends_ns: Vec<u64>,
    /// The current stage: when it started, and its intervals so far.
    start_ns: u64,
    recording: Recording,
    results: Vec<StageResult>,
}

impl StageResults {
    /// `percentiles` are those of the results.
    pub(crate) fn new(stages: &Arc<Stages>, percentiles: &[f64]) -> Self {
        Self {
            profile: Profile::new(&[], &stages.pieces()),
            ends_ns: stages.ends_ns().collect(),
            stages: Arc::clone(stages),
            percentiles: percentiles.to_vec(),
            start_ns: 0,
            recording: Recording::new(true),
            results: Vec::new(),
        }
    }

    /// Adds the next interval, which ends at `end_ns`. What comes after the last stage belongs to it.
    pub(crate) fn add(&mut self, recording: &Recording, end_ns: u64) {
        self.recording.merge(recording);
        let current = self.results.len();
        if current + 1 < self.ends_ns.len() && end_ns >= self.ends_ns[current] {
            self.close(self.ends_ns[current]);
        }
    }

    /// The results of a run that was measured for `measured_ns`: the stages that have begun.
    pub(crate) fn finish(mut self, measured_ns: u64) -> Vec<StageResult> {
        if measured_ns > self.start_ns {
            self.close(measured_ns);
        }
        self.results
    }

    fn close(&mut self, end_ns: u64) {
        let recording = std::mem::replace(&mut self.recording, Recording::new(true));
        let start_ns = std::mem::replace(&mut self.start_ns, end_ns);
        let due_until = |ns| self.profile.count_until(0.0, 1.0, ns);
        let asked = due_until(end_ns) - due_until(start_ns);
        let (start_s, end_s) = (start_ns as f64 / 1e9, end_ns as f64 / 1e9);
        let traffic = recording.traffic;
        self.results.push(StageResult {
            name: self.stages.stages[self.results.len()].name.clone(),
            start_s,
            end_s,
            asked,
            sent: traffic.sent_packets,
            received: traffic.received_packets,
            packets_per_s: traffic.received_packets as f64 / (end_s - start_s),
            offered_pct: (asked > 0).then(|| traffic.sent_packets as f64 / asked as f64 * 100.0),
            errors: recording.failed,
            latency_ns: recording.latencies(&self.percentiles),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A recording of packets that were answered after 1 ms.
    fn recording(packets: u64) -> Recording {
        let mut recording = Recording::new(true);
        recording.record(1_000_000, 1_000_000, packets);
        recording.traffic.sent_packets = packets;
        recording.traffic.received_packets = packets;
        recording
    }

    /// The results of a run with these intervals, which are pairs of end and packets.
    fn results(intervals: &[(u64, u64)], measured_ns: u64) -> Vec<StageResult> {
        let stages = "ramp 0..100 2s, hold 100 1500ms, hold 0 1s".parse().unwrap();
        let mut results = StageResults::new(&Arc::new(stages), &[50.0, 99.0]);
        intervals.iter().for_each(|(end_ns, packets)| results.add(&recording(*packets), *end_ns));
        results.finish(measured_ns)
    }

    #[test]
    fn a_stage_is_the_sum_of_its_intervals() {
        let half = SECOND_NS / 2;
        let intervals = [(2, 30), (4, 60), (6, 100), (7, 50), (8, 9), (9, 2), (9, 4)];
        let results = results(&intervals.map(|(halves, packets)| (halves * half, packets)), 9 * half);
        let parts: Vec<_> = results
            .iter()
            .map(|stage| (stage.start_s, stage.end_s, stage.asked, stage.sent, stage.packets_per_s))
            .collect();
        assert_eq!(
            parts,
            [(0.0, 2.0, 100, 90, 45.0), (2.0, 3.5, 150, 150, 100.0), (3.5, 4.5, 0, 15, 15.0)],
            "what comes late belongs to the last stage"
        );
        assert_eq!(results[0].name, "ramp 0..100 2s");
        assert_eq!(
            results.iter().map(|stage| stage.offered_pct).collect::<Vec<_>>(),
            [Some(90.0), Some(100.0), None]
        );
        assert_eq!(results[1].latency_ns.service.count, 150);
    }

    #[test]
    fn a_run_that_ends_early_has_the_stages_that_have_begun() {
        let results =
            results(&[(SECOND_NS, 30), (2 * SECOND_NS, 60), (5 * SECOND_NS / 2, 50)], 5 * SECOND_NS / 2);
        let parts: Vec<_> =
            results.iter().map(|stage| (stage.end_s, stage.asked, stage.packets_per_s)).collect();
        assert_eq!(parts, [(2.0, 100, 45.0), (2.5, 50, 100.0)]);
        assert_eq!(self::results(&[], 0), []);
    }
}
