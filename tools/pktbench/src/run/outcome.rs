//! Everything that a run measured, and the verdict that follows from the run alone. Thresholds and baselines are judged
//! later, by `judge/`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::plan::Plan;
use crate::plan::clock::whole_ns;
use crate::plan::schedule::Schedule;
use crate::record::dials::Dials;
use crate::record::missed::Missed;
use crate::record::recording::Recording;
use crate::record::saturation::host_watch::HostUsage;
use crate::record::saturation::reasons::reasons;
use crate::record::tally::Tally;
use crate::result::document::{Aborted, Interval, Limit, Offered, StageResult};
use crate::result::saturation::Reason;
use crate::result::verdict::Verdict;

pub(crate) struct Outcome {
    pub(crate) plan: Arc<Plan>,
    /// The address of the built-in echo server, if it was used.
    pub(crate) own_addr: Option<SocketAddr>,
    /// The addresses that were loaded, in the order of the tally's `targets`.
    pub(crate) addresses: Vec<String>,
    pub(crate) tally: Tally,
    pub(crate) host: HostUsage,
    pub(crate) recording: Recording,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) stages: Vec<StageResult>,
    /// The start of the measurement: the end of the warm-up.
    pub(crate) measured_from: SystemTime,
    /// The length of the window; see [`measured_time`].
    pub(crate) measured_time: Duration,
    /// The time from the end of the window to the last answer.
    pub(crate) drain_time: Duration,
    pub(crate) interrupted: bool,
    /// The condition of `--abort-on` that ended the run.
    pub(crate) aborted: Option<Aborted>,
}

/// If answers take at most this many times the shortest time on average, they do not queue at the server. With two
/// packets outstanding at a server that answers one after the other, they take twice the time.
const MAX_QUEUEING: f64 = 1.5;

impl Outcome {
    /// `None` in a closed loop.
    pub(crate) fn offered(&self) -> Option<Offered> {
        if self.plan.conns_per_second.is_some() {
            // A connection that is due is missed if all of --conns are in use.
            let Dials { started, missed, .. } = self.tally.dials;
            return Some(Offered::of(started, missed, Some(Limit::Window)));
        }
        let missed = self.tally.client.missed;
        let sent = self.recording.traffic.sent_packets;
        self.plan.is_open().then(|| Offered::of(sent, missed.count(), Some(self.limit())))
    }

    /// What prevented most of the missed packets.
    fn limit(&self) -> Limit {
        let Missed { window, socket, failed, late } = self.tally.client.missed;
        let service = &self.recording.service;
        let measured_ns = (!service.is_empty()).then(|| service.min());
        let fastest_ns = measured_ns.into_iter().chain(self.tally.fastest_ns).min().unwrap_or(0);
        if late > window.max(socket + failed) {
            Limit::LoadGenerator
        } else if window > socket + failed
            && !service.is_empty()
            && service.mean() <= MAX_QUEUEING * fastest_ns as f64
        {
            Limit::Window
        } else {
            Limit::Server
        }
    }

    /// Why the load generator was saturated. Empty if it was not.
    pub(crate) fn saturated_by(&self) -> Vec<Reason> {
        reasons(&self.tally.client, &self.host, whole_ns(self.measured_time))
    }

    /// All that went wrong, the worst first.
    pub(crate) fn problems(&self) -> Vec<Verdict> {
        let Tally { integrity, errors, .. } = &self.tally;
        let is_offered = self.offered().is_none_or(|offered| offered.pct >= self.plan.min_offered_pct);
        let is_saturated = !self.saturated_by().is_empty();
        let saturated = if self.plan.strict_client { Verdict::Saturated } else { Verdict::PassSaturated };
        let problems = [
            (Verdict::Integrity, integrity.violations() > 0),
            (Verdict::Interrupted, self.interrupted),
            (Verdict::Failed, errors.failed_conns() > 0),
            (Verdict::NoAnswer, errors.timeout > 0),
            (Verdict::NotOffered, !is_offered),
            (Verdict::NoSamples, self.recording.service.is_empty()),
            (saturated, is_saturated),
            (Verdict::Threshold, self.aborted.is_some()),
        ];
        // The worst first: nothing else may hide a damaged packet.
        let mut found: Vec<_> =
            problems.into_iter().filter(|(_, applies)| *applies).map(|(verdict, _)| verdict).collect();
        found.sort_by_key(|verdict| verdict.rank());
        found
    }
}

