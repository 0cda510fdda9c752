//! What a worker measures in one interval. Its memory does not grow with the number of packets. At the end of the
//! interval the worker publishes the recording and starts a new one.

use hdrhistogram::Histogram;

use crate::record::histogram::new_histogram;
use crate::result::latency::Latencies;
use crate::result::latency::Latency;

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) traffic: Traffic,
    /// Service times in ns: from sending a packet to its response. Only of verified packets that were due after the
    /// warm-up.
    pub(crate) service: Histogram<u64>,
    /// Response times in ns of the same packets: from the time at which a packet was due to its response. Only in an
    /// open loop.
    pub(crate) response: Option<Histogram<u64>>,
    /// Connections that failed. The kinds of failure are in the [tally](crate::record::tally::Tally).
    pub(crate) failed: u64,
    /// The packets of these connections that were not answered.
    pub(crate) failed_packets: u64,
    /// The ages of the packets that were outstanding at the end of the interval: only for `--abort-on`, and in no result.
    pub(crate) outstanding: Option<Box<Ages>>,
    /// The first of them, at most [`MAX_FAILURES`].
    pub(crate) failures: Vec<FailureNote>,
    /// The ages of packets that were never answered, and in the response times of those that were never sent. `None` if there
    /// are none. Boxed because mostly there are none.
    pub(crate) unanswered: Option<Box<Ages>>,
    /// The packets among them that were never sent.
    pub(crate) never_sent: u64,
}

/// If a server closes thousands of connections at once, a few messages say as much as all.
pub(crate) const MAX_FAILURES: usize = 10;

/// A connection that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailureNote {
    /// In ns from the start of the run.
    pub(crate) at_ns: u64,
    pub(crate) text: String,
}

/// How old unanswered packets were at the end of the run, in ns: a lower bound of what their latency would have been.
/// Without them, the latencies would be those of the packets for which the server was fast.
#[derive(Clone, Debug)]
pub(crate) struct Ages {
    /// Since the packet was sent.
    pub(crate) service: Histogram<u64>,
    /// Since it was due. Only in an open loop.
    pub(crate) response: Option<Histogram<u64>>,
}

/// Packets and payload bytes. Unless a field says otherwise, it counts packets that were due after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Packets sent during ramp and warm-up.
    pub(crate) warmup_packets: u64,
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    /// Answers that arrived in the window, intact or not, whenever their packets were sent.
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
    /// Answers that arrived after the window.
    pub(crate) drained_packets: u64,
}

impl Recording {
    pub(crate) fn new(is_open_loop: bool) -> Self {
        let response = is_open_loop.then(new_histogram);
        Self {
            traffic: Traffic::default(),
            service: new_histogram(),
            response,
            failed: 0,
            failures: Vec::new(),
            failed_packets: 0,
            outstanding: None,
            unanswered: None,
            never_sent: 0,
        }
    }

