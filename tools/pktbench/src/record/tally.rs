//! The counts of a worker over the whole run, in constant memory, and the sum over all workers.

use std::io;

use pktconn::FrameError;

use crate::record::dials::Dials;
use crate::record::failure::Failure;
use crate::record::recording::Recording;
use crate::record::saturation::client_tally::ClientTally;
use crate::record::size_classes::SizeClasses;
use crate::result::document::Errors;
use crate::traffic::verify::Integrity;

/// The counts of a worker over the whole run. The conductor merges them at the end. Values over time are in
/// [`Recording`]s.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Packets sent, including the warm-up.
    pub(crate) sent: u64,
    /// Received packets that answered an outstanding packet, including the warm-up, intact or not. Duplicates do not
    /// count.
    pub(crate) answers: u64,
    /// The time of the last answer, in ns from the start of the run.
    pub(crate) last_answer_ns: Option<u64>,
    /// The time at which the last packet was sent, in ns from the start of the run.
    pub(crate) last_sent_ns: u64,
    /// The shortest service time, including the warm-up, in which an overloaded server has no queue yet.
    pub(crate) fastest_ns: Option<u64>,
    /// What happened to the packets, including the warm-up. A connection is added when it ends.
    pub(crate) integrity: Integrity,
    pub(crate) errors: Errors,
    pub(crate) client: ClientTally,
    pub(crate) sizes: SizeClasses,
    pub(crate) dials: Dials,
    /// For each address.
    pub(crate) targets: Vec<TargetTally>,
}

/// What happened at one address.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetTally {
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Connections that could not be opened or failed.
    pub(crate) failed: u64,
    /// The message of the first failure.
    pub(crate) first: Option<String>,
    /// The whole run. Only with several addresses; with one, the recordings of the intervals are enough.
    pub(crate) recording: Option<Box<Recording>>,
}

impl TargetTally {
    pub(crate) fn failed(&mut self, problem: &str) {
        self.failed += 1;
        self.first.get_or_insert_with(|| problem.to_owned());
    }

    fn merge(&mut self, other: Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.first = self.first.take().or(other.first);
        if let (Some(recording), Some(other)) = (&mut self.recording, &other.recording) {
            recording.merge(other);
        }
    }
}

impl Tally {
    /// The tally of a worker that loads `targets` addresses.
    pub(crate) fn new(is_open_loop: bool, targets: usize) -> Self {
        let recording = || (targets > 1).then(|| Box::new(Recording::new(is_open_loop)));
        let target = || TargetTally { recording: recording(), ..TargetTally::default() };
        Self {
            sent: 0,
            answers: 0,
            last_answer_ns: None,
            last_sent_ns: 0,
            fastest_ns: None,
            integrity: Integrity::default(),
            errors: Errors::default(),
            client: ClientTally::new(is_open_loop),
            sizes: SizeClasses::default(),
            dials: Dials::default(),
            targets: std::iter::repeat_with(target).take(targets).collect(),
        }
    }

    /// Counts an answer that was received at `now_ns`.
    pub(crate) fn answered(&mut self, now_ns: u64) {
        self.answers += 1;
        self.last_answer_ns = Some(now_ns);
    }

    /// Adds the counts of another worker.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.answers += other.answers;
        self.last_answer_ns = self.last_answer_ns.max(other.last_answer_ns);
        self.last_sent_ns = self.last_sent_ns.max(other.last_sent_ns);
        self.fastest_ns = self.fastest_ns.into_iter().chain(other.fastest_ns).min();
        self.integrity += other.integrity;
        self.errors.merge(other.errors);
        self.client.merge(&other.client);
        self.sizes.merge(&other.sizes);
        self.dials.merge(&other.dials);
        for (target, other) in self.targets.iter_mut().zip(other.targets) {
            target.merge(other);
        }
    }
}

impl Errors {
    /// Counts the failure of connection `conn`. Returns its description.
    pub(crate) fn add(&mut self, conn: usize, failure: &Failure, unanswered: u64) -> String {
        *self.counter(failure) += 1;
        let problem = failure_text(conn, failure, unanswered);
        self.first.get_or_insert_with(|| problem.clone());
        problem
    }

    /// Counts a connection that could not be opened.
    pub(crate) fn add_refused(&mut self, problem: &str) {
        self.connect += 1;
        self.first.get_or_insert_with(|| problem.to_owned());
    }

    /// Counts connection `conn`, which is open, and whose outstanding packets did not come back in time.
    pub(crate) fn add_timeout(&mut self, conn: usize, unanswered: u64) {
        self.timeout += 1;
        self.first.get_or_insert_with(|| timeout_text(conn, unanswered));
    }

    fn counter(&mut self, failure: &Failure) -> &mut u64 {
        match failure {
            Failure::Closed => &mut self.eof,
            Failure::Frame(FrameError::Truncated { .. }) => &mut self.truncated,
            Failure::Frame(FrameError::ChecksumMismatch { .. }) => &mut self.checksum,
            Failure::Frame(_) => &mut self.protocol,
            Failure::Io(error) if is_reset(error) => &mut self.reset,
            Failure::Io(_) => &mut self.io,
            Failure::TimedOut => &mut self.timeout,
        }
    }

    /// Adds the counts of `other`. Saturating: `pktbench merge` also adds counts from files, which may be any numbers.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self { connect, reset, timeout, eof, truncated, checksum, protocol, io, first } = other;
        self.connect = self.connect.saturating_add(connect);
        self.reset = self.reset.saturating_add(reset);
        self.timeout = self.timeout.saturating_add(timeout);
        self.eof = self.eof.saturating_add(eof);
        self.truncated = self.truncated.saturating_add(truncated);
        self.checksum = self.checksum.saturating_add(checksum);
        self.protocol = self.protocol.saturating_add(protocol);
        self.io = self.io.saturating_add(io);
        self.first = self.first.take().or(first);
    }
}

/// The message of a connection that failed.
pub(crate) fn failure_text(conn: usize, failure: &Failure, unanswered: u64) -> String {
    format!("connection {conn}: {failure} (unanswered packets: {unanswered})")
}

/// The message of a connection whose outstanding packets did not come back in time.
pub(crate) fn timeout_text(conn: usize, unanswered: u64) -> String {
    format!("connection {conn}: no response within --timeout (unanswered packets: {unanswered})")
}

/// A write to a connection that was reset fails with `BrokenPipe`.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_keeps_the_first_failure_and_the_last_answer() {
        let (mut sum, mut other) = (Tally::new(false, 1), Tally::new(false, 1));
        sum.answered(2000);
        sum.errors.add(3, &Failure::Closed, 2);
        other.answered(1000);
        other.answered(1000);
        other.errors.add(9, &Failure::Closed, 1);
        sum.merge(other);
        assert_eq!((sum.answers, sum.last_answer_ns), (3, Some(2000)));
        assert_eq!((sum.errors.count(), sum.errors.eof), (2, 2));
        let first = "connection 3: the server closed the connection (unanswered packets: 2)";
        assert_eq!(sum.errors.first.as_deref(), Some(first));
    }
}
