//! The results: rounds, servers, regimes, as `--json` writes them.

use pktconn_benches::{
    load::LoadReport,
    plan::{SizeRange, Workload},
};
use serde::Serialize;

/// One run of the client against one server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Round {
    /// User and system time of the server, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// `cpu_ns` per echoed packet.
    pub(crate) cpu_ns_per_packet: f64,
    /// `cpu_ns_per_packet` as a ratio to the first server in the same round.
    pub(crate) ratio: f64,
    /// 99th percentile of the latencies, as a ratio to the first server in the same round.
    pub(crate) p99_ratio: f64,
    /// Share of the server's core that other processes used, from 0 to 1.
    pub(crate) foreign_share: f64,
    /// The report of the client.
    #[serde(flatten)]
    pub(crate) load: LoadReport,
}

impl Round {
    /// Sets the ratios to the round of the first server. `None` stands for this round itself.
    #[must_use]
    pub(crate) fn with_ratios_to(self, first: Option<&Self>) -> Self {
        let first = first.unwrap_or(&self);
        let ratio = self.cpu_ns_per_packet / first.cpu_ns_per_packet;
        let p99_ratio = self.load.p99_ns as f64 / first.load.p99_ns as f64;
        Self { ratio, p99_ratio, ..self }
    }
}

/// One run of the client at half the rate of the first server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HalfRateRound {
    /// True if the server kept up with that rate.
    pub(crate) kept_up: bool,
    /// The figures; `None` if the client gave up.
    #[serde(flatten)]
    pub(crate) measured: Option<Round>,
}

/// A server keeps up if it reaches this share of the rate. It is below 1 because the last replies come after the last
/// packet. A server that is too slow falls further behind the longer a round is.
const KEPT_UP_SHARE: f64 = 0.9;

impl HalfRateRound {
    /// The result of a round at `rate_per_s` packets per second; `measured` is `None` if the client gave up.
    pub(crate) fn new(measured: Option<Round>, rate_per_s: u64) -> Self {
        let min_per_s = rate_per_s as f64 * KEPT_UP_SHARE;
        let kept_up = measured.as_ref().is_some_and(|round| round.load.packets_per_s >= min_per_s);
        Self { kept_up, measured }
    }
}

/// All rounds of one server with one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ServerResult {
    /// Name from the command line.
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Peak resident memory of the process, warm-up included, in bytes.
    pub(crate) peak_rss_bytes: u64,
    /// Rounds of the closed loop, in the order in which they ran.
    pub(crate) rounds: Vec<Round>,
    /// Rounds at half the rate of the first server, with `--half-rate`. Without those in which the client gave up on
    /// the first server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) half_rate_rounds: Vec<HalfRateRound>,
}

impl ServerResult {
    /// The half-rate rounds in which the client did not give up.
    pub(crate) fn half_rate_figures(&self) -> impl Iterator<Item = &Round> {
        self.half_rate_rounds.iter().filter_map(|round| round.measured.as_ref())
    }
}

/// All servers with one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WorkloadResult {
    /// Connections, packets outstanding on each, and what the connections do.
    pub(crate) workload: Workload,
    /// Payload sizes in bytes, uniformly distributed: those of the workload, or of the command line.
    pub(crate) sizes: SizeRange,
    /// Rate of the half-rate rounds: half the median packets/s of the first server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) half_rate_per_s: Option<u64>,
    /// In the order of the command line; the others are compared with the first one.
    pub(crate) servers: Vec<ServerResult>,
}

/// A whole comparison: the document that `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// Core of the servers.
    pub(crate) server_core: usize,
    /// Core of the client.
    pub(crate) client_core: usize,
    /// How long the client sent in each round.
    pub(crate) round_seconds: f64,
    /// Seed of the first round; each round adds 1.
    pub(crate) seed: u64,
    /// In the order of the command line.
    pub(crate) workloads: Vec<WorkloadResult>,
}

impl WorkloadResult {
    /// Number of rounds, of all servers, in which other processes used more than `limit` of the core.
    pub(crate) fn disturbed_rounds(&self, limit: f64) -> usize {
        let rounds =
            self.servers.iter().flat_map(|server| server.rounds.iter().chain(server.half_rate_figures()));
        rounds.filter(|round| round.foreign_share > limit).count()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A round of 300,000 packets with these figures, without ratios.
    pub(crate) fn round(cpu_ns_per_packet: f64, p99_ns: u64) -> Round {
        let load = LoadReport {
            packets: 300_000,
            seconds: 3.0,
            packets_per_s: 100_000.0,
            p50_ns: 12_340,
            p99_ns,
            p999_ns: 99_000,
            late_p99_ns: Some(1_234),
        };
        Round {
            cpu_ns: 3_000_000_000,
            cpu_ns_per_packet,
            ratio: 1.0,
            p99_ratio: 1.0,
            foreign_share: 0.0,
            load,
        }
    }

    #[test]
    fn ratios_are_relative_to_the_round_of_the_first_server() {
        let first = round(1000.0, 200).with_ratios_to(None);
        assert_eq!((first.ratio, first.p99_ratio), (1.0, 1.0));
        let second = round(1500.0, 100).with_ratios_to(Some(&first));
        assert_eq!((second.ratio, second.p99_ratio), (1.5, 0.5));
    }

    #[test]
    fn a_server_keeps_up_from_90_percent_of_the_rate() {
        let json = |measured, rate| serde_json::to_value(HalfRateRound::new(measured, rate)).unwrap();
        assert_eq!(json(None, 1), serde_json::json!({ "kept_up": false }));
        // The round has 100,000 packets/s.
        let kept_up = json(Some(round(1000.0, 200)), 110_000);
        assert_eq!((&kept_up["kept_up"], &kept_up["p99_ns"]), (&true.into(), &200.into()));
        let behind = json(Some(round(1000.0, 200)), 112_000);
        assert_eq!((&behind["kept_up"], &behind["p99_ns"]), (&false.into(), &200.into()));
    }
}
