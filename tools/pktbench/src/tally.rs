//! What a worker has counted, in constant memory, and the sum of all workers.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pktconn::FrameError;

use crate::account::Integrity;
use crate::failure::Failure;

/// The counts of a worker, merged at the end.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// From `send` to the return of the packet, for every verified packet that was sent after the warm-up.
    pub(crate) latency_ns: Histogram<u64>,
    /// Packets that have come back and answered one that was outstanding, verified or not.
    pub(crate) answers: u64,
    pub(crate) last_answer: Option<Instant>,
    /// Of connections that have ended.
    pub(crate) traffic: Traffic,
    /// Of connections that have ended, the warm-up included.
    pub(crate) integrity: Integrity,
    pub(crate) failures: Failures,
}

/// What was sent after the warm-up, and what came back of it. Bytes are those of payloads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) warmup_packets: u64,
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
}

/// The connections that failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    pub(crate) closed: u64,
    pub(crate) truncated: u64,
    pub(crate) protocol: u64,
    pub(crate) io: u64,
    /// What the first of them said.
    pub(crate) first: Option<String>,
}

impl Tally {
    /// The longest latency that is told apart from longer ones.
    const MAX_LATENCY: Duration = Duration::from_secs(60 * 60);

    /// Three digits: 0.1 % is far below the spread of a run. More of them would leave the cache.
    const DIGITS: u8 = 3;

    pub(crate) fn new() -> Self {
        let max_ns = Self::MAX_LATENCY.as_nanos() as u64;
        let latency_ns = Histogram::new_with_bounds(1, max_ns, Self::DIGITS);
        Self {
            latency_ns: latency_ns.expect("the bounds are constants that a histogram takes"),
            answers: 0,
            last_answer: None,
            traffic: Traffic::default(),
            integrity: Integrity::default(),
            failures: Failures::default(),
        }
    }

    /// Counts an answer that came at `now`.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answers += 1;
        self.last_answer = Some(now);
    }

    /// Counts the latency of so many packets.
    pub(crate) fn record(&mut self, latency: Duration, packets: u64) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns.saturating_record_n(latency_ns, packets);
    }

    /// Adds the counts of another worker.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency_ns += other.latency_ns;
        self.answers += other.answers;
        self.last_answer = self.last_answer.max(other.last_answer);
        self.traffic += other.traffic;
        self.integrity += other.integrity;
        self.failures.merge(other.failures);
    }
}

impl Failures {
    /// Counts the failure of connection `conn`.
    pub(crate) fn add(&mut self, conn: usize, failure: &Failure, unanswered: u64) {
        let counter = match failure {
            Failure::Closed => &mut self.closed,
            Failure::Frame(FrameError::Truncated { .. }) => &mut self.truncated,
            Failure::Frame(_) => &mut self.protocol,
            Failure::Io(_) => &mut self.io,
        };
        *counter += 1;
        self.first.get_or_insert_with(|| {
            format!("connection {conn}: {failure} (packets unanswered: {unanswered})")
        });
    }

    pub(crate) fn count(&self) -> u64 {
        self.closed + self.truncated + self.protocol + self.io
    }

    fn merge(&mut self, other: Self) {
        self.closed += other.closed;
        self.truncated += other.truncated;
        self.protocol += other.protocol;
        self.io += other.io;
        self.first = self.first.take().or(other.first);
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.warmup_packets += other.warmup_packets;
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_up_and_keeps_the_first_failure_and_the_last_answer() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (mut sum, mut other) = (Tally::new(), Tally::new());
        sum.answered(later);
        sum.record(Duration::from_micros(10), 1);
        sum.failures.add(3, &Failure::Closed, 2);
        other.answered(now);
        other.answered(now);
        other.record(Duration::from_micros(30), 1);
        other.failures.add(9, &Failure::Closed, 1);
        sum.merge(other);
        assert_eq!((sum.answers, sum.latency_ns.len(), sum.last_answer), (3, 2, Some(later)));
        assert_eq!(sum.failures.count(), 2);
        let first = "connection 3: the peer closed the connection (packets unanswered: 2)";
        assert_eq!(sum.failures.first.as_deref(), Some(first));
    }

    #[test]
    fn a_latency_beyond_the_bounds_counts_as_the_longest() {
        let mut tally = Tally::new();
        tally.record(Duration::from_secs(5 * 60 * 60), 2);
        tally.record(Duration::ZERO, 1);
        assert_eq!(tally.latency_ns.len(), 3);
        assert!(tally.latency_ns.max() >= Tally::MAX_LATENCY.as_nanos() as u64);
    }
}
