//! The phase of a run, how much of it is done, what is left, and its current speed.
//!
//! ```text
//!   connecting -> ramp -> warm-up -> measuring -> waiting
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::plan::{Amount, Plan};
use crate::report::status::{RunStatus, Running};
use crate::result::units;
use crate::result::units::plural;

/// The speed is the average over this time. A shorter time makes the number jump.
const SPEED_WINDOW: Duration = Duration::from_secs(1);

pub(super) struct PhaseTracker {
    conns: usize,
    amount: Amount,
    timeout: Duration,
    ramp: Duration,
    measure_from: Duration,
    /// The last counts before the measurement started.
    before: Counts,
    /// The counts of the last [`SPEED_WINDOW`].
    recent: VecDeque<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    at: Duration,
    sent: u64,
    answers: u64,
}

/// The phase, and the progress of the whole run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PhaseStatus {
    pub(super) phase: &'static str,
    /// From 0 to 1.
    pub(super) done: f64,
    pub(super) left: String,
}

impl PhaseTracker {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            conns: plan.conns,
            amount: plan.amount,
            timeout: plan.timeout,
            ramp: plan.ramp,
            measure_from: plan.ramp + plan.warmup,
            before: Counts::default(),
            recent: VecDeque::new(),
        }
    }

    pub(super) fn record(&mut self, status: &RunStatus<'_>) {
        let RunStatus::Running(Running { elapsed: at, sent, answers, .. }) = *status else { return };
        let counts = Counts { at, sent, answers };
        if at < self.measure_from {
            self.before = counts;
        }
        self.recent.push_back(counts);
        // Keep one entry that is at least `SPEED_WINDOW` old: the speed is counted from it.
        while self.recent.get(1).is_some_and(|second| second.at + SPEED_WINDOW <= at) {
            self.recent.pop_front();
        }
    }

    /// Responses per second over about the last second. `None` until two counts were recorded.
    pub(super) fn packets_per_s(&self) -> Option<f64> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        let time = last.at.saturating_sub(first.at).as_secs_f64();
        (time > 0.0).then(|| (last.answers - first.answers) as f64 / time)
    }

    pub(super) fn phase_status(&self, status: &RunStatus<'_>) -> PhaseStatus {
        let running = match status {
            RunStatus::Connecting(made) => {
                let left = format!("{} of {}", units::count(*made as u64), plural(self.conns, "connection"));
                return PhaseStatus {
                    phase: "connecting",
                    done: share(*made as f64, self.conns as f64),
                    left,
                };
            }
            RunStatus::Running(running) => running,
        };
        match self.amount {
            Amount::Time(duration) => self.for_time(running, self.measure_from + duration),
            Amount::Packets(packets) => self.for_packets(running, packets),
        }
    }

    /// The phase if the measurement has not started.
    fn before_measuring(&self, elapsed: Duration) -> Option<&'static str> {
        match elapsed {
            _ if elapsed < self.ramp => Some("ramp"),
            _ if elapsed < self.measure_from => Some("warm-up"),
            _ => None,
        }
    }

    fn for_time(&self, running: &Running<'_>, end: Duration) -> PhaseStatus {
        let elapsed = running.elapsed;
        if elapsed >= end {
            let left = (end + self.timeout).saturating_sub(elapsed);
            return waiting(running, &format!(", up to {}", seconds(left)));
        }
        PhaseStatus {
            phase: self.before_measuring(elapsed).unwrap_or("measuring"),
            done: share(elapsed.as_secs_f64(), end.as_secs_f64()),
            left: format!("{} left", seconds(end - elapsed)),
        }
    }

    fn for_packets(&self, running: &Running<'_>, packets: u64) -> PhaseStatus {
        if let Some(phase) = self.before_measuring(running.elapsed) {
            let left =
                format!("{} until the measurement starts", seconds(self.measure_from - running.elapsed));
            return PhaseStatus { phase, done: 0.0, left };
        }
        if running.sent - self.before.sent >= packets {
            return waiting(running, "");
        }
        let answers = running.answers - self.before.answers;
        let missing = packets.saturating_sub(answers);
        let time = self.packets_per_s().map(|speed| missing as f64 / speed);
        // At a speed of 0 there is no end to predict.
        let time = time.and_then(|time| Duration::try_from_secs_f64(time).ok());
        PhaseStatus {
            phase: "measuring",
            done: share(answers as f64, packets as f64),
            left: match time {
                Some(time) => format!("{} packets, about {} left", units::count(missing), seconds(time)),
                None => format!("{} packets left", units::count(missing)),
            },
        }
    }
}

