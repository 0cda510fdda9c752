//! The report of a client after a run.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What a client that runs when it is told to prints when it has connected. Each line on its standard input, a seed, then
/// starts a run.
pub const CONNECTED_LINE: &str = "connected";

/// What the client measured in one run. The client prints it as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Number of packets sent and echoed.
    pub packets: u64,
    /// Time from the first packet sent to the last reply.
    pub seconds: f64,
    /// `packets` divided by `seconds`.
    pub packets_per_s: f64,
    /// Median of the latencies.
    pub p50_ns: u64,
    /// 99th percentile of the latencies.
    pub p99_ns: u64,
    /// 99.9th percentile of the latencies.
    pub p999_ns: u64,
    /// Open loop only: 99th percentile of how late the client wrote packets after they were due. Latencies count from
    /// when a packet was due. If this value is close to `p99_ns`, the client was saturated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_p99_ns: Option<u64>,
}

impl LoadReport {
    /// The report of a run from the latencies of its packets. `late_ns`: see [`late_p99_ns`](Self::late_p99_ns).
    pub fn new(latency_ns: &Histogram<u64>, late_ns: Option<&Histogram<u64>>, time: Duration) -> Self {
        let (packets, seconds) = (latency_ns.len(), time.as_secs_f64());
        Self {
            packets,
            seconds,
            packets_per_s: packets as f64 / seconds,
            p50_ns: latency_ns.value_at_quantile(0.5),
            p99_ns: latency_ns.value_at_quantile(0.99),
            p999_ns: latency_ns.value_at_quantile(0.999),
            late_p99_ns: late_ns.map(|late_ns| late_ns.value_at_quantile(0.99)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_client_can_be_parsed() {
        let load = LoadReport {
            packets: 3,
            seconds: 0.5,
            packets_per_s: 6.0,
            p50_ns: 1,
            p99_ns: 2,
            p999_ns: 3,
            late_p99_ns: None,
        };
        let line = serde_json::to_string(&load).unwrap();
        assert_eq!(serde_json::from_str::<LoadReport>(&line).unwrap(), load);
        assert!(line.starts_with(r#"{"packets":3,"seconds":0.5,"packets_per_s":6.0,"p50_ns":1"#), "{line}");
    }
}
