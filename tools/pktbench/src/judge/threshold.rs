//! Conditions on the result: `p99<2ms`, `service:p99.9<=5ms`, `rate>=50k`, `lost<1`.
//!
//! ```text
//!   service:  p99.9    <=        5ms
//!   kind     metric   operator  bound, in the unit of the metric
//! ```
//!
//! A metric that was not measured meets no condition: a run that received nothing is not a fast one. What a condition
//! that does not hold does to the run is decided in [`crate::judge::gate`].

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

use crate::result::document::{Document, Mode, Threshold};
use crate::result::latency::{Latency, percentile};
use crate::result::units;

/// A condition of `--threshold`, as it was written and as it is judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    expr: String,
    metric: Metric,
    operator: Operator,
    /// In the unit of the metric.
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Latency(LatencyKind, Statistic),
    /// Packets received a second.
    Rate,
    /// Bytes of payload received a second.
    Throughput,
    Errors,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LatencyKind {
    /// What users of the server see, as far as the mode shows it.
    Primary,
    Service,
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Percentile(f64),
    Mean,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPERATORS: [(&str, Operator); 4] = [
    // The longer ones first: each of them begins with another one.
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// In ns.
const TIMES: [(&str, f64); 6] = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9)];

const MULTIPLES: [(&str, f64); 4] = [("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];

impl Condition {
    pub(crate) fn judge(&self, document: &Document) -> Threshold {
        let value = self.metric.value(document);
        let ok = value.is_some_and(|value| self.operator.holds(value, self.bound));
        Threshold { expr: self.to_string(), value, ok }
    }

    /// Refuses what does not get worse as the rate grows.
    pub(crate) fn check_for_search(&self) -> Result<(), String> {
        match (self.metric, self.operator) {
            (Metric::Latency(..) | Metric::Errors | Metric::Lost, Operator::Less | Operator::LessOrEqual) => {
                Ok(())
            }
            _ => Err(format!("--search-max '{self}': write an upper bound of a latency, such as 'p99<5ms'")),
        }
    }

    /// Refuses what no run of this mode can meet.
    pub(crate) fn check(&self, mode: Mode) -> Result<(), String> {
        match (self.metric, mode) {
            (Metric::Latency(LatencyKind::Response, _), Mode::Closed) => Err(format!(
                "--threshold '{self}': a closed loop has no response times; write service: or load at a rate"
            )),
            _ => Ok(()),
        }
    }
}

impl Metric {
    fn value(self, document: &Document) -> Option<f64> {
        let Document { totals, window, .. } = document;
        let is_rate = totals.received > 0 && window.seconds > 0.0;
        match self {
            Self::Latency(kind, statistic) => statistic.value(kind.latency(document)?),
            Self::Rate => is_rate.then_some(totals.packets_per_s),
            Self::Throughput => is_rate.then(|| window.per_second(totals.bytes_received)),
            Self::Errors => Some(document.errors.count() as f64),
            Self::Lost => Some(document.integrity.lost as f64),
        }
    }

    fn bound(self, text: &str) -> Option<f64> {
        match self {
            Self::Latency(..) => time(text),
            Self::Rate => number_and_unit(text, &MULTIPLES),
            Self::Throughput => text.parse().ok().map(|size: ByteSize| size.as_u64() as f64),
            Self::Errors | Self::Lost => text.parse().ok().map(|count: u32| f64::from(count)),
        }
    }

    /// What a bound of it looks like.
    fn example(self) -> &'static str {
        match self {
            Self::Latency(..) => "a time with its unit, such as 2ms or 1.5s",
            Self::Rate => "packets a second, such as 50000, 50k or 1.5M",
            Self::Throughput => "bytes a second, such as 100MiB",
            Self::Errors | Self::Lost => "a whole number, such as 1",
        }
    }

    fn describe(self, value: f64) -> String {
        match self {
            Self::Latency(..) => units::time(value),
            Self::Rate => format!("{} packets/s", units::rate(value)),
            Self::Throughput => units::bytes_per_s(value),
            Self::Errors | Self::Lost => units::count(value as u64),
        }
    }
}

impl LatencyKind {
    fn latency(self, document: &Document) -> Option<&Latency> {
        let latencies = &document.latency_ns;
        match self {
            Self::Primary => Some(latencies.primary()),
            Self::Service => Some(&latencies.service),
            Self::Response => latencies.response.as_ref(),
        }
    }
}

impl Statistic {
    fn value(self, latency: &Latency) -> Option<f64> {
        match self {
            // Not only those that are listed.
            Self::Percentile(percent) => Some(percentile(&latency.histogram().ok()?, percent)? as f64),
            Self::Mean => latency.mean,
            Self::Max => latency.max.map(|ns| ns as f64),
        }
    }
}

impl Operator {
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
            Self::Greater => value > bound,
            Self::GreaterOrEqual => value >= bound,
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = |(sign, operator)| text.split_once(sign).map(|(metric, bound)| (metric, operator, bound));
        let (metric, operator, bound) = OPERATORS.into_iter().find_map(split).ok_or(
            "write a metric, one of < <= > >=, and a bound, such as 'p99<2ms' or 'rate>=50k'".to_owned(),
        )?;
        let metric: Metric = metric.trim().parse()?;
        let bound = bound.trim();
        let bound = metric
            .bound(bound)
            .ok_or_else(|| format!("'{bound}' is no bound here; write {}", metric.example()))?;
        Ok(Self { expr: text.trim().to_owned(), metric, operator, bound })
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once(':') {
            None => (None, text),
            Some(("service", name)) => (Some(LatencyKind::Service), name),
            Some(("response", name)) => (Some(LatencyKind::Response), name),
            Some((kind, _)) => return Err(format!("'{kind}:' is nobody's; write service: or response:")),
        };
        let metric = match name {
            "rate" => Self::Rate,
            "throughput" => Self::Throughput,
            "errors" => Self::Errors,
            "lost" => Self::Lost,
            name => Self::Latency(kind.unwrap_or(LatencyKind::Primary), name.parse()?),
        };
        match metric {
            Self::Latency(..) => Ok(metric),
            _ if kind.is_some() => Err(format!("'{text}': service: and response: are for latencies alone")),
            metric => Ok(metric),
        }
    }
}

