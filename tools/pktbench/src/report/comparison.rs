//! A comparison of two results as a table of 80 columns, or as JSON. The judging is in `judge::compare`.

use std::fmt::Write;
use std::process::ExitCode;

use crate::judge::compare::MIN_INTERVALS;
use crate::report::sink::Sink;
use crate::result::comparison::{Comparison, Difference, Finding, Metric};
use crate::result::json;
use crate::result::units;
use crate::result::verdict::Verdict;

/// With so many intervals, a difference of 10 % is found in at least 95 of 100 pairs of runs; see the README.
const ADVISED_INTERVALS: usize = 30;

/// Larger differences are shown as this number, so that the columns keep their width.
const MAX_PCT: f64 = 9999.0;

pub(crate) fn print(comparison: &Comparison, as_json: bool) -> anyhow::Result<ExitCode> {
    let text = if as_json { json::to_line(comparison) } else { text(comparison) };
    Sink::stdout().all(&text)?;
    Ok(ExitCode::from(comparison.verdict.exit_code()))
}

pub(crate) fn text(comparison: &Comparison) -> String {
    let confidence = format!("{} % confidence", comparison.confidence_pct);
    let mut text = format!("{:6}{:>12}{:>12}{:>10}{confidence:>20}\n", "metric", "base", "new", "change");
    for metric in &comparison.metrics {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", row(metric));
    }
    if let Some([base, new]) = comparison.intervals.filter(|[base, new]| base.min(new) < &ADVISED_INTERVALS) {
        let _ = writeln!(
            text,
            "note: the results have {base} and {new} intervals; {ADVISED_INTERVALS} or more find smaller \
             differences:\nuse --duration {ADVISED_INTERVALS}, or a shorter --interval"
        );
    }
    text + &verdict(comparison)
}

fn row(row: &Difference) -> String {
    let [name, base, new, change, interval, finding] = cells(row);
    format!("{name:6}{base:>12}{new:>12}{change:>10}{interval:>20}  {finding}")
}

/// The cells of a row: metric, base, new, change, confidence interval, finding.
pub(crate) fn cells(row: &Difference) -> [String; 6] {
    let value = |value: Option<f64>| match (value, row.metric) {
        (None, _) => "-".to_owned(),
        (Some(rate), Metric::Rate) => format!("{}/s", units::rate(rate)),
        (Some(ns), _) => units::time(ns),
    };
    let change = row.difference_pct.map_or("-".to_owned(), |change| format!("{} %", percent(change)));
    let interval = match (row.low_pct, row.high_pct) {
        (Some(low), Some(high)) => format!("{} to {} %", percent(low), percent(high)),
        _ => "-".to_owned(),
    };
    [
        row.metric.name().to_owned(),
        value(row.base),
        value(row.new),
        change,
        interval,
        describe(row.finding).to_owned(),
    ]
}

/// With a sign; at most seven characters.
fn percent(percent: f64) -> String {
    match percent {
        percent if percent.abs() < 1000.0 => format!("{percent:+.1}"),
        percent => format!("{:+.0}", percent.clamp(-MAX_PCT, MAX_PCT)),
    }
}

fn describe(finding: Finding) -> &'static str {
    match finding {
        Finding::NoDifference => "no difference",
        Finding::Faster => "faster",
        Finding::Allowed => "slower, allowed",
        Finding::Slower => "slower, no limit",
        Finding::Regression => "REGRESSION",
        Finding::Inconclusive => "inconclusive",
        Finding::TooFewIntervals => "too few intervals",
    }
}

fn verdict(comparison: &Comparison) -> String {
    let limits_of = |finding| {
        let metrics = comparison.metrics.iter().filter(|metric| metric.finding == finding);
        let limits = metrics.filter_map(|metric| Some((metric.metric.name(), metric.limit_pct?)));
        limits.map(|(name, limit)| format!("{name}:{limit}%")).collect::<Vec<_>>().join(",")
    };
    match comparison.verdict {
        Verdict::Regression => {
            format!("regression: beyond the limit of --max-regress ({})", limits_of(Finding::Regression))
        }
        Verdict::Inconclusive => format!(
            "inconclusive: a regression beyond the limit of --max-regress ({}) cannot be excluded; run longer, with 30 intervals or more, on a quieter machine",
            limits_of(Finding::Inconclusive)
        ),
        Verdict::Undecided => format!(
            "undecided: fewer than {MIN_INTERVALS} intervals with samples in one of the results; run longer"
        ),
        _ => "no regression".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(metric: Metric, values: (f64, f64), change: [f64; 3], finding: Finding) -> Difference {
        Difference {
            metric,
            base: Some(values.0),
            new: Some(values.1),
            difference_pct: Some(change[0]),
            low_pct: Some(change[1]),
            high_pct: Some(change[2]),
            limit_pct: Some(5.0),
            finding,
        }
    }

    fn comparison(metrics: Vec<Difference>, verdict: Verdict) -> Comparison {
        Comparison {
            base: "base.json".to_owned(),
            confidence_pct: 99.0,
            metrics,
            intervals: None,
            differs: Vec::new(),
            saturated: Vec::new(),
            verdict,
        }
    }

    #[test]
    fn a_metric_is_a_row_that_ends_with_its_finding() {
        let rate =
            difference(Metric::Rate, (166_629.4, 149_966.0), [-10.0, -12.2, -7.75], Finding::Regression);
        let p50 = difference(Metric::P50, (393e3, 397e3), [1.04, -2.1, 4.2], Finding::NoDifference);
        let few = Difference {
            difference_pct: None,
            low_pct: None,
            high_pct: None,
            new: None,
            ..difference(Metric::P99, (2.5e6, 0.0), [0.0; 3], Finding::TooFewIntervals)
        };
        let expected = "\
metric        base         new    change     99 % confidence
rate     166,629/s   149,966/s   -10.0 %     -12.2 to -7.8 %  REGRESSION
p50         393 µs      397 µs    +1.0 %      -2.1 to +4.2 %  no difference
p99        2.50 ms           -         -                   -  too few intervals
regression: beyond the limit of --max-regress (rate:5%)";
        assert_eq!(text(&comparison(vec![rate, p50, few], Verdict::Regression)), expected);
    }

    #[test]
    fn more_intervals_are_advised_if_there_are_fewer_than_30() {
        let with = |intervals| text(&Comparison { intervals, ..comparison(Vec::new(), Verdict::Pass) });
        let few = with(Some([9, 40]));
        assert!(few.contains("\nnote: the results have 9 and 40 intervals; 30 or more find"), "{few}");
        assert!(few.contains("--duration 30") && few.lines().all(|line| line.chars().count() <= 80), "{few}");
        assert!(!with(Some([30, 40])).contains("note") && !with(None).contains("note"));
    }

    #[test]
    fn the_largest_numbers_stay_within_80_columns() {
        let large = [f64::MAX, -1e9, 1e300];
        let metrics = vec![
            difference(Metric::Rate, (99_999_999.0, 99_999_999.0), large, Finding::Allowed),
            difference(Metric::P999, (3.6e12, 3.6e12), large, Finding::TooFewIntervals),
        ];
        let text = text(&comparison(metrics, Verdict::Undecided));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("+9999 %"), "{text}");
    }
}
