//! Compares two results: whether the new run is slower than the base, or the difference is noise.
//!
//! ```text
//!   BASE.json --> series of a metric --.
//!                                       bootstrap --> difference and its confidence interval --> finding
//!   NEW.json  --> series of a metric --'                                             limits --'
//! ```
//!
//! A change for the worse is a regression if its confidence interval does not contain 0, and the estimate exceeds the
//! limit. Comparing the end of the interval instead would make every short run a regression. But if a regression beyond
//! the limit is in the interval, and the interval is so wide that it says little, the comparison is inconclusive: "no
//! difference" would be wrong.

mod limits;

mod series;

mod bootstrap;

#[cfg(test)]
mod simulation;

use std::path::Path;

use pktconn_tools::printable;
use serde_json::Value;

use crate::result::comparison::{Comparison, Difference, Finding, Metric};
use crate::result::document::{Config, Document};
use crate::result::verdict::Verdict;
pub(crate) use bootstrap::MIN_INTERVALS;
use bootstrap::{CONFIDENCE_PCT, Estimate, estimate};
pub(crate) use limits::Limits;
use series::Series;

/// Options that must be the same for a fair comparison, by their names in the document. Options that only an open loop
/// has are `null` in a closed loop.
const LOAD_OPTIONS: [&str; 23] = [
    "mode",
    "conns",
    "conns_per_second",
    "conn_packets",
    "conn_lifetime_s",
    "packet_timeout_s",
    "pipeline",
    "rate",
    "stages",
    "arrival",
    "max_outstanding",
    "verify",
    // The percentiles of an interval depend on its length.
    "interval_s",
    "sizes",
    "payload",
    "replay",
    "tcp_port",
    "speed",
    "crc",
    "header",
    "tls",
    "builtin_server",
    "threads",
];

impl Metric {
    /// How much two runs of one build differ, beyond the variation within each run: a standard deviation of the
    /// logarithm. Memory layout and the assignment of threads to cores stay the same within a run and change from run
    /// to run. A pair of runs cannot show this variation, so it is assumed. A difference of 10 % is still detected.
    /// With 0 here, a shift of 1 % was reported as a difference in every fourth pair of runs with 30 intervals.
    fn run_to_run(self) -> f64 {
        match self {
            Self::Rate | Self::P50 => 0.0125,
            Self::P99 => 0.025,
            Self::P999 => 0.05,
        }
    }
}

impl Comparison {
    pub(crate) fn of(base: &Document, base_path: &Path, new: &Document, limits: &Limits) -> Self {
        let metrics = Metric::ALL.iter().map(|metric| Difference::of(base, new, *metric, limits));
        // Leave out p99.9 if neither result has it, unless it has a limit.
        let is_shown = |metric: &Difference| {
            metric.metric != Metric::P999
                || metric.limit_pct.is_some()
                || metric.base.or(metric.new).is_some()
        };
        let metrics: Vec<_> = metrics.filter(is_shown).collect();
        Self {
            base: base_path.display().to_string(),
            confidence_pct: CONFIDENCE_PCT,
            intervals: Some([base.intervals.len(), new.intervals.len()]),
            differs: differences(&base.config, &new.config),
            saturated: saturated(base, new),
            verdict: verdict(&metrics),
            metrics,
        }
    }

    /// Warnings if the two results have different load options, or if a load generator was saturated.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let (differs, saturated) = (self.differs.join(", "), self.saturated.join(" and of "));
        let options = (!differs.is_empty()).then(|| {
            format!(
                "the load options differ ({differs}); this may explain the difference between the results"
            )
        });
        let saturated = (!saturated.is_empty()).then(|| {
            format!(
                "the load generator of {saturated} was saturated; the figures may be those of the load generator, not \
                 of the server"
            )
        });
        [options, saturated].into_iter().flatten().collect()
    }
}

impl Difference {
    fn of(base: &Document, new: &Document, metric: Metric, limits: &Limits) -> Self {
        let (base, new) = (Series::of(base, metric), Series::of(new, metric));
        let estimate = estimate(&base, &new, metric.run_to_run());
        let value = |series: &Series| (series.len() > 0).then(|| series.log().exp());
        let percent =
            |log: fn(&Estimate) -> f64| estimate.as_ref().map(|estimate| log(estimate).exp_m1() * 100.0);
        let (difference_pct, limit_pct) = (percent(|it| it.log), limits.of(metric));
        let (low_pct, high_pct) = (percent(|it| it.low), percent(|it| it.high));
        let finding = match (difference_pct, low_pct, high_pct) {
            (Some(difference), Some(low), Some(high)) => finding(metric, difference, (low, high), limit_pct),
            _ => Finding::TooFewIntervals,
        };
        Self {
            metric,
            base: value(&base),
            new: value(&new),
            difference_pct,
            low_pct,
            high_pct,
            limit_pct,
            finding,
        }
    }
}