impl FromStr for Statistic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent =
            |text: &str| decimal(text).filter(|percent| (0.0..100.0).contains(percent) && *percent > 0.0);
        match text {
            "mean" => Ok(Self::Mean),
            "max" => Ok(Self::Max),
            text => text.strip_prefix('p').and_then(percent).map(Self::Percentile).ok_or_else(|| {
                format!(
                    "'{text}' is no metric; write p50, p99.9 (above p0, below p100), mean, max, rate, throughput, \
                     errors or lost"
                )
            }),
        }
    }
}

/// As it was written.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expr)
    }
}

/// A condition that was judged, for people.
pub(crate) fn describe(threshold: &Threshold) -> String {
    let holds = if threshold.ok { "holds" } else { "does NOT hold" };
    format!("{} {holds}: {}", threshold.expr, measured(threshold))
}

/// What was measured, in the unit of the metric.
pub(crate) fn measured(Threshold { expr, value, ok: _ }: &Threshold) -> String {
    let metric = expr.parse().ok().map(|condition: Condition| condition.metric);
    match (value, metric) {
        (None, _) => "not measured".to_owned(),
        (Some(value), None) => value.to_string(),
        (Some(value), Some(metric)) => metric.describe(*value),
    }
}

/// In ns. `1.5ms`, and what times of the other options look like: `1s 500ms`.
fn time(text: &str) -> Option<f64> {
    number_and_unit(text, &TIMES)
        .or_else(|| humantime::parse_duration(text).ok().map(|time| time.as_nanos() as f64))
}

/// `1.5` and a unit, as a number of the smallest one.
fn number_and_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(decimal(number)? * factor)
}

