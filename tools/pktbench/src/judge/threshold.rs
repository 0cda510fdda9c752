//! Conditions on the result: `p99<2ms`, `service:p99.9<=5ms`, `rate>=50k`, `lost<1`.
//!
//! ```text
//!   service:  p99.9   <=        5ms
//!   latency   metric  operator  bound, in the unit of the metric
//! ```
//!
//! A condition on a metric that was not measured does not hold: a run that received nothing is not fast. What a failed
//! condition means for the verdict is decided in [`crate::judge::gate`].

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

use crate::result::document::{Document, Mode, Threshold};
use crate::result::latency::{Bounded, Latency};
use crate::result::units;

/// A parsed condition of `--threshold`, with its original text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    expr: String,
    metric: Metric,
    operator: Operator,
    /// In the unit of the metric.
    bound: f64,
}

/// A measured value, in the unit of its metric.
#[derive(Clone, Copy)]
struct Value {
    value: f64,
    /// Whether the real value may be greater, because packets were not answered.
    is_lower_bound: bool,
    /// Whether it is a percentile with few samples beyond it.
    has_few_samples: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Latency(LatencyKind, Statistic),
    /// Packets received per second.
    Rate,
    /// Payload bytes received per second.
    Throughput,
    Errors,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LatencyKind {
    /// The response time in an open loop, the service time in a closed loop.
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
    // `<=` before `<`: the first match wins.
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// Units of time, in ns.
const TIMES: [(&str, f64); 6] = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9)];

const MULTIPLES: [(&str, f64); 4] = [("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];

impl Condition {
    pub(crate) fn judge(&self, document: &Document) -> Threshold {
        let value = self.metric.value(document);
        // A lower bound below the limit does not prove that the value is below it.
        let is_proven = |value: Value| !value.is_lower_bound || self.operator.is_lower_limit();
        let ok = value.is_some_and(|value| is_proven(value) && self.operator.holds(value.value, self.bound));
        Threshold {
            expr: self.to_string(),
            value: value.map(|value| value.value),
            is_lower_bound: value.is_some_and(|value| value.is_lower_bound),
            has_few_samples: value.is_some_and(|value| value.has_few_samples),
            ok,
        }
    }

    /// An error if the condition does not get harder to meet as the rate grows: a search needs that.
    pub(crate) fn check_for_search(&self) -> Result<(), String> {
        match (self.metric, self.operator) {
            (Metric::Latency(..) | Metric::Errors | Metric::Lost, Operator::Less | Operator::LessOrEqual) => {
                Ok(())
            }
            _ => Err(format!("--search-max '{self}': write an upper bound of a latency, such as 'p99<5ms'")),
        }
    }

    /// An error if no run in this mode can meet the condition.
    pub(crate) fn check(&self, mode: Mode) -> Result<(), String> {
        match (self.metric, mode) {
            (Metric::Latency(LatencyKind::Response, _), Mode::Closed) => Err(format!(
                "--threshold '{self}': a closed loop has no response times; write service: or give a --rate"
            )),
            _ => Ok(()),
        }
    }
}

impl Metric {
    fn value(self, document: &Document) -> Option<Value> {
        let Document { totals, window, .. } = document;
        let is_rate = totals.received > 0 && window.seconds > 0.0;
        let value = match self {
            Self::Latency(kind, statistic) => {
                let Bounded { ns, is_lower_bound, has_few_samples } =
                    statistic.value(kind.latency(document)?)?;
                return Some(Value { value: ns, is_lower_bound, has_few_samples });
            }
            Self::Rate => is_rate.then_some(totals.packets_per_s),
            Self::Throughput => is_rate.then(|| window.per_second(totals.bytes_received)),
            Self::Errors => Some(document.errors.count() as f64),
            Self::Lost => Some(document.integrity.lost as f64),
        };
        value.map(|value| Value { value, is_lower_bound: false, has_few_samples: false })
    }

    fn bound(self, text: &str) -> Option<f64> {
        match self {
            Self::Latency(..) => time(text),
            Self::Rate => number_and_unit(text, &MULTIPLES),
            Self::Throughput => text.parse().ok().map(|size: ByteSize| size.as_u64() as f64),
            Self::Errors | Self::Lost => text.parse().ok().map(|count: u32| f64::from(count)),
        }
    }

    /// What a bound of this metric looks like, for error messages.
    fn example(self) -> &'static str {
        match self {
            Self::Latency(..) => "a time with its unit, such as 2ms or 1.5s",
            Self::Rate => "packets per second, such as 50000, 50k or 1.5M",
            Self::Throughput => "bytes per second, such as 100MiB",
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
    fn value(self, latency: &Latency) -> Option<Bounded> {
        match self {
            // From the histogram: the document lists only some percentiles.
            Self::Percentile(percent) => latency.percentile(percent),
            Self::Mean => latency.mean_bounded(),
            Self::Max => latency.max_bounded(),
        }
    }
}

impl Operator {
    /// Whether the bound is the least that the value may be.
    fn is_lower_limit(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual)
    }

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
            "a condition is a metric, one of < <= > >=, and a bound, such as 'p99<2ms' or 'rate>=50k'"
                .to_owned(),
        )?;
        let metric: Metric = metric.trim().parse()?;
        let bound = bound.trim();
        let bound = metric
            .bound(bound)
            .ok_or_else(|| format!("invalid bound '{bound}'; write {}", metric.example()))?;
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
            Some((kind, _)) => return Err(format!("unknown prefix '{kind}:'; write service: or response:")),
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
            _ if kind.is_some() => {
                Err(format!("'{text}': only latencies have a prefix service: or response:"))
            }
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
                    "unknown metric '{text}'; write p50, p99.9 (above p0, below p100), mean, max, rate, throughput, \
                     errors or lost"
                )
            }),
        }
    }
}

