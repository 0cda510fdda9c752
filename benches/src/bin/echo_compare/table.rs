//! The results as Markdown tables.

use pktconn_benches::report::{median, ratio_cell};

use crate::results::{Round, ServerResult, WorkloadResult};

/// The head of the table, with units.
pub(crate) const HEAD: &str = "\
| workload | server | CPU ns/packet | ratio (min-max) | packets/s | p50 us | p99 us | p99.9 us | p99 ratio (min-max) | peak RSS MB |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|";

/// The head of the table of the rounds at half the rate of the first server.
pub(crate) const HALF_RATE_HEAD: &str = "\
| workload at half the rate | server | packets/s | kept up | CPU ns/packet | p50 us | p99 us | p99.9 us | p99 ratio (min-max) | late p99 us |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|";

/// A row per server of a workload: medians over the rounds, and the spread of the ratios.
pub(crate) fn rows(result: &WorkloadResult) -> Vec<String> {
    let row =
        |server: &ServerResult| format!("| {} | {} | {} |", result.workload, server.name, cells(server));
    result.servers.iter().map(row).collect()
}

fn cells(server: &ServerResult) -> String {
    let rounds: Vec<&Round> = server.rounds.iter().collect();
    [
        median_cell(&rounds, 0, |round| round.cpu_ns_per_packet),
        ratio_spread(&rounds, |round| round.ratio),
        median_cell(&rounds, 0, |round| round.load.packets_per_s),
        median_cell(&rounds, 1, |round| round.load.p50_ns as f64 / 1e3),
        median_cell(&rounds, 1, |round| round.load.p99_ns as f64 / 1e3),
        median_cell(&rounds, 1, |round| round.load.p999_ns as f64 / 1e3),
        ratio_spread(&rounds, |round| round.p99_ratio),
        format!("{:.1}", server.peak_rss_bytes as f64 / 1e6),
    ]
    .join(" | ")
}

/// A row per server for the half-rate rounds: medians over the rounds that have figures. No rows without such rounds.
pub(crate) fn half_rate_rows(result: &WorkloadResult) -> Vec<String> {
    let row = |rate_per_s| {
        move |server: &ServerResult| {
            format!("| {} | {} | {rate_per_s} | {} |", result.workload, server.name, half_rate_cells(server))
        }
    };
    result.half_rate_per_s.map_or_else(Vec::new, |rate| result.servers.iter().map(row(rate)).collect())
}

fn half_rate_cells(server: &ServerResult) -> String {
    let rounds: Vec<&Round> = server.half_rate_figures().collect();
    let kept_up = server.half_rate_rounds.iter().filter(|round| round.kept_up).count();
    [
        format!("{kept_up}/{}", server.half_rate_rounds.len()),
        median_cell(&rounds, 0, |round| round.cpu_ns_per_packet),
        median_cell(&rounds, 1, |round| round.load.p50_ns as f64 / 1e3),
        median_cell(&rounds, 1, |round| round.load.p99_ns as f64 / 1e3),
        median_cell(&rounds, 1, |round| round.load.p999_ns as f64 / 1e3),
        ratio_spread(&rounds, |round| round.p99_ratio),
        median_cell(&rounds, 1, |round| round.load.late_p99_ns.map_or(f64::NAN, |ns| ns as f64 / 1e3)),
    ]
    .join(" | ")
}

/// The median of a figure with `digits` decimal places; a dash without rounds.
fn median_cell(rounds: &[&Round], digits: usize, figure: impl Fn(&Round) -> f64) -> String {
    let median = median(rounds.iter().map(|round| figure(round)));
    median.map_or_else(|| "-".to_owned(), |median| format!("{median:.digits$}"))
}

fn ratio_spread(rounds: &[&Round], ratio: impl Fn(&Round) -> f64) -> String {
    ratio_cell(rounds.iter().map(|round| ratio(round)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{HalfRateRound, tests::round};

    fn result(half_rate_rounds: Vec<HalfRateRound>) -> WorkloadResult {
        let first = round(1000.0, 50_000);
        let compared = |cpu_ns, p99_ns| round(cpu_ns, p99_ns).with_ratios_to(Some(&first));
        let server = ServerResult {
            name: "bare".to_owned(),
            command: vec!["echo".to_owned()],
            peak_rss_bytes: 2_100_000,
            rounds: vec![compared(1500.0, 60_000), first.clone(), compared(1250.0, 40_000)],
            half_rate_rounds,
        };
        let workload = "64x1".parse().unwrap();
        let sizes = "0-2048".parse().unwrap();
        WorkloadResult { workload, sizes, half_rate_per_s: Some(50_000), servers: vec![server] }
    }

    #[test]
    fn a_row_holds_medians_and_the_spread_of_the_ratios() {
        let row = "| 64x1 | bare | 1250 | 1.25 (1.00-1.50) | 100000 | 12.3 | 50.0 | 99.0 | 1.00 (0.80-1.20) | 2.1 |";
        assert_eq!(rows(&result(Vec::new())), [row]);
    }

    #[test]
    fn a_half_rate_row_has_the_medians_of_the_rounds_that_have_figures() {
        let measured = |rate| HalfRateRound::new(Some(round(2000.0, 50_000)), rate);
        let rounds = vec![HalfRateRound::new(None, 50_000), measured(50_000), measured(1_000_000)];
        let row = "| 64x1 | bare | 50000 | 1/3 | 2000 | 12.3 | 50.0 | 99.0 | 1.00 (1.00-1.00) | 1.2 |";
        assert_eq!(half_rate_rows(&result(rounds)), [row]);
    }

    #[test]
    fn a_server_that_the_client_gave_up_on_has_no_figures() {
        let row = "| 64x1 | bare | 50000 | 0/1 | - | - | - | - | - | - |";
        assert_eq!(half_rate_rows(&result(vec![HalfRateRound::new(None, 50_000)])), [row]);
    }
}
