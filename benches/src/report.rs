//! What is made of the figures: the client's line, the rounds, and medians over them.

use serde::{Deserialize, Serialize};

use crate::{Regime, SizeRange};

/// What one run of the client measured; its one line of output, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Packets sent and echoed.
    pub packets: u64,
    /// From the first packet sent to the last reply.
    pub seconds: f64,
    /// The two divided.
    pub packets_per_s: f64,
    /// Half of the packets took no longer.
    pub p50_ns: u64,
    /// 99 % of the packets took no longer.
    pub p99_ns: u64,
    /// 99.9 % of the packets took no longer.
    pub p999_ns: u64,
    /// In an open loop: the client came to write 99 % of the packets no later after they were due. Latencies count from when a packet
    /// was due, so where this is close to their p99, the client was the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_p99_ns: Option<u64>,
}

/// One run of the client against one server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// User and system time of the server, in clock ticks.
    pub cpu_ticks: u64,
    /// The same per echoed packet, in nanoseconds.
    pub cpu_ns_per_packet: f64,
    /// The same as a ratio to the first server in the same round.
    pub ratio: f64,
    /// The 99th percentile of the latencies as a ratio to the first server in the same round.
    pub p99_ratio: f64,
    /// The share of the server's core, from 0 to 1, that went to anything but the server.
    pub foreign_share: f64,
    /// What the client saw.
    #[serde(flatten)]
    pub load: LoadReport,
}

impl Round {
    /// The same with its ratios to the round of the first server; to itself, where it is that round.
    #[must_use]
    pub fn next_to(self, first: Option<&Self>) -> Self {
        let first = first.unwrap_or(&self);
        let ratio = self.cpu_ns_per_packet / first.cpu_ns_per_packet;
        let p99_ratio = self.load.p99_ns as f64 / first.load.p99_ns as f64;
        Self { ratio, p99_ratio, ..self }
    }
}

/// One run of the client at half the rate of the first server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HalfRateRound {
    /// Whether the server kept up with that rate.
    pub kept_up: bool,
    /// What was measured, unless the client gave up.
    #[serde(flatten)]
    pub measured: Option<Round>,
}

/// The share of the rate that a server has to reach: the last replies come after the last packet, and a server that is
/// slower for good falls further behind the longer a round is.
const KEPT_UP_SHARE: f64 = 0.9;

impl HalfRateRound {
    /// What a round at so many packets a second gave; `None` when the client gave up on the server.
    pub fn new(measured: Option<Round>, rate_per_s: u64) -> Self {
        let enough_per_s = rate_per_s as f64 * KEPT_UP_SHARE;
        let kept_up = measured.as_ref().is_some_and(|round| round.load.packets_per_s >= enough_per_s);
        Self { kept_up, measured }
    }
}

/// All rounds of one server in one regime.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerResult {
    /// As on the command line.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The most memory that the process held, warm-up included, in bytes.
    pub peak_rss_bytes: u64,
    /// In the order in which they ran.
    pub rounds: Vec<Round>,
    /// Those at half the rate of the first server, where they were asked for. A round in which the first server itself
    /// did not keep up is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub half_rate_rounds: Vec<HalfRateRound>,
}

impl ServerResult {
    /// The half-rate rounds that have figures.
    pub fn half_rate_figures(&self) -> impl Iterator<Item = &Round> {
        self.half_rate_rounds.iter().filter_map(|round| round.measured.as_ref())
    }
}

/// All servers in one regime.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegimeResult {
    /// Connections and packets outstanding on each.
    pub regime: Regime,
    /// Payload sizes in bytes, drawn uniformly: its own, or those of all.
    pub sizes: SizeRange,
    /// The rate of the rounds at half the median packets/s of the first server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_rate_per_s: Option<u64>,
    /// In the order of the command line: the first is what the others are compared with.
    pub servers: Vec<ServerResult>,
}

/// A whole comparison, as written to a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The core that the servers ran on.
    pub server_core: usize,
    /// The core that the client ran on.
    pub client_core: usize,
    /// How long the client sent in each round.
    pub round_seconds: f64,
    /// Seed of the first round; each round adds 1.
    pub seed: u64,
    /// Clock ticks a second, the unit of CPU time.
    pub clock_ticks_per_s: u64,
    /// In the order of the command line.
    pub regimes: Vec<RegimeResult>,
}

impl RegimeResult {
    /// The rounds of all servers in which more than `limit` of the core went to others.
    pub fn disturbed_rounds(&self, limit: f64) -> usize {
        let rounds =
            self.servers.iter().flat_map(|server| server.rounds.iter().chain(server.half_rate_figures()));
        rounds.filter(|round| round.foreign_share > limit).count()
    }
}

/// The middle value, or the mean of the two in the middle; `None` without values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[upper]),
        _ => Some((sorted[upper - 1] + sorted[upper]) / 2.0),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A round of 300,000 packets with these figures, next to nothing.
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
        Round { cpu_ticks: 300, cpu_ns_per_packet, ratio: 1.0, p99_ratio: 1.0, foreign_share: 0.0, load }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 100.0, 2.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_taken_to_the_first_round_and_of_that_to_itself() {
        let first = round(1000.0, 200).next_to(None);
        assert_eq!((first.ratio, first.p99_ratio), (1.0, 1.0));
        let second = round(1500.0, 100).next_to(Some(&first));
        assert_eq!((second.ratio, second.p99_ratio), (1.5, 0.5));
    }

    #[test]
    fn a_round_says_whether_the_server_kept_up() {
        let json = |measured, rate| serde_json::to_value(HalfRateRound::new(measured, rate)).unwrap();
        assert_eq!(json(None, 1), serde_json::json!({ "kept_up": false }));
        // The round has 100,000 packets/s.
        let kept_up = json(Some(round(1000.0, 200)), 110_000);
        assert_eq!((&kept_up["kept_up"], &kept_up["p99_ns"]), (&true.into(), &200.into()));
        let behind = json(Some(round(1000.0, 200)), 112_000);
        assert_eq!((&behind["kept_up"], &behind["p99_ns"]), (&false.into(), &200.into()));
    }

    #[test]
    fn the_line_of_the_client_reads_back() {
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
