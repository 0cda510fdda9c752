//! What a worker has measured in an interval, in memory that does not grow with the number of packets. It publishes it
//! at the end of the interval, and begins anew.

use hdrhistogram::Histogram;

use crate::record::histogram::new_histogram;

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) traffic: Traffic,
    /// In ns: from the moment of sending, for every verified packet that was due after the warm-up.
    pub(crate) service: Histogram<u64>,
    /// The same packets, from the moment at which they were due; in an open loop alone.
    pub(crate) response: Option<Histogram<u64>>,
    /// Connections that failed, for those who watch the run: why they did is in the tally.
    pub(crate) failed: u64,
}

/// What was sent after the warm-up, and what came back of it. Bytes are those of payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) warmup_packets: u64,
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
}

impl Recording {
    pub(crate) fn new(is_open: bool) -> Self {
        let response = is_open.then(new_histogram);
        Self { traffic: Traffic::default(), service: new_histogram(), response, failed: 0 }
    }

    /// Counts the latencies of so many packets, in ns.
    pub(crate) fn record(&mut self, service_ns: u64, response_ns: u64, packets: u64) {
        self.service.saturating_record_n(service_ns, packets);
        if let Some(response) = &mut self.response {
            response.saturating_record_n(response_ns, packets);
        }
    }

    /// Those that users of the server see, as far as the mode shows them.
    pub(crate) fn primary(&self) -> &Histogram<u64> {
        self.response.as_ref().unwrap_or(&self.service)
    }

    /// Adds what was measured elsewhere in the same mode.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.traffic += other.traffic;
        self.failed += other.failed;
        self.service += &other.service;
        if let (Some(response), Some(other)) = (&mut self.response, &other.response) {
            *response += other;
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
    }
}

/// What a worker publishes: the interval that it has recorded, and the one that it has come to.
pub(crate) struct Published {
    pub(crate) interval: u64,
    pub(crate) next: u64,
    pub(crate) recording: Recording,
}