/// Shows the original text.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expr)
    }
}

/// A judged condition for people: whether it holds, and the measured value.
pub(crate) fn describe(threshold: &Threshold) -> String {
    let holds = if threshold.ok { "holds" } else { "does NOT hold" };
    let measured = match threshold.value {
        None => "not measured".to_owned(),
        Some(_) if threshold.has_few_samples => {
            format!("measured {}, which rests on few samples", measured(threshold))
        }
        Some(_) => format!("measured {}", measured(threshold)),
    };
    format!("{} {holds}: {measured}", threshold.expr)
}

/// The measured value with the unit of the metric.
pub(crate) fn measured(Threshold { expr, value, is_lower_bound, .. }: &Threshold) -> String {
    let metric = expr.parse().ok().map(|condition: Condition| condition.metric);
    let sign = if *is_lower_bound { "\u{2265}" } else { "" };
    match (value, metric) {
        (None, _) => "not measured".to_owned(),
        (Some(value), None) => format!("{sign}{value}"),
        (Some(value), Some(metric)) => format!("{sign}{}", metric.describe(*value)),
    }
}

/// A time in ns. Accepts `1.5ms`, and the format of the other options: `1s 500ms`.
fn time(text: &str) -> Option<f64> {
    number_and_unit(text, &TIMES)
        .or_else(|| humantime::parse_duration(text).ok().map(|time| time.as_nanos() as f64))
}

/// Parses a number with a unit, such as `1.5ms`, and returns it in the unit whose factor is 1.
fn number_and_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(decimal(number)? * factor)
}