/// Refuses a result whose figures do not describe the server: packets were lost, a connection failed, or the run was
/// cut short.
pub(crate) fn check_result(document: &Document, path: &Path) -> Result<(), String> {
    let verdict = match document.verdict {
        Verdict::Integrity => "integrity",
        Verdict::Interrupted => "interrupted",
        Verdict::Failed => "failed",
        Verdict::NoAnswer => "no_answer",
        Verdict::NotOffered => "not_offered",
        Verdict::NoSamples => "no_samples",
        Verdict::Saturated => "saturated",
        Verdict::Threshold if document.aborted.is_some() => {
            return Err(format!(
                "{} was ended early by --abort-on, so its figures are not those of the whole load; --force compares \
                 it anyway",
                path.display()
            ));
        }
        Verdict::Pass
        | Verdict::PassSaturated
        | Verdict::Threshold
        | Verdict::Regression
        | Verdict::Undecided
        | Verdict::Inconclusive => return Ok(()),
    };
    Err(format!(
        "{} has the verdict '{verdict}', so its figures say little; --force compares it anyway",
        path.display()
    ))
}

/// Refuses two results whose load differs: the difference between them would not be that of the servers.
pub(crate) fn check_configs(base: &Config, path: &Path, new: &Config) -> Result<(), String> {
    let differs = differences(base, new).join(", ");
    match differs.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} was measured with other load options ({differs}); --force compares anyway",
            path.display()
        )),
    }
}

/// The finding for a metric. All numbers are percentages.
fn finding(metric: Metric, difference: f64, (low, high): (f64, f64), limit: Option<f64>) -> Finding {
    let (worse, better) =
        ([low, high].map(|end| metric.is_worse(end)), [low, high].map(|end| metric.is_worse(-end)));
    let is_worse = worse == [true, true];
    // How far the estimate may be off, and the worst difference that is still plausible.
    let (margin, worst) = ((high - low) / 2.0, if metric.is_worse(1.0) { high } else { -low });
    match limit {
        _ if better == [true, true] => Finding::Faster,
        Some(limit) if is_worse && difference.abs() > limit => Finding::Regression,
        Some(limit) if worst > limit && margin > limit => Finding::Inconclusive,
        Some(_) if is_worse => Finding::Allowed,
        None if is_worse => Finding::Slower,
        _ => Finding::NoDifference,
    }
}

fn verdict(metrics: &[Difference]) -> Verdict {
    let is = |finding| metrics.iter().any(|metric| metric.limit_pct.is_some() && metric.finding == finding);
    if is(Finding::Regression) {
        Verdict::Regression
    } else if is(Finding::TooFewIntervals) {
        Verdict::Undecided
    } else if is(Finding::Inconclusive) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}

/// Which of the two results has figures of a saturated load generator.
fn saturated(base: &Document, new: &Document) -> Vec<String> {
    let results = [("base", base), ("new", new)];
    let saturated = results.into_iter().filter(|(_, result)| result.load_generator.saturated);
    saturated.map(|(name, _)| name.to_owned()).collect()
}

