//! The document of a result: what `--json` prints, and what `compare`, `merge` and `html` read.
//!
//! `schema/pktbench-2.schema.json` describes its shape, and the README explains it. New fields may be added. A change
//! that removes a field or changes its meaning needs a new [`SCHEMA`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use super::connections::{AddressResult, Connections};
use super::latency::Latencies;
use super::saturation::Reason;
use super::verdict::Verdict;
use crate::traffic::arrivals::Arrival;
use crate::traffic::verify::{Integrity, Verify};

/// The value of the field `schema`.
pub(crate) const SCHEMA: &str = "pktbench/2";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) schema: String,
    pub(crate) tool: Tool,
    pub(crate) host: Host,
    /// The labels of `--label`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) config: Config,
    pub(crate) window: Window,
    pub(crate) totals: Totals,
    /// Includes ramp and warm-up. With `--verify off`, `verified` counts the packets that came back.
    pub(crate) integrity: Integrity,
    pub(crate) errors: Errors,
    pub(crate) latency_ns: Latencies,
    /// `None` in a file of an older version.
    #[serde(default)]
    pub(crate) connections: Option<Connections>,
    /// Each address, if there are several.
    #[serde(default)]
    pub(crate) addresses: Vec<AddressResult>,
    /// Only of an open loop, of packets or of connections.
    #[serde(default)]
    pub(crate) offered: Option<Offered>,
    #[serde(alias = "client")]
    pub(crate) load_generator: LoadGenerator,
    pub(crate) intervals: Vec<Interval>,
    /// Only with `--stages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages: Vec<StageResult>,
    #[serde(default)]
    pub(crate) sizes: Vec<SizeClass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) search: Option<Search>,
    /// Only if a condition of `--abort-on` ended the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aborted: Option<Aborted>,
    pub(crate) thresholds: Vec<Threshold>,
    /// Only with `--baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<Comparison>,
    pub(crate) verdict: Verdict,
    /// All that went wrong, the worst first. The first one is the verdict.
    #[serde(default)]
    pub(crate) problems: Vec<Verdict>,
    pub(crate) exit_code: u8,
}

/// The program that made the document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Tool {
    pub(crate) fn this_program() -> Self {
        Self { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// The machine of the load generator.
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
    /// A packet is sent when a response arrives.
    Closed,
    /// A packet is sent when it is due, regardless of responses.
    Open,
}

/// The options of the run, including defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    /// One address, or several separated by commas.
    pub(crate) server: String,
    pub(crate) tls: bool,
    /// Whether any certificate was accepted.
    #[serde(default)]
    pub(crate) tls_insecure: bool,
    #[serde(alias = "own_server")]
    pub(crate) builtin_server: bool,
    #[serde(alias = "own_server_threads")]
    pub(crate) builtin_server_threads: Option<usize>,
    pub(crate) conns: usize,
    pub(crate) connect_rate: Option<f64>,
    #[serde(default)]
    pub(crate) conns_per_second: Option<f64>,
    #[serde(default)]
    pub(crate) conn_packets: Option<u64>,
    #[serde(default)]
    pub(crate) conn_lifetime_s: Option<f64>,
    #[serde(default)]
    pub(crate) packet_timeout_s: Option<f64>,
    /// Local addresses; empty for the choice of the system.
    #[serde(default)]
    pub(crate) source_addrs: Vec<String>,
    /// Closed loop: packets outstanding on each connection.
    pub(crate) pipeline: Option<usize>,
    /// Open loop: packets per second over all connections.
    pub(crate) rate: Option<f64>,
    /// Open loop: the value of `--stages`. `rate` is the mean rate then.
    #[serde(default)]
    pub(crate) stages: Option<String>,
    pub(crate) arrival: Option<Arrival>,
    /// Open loop: packets outstanding on each connection.
    pub(crate) max_outstanding: Option<usize>,
    pub(crate) verify: Verify,
    /// With `payload` or `replay`, the smallest and the largest size.
    pub(crate) sizes: String,
    /// The user's own payloads, in the syntax of the command line.
    #[serde(default)]
    pub(crate) payload: Option<String>,
    /// The name of the capture that is replayed.
    #[serde(default)]
    pub(crate) replay: Option<String>,
    /// Replay: the port whose data was taken from the capture.
    #[serde(default)]
    pub(crate) tcp_port: Option<u16>,
    /// Replay: 2 for twice as fast as captured.
    #[serde(default)]
    pub(crate) speed: Option<f64>,
    /// Replay: connections of which each TCP segment is one packet, because no frames were found in their bytes.
    #[serde(default)]
    pub(crate) by_segment: Option<usize>,
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

/// The measured time, without ramp, warm-up and drain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) start_unix_ns: u64,
    pub(crate) end_unix_ns: u64,
    pub(crate) seconds: f64,
    /// The time from the end of the window to the last answer.
    #[serde(default)]
    pub(crate) drain_s: f64,
}

