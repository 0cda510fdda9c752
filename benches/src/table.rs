//! The Markdown table of a comparison.

use crate::{RegimeResult, ServerResult, median};

/// The head of the table, with the units.
pub const TABLE_HEAD: &str = "\
| regime | server | CPU ns/packet | ratio (min-max) | packets/s | p50 us | p99 us | peak RSS MB |
|---|---|--:|--:|--:|--:|--:|--:|";

/// A row for each server of a regime: medians over the rounds, and the spread of the ratio.
pub fn table_rows(result: &RegimeResult) -> Vec<String> {
    let row = |server: &ServerResult| format!("| {} | {} | {} |", result.regime, server.name, cells(server));
    result.servers.iter().map(row).collect()
}

/// The median of the ratios of all rounds, and their spread.
///
/// # Panics
///
/// When there are no rounds.
pub(crate) fn ratio_cell(ratios: impl Iterator<Item = f64> + Clone) -> String {
    let lowest = ratios.clone().fold(f64::INFINITY, f64::min);
    let highest = ratios.clone().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(ratios).expect("a comparison has at least one round");
    format!("{middle:.2} ({lowest:.2}-{highest:.2})")
}

fn cells(server: &ServerResult) -> String {
    format!(
        "{:.0} | {} | {:.0} | {:.1} | {:.1} | {:.1}",
        server.median_of(|round| round.cpu_ns_per_packet),
        ratio_cell(server.rounds.iter().map(|round| round.ratio)),
        server.median_of(|round| round.load.packets_per_s),
        server.median_of(|round| round.load.p50_ns as f64) / 1e3,
        server.median_of(|round| round.load.p99_ns as f64) / 1e3,
        server.peak_rss_bytes as f64 / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoadReport, Regime, Round};

    #[test]
    fn a_row_holds_medians_and_the_spread_of_the_ratio() {
        let round = |ratio: f64| Round {
            cpu_ticks: 300,
            cpu_ns_per_packet: ratio * 1000.0,
            ratio,
            foreign_share: 0.0,
            load: LoadReport {
                packets: 300_000,
                seconds: 3.0,
                packets_per_s: 100_000.0,
                p50_ns: 12_340,
                p99_ns: 56_780,
                p999_ns: 99_000,
                late_p99_ns: None,
            },
        };
        let server = ServerResult {
            name: "bare".to_owned(),
            command: vec!["echo".to_owned()],
            peak_rss_bytes: 2_100_000,
            rounds: vec![round(1.5), round(1.0), round(1.25)],
        };
        let regime = Regime { conns: 64, pipeline: 1, sizes: None };
        let rows =
            table_rows(&RegimeResult { regime, sizes: "0-2048".parse().unwrap(), servers: vec![server] });
        assert_eq!(rows, ["| 64x1 | bare | 1250 | 1.25 (1.00-1.50) | 100000 | 12.3 | 56.8 | 2.1 |"]);
    }
}