/// `conns 64 and 128` for each load option that differs.
fn differences(base: &Config, new: &Config) -> Vec<String> {
    let values = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (base, new) = (values(base), values(new));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differing = LOAD_OPTIONS.iter().filter(|name| base[**name] != new[**name]);
    let shown = |value: &Value| printable::name(&text(value)).into_owned();
    differing.map(|name| format!("{name} {} and {}", shown(&base[*name]), shown(&new[*name]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::text;
    use crate::result::document::tests::{document, interval};
    use crate::result::document::{Aborted, Interval, Mode};

    /// A result with twenty intervals of these values, with noise of up to 2 %.
    fn steady(rate: u64, p99_ns: u64) -> Document {
        let of = |index: u64| {
            let noisy = |metric: u64| Some(metric + metric * (index % 3) / 100);
            Interval {
                p50_ns: noisy(p99_ns / 2),
                p99_ns: noisy(p99_ns),
                ..interval((index + 1) as f64, rate + rate * (index % 3) / 100)
            }
        };
        Document { intervals: (0..20).map(of).collect(), ..document() }
    }

    fn findings(base: &Document, new: &Document, limits: &str) -> (Vec<Finding>, Verdict) {
        let comparison = Comparison::of(base, Path::new("base.json"), new, &limits.parse().unwrap());
        (comparison.metrics.iter().map(|metric| metric.finding).collect(), comparison.verdict)
    }

    #[test]
    fn a_change_for_the_worse_is_a_regression_only_beyond_its_limit() {
        use Finding::{Allowed, Faster, Inconclusive, NoDifference, Regression, Slower};
        let base = steady(100_000, 1_000_000);
        let cases = [
            (
                steady(100_000, 1_000_000),
                "rate:5%,p50:5%",
                [NoDifference, NoDifference, NoDifference],
                Verdict::Pass,
            ),
            (
                steady(80_000, 1_000_000),
                "rate:5%",
                [Regression, NoDifference, NoDifference],
                Verdict::Regression,
            ),
            (steady(80_000, 1_000_000), "rate:25%", [Allowed, NoDifference, NoDifference], Verdict::Pass),
            (steady(80_000, 1_000_000), "p50:6%", [Slower, NoDifference, NoDifference], Verdict::Pass),
            (
                // Two runs of one build may differ by more than 1 %.
                steady(100_000, 1_000_000),
                "p50:1%",
                [NoDifference, Inconclusive, NoDifference],
                Verdict::Inconclusive,
            ),
            (steady(120_000, 800_000), "rate:5%,p99:5%", [Faster, Faster, Faster], Verdict::Pass),
            (
                steady(100_000, 1_250_000),
                "p50:30%,p99:5%",
                [NoDifference, Allowed, Regression],
                Verdict::Regression,
            ),
        ];
        for (new, limits, expected, verdict) in cases {
            assert_eq!(findings(&base, &new, limits), (expected.to_vec(), verdict), "{limits}");
        }
    }

    #[test]
    fn a_wide_interval_that_contains_a_regression_beyond_the_limit_is_inconclusive() {
        use Finding::{Allowed, Faster, Inconclusive, NoDifference, Regression, Slower};
        let cases = [
            (Metric::P99, 355.0, (-35.0, 2830.0), Some(10.0), Inconclusive),
            (Metric::P99, -20.0, (-70.0, 80.0), Some(10.0), Inconclusive),
            (Metric::Rate, 10.0, (-40.0, 90.0), Some(10.0), Inconclusive),
            (Metric::P50, 8.0, (1.0, 40.0), Some(10.0), Inconclusive),
            (Metric::Rate, -6.0, (-40.0, -1.0), Some(10.0), Inconclusive),
            // Narrow: a regression of much more than the limit is excluded.
            (Metric::P50, 4.0, (-4.0, 12.0), Some(10.0), NoDifference),
            (Metric::P50, 4.0, (1.0, 12.0), Some(10.0), Allowed),
            // Wide, but not on the worse side.
            (Metric::Rate, 40.0, (-9.0, 95.0), Some(10.0), NoDifference),
            (Metric::Rate, 60.0, (20.0, 400.0), Some(10.0), Faster),
            (Metric::Rate, -60.0, (-90.0, -5.0), Some(10.0), Regression),
            // Without a limit there is nothing to decide.
            (Metric::P99, 355.0, (-35.0, 2830.0), None, NoDifference),
            (Metric::P99, 355.0, (35.0, 2830.0), None, Slower),
        ];
        for (metric, difference, interval, limit, expected) in cases {
            assert_eq!(finding(metric, difference, interval, limit), expected, "{interval:?}, {limit:?}");
        }
    }

    #[test]
    fn only_results_that_are_valid_and_of_the_same_load_are_compared() {
        let path = Path::new("base.json");
        for verdict in [Verdict::Integrity, Verdict::Failed, Verdict::NoSamples, Verdict::Interrupted] {
            let problem = check_result(&Document { verdict, ..document() }, path).unwrap_err();
            assert!(problem.contains("base.json") && problem.contains("--force"), "{problem}");
        }
        for verdict in [Verdict::Pass, Verdict::Threshold, Verdict::Inconclusive] {
            assert_eq!(check_result(&Document { verdict, ..document() }, path), Ok(()));
        }
        let config = document().config;
        let seed = Config { seed: 99, duration_s: Some(77.0), ..config.clone() };
        assert_eq!(check_configs(&config, path, &seed), Ok(()), "the same load");
        for other in [
            Config { payload: Some("hex:00".to_owned()), ..config.clone() },
            Config { replay: Some("a.pcap".to_owned()), ..config.clone() },
            Config { speed: Some(2.0), ..config.clone() },
        ] {
            assert!(check_configs(&config, path, &other).is_err());
        }
        let problem = check_configs(&config, path, &Config { conns: 128, ..config.clone() }).unwrap_err();
        assert!(problem.contains("conns 10 and 128") && problem.contains("--force"), "{problem}");
    }

    #[test]
    fn a_metric_with_a_limit_and_too_few_intervals_is_undecided() {
        let base = steady(100_000, 1_000_000);
        let few = Document { intervals: base.intervals[..4].to_vec(), ..document() };
        let (metrics, verdict) = findings(&base, &few, "rate:5%");
        assert_eq!((metrics, verdict), (vec![Finding::TooFewIntervals; 3], Verdict::Undecided));
        let (metrics, verdict) = findings(&base, &base, "p99.9:5%");
        assert_eq!((metrics[3], verdict), (Finding::TooFewIntervals, Verdict::Undecided));
        assert_eq!(findings(&document(), &document(), "rate:5%").1, Verdict::Undecided);
    }

    #[test]
    fn a_regression_counts_even_if_another_metric_is_undecided() {
        let (base, new) = (steady(100_000, 1_000_000), steady(80_000, 1_000_000));
        assert_eq!(findings(&base, &new, "rate:5%,p99.9:5%").1, Verdict::Regression);
    }

    #[test]
    fn different_load_options_give_a_warning() {
        let base = document();
        let mut new = document();
        assert_eq!(
            Comparison::of(&base, Path::new("b"), &new, &Limits::default()).warnings(),
            [] as [&str; 0]
        );
        (new.config.mode, new.config.conns, new.config.crc) = (Mode::Open, 128, true);
        new.config.seed = 99;
        let comparison = Comparison::of(&base, Path::new("b"), &new, &Limits::default());
        assert_eq!(comparison.differs, ["mode closed and open", "conns 10 and 128", "crc false and true"]);
        assert!(comparison.warnings()[0].contains("conns 10 and 128"));
    }

    #[test]
    fn a_saturated_load_generator_is_compared_with_a_warning() {
        let (base, mut new) = (steady(100_000, 1_000_000), steady(100_000, 1_000_000));
        new.load_generator.saturated = true;
        new.verdict = Verdict::PassSaturated;
        assert_eq!(check_result(&new, Path::new("new.json")), Ok(()));
        let comparison = Comparison::of(&base, Path::new("b"), &new, &Limits::default());
        let warnings = comparison.warnings();
        assert!(warnings[0].starts_with("the load generator of new was saturated"), "{warnings:?}");
        assert_eq!((warnings.len(), comparison.verdict), (1, Verdict::Pass));
        let both = Comparison::of(&new, Path::new("b"), &new, &Limits::default()).warnings();
        assert!(both[0].starts_with("the load generator of base and of new was saturated"), "{both:?}");
    }

    #[test]
    fn intervals_with_absurd_values_do_not_panic() {
        let odd = |t_s: f64, received, ns| Interval {
            p50_ns: ns,
            p99_ns: ns,
            p999_ns: ns,
            ..interval(t_s, received)
        };
        let wild =
            [(0.0, 0, None), (-1.0, u64::MAX, Some(0)), (1e300, 5, Some(u64::MAX)), (2e300, 0, Some(1))];
        let wild: Vec<_> =
            wild.iter().cycle().take(40).map(|&(t_s, received, ns)| odd(t_s, received, ns)).collect();
        let wild = Document { intervals: wild, ..document() };
        let nothing =
            Document { intervals: (1..9).map(|t| odd(f64::from(t), 0, None)).collect(), ..document() };
        for (base, new) in [(&wild, &nothing), (&nothing, &wild), (&nothing, &nothing)] {
            let comparison = Comparison::of(base, Path::new("b"), new, &Limits::default());
            assert!(!text(&comparison).is_empty());
            assert_eq!(
                serde_json::from_str::<Comparison>(&serde_json::to_string(&comparison).unwrap())
                    .unwrap()
                    .verdict,
                comparison.verdict
            );
        }
    }

    #[test]
    fn a_run_that_was_ended_early_is_refused() {
        let aborted = Aborted { condition: "p99>1s".to_owned(), at_s: 3.0 };
        let aborted = Document { verdict: Verdict::Threshold, aborted: Some(aborted), ..document() };
        let problem = check_result(&aborted, Path::new("new.json")).unwrap_err();
        assert!(problem.starts_with("new.json was ended early by --abort-on"), "{problem}");
        let threshold = Document { verdict: Verdict::Threshold, ..document() };
        assert_eq!(check_result(&threshold, Path::new("new.json")), Ok(()));
    }
}