/// Packets and payload bytes. `sent`: of packets that were due in the window. `received`: of answers that arrived in it,
/// whenever their packets were sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Packets received per second.
    pub(crate) packets_per_s: f64,
    /// Payload bytes, without headers and checksums.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Packets sent during ramp and warm-up, before the measured time.
    pub(crate) warmup_sent: u64,
    /// Answers that arrived after the window.
    #[serde(default)]
    pub(crate) drained: u64,
}

/// The number of failed connections, by kind of failure. Each connection is counted once, and so is each one that took
/// its place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// The connection could not be opened, or too late for `--start-at`.
    pub(crate) connect: u64,
    /// Reset by the server or the network.
    pub(crate) reset: u64,
    /// The connection was open, but outstanding packets did not come back within `--timeout` or `--packet-timeout`.
    pub(crate) timeout: u64,
    /// Closed by the server between two packets.
    pub(crate) eof: u64,
    /// Closed by the server in the middle of a packet.
    pub(crate) truncated: u64,
    /// A frame had a wrong checksum.
    pub(crate) checksum: u64,
    /// Another invalid frame, such as one over the size limit.
    pub(crate) protocol: u64,
    /// Another I/O error.
    pub(crate) io: u64,
    /// The message of the first failure.
    pub(crate) first: Option<String>,
}

impl Errors {
    /// Connections that could not be made or failed.
    pub(crate) fn failed_conns(&self) -> u64 {
        Self { timeout: 0, ..self.clone() }.count()
    }

    /// Connections that failed, and those with packets that were not answered in time.
    pub(crate) fn count(&self) -> u64 {
        let Self { connect, reset, timeout, eof, truncated, checksum, protocol, io, first: _ } = self;
        // Saturating: a file may contain any numbers.
        [connect, reset, timeout, eof, truncated, checksum, protocol, io]
            .into_iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Window {
    /// A rate over the measured time, or 0 if no time was measured.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }
}

/// How much of the load of an open loop was offered to the server. Packets, or with `--conns-per-second` connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offered {
    /// Packets that were due in the window. 0 in a file of an older version.
    #[serde(default)]
    pub(crate) asked: u64,
    /// Packets that were sent, as a percentage of those that were due.
    pub(crate) pct: f64,
    /// Packets that were due and not sent.
    pub(crate) missed: u64,
    /// What prevented most of them. `None` if none was missed.
    pub(crate) limit: Option<Limit>,
}

/// What limits the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// It did not answer or read fast enough, or connections failed.
    Server,
    /// Few packets were outstanding at the same time, for the time that an answer takes: `--max-outstanding`, `--conns`.
    Window,
    LoadGenerator,
}

impl Offered {
    /// `sent` packets of an open loop, and `missed` ones.
    pub(crate) fn of(sent: u64, missed: u64, limit: Option<Limit>) -> Self {
        let due = sent.saturating_add(missed);
        let pct = if due == 0 { 100.0 } else { sent as f64 / due as f64 * 100.0 };
        Self { asked: due, pct, missed, limit: limit.filter(|_| missed > 0) }
    }
}

/// The load generator itself, in the window. `None`: not measured, because the system does not have the figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadGenerator {
    /// CPU time of the load threads, as a percentage of the measured time: 100 means that all threads were always busy.
    pub(crate) cpu_pct: f64,
    /// The CPU time of the busiest thread, as a percentage of its time.
    #[serde(default)]
    pub(crate) busiest_thread_pct: Option<f64>,
    /// For how much of its time a thread waited for a CPU: of the thread that waited most.
    #[serde(default)]
    pub(crate) run_queue_pct: Option<f64>,
    /// Time that the hypervisor gave to other virtual machines, as a percentage of the CPU time that the machine wanted.
    #[serde(default)]
    pub(crate) steal_pct: Option<f64>,
    /// How long the cgroup was throttled, because it had used up its CPU limit.
    #[serde(default)]
    pub(crate) throttled_ns: Option<u64>,
    /// How long the process stood still, because it was stopped or the machine was suspended.
    #[serde(default)]
    pub(crate) clock_gap_ns: Option<u64>,
    /// Open loop: how late packets were sent. Packets that waited for responses or for the socket do not count.
    pub(crate) schedule_lag_p99_ns: Option<u64>,
    /// Whether the load generator was saturated: then the figures show its own limit and not that of the server.
    pub(crate) saturated: bool,
    /// Why. Empty if it was not saturated, and in results of older versions.
    #[serde(default)]
    pub(crate) saturated_by: Vec<Reason>,
}

impl LoadGenerator {
    /// Whether it was saturated for another reason than packets that were sent late.
    pub(crate) fn is_saturated_otherwise(&self) -> bool {
        self.saturated_by.iter().any(|reason| *reason != Reason::ScheduleLag)
    }
}