fn waiting(running: &Running<'_>, up_to: &str) -> PhaseStatus {
    let outstanding = running.sent.saturating_sub(running.answers) as usize;
    PhaseStatus {
        phase: "waiting",
        done: 1.0,
        left: format!("for {}{up_to}", plural(outstanding, "response")),
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

/// Rounded up, so that the last second is not shown as `0s`.
fn seconds(time: Duration) -> String {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn running(elapsed_ms: u64, sent: u64, answers: u64) -> RunStatus<'static> {
        let elapsed = Duration::from_millis(elapsed_ms);
        RunStatus::Running(Running { elapsed, sent, answers, open: 0, intervals: &[], failed: 0 })
    }

    fn tracker(amount: Amount) -> PhaseTracker {
        let (ramp, warmup) = (Duration::from_secs(1), Duration::from_secs(2));
        PhaseTracker::new(&Plan { amount, ramp, warmup, ..plan() })
    }

    fn shown(tracker: &PhaseTracker, status: &RunStatus<'_>) -> (&'static str, String, f64) {
        let PhaseStatus { phase, done, left } = tracker.phase_status(status);
        (phase, left, done)
    }

    #[test]
    fn a_timed_run_shows_each_phase_and_the_time_left_in_whole_seconds() {
        let tracker = tracker(Amount::Time(Duration::from_secs(7)));
        let cases = [
            (RunStatus::Connecting(5), ("connecting", "5 of 10 connections", 0.5)),
            (running(0, 0, 0), ("ramp", "10s left", 0.0)),
            (running(1000, 0, 0), ("warm-up", "9s left", 0.1)),
            (running(5000, 9, 9), ("measuring", "5s left", 0.5)),
            (running(9999, 9, 8), ("measuring", "1s left", 0.9999)),
            (running(10_000, 9, 8), ("waiting", "for 1 response, up to 10s", 1.0)),
            (running(99_000, 9, 0), ("waiting", "for 9 responses, up to 0s", 1.0)),
        ];
        for (status, (phase, left, done)) in cases {
            assert_eq!(shown(&tracker, &status), (phase, left.to_owned(), done), "{status:?}");
        }
    }

    #[test]
    fn the_warm_up_does_not_count_towards_the_number_of_packets() {
        let mut tracker = tracker(Amount::Packets(1000));
        let mut after = |status: RunStatus<'_>| {
            tracker.record(&status);
            shown(&tracker, &status)
        };
        assert_eq!(after(running(0, 0, 0)), ("ramp", "3s until the measurement starts".to_owned(), 0.0));
        assert_eq!(after(running(2900, 501, 500)).0, "warm-up");
        let measuring = "750 packets, about 3s left".to_owned();
        assert_eq!(after(running(3900, 751, 750)), ("measuring", measuring, 0.25));
        assert_eq!(after(running(5000, 1501, 1490)), ("waiting", "for 11 responses".to_owned(), 1.0));
    }

    #[test]
    fn without_a_response_no_remaining_time_is_shown() {
        let mut tracker = PhaseTracker::new(&plan());
        tracker.record(&running(0, 0, 0));
        tracker.record(&running(500, 10, 0));
        assert_eq!(shown(&tracker, &running(500, 10, 0)).1, "1,000 packets left");
    }

    #[test]
    fn the_speed_is_that_of_the_last_second() {
        let mut tracker = PhaseTracker::new(&plan());
        assert_eq!(tracker.packets_per_s(), None);
        tracker.record(&running(0, 0, 0));
        assert_eq!(tracker.packets_per_s(), None, "one count has no duration");
        for tick in 1..=20 {
            tracker.record(&running(tick * 100, 1000, tick * 10));
        }
        assert_eq!(tracker.packets_per_s(), Some(100.0));
        for tick in 21..=30 {
            tracker.record(&running(tick * 100, 1000, 200));
        }
        assert_eq!(tracker.packets_per_s(), Some(0.0));
        assert!(tracker.recent.len() <= 12, "more than a second is kept: {}", tracker.recent.len());
    }
}
