//! The result as a document: what `--format json` prints, and what `compare`, `merge` and the report in HTML read
//! again.
//!
//! Its shape is that of `schema/pktbench-1.schema.json`, which the README explains. A change that takes a field away or
//! gives it another meaning takes another [`SCHEMA`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use super::latency::Latency;
use super::verdict::Verdict;
use crate::traffic::arrivals::Arrival;
use crate::traffic::verify::{Integrity, Verify};

/// What the first field says.
pub(crate) const SCHEMA: &str = "pktbench/1";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) schema: String,
    pub(crate) tool: Tool,
    pub(crate) host: Host,
    /// Those of `--label`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) config: Config,
    pub(crate) window: Window,
    pub(crate) totals: Totals,
    /// Ramp and warm-up included. Without verification, `verified` are those that came back.
    pub(crate) integrity: Integrity,
    pub(crate) errors: Errors,
    pub(crate) latency_ns: Latencies,
    pub(crate) client: Client,
    pub(crate) intervals: Vec<Interval>,
    #[serde(default)]
    pub(crate) sizes: Vec<SizeClass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) search: Option<Search>,
    pub(crate) thresholds: Vec<Threshold>,
    /// With `--baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<Comparison>,
    pub(crate) verdict: Verdict,
    pub(crate) exit_code: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The machine of the load, which is not that of the server as a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) os: String,
    pub(crate) arch: String,
    pub(crate) cores: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// A packet is sent when one has come back.
    Closed,
    /// A packet is sent when it is due, whatever has come back.
    Open,
}

/// The options as they were used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    /// Several with commas between.
    pub(crate) server: String,
    pub(crate) tls: bool,
    pub(crate) own_server: bool,
    pub(crate) own_server_threads: Option<usize>,
    pub(crate) conns: usize,
    pub(crate) connect_rate: Option<f64>,
    /// Closed loop: packets outstanding on each connection.
    pub(crate) pipeline: Option<usize>,
    /// Open loop: packets a second over all connections.
    pub(crate) rate: Option<f64>,
    pub(crate) arrival: Option<Arrival>,
    /// On each connection.
    pub(crate) max_outstanding: Option<usize>,
    pub(crate) verify: Verify,
    pub(crate) sizes: String,
    pub(crate) duration_s: Option<f64>,
    pub(crate) packets: Option<u64>,
    pub(crate) ramp_s: f64,
    pub(crate) warmup_s: f64,
    pub(crate) interval_s: f64,
    pub(crate) timeout_s: f64,
    pub(crate) seed: u64,
    pub(crate) header: String,
    pub(crate) crc: bool,
    pub(crate) max_payload_bytes: u32,
    pub(crate) threads: usize,
}

/// The time that was measured, without the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) start_unix_ns: u64,
    pub(crate) end_unix_ns: u64,
    pub(crate) seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Received.
    pub(crate) packets_per_s: f64,
    /// Of payload, as all bytes here.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) warmup_sent: u64,
}

/// Connections that failed, by the way they did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// Could not be made.
    pub(crate) connect: u64,
    /// Cut by the server, or by the network.
    pub(crate) reset: u64,
    /// Well, but what was outstanding had not come back in time.
    pub(crate) timeout: u64,
    /// Closed by the server between two packets.
    pub(crate) eof: u64,
    /// Closed by the server in the middle of a packet.
    pub(crate) truncated: u64,
    pub(crate) checksum: u64,
    /// Another frame that is not acceptable, such as one over the limit.
    pub(crate) protocol: u64,
    pub(crate) io: u64,
    /// What the first of them said.
    pub(crate) first: Option<String>,
}

impl Errors {
    pub(crate) fn count(&self) -> u64 {
        let Self { connect, reset, timeout, eof, truncated, checksum, protocol, io, first: _ } = self;
        // A file may say what it likes.
        [connect, reset, timeout, eof, truncated, checksum, protocol, io]
            .into_iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From the moment of sending.
    pub(crate) service: Latency,
    /// From the moment at which the packet was due; in the open loop alone.
    pub(crate) response: Option<Latency>,
}

impl Window {
    /// 0 where no time was measured.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }
}

impl Latencies {
    /// What those of [`primary`](Self::primary) are called.
    pub(crate) fn primary_name(&self) -> &'static str {
        if self.response.is_some() { "response" } else { "service" }
    }

    /// Those that users of the server see, as far as the mode shows them.
    pub(crate) fn primary(&self) -> &Latency {
        self.response.as_ref().unwrap_or(&self.service)
    }
}

/// How this program itself fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Client {
    /// CPU time of the threads of the load, in percent of one core each: 100 is a load whose threads all were busy.
    pub(crate) cpu_pct: f64,
    /// Open loop: how late packets were that nothing but this program held up.
    pub(crate) schedule_lag_p99_ns: Option<u64>,
    /// Open loop: packets that were due by the end and had not been sent.
    pub(crate) not_sent: u64,
    /// Whether the figures are those of this program rather than those of the server.
    pub(crate) saturated: bool,
}

/// What came back between the end of the interval before and that of this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Its end, from the beginning of the window.
    pub(crate) t_s: f64,
    pub(crate) received: u64,
    /// Those of `response` in an open loop, of `service` in a closed one; `None` without a sample.
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) p999_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
}

/// The `service` latency of packets whose payloads had these sizes, both ends included; of packets that came back
/// together, that of the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SizeClass {
    pub(crate) from_bytes: u32,
    pub(crate) to_bytes: u32,
    pub(crate) count: u64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
}

/// A condition of `--threshold`, and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Threshold {
    pub(crate) expr: String,
    /// In the unit of the figure: ns, packets/s, bytes/s or a number. `None` without a sample.
    pub(crate) value: Option<f64>,
    pub(crate) ok: bool,
}

/// What `--search-max` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Search {
    pub(crate) condition: String,
    /// The highest rate that holds, in packets/s; `None` where none does.
    pub(crate) max_rate: Option<f64>,
    /// By their rates.
    pub(crate) steps: Vec<Step>,
}

/// A run at one rate. The latencies are those of `response`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// That was asked for, in packets/s.
    pub(crate) rate: f64,
    /// Received.
    pub(crate) packets_per_s: f64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    /// Of the condition.
    pub(crate) value: Option<f64>,
    pub(crate) ok: bool,
    /// Why it does not hold.
    pub(crate) problem: Option<String>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed loop",
            Self::Open => "open loop",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::run::outcome::tests::outcome;

    /// The document of a run, for tests to change.
    pub(crate) fn document() -> Document {
        crate::run::to_document::document(&outcome())
    }

    /// One that ends at `t_s`, in which so many packets came back, of which no latency is known.
    pub(crate) fn interval(t_s: f64, received: u64) -> Interval {
        Interval { t_s, received, p50_ns: None, p99_ns: None, p999_ns: None, max_ns: None }
    }

    #[test]
    fn failures_add_up_whatever_a_file_says() {
        let errors = Errors { connect: 1, io: 2, ..Errors::default() };
        assert_eq!(errors.count(), 3);
        assert_eq!(Errors { reset: u64::MAX, ..errors }.count(), u64::MAX);
    }
}
