//! What a worker has counted, in constant memory, and the sum of all workers.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pktconn::FrameError;

use crate::account::Integrity;
use crate::document::Errors;
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
    pub(crate) errors: Errors,
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

/// The longest latency that is told apart from longer ones.
const MAX_LATENCY: Duration = Duration::from_secs(60 * 60);

/// Three digits: 0.1 % is far below the spread of a run. More of them would leave the cache.
const DIGITS: u8 = 3;

/// Of ns.
pub(crate) fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, MAX_LATENCY.as_nanos() as u64, DIGITS);
    histogram.expect("the bounds are constants that a histogram takes")
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            latency_ns: new_histogram(),
            answers: 0,
            last_answer: None,
            traffic: Traffic::default(),
            integrity: Integrity::default(),
            errors: Errors::default(),
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
        self.errors.merge(other.errors);
    }
}

impl Errors {
    /// Counts the failure of connection `conn`.
    pub(crate) fn add(&mut self, conn: usize, failure: &Failure, unanswered: u64) {
        *self.counter(failure) += 1;
        self.first.get_or_insert_with(|| {
            format!("connection {conn}: {failure} (packets unanswered: {unanswered})")
        });
    }

    /// Counts a connection that is well, on which so many packets have not come back in time.
    pub(crate) fn add_timeout(&mut self, conn: usize, lost: u64) {
        self.timeout += 1;
        self.first
            .get_or_insert_with(|| format!("connection {conn}: packets not back within --timeout: {lost}"));
    }

    fn counter(&mut self, failure: &Failure) -> &mut u64 {
        match failure {
            Failure::Closed => &mut self.eof,
            Failure::Frame(FrameError::Truncated { .. }) => &mut self.truncated,
            Failure::Frame(FrameError::ChecksumMismatch { .. }) => &mut self.checksum,
            Failure::Frame(_) => &mut self.protocol,
            Failure::Io(error) if is_reset(error) => &mut self.reset,
            Failure::Io(_) => &mut self.io,
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        let Self { connect, reset, timeout, eof, truncated, checksum, protocol, io, first } = other;
        self.connect += connect;
        self.reset += reset;
        self.timeout += timeout;
        self.eof += eof;
        self.truncated += truncated;
        self.checksum += checksum;
        self.protocol += protocol;
        self.io += io;
        self.first = self.first.take().or(first);
    }
}

/// As a write says it, too.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
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
        sum.errors.add(3, &Failure::Closed, 2);
        other.answered(now);
        other.answered(now);
        other.record(Duration::from_micros(30), 1);
        other.errors.add(9, &Failure::Closed, 1);
        sum.merge(other);
        assert_eq!((sum.answers, sum.latency_ns.len(), sum.last_answer), (3, 2, Some(later)));
        assert_eq!(sum.errors.count(), 2);
        let first = "connection 3: the peer closed the connection (packets unanswered: 2)";
        assert_eq!(sum.errors.first.as_deref(), Some(first));
    }

    #[test]
    fn a_latency_beyond_the_bounds_counts_as_the_longest() {
        let mut tally = Tally::new();
        tally.record(Duration::from_secs(5 * 60 * 60), 2);
        tally.record(Duration::ZERO, 1);
        assert_eq!(tally.latency_ns.len(), 3);
        assert!(tally.latency_ns.max() >= MAX_LATENCY.as_nanos() as u64);
    }
}