/// The length of the window: from the end of the warm-up to the end of `--duration`, or to the last answer of a number of
/// packets, or to the last packet if that came later. One late answer does not make it longer, and a server that stalls does
/// not make it shorter.
pub(crate) fn measured_time(
    schedule: &Schedule,
    last_sent_ns: u64,
    last_answer_ns: Option<u64>,
    ended_at_ns: u64,
    ended_early: bool,
) -> Duration {
    let until_ns = match schedule.stop_at_ns {
        Some(stop_at_ns) => stop_at_ns.min(ended_at_ns),
        None if ended_early => ended_at_ns,
        None => last_answer_ns.unwrap_or(schedule.measure_from_ns).max(last_sent_ns),
    };
    Duration::from_nanos(until_ns.saturating_sub(schedule.measure_from_ns))
}

/// The time from the end of sending to the last answer.
pub(crate) fn drain_time(schedule: &Schedule, last_answer_ns: Option<u64>) -> Duration {
    let times = schedule.stop_at_ns.zip(last_answer_ns);
    Duration::from_nanos(times.map_or(0, |(stop_at_ns, last_ns)| last_ns.saturating_sub(stop_at_ns)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::Pace;
    use crate::plan::clock::Clock;
    use crate::plan::schedule::Grid;
    use crate::plan::tests::plan;
    use crate::traffic::arrivals::Arrival;
    use std::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    /// The outcome of a run in which two packets came back after 10 and 30 µs.
    pub(crate) fn outcome() -> Outcome {
        let mut tally = Tally::new(false, 1);
        let mut recording = Recording::new(false);
        for latency_us in [10, 30] {
            tally.answered(latency_us * 1000);
            tally.sizes.record(2048, latency_us * 1000);
            tally.sizes.count(2048);
            tally.integrity.verified += 1;
            recording.record(latency_us * 1000, latency_us * 1000, 1);
            recording.traffic.sent_packets += 1;
            recording.traffic.sent_bytes += 2048;
            recording.traffic.received_packets += 1;
            recording.traffic.received_bytes += 2048;
        }
        Outcome {
            plan: Arc::new(plan()),
            own_addr: "127.0.0.1:14572".parse().ok(),
            addresses: vec!["127.0.0.1:14572".to_owned()],
            tally,
            host: HostUsage::default(),
            recording,
            intervals: Vec::new(),
            stages: Vec::new(),
            measured_from: SystemTime::UNIX_EPOCH + 10 * SECOND,
            measured_time: 2 * SECOND,
            drain_time: Duration::ZERO,
            interrupted: false,
            aborted: None,
        }
    }

    /// The outcome of a run in which nothing came back.
    pub(crate) fn nothing() -> Outcome {
        Outcome { tally: Tally::new(false, 1), recording: Recording::new(false), ..outcome() }
    }

    #[test]
    fn the_verdict_is_the_worst_of_what_happened() {
        let mut run = outcome();
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Pass);
        run.aborted = Some(Aborted { condition: "p99>1s".to_owned(), at_s: 3.0 });
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Threshold);
        run.tally.errors.timeout = 1;
        assert_eq!(Verdict::worst(&run.problems()), Verdict::NoAnswer);
        run.tally.errors.eof = 1;
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Failed);
        run.interrupted = true;
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Interrupted);
        run.tally.integrity.corrupted = 1;
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Integrity);

        let mut empty = nothing();
        empty.tally.integrity.unanswered = 5;
        assert_eq!(Verdict::worst(&empty.problems()), Verdict::NoSamples);
    }

    #[test]
    fn a_saturated_load_generator_is_a_verdict_of_its_own_and_fails_only_if_it_must_not_be() {
        let mut run = outcome();
        run.host.throttled_ns = Some(1_000_000_000);
        assert_eq!(Verdict::worst(&run.problems()), Verdict::PassSaturated);
        run.plan = Arc::new(Plan { strict_client: true, ..plan() });
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Saturated);
        run.tally.errors.eof = 1;
        assert_eq!(Verdict::worst(&run.problems()), Verdict::Failed);
    }

    /// An open loop in which `sent` packets were sent, and others were missed.
    fn open_loop(sent: u64, missed: Missed, service_us: [u64; 2]) -> Outcome {
        let pace = Pace::Open { rate: 1000.0, arrival: Arrival::Constant, max_outstanding: 8 };
        let mut run = Outcome { plan: Arc::new(Plan { pace, ..plan() }), ..outcome() };
        run.recording = Recording::new(true);
        service_us.iter().for_each(|us| run.recording.record(us * 1000, us * 1000, 1));
        run.recording.traffic.sent_packets = sent;
        run.tally.client.missed = missed;
        run
    }

    #[test]
    fn a_load_that_was_not_offered_is_a_verdict_and_its_limit_is_named() {
        let missed = Missed::default();
        let cases = [
            (100, missed, [10, 30], 100.0, None, Verdict::Pass),
            (995, Missed { window: 5, ..missed }, [10, 30], 99.5, Some(Limit::Server), Verdict::Pass),
            (
                166,
                Missed { window: 3834, ..missed },
                [24, 190],
                4.15,
                Some(Limit::Server),
                Verdict::NotOffered,
            ),
            (50, Missed { window: 50, ..missed }, [20, 21], 50.0, Some(Limit::Window), Verdict::NotOffered),
            (50, Missed { socket: 50, ..missed }, [20, 21], 50.0, Some(Limit::Server), Verdict::NotOffered),
            (50, Missed { failed: 50, ..missed }, [20, 21], 50.0, Some(Limit::Server), Verdict::NotOffered),
            (
                50,
                Missed { late: 49, window: 1, ..missed },
                [20, 21],
                50.0,
                Some(Limit::LoadGenerator),
                Verdict::NotOffered,
            ),
        ];
        for (sent, missed, service_us, pct, limit, verdict) in cases {
            let run = open_loop(sent, missed, service_us);
            let offered = run.offered().unwrap();
            assert!((offered.pct - pct).abs() < 1e-9, "{offered:?}");
            assert_eq!(
                (offered.missed, offered.limit, Verdict::worst(&run.problems())),
                (missed.count(), limit, verdict)
            );
        }
        assert_eq!(outcome().offered(), None, "a closed loop");
    }

    #[test]
    fn the_window_ends_with_the_duration_whenever_the_last_answer_comes() {
        let at = |seconds: u64| seconds * 1_000_000_000;
        let schedule = |stop_at_ns| Schedule {
            clock: Clock::new(Instant::now()),
            measure_from_ns: at(1),
            stop_at_ns,
            grid: Grid::new(at(1), std::iter::empty()),
            profile: None,
        };
        let (timed, counted) = (schedule(Some(at(11))), schedule(None));
        let cases = [
            (timed, Some(at(12)), at(13), false, 10, "the last packets come back after stop_at"),
            (timed, Some(at(12)), at(12), true, 10, "interrupted in the drain"),
            (timed, Some(at(3)), at(20), false, 10, "the server stalls until the end"),
            (timed, Some(at(3)), at(3), false, 2, "all connections fail"),
            (timed, Some(at(3)), at(5), true, 4, "interrupted"),
            (timed, None, at(0), true, 0, "interrupted during the warm-up"),
            (
                counted,
                Some(at(4)),
                at(14),
                false,
                3,
                "--packets, the last one lost: the wait for it is not measured",
            ),
        ];
        for (schedule, last_answer, ended_at, interrupted, seconds, case) in cases {
            let last_sent = last_answer.unwrap_or(0).min(at(4));
            let time = measured_time(&schedule, last_sent, last_answer, ended_at, interrupted);
            assert_eq!(time, seconds * SECOND, "{case}");
        }
        let stalled = measured_time(&counted, at(6), Some(at(2)), at(16), false);
        assert_eq!(stalled, 5 * SECOND, "--packets, and the server answers nothing from 2 s on");
        assert_eq!(drain_time(&timed, Some(at(12))), SECOND);
        assert_eq!(drain_time(&timed, Some(at(3))), Duration::ZERO);
        assert_eq!(drain_time(&counted, Some(at(12))), Duration::ZERO);
    }
}
