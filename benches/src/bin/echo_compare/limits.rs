//! The limits of `--check`: how much CPU time `pktecho` may use per packet, as a ratio to the first server: the bare
//! loop, or over TLS a plain loop on tokio-rustls. For `edge:`, `pktecho` with the limits for the open Internet, as a
//! ratio to one without limits.

use anyhow::{Context, Result, ensure};
use pktconn_benches::{plan::Workload, report::median};

use crate::results::WorkloadResult;

/// Workloads, and the limit of the median ratio with each.
const RATIO_LIMITS: [(&str, f64); 10] = [
    ("1000x1", 1.15),
    ("64x1", 1.15),
    ("64x32", 1.20),
    ("short:64x1", 1.12),
    ("tls:64x1", 1.05),
    ("tls:64x32", 1.05),
    ("tls:500x1", 1.05),
    ("edge:64x1", 1.05),
    ("edge:64x32", 1.05),
    ("edge:1000x1", 1.05),
];

/// The workloads that have a limit. Never fails: a test parses them.
pub(crate) fn checked_workloads() -> Result<Vec<Workload>> {
    RATIO_LIMITS.iter().map(|(workload, _)| workload.parse()).collect()
}

/// Compares the median ratios of a workload with its limit. Returns a line per server, without the first one.
///
/// # Errors
///
/// A server exceeds the limit, or the workload has none.
pub(crate) fn check_ratios(result: &WorkloadResult) -> Result<String> {
    let name = result.workload.to_string();
    let (_, limit) = RATIO_LIMITS
        .iter()
        .find(|(workload, _)| *workload == name)
        .with_context(|| format!("{name} has no limit"))?;
    let mut lines = Vec::new();
    for server in result.servers.iter().skip(1) {
        let ratio = median(server.rounds.iter().map(|round| round.ratio)).context("no round was measured")?;
        ensure!(
            ratio <= *limit,
            "{name}: the ratio of {} is {ratio:.3}, above the limit of {limit:.2}",
            server.name
        );
        lines.push(format!(
            "{name}: the ratio of {} is {ratio:.3}, within the limit of {limit:.2}",
            server.name
        ));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{ServerResult, tests::round};

    /// Three rounds with these CPU times per packet of `pktecho`, next to 1000 ns of the bare server.
    fn measured(workload: &str, cpu_ns: [f64; 3]) -> WorkloadResult {
        let first = round(1000.0, 200).with_ratios_to(None);
        let server = |name: &str, rounds| ServerResult {
            name: name.to_owned(),
            command: Vec::new(),
            peak_rss_bytes: 1,
            rounds,
            half_rate_rounds: Vec::new(),
        };
        let pktecho = cpu_ns.map(|cpu_ns| round(cpu_ns, 200).with_ratios_to(Some(&first))).to_vec();
        WorkloadResult {
            workload: workload.parse().unwrap(),
            sizes: "0-2048".parse().unwrap(),
            half_rate_per_s: None,
            servers: vec![server("bare", vec![first; 3]), server("pktecho", pktecho)],
        }
    }

    #[test]
    fn a_median_above_the_limit_fails_the_check_and_a_single_round_does_not() {
        let line = check_ratios(&measured("64x32", [1100.0, 1190.0, 9000.0])).unwrap();
        assert_eq!(line, "64x32: the ratio of pktecho is 1.190, within the limit of 1.20");
        let error = check_ratios(&measured("64x1", [1100.0, 1160.0, 9000.0])).unwrap_err();
        assert_eq!(error.to_string(), "64x1: the ratio of pktecho is 1.160, above the limit of 1.15");
        assert!(check_ratios(&measured("8x1", [1.0; 3])).is_err(), "8x1 has no limit");
    }

    #[test]
    fn the_workloads_of_a_check_are_valid() {
        assert_eq!(checked_workloads().unwrap().len(), RATIO_LIMITS.len());
    }
}
