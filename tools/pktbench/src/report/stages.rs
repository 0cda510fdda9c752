//! The results of the stages of `--stages` as the cells of a table, and the table as text in 80 columns.

use pktconn_tools::printable::visible;

use crate::result::document::StageResult;
use crate::result::units;

/// The columns of the table, after the name of the stage.
pub(crate) const COLUMNS: [&str; 5] = ["asked/s", "received/s", "p50", "p99", "max"];

/// Widths in the text: the name, rates, and latencies. With a space between two columns, the sum is 80.
const NAME_WIDTH: usize = 32;
const WIDTHS: [usize; 5] = [9, 10, 8, 8, 8];

/// The cells of a stage, in the order of [`COLUMNS`]. Latencies are response times.
pub(crate) fn cells(stage: &StageResult) -> [String; 5] {
    let latency = stage.latency_ns.primary();
    let [p50, p99] = latency.percentiles([50.0, 99.0]);
    let [p50, p99, max] = [p50, p99, latency.max_bounded()]
        .map(|value| value.map_or_else(|| "-".to_owned(), |value| value.to_string()));
    [units::rate(stage.asked_per_s()), units::rate(stage.packets_per_s), p50, p99, max]
}

/// A header and a line per stage.
pub(crate) fn lines(stages: &[StageResult]) -> Vec<String> {
    let header = line("stage", &COLUMNS.map(str::to_owned));
    std::iter::once(header).chain(stages.iter().map(|stage| line(&stage.name, &cells(stage)))).collect()
}

fn line(name: &str, cells: &[String; 5]) -> String {
    let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| format!(" {cell:>width$}"));
    format!("{:NAME_WIDTH$}{}", shortened(name), cells.collect::<String>())
}

/// Leaves out the middle of a long name: a step has its rate at the end.
fn shortened(name: &str) -> String {
    let name: String = name.chars().map(visible).collect();
    let (chars, most) = (name.chars().count(), NAME_WIDTH - 1);
    if chars <= most {
        return name;
    }
    let (head, tail) = (most / 2, most - most / 2 - 1);
    let tail: String = name.chars().skip(chars - tail).collect();
    name.chars().take(head).chain(['\u{2026}']).chain(tail.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::document;

    #[test]
    fn the_table_has_a_line_per_stage_and_80_columns() {
        let stage = |name: &str, asked, packets_per_s| StageResult {
            name: name.to_owned(),
            start_s: 10.0,
            end_s: 20.0,
            asked,
            sent: asked,
            received: asked,
            packets_per_s,
            offered_pct: Some(100.0),
            errors: 0,
            latency_ns: document().latency_ns,
        };
        let stages = [
            stage("hold 10k 10s", 100_000, 9_999.7),
            stage("step 123456 every 1h 30m to 1234567 (1.234567M)", 12_345_670, 987_654.0),
            stage("hold 0 10s", 0, 0.0),
        ];
        let expected = "\
stage                              asked/s received/s      p50      p99      max
hold 10k 10s                        10,000     10,000 ~10.0 µs ~30.0 µs  30.0 µs
step 123456 eve…567 (1.234567M)  1,234,567    987,654 ~10.0 µs ~30.0 µs  30.0 µs
hold 0 10s                               0          0 ~10.0 µs ~30.0 µs  30.0 µs";
        assert_eq!(lines(&stages).join("\n"), expected);
        assert!(lines(&stages).iter().all(|line| line.chars().count() == 80));
    }
}