/// A number of digits, with a fraction or without: no sign, no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let is_decimal = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_decimal.then(|| text.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;
    use crate::result::document::tests::document;

    fn condition(text: &str) -> Condition {
        text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn holds(text: &str, document: &Document) -> bool {
        condition(text).judge(document).ok
    }

    #[test]
    fn a_bound_is_in_the_unit_of_its_metric() {
        let cases = [
            ("p99<2ms", 2e6),
            ("p99 < 1.5ms", 1.5e6),
            ("p50<=20us", 20e3),
            ("p50<=20µs", 20e3),
            ("service:max<1s 500ms", 1.5e9),
            ("mean<2m", 120e9),
            ("rate>50k", 50e3),
            ("rate>=1.5M", 1.5e6),
            ("rate>50000", 50e3),
            ("throughput>100MiB", 104_857_600.0),
            ("errors<1", 1.0),
            ("lost<=0", 0.0),
        ];
        for (text, bound) in cases {
            assert_eq!(condition(text).bound, bound, "{text}");
            assert_eq!(condition(text).to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_judged_is_refused_with_what_to_write() {
        let cases = [
            ("", "such as 'p99<2ms'"),
            ("p99", "such as 'p99<2ms'"),
            ("p99=2ms", "such as 'p99<2ms'"),
            ("p99<2", "a time with its unit, such as 2ms"),
            ("p99<", "a time with its unit, such as 2ms"),
            ("p99<=>2ms", "a time with its unit, such as 2ms"),
            ("p99<-2ms", "a time with its unit, such as 2ms"),
            ("p99<1e3ms", "a time with its unit, such as 2ms"),
            ("p100<2ms", "below p100"),
            ("p0<2ms", "above p0"),
            ("p9.9.9<2ms", "'p9.9.9' is no metric"),
            ("pinf<2ms", "'pinf' is no metric"),
            ("<2ms", "'' is no metric"),
            ("rate>fast", "such as 50000, 50k"),
            ("rate>50K", "such as 50000, 50k"),
            ("rate>-1", "such as 50000, 50k"),
            ("throughput>many", "such as 100MiB"),
            ("errors<0.5", "a whole number"),
            ("lost<-1", "a whole number"),
            ("client:p99<2ms", "write service: or response:"),
            ("service:rate>5", "for latencies alone"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Condition>().expect_err(text);
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        }
    }

    /// 100 packets in 2 s, of 1 ms, 2 ms and so on.
    fn measured() -> Document {
        let mut histogram = new_histogram();
        (1..=100).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let mut document = document();
        document.latency_ns.service = Latency::of(&histogram);
        document.totals.received = 100;
        document.totals.bytes_received = 2 << 20;
        document.totals.packets_per_s = 50.0;
        document.window.seconds = 2.0;
        document
    }

    #[test]
    fn percentiles_are_those_of_the_histogram_whether_they_are_listed_or_not() {
        let document = measured();
        for (text, ms) in [("p50<1s", 50.0), ("p75<1s", 75.0), ("p12.5<1s", 13.0), ("max<1s", 100.0)] {
            let value = condition(text).judge(&document).value.unwrap() / 1e6;
            assert!((value - ms).abs() < 0.001 * ms, "{text}: {value} ms");
        }
    }

    #[test]
    fn each_operator_says_on_which_side_of_the_bound_it_holds() {
        let document = measured();
        let cases = [
            ("rate<50", false),
            ("rate<=50", true),
            ("rate>50", false),
            ("rate>=50", true),
            ("rate<50.1", true),
            ("throughput>=1MiB", true),
            ("throughput>1MiB", false),
            ("p99<98ms", false),
            ("p99<101ms", true),
            ("mean>50ms", true),
        ];
        for (text, expected) in cases {
            assert_eq!(holds(text, &document), expected, "{text}");
        }
    }

    #[test]
    fn what_failed_and_what_was_lost_is_counted() {
        let mut document = measured();
        assert!(holds("errors<1", &document) && holds("lost<1", &document));
        (document.errors.reset, document.errors.eof, document.integrity.lost) = (1, 2, 4);
        assert!(holds("errors>=3", &document) && holds("lost>3", &document));
        assert!(!holds("errors<3", &document) && !holds("lost<4", &document));
    }

    #[test]
    fn a_latency_is_that_of_users_unless_it_says_whose() {
        let closed = measured();
        assert!(holds("p50<60ms", &closed) && holds("service:p50<60ms", &closed));
        let mut open = measured();
        let mut late = new_histogram();
        late.record(5_000_000_000).unwrap();
        open.latency_ns.response = Some(Latency::of(&late));
        assert!(holds("p50>4s", &open) && holds("response:p50>4s", &open));
        assert!(holds("service:p50<60ms", &open));
    }

    #[test]
    fn what_was_not_measured_meets_no_condition() {
        let mut nothing = measured();
        nothing.latency_ns.service = Latency::of(&new_histogram());
        (nothing.totals.received, nothing.totals.packets_per_s) = (0, 0.0);
        for text in ["p99<1s", "p99>0s", "mean<1s", "max<1s", "rate<5", "throughput<5", "response:p99<1s"] {
            let threshold = condition(text).judge(&nothing);
            assert_eq!((threshold.value, threshold.ok), (None, false), "{text}");
        }
        let closed = condition("response:p99<1s");
        assert!(!closed.judge(&measured()).ok);
        assert!(closed.check(Mode::Closed).unwrap_err().contains("write service:"));
        assert_eq!(closed.check(Mode::Open), Ok(()));
        assert_eq!(condition("p99<1s").check(Mode::Closed), Ok(()));
    }

    #[test]
    fn a_judged_condition_is_told_in_its_unit() {
        let document = measured();
        let cases = [
            ("p50<2ms", "p50<2ms does NOT hold: 50.0 ms"),
            ("rate>=50", "rate>=50 holds: 50 packets/s"),
            ("throughput>1kB", "throughput>1kB holds: 1.00 MiB/s"),
            ("response:p50<2ms", "response:p50<2ms does NOT hold: not measured"),
        ];
        for (text, expected) in cases {
            assert_eq!(describe(&condition(text).judge(&document)), expected);
        }
    }
}
