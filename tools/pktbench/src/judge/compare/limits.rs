//! The limits of `--max-regress`: how much worse each metric may be, such as `rate:7%,p99:15%`.

use std::fmt;
use std::str::FromStr;

use crate::result::comparison::Metric;

/// How much worse each metric may be, in percent. A metric without a limit is shown and never fails.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits(Vec<(Metric, f64)>);

/// A server that is 10 % slower exceeds these limits: by its rate in a closed loop, by its median in an open loop. They
/// are larger than what two runs of one build may differ by: with rate:5% and p99:10%, such runs would mostly be
/// inconclusive. p99.9 has no default limit, because in a short interval it depends on a few packets.
impl Default for Limits {
    fn default() -> Self {
        Self(vec![(Metric::Rate, 7.0), (Metric::P50, 7.0), (Metric::P99, 15.0)])
    }
}

impl Limits {
    pub(crate) fn of(&self, metric: Metric) -> Option<f64> {
        self.0.iter().find(|(named, _)| *named == metric).map(|(_, percent)| *percent)
    }
}

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self(Vec::new());
        for part in text.split(',') {
            let (metric, percent) = parse_limit(part.trim()).ok_or_else(|| {
                format!(
                    "invalid limit '{part}'; write rate, p50, p99 or p99.9 with a percentage, such as rate:5%"
                )
            })?;
            if limits.of(metric).is_some() {
                return Err(format!("{} has two limits; write one", metric.name()));
            }
            limits.0.push((metric, percent));
        }
        Ok(limits)
    }
}

fn parse_limit(text: &str) -> Option<(Metric, f64)> {
    let (name, percent) = text.split_once(':')?;
    let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name)?;
    let percent: f64 = percent.strip_suffix('%')?.parse().ok()?;
    (percent.is_finite() && percent.is_sign_positive()).then_some((metric, percent))
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<_> =
            self.0.iter().map(|(metric, percent)| format!("{}:{percent}%", metric.name())).collect();
        f.write_str(&limits.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_is_not_listed_has_no_limit() {
        let limits: Limits = "rate:5%, p99.9:12.5%".parse().unwrap();
        assert_eq!(Metric::ALL.map(|metric| limits.of(metric)), [Some(5.0), None, None, Some(12.5)]);
        assert_eq!(limits.to_string(), "rate:5%,p99.9:12.5%");
        assert_eq!(Limits::default().to_string().parse(), Ok(Limits::default()));
    }

    #[test]
    fn an_invalid_limit_is_an_error_that_says_what_to_write() {
        for text in [
            "",
            "rate",
            "rate:5",
            "rate:%",
            "rate:-5%",
            "rate:NaN%",
            "rate:inf%",
            "p98:5%",
            "rate:5%,",
            ":5%",
        ] {
            let problem = text.parse::<Limits>().expect_err(text);
            assert!(problem.ends_with("such as rate:5%") && !problem.contains('\n'), "{text}: {problem}");
        }
        assert_eq!("rate:5%,rate:6%".parse::<Limits>(), Err("rate has two limits; write one".to_owned()));
    }

    #[test]
    fn a_lower_rate_is_worse_and_so_is_a_longer_latency() {
        assert!(Metric::Rate.is_worse(-0.1) && !Metric::Rate.is_worse(0.1));
        assert!(Metric::P50.is_worse(0.1) && !Metric::P50.is_worse(-0.1));
        assert!(!Metric::ALL.iter().any(|metric| metric.is_worse(0.0)));
    }
}