/// What happened in one interval of the run. Older versions had only `t_s`, `received` and the latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// The end of the interval, in seconds from the start of the window.
    pub(crate) t_s: f64,
    pub(crate) received: u64,
    /// Of the response time in an open loop, of the service time in a closed loop. `None` without a sample,
    /// and in a merged result.
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) p999_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
    /// The end of the interval, in ns since 1970 (UTC).
    #[serde(default)]
    pub(crate) unix_ns: u64,
    /// Packets that were due in the window and were sent in the interval.
    #[serde(default)]
    pub(crate) sent: u64,
    /// Payload bytes, of `sent` and of `received` packets.
    #[serde(default)]
    pub(crate) bytes_sent: u64,
    #[serde(default)]
    pub(crate) bytes_received: u64,
    /// Connections that failed in the interval.
    #[serde(default)]
    pub(crate) errors: u64,
}

/// A stage of `--stages`. Packets and answers count in the stage in which they are sent and arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageResult {
    /// Its text. A step has its rate after it.
    pub(crate) name: String,
    /// In seconds from the start of the window.
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    /// Packets that were due in it; of Poisson arrivals, the expected number.
    pub(crate) asked: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Packets received per second.
    pub(crate) packets_per_s: f64,
    /// `sent` as a percentage of `asked`. Above 100 if it sent packets that the stage before could not send. `None` if
    /// nothing was due.
    pub(crate) offered_pct: Option<f64>,
    /// Connections that failed in it.
    pub(crate) errors: u64,
    pub(crate) latency_ns: Latencies,
}

impl StageResult {
    /// Packets per second that were due.
    pub(crate) fn asked_per_s(&self) -> f64 {
        let seconds = self.end_s - self.start_s;
        if seconds > 0.0 { self.asked as f64 / seconds } else { 0.0 }
    }
}

/// The service time of packets with payloads of `from_bytes` to `to_bytes`, both included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SizeClass {
    pub(crate) from_bytes: u32,
    pub(crate) to_bytes: u32,
    /// All measured packets of the class. In documents without `samples` the number of samples.
    pub(crate) count: u64,
    /// The packets whose latency was recorded: of those that are read together, the first. `None` in old documents.
    #[serde(default)]
    pub(crate) samples: Option<u64>,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
}

/// A condition of `--threshold`, and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Threshold {
    pub(crate) expr: String,
    /// The measured value: ns, packets/s, bytes/s or a count. `None` without a sample.
    pub(crate) value: Option<f64>,
    /// Whether the real value may be greater, because packets were not answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_lower_bound: bool,
    /// Whether it is a percentile with few samples beyond it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_few_samples: bool,
    pub(crate) ok: bool,
}

/// A condition of `--abort-on` that ended the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Aborted {
    pub(crate) condition: String,
    /// The end of the interval at which it was met, in seconds from the start of the window.
    pub(crate) at_s: f64,
}

/// The result of `--search-max`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Search {
    pub(crate) condition: String,
    /// The highest rate at which the condition holds, in packets/s. `None` if there is none.
    pub(crate) max_rate: Option<f64>,
    /// Why no higher rate was found. `None` in a file of an older version.
    #[serde(default)]
    pub(crate) ended_by: Option<SearchEnd>,
    /// Sorted by rate.
    pub(crate) steps: Vec<Step>,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SearchEnd {
    /// The condition does not hold at a higher rate, because of the server.
    Server,
    /// More packets outstanding would be needed for a higher rate.
    Window,
    /// The load generator cannot test a higher rate.
    LoadGenerator,
    /// The highest rate that can be asked for holds.
    MaxRate,
    /// It was interrupted, or ended by damaged packets or a server that is gone. Higher rates may hold.
    Incomplete,
}

/// A run at one rate. The latencies are response times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The requested rate, in packets/s.
    pub(crate) rate: f64,
    /// The received rate.
    pub(crate) packets_per_s: f64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    /// The measured value of the latency in the condition, in ns. `None` without a sample.
    pub(crate) value: Option<f64>,
    pub(crate) ok: bool,
    /// Why the step failed. `None` if it succeeded.
    pub(crate) problem: Option<String>,
    /// What limited a step that failed. `None` if it succeeded.
    #[serde(default)]
    pub(crate) limit: Option<Limit>,
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

    /// The document of a run. Tests change it.
    pub(crate) fn document() -> Document {
        crate::run::to_document::document(&outcome())
    }

    /// An interval that ends at `t_s`, with `received` packets and without latencies.
    pub(crate) fn interval(t_s: f64, received: u64) -> Interval {
        Interval { t_s, received, ..Interval::default() }
    }

    #[test]
    fn the_sum_of_failures_does_not_overflow() {
        let errors = Errors { connect: 1, io: 2, ..Errors::default() };
        assert_eq!(errors.count(), 3);
        assert_eq!(Errors { reset: u64::MAX, ..errors }.count(), u64::MAX);
    }
}