/// Parses digits with an optional fraction. A sign, an exponent, `inf` and `NaN` are refused.
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
    fn an_invalid_condition_is_an_error_that_says_what_to_write() {
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
            ("p9.9.9<2ms", "unknown metric 'p9.9.9'"),
            ("pinf<2ms", "unknown metric 'pinf'"),
            ("<2ms", "unknown metric ''"),
            ("rate>fast", "such as 50000, 50k"),
            ("rate>50K", "such as 50000, 50k"),
            ("rate>-1", "such as 50000, 50k"),
            ("throughput>many", "such as 100MiB"),
            ("errors<0.5", "a whole number"),
            ("lost<-1", "a whole number"),
            ("client:p99<2ms", "write service: or response:"),
            ("service:rate>5", "only latencies have a prefix"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Condition>().expect_err(text);
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        }
    }

    /// A result with 100 packets in 2 s, with latencies of 1 ms, 2 ms, ..., 100 ms.
    fn measured() -> Document {
        let mut histogram = new_histogram();
        (1..=100).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let mut document = document();
        document.latency_ns.service = Latency::of(&histogram, None);
        document.totals.received = 100;
        document.totals.bytes_received = 2 << 20;
        document.totals.packets_per_s = 50.0;
        document.window.seconds = 2.0;
        document
    }

    #[test]
    fn percentiles_come_from_the_histogram_even_if_the_document_does_not_list_them() {
        let document = measured();
        for (text, ms) in [("p50<1s", 50.0), ("p75<1s", 75.0), ("p12.5<1s", 13.0), ("max<1s", 100.0)] {
            let value = condition(text).judge(&document).value.unwrap() / 1e6;
            assert!((value - ms).abs() < 0.001 * ms, "{text}: {value} ms");
        }
    }

    #[test]
    fn operators_include_or_exclude_the_bound() {
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
    fn failed_connections_and_lost_packets_are_counted() {
        let mut document = measured();
        assert!(holds("errors<1", &document) && holds("lost<1", &document));
        (document.errors.reset, document.errors.eof, document.integrity.lost) = (1, 2, 4);
        assert!(holds("errors>=3", &document) && holds("lost>3", &document));
        assert!(!holds("errors<3", &document) && !holds("lost<4", &document));
    }

    #[test]
    fn a_latency_without_a_prefix_is_the_response_time_in_an_open_loop_and_the_service_time_in_a_closed_one()
    {
        let closed = measured();
        assert!(holds("p50<60ms", &closed) && holds("service:p50<60ms", &closed));
        let mut open = measured();
        let mut late = new_histogram();
        late.record(5_000_000_000).unwrap();
        open.latency_ns.response = Some(Latency::of(&late, None));
        assert!(holds("p50>4s", &open) && holds("response:p50>4s", &open));
        assert!(holds("service:p50<60ms", &open));
    }

    #[test]
    fn unanswered_packets_make_a_condition_on_the_tail_fail() {
        let (mut answered, mut ages) = (new_histogram(), new_histogram());
        answered.record_n(1_000_000, 90).unwrap();
        ages.record_n(5_000_000, 10).unwrap();
        let mut document = measured();
        document.latency_ns.service = Latency::of(&answered, Some(&ages));
        let cases = [
            ("p50<2ms", true),
            ("p90<2ms", true),
            // They may have taken any time.
            ("p91<1s", false),
            ("max<1s", false),
            ("mean<1s", false),
            // They took at least that.
            ("p91>4ms", true),
            ("max>=4ms", true),
            ("p91>6ms", false),
        ];
        for (text, expected) in cases {
            assert_eq!(holds(text, &document), expected, "{text}");
        }
        let threshold = condition("p99<100ms").judge(&document);
        assert_eq!(
            describe(&threshold),
            "p99<100ms does NOT hold: measured \u{2265}5.00 ms, which rests on few samples"
        );
    }

    #[test]
    fn a_condition_on_something_not_measured_does_not_hold() {
        let mut nothing = measured();
        nothing.latency_ns.service = Latency::of(&new_histogram(), None);
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
    fn a_judged_condition_is_described_with_its_unit() {
        let document = measured();
        let cases = [
            ("p50<2ms", "p50<2ms does NOT hold: measured 50.0 ms"),
            ("rate>=50", "rate>=50 holds: measured 50 packets/s"),
            ("throughput>1kB", "throughput>1kB holds: measured 1.00 MiB/s"),
            ("response:p50<2ms", "response:p50<2ms does NOT hold: not measured"),
        ];
        for (text, expected) in cases {
            assert_eq!(describe(&condition(text).judge(&document)), expected);
        }
    }
}
