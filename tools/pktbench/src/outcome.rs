//! What a run came to, and the verdict on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::document::Verdict;
use crate::plan::{Plan, Schedule};
use crate::tally::Tally;

pub(crate) struct Outcome {
    pub(crate) plan: Arc<Plan>,
    /// Where the server of its own was, if there was one.
    pub(crate) own_addr: Option<SocketAddr>,
    pub(crate) tally: Tally,
    /// When the first packet that counts could be sent.
    pub(crate) since: SystemTime,
    /// How long packets were measured.
    pub(crate) time: Duration,
    pub(crate) interrupted: bool,
    /// Why the run did not begin: a connection could not be made.
    pub(crate) not_connected: Option<String>,
}

impl Outcome {
    /// The servers that were loaded.
    pub(crate) fn servers(&self) -> String {
        let own = self.own_addr.iter().map(ToString::to_string);
        own.chain(self.plan.connect.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn verdict(&self) -> Verdict {
        // What is worse comes first: a damaged packet is never hidden by what happened besides.
        if self.tally.integrity.is_violated() {
            Verdict::Integrity
        } else if self.interrupted {
            Verdict::Interrupted
        } else if self.tally.errors.count() > 0 {
            Verdict::Failed
        } else if self.tally.latency_ns.is_empty() {
            Verdict::NoSamples
        } else {
            Verdict::Pass
        }
    }

    /// Packets a second that came back; 0 where no time was measured.
    pub(crate) fn packets_per_s(&self) -> f64 {
        self.per_second(self.tally.traffic.received_packets)
    }

    pub(crate) fn per_second(&self, count: u64) -> f64 {
        if self.time.is_zero() { 0.0 } else { count as f64 / self.time.as_secs_f64() }
    }
}

/// From the first packet that counts to the last one that came back. Where packets were sent for a time, that time
/// counts to its end even if nothing came back any more: a server that stalls is not to look fast.
pub(crate) fn measured_time(
    schedule: &Schedule,
    last_answer: Option<Instant>,
    ended_at: Instant,
    interrupted: bool,
) -> Duration {
    let last_answer = last_answer.unwrap_or(schedule.measure_from);
    let until = match schedule.stop_at {
        _ if interrupted => ended_at,
        Some(stop_at) => last_answer.max(stop_at.min(ended_at)),
        None => last_answer,
    };
    until.saturating_duration_since(schedule.measure_from)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::account::Integrity;
    use crate::plan::tests::plan;

    const SECOND: Duration = Duration::from_secs(1);

    /// The outcome of a run in which two packets came back after 10 and 30 µs.
    pub(crate) fn outcome() -> Outcome {
        let mut tally = Tally::new();
        for latency_us in [10, 30] {
            tally.answered(Instant::now());
            tally.record(Duration::from_micros(latency_us), 1);
            tally.integrity.verified += 1;
            tally.traffic.sent_packets += 1;
            tally.traffic.sent_bytes += 2048;
            tally.traffic.received_packets += 1;
            tally.traffic.received_bytes += 2048;
        }
        Outcome {
            plan: Arc::new(plan()),
            own_addr: "127.0.0.1:14572".parse().ok(),
            tally,
            since: SystemTime::UNIX_EPOCH + 10 * SECOND,
            time: 2 * SECOND,
            interrupted: false,
            not_connected: None,
        }
    }

    #[test]
    fn the_verdict_is_the_worst_of_what_happened() {
        let mut run = outcome();
        assert_eq!(run.verdict(), Verdict::Pass);
        run.tally.errors.eof = 1;
        assert_eq!(run.verdict(), Verdict::Failed);
        run.interrupted = true;
        assert_eq!(run.verdict(), Verdict::Interrupted);
        run.tally.integrity.altered = 1;
        assert_eq!(run.verdict(), Verdict::Integrity);

        let unanswered = Integrity { unanswered: 5, ..Integrity::default() };
        let empty = Outcome { tally: Tally { integrity: unanswered, ..Tally::new() }, ..outcome() };
        assert_eq!(empty.verdict(), Verdict::NoSamples);
    }

    #[test]
    fn time_runs_to_the_last_packet_but_a_stall_at_the_end_counts() {
        let start = Instant::now();
        let at = |seconds: u32| start + seconds * SECOND;
        let timed = Schedule { measure_from: at(1), stop_at: Some(at(11)) };
        let counted = Schedule { measure_from: at(1), stop_at: None };
        let cases = [
            (timed, Some(at(12)), at(13), false, 11, "the last packets come after the end"),
            (timed, Some(at(3)), at(20), false, 10, "the server stalls"),
            (timed, Some(at(3)), at(3), false, 2, "all connections fail"),
            (timed, Some(at(3)), at(5), true, 4, "interrupted"),
            (timed, None, at(0), true, 0, "interrupted in the warm-up"),
            (counted, Some(at(4)), at(14), false, 3, "a number of packets, and then one that is lost"),
        ];
        for (schedule, last_answer, ended_at, interrupted, seconds, case) in cases {
            let time = measured_time(&schedule, last_answer, ended_at, interrupted);
            assert_eq!(time, seconds * SECOND, "{case}");
        }
    }

    #[test]
    fn no_time_is_no_rate() {
        assert_eq!(Outcome { time: Duration::ZERO, ..outcome() }.packets_per_s(), 0.0);
        assert_eq!(outcome().packets_per_s(), 1.0);
    }
}