    /// Keeps the text of a failure, unless there are enough of them.
    pub(crate) fn note_failure(&mut self, at_ns: u64, text: impl FnOnce() -> String) {
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(FailureNote { at_ns, text: text() });
        }
    }

    /// The number of outstanding packets that are older than this.
    pub(crate) fn older_than(&self, age_ns: u64) -> u64 {
        let ages = self.outstanding.as_ref().map(|ages| &ages.service);
        ages.map_or(0, |ages| ages.len() - ages.count_between(0, age_ns))
    }

    /// Counts packets of this age that are outstanding at the end of the interval.
    pub(crate) fn record_outstanding(&mut self, service_ns: u64, response_ns: u64, packets: u64) {
        let is_open_loop = self.response.is_some();
        let ages = self.outstanding.get_or_insert_with(|| Box::new(Ages::new(is_open_loop)));
        ages.record(service_ns, response_ns, packets);
    }

    /// Counts a packet that was never answered.
    pub(crate) fn record_unanswered(&mut self, service_ns: u64, response_ns: u64) {
        let is_open_loop = self.response.is_some();
        let ages = self.unanswered.get_or_insert_with(|| Box::new(Ages::new(is_open_loop)));
        ages.record(service_ns, response_ns, 1);
    }

    /// The latencies of the interval, of its answers and of the packets that were outstanding at its end: the service
    /// times, or the primary latency.
    pub(crate) fn with_outstanding(&self, is_service: bool) -> Histogram<u64> {
        let mut latency = if is_service { self.service.clone() } else { self.primary().clone() };
        if let Some(ages) = &self.outstanding {
            latency +=
                if is_service { &ages.service } else { ages.response.as_ref().unwrap_or(&ages.service) };
        }
        latency
    }

    /// Counts packets of an open loop that were due this long ago and never sent.
    pub(crate) fn record_missed(&mut self, response_ns: u64, packets: u64) {
        let is_open_loop = self.response.is_some();
        let ages = self.unanswered.get_or_insert_with(|| Box::new(Ages::new(is_open_loop)));
        if let Some(response) = &mut ages.response {
            response.saturating_record_n(response_ns, packets);
        }
        self.never_sent += packets;
    }

    /// Counts `packets` with the same latencies.
    pub(crate) fn record(&mut self, service_ns: u64, response_ns: u64, packets: u64) {
        self.service.saturating_record_n(service_ns, packets);
        if let Some(response) = &mut self.response {
            response.saturating_record_n(response_ns, packets);
        }
    }

    /// The response times in an open loop, the service times in a closed loop.
    pub(crate) fn primary(&self) -> &Histogram<u64> {
        self.response.as_ref().unwrap_or(&self.service)
    }

    pub(crate) fn latencies(&self, percentiles: &[f64]) -> Latencies {
        let ages = self.unanswered.as_deref();
        let response = self.response.as_ref();
        Latencies {
            service: Latency::listing(percentiles, &self.service, ages.map(|ages| &ages.service), 0),
            response: response.map(|response| {
                let ages = ages.and_then(|ages| ages.response.as_ref());
                Latency::listing(percentiles, response, ages, self.never_sent)
            }),
        }
    }

    /// Adds another recording of the same mode.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.traffic += other.traffic;
        self.failed += other.failed;
        self.failed_packets += other.failed_packets;
        self.never_sent += other.never_sent;
        self.failures.extend_from_slice(&other.failures);
        self.failures.sort_by_key(|failure| failure.at_ns);
        self.failures.truncate(MAX_FAILURES);
        self.service += &other.service;
        if let (Some(response), Some(other)) = (&mut self.response, &other.response) {
            *response += other;
        }
        let is_open_loop = self.response.is_some();
        let add = |sum: &mut Option<Box<Ages>>, other: &Option<Box<Ages>>| {
            if let Some(other) = other {
                sum.get_or_insert_with(|| Box::new(Ages::new(is_open_loop))).merge(other);
            }
        };
        add(&mut self.unanswered, &other.unanswered);
        add(&mut self.outstanding, &other.outstanding);
    }
}

impl Ages {
    fn new(is_open_loop: bool) -> Self {
        Self { service: new_histogram(), response: is_open_loop.then(new_histogram) }
    }

    fn record(&mut self, service_ns: u64, response_ns: u64, packets: u64) {
        self.service.saturating_record_n(service_ns, packets);
        if let Some(response) = &mut self.response {
            response.saturating_record_n(response_ns, packets);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.service += &other.service;
        if let (Some(response), Some(other)) = (&mut self.response, &other.response) {
            *response += other;
        }
    }
}

impl Traffic {
    /// Counts a packet with a payload of `len` bytes that was sent.
    pub(crate) fn sent(&mut self, len: usize, is_measured: bool) {
        if is_measured {
            self.sent_packets += 1;
            self.sent_bytes += len as u64;
        } else {
            self.warmup_packets += 1;
        }
    }
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            warmup_packets: self.warmup_packets - other.warmup_packets,
            sent_packets: self.sent_packets - other.sent_packets,
            sent_bytes: self.sent_bytes - other.sent_bytes,
            received_packets: self.received_packets - other.received_packets,
            received_bytes: self.received_bytes - other.received_bytes,
            drained_packets: self.drained_packets - other.drained_packets,
        }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.warmup_packets += other.warmup_packets;
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
        self.drained_packets += other.drained_packets;
    }
}

/// What a worker publishes: the recording of `interval`. `next` is the interval that the worker records now, or
/// `u64::MAX` if it has ended.
pub(crate) struct Published {
    pub(crate) interval: u64,
    pub(crate) next: u64,
    pub(crate) recording: Recording,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_of_all_workers_are_kept_in_the_order_of_their_times() {
        let worker = |times: std::ops::Range<u64>| {
            let mut recording = Recording::new(false);
            for at_ns in times {
                recording.failed += 1;
                recording.note_failure(at_ns, || format!("{at_ns}"));
            }
            recording
        };
        let mut sum = worker(5..50);
        sum.merge(&worker(0..3));
        sum.merge(&worker(90..91));
        let times: Vec<_> = sum.failures.iter().map(|failure| failure.at_ns).collect();
        assert_eq!((sum.failed, times), (49, vec![0, 1, 2, 5, 6, 7, 8, 9, 10, 11]));
    }
}
