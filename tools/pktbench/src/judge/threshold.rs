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
use pktconn_tools::printable;

use crate::record::recording::Recording;
use crate::result::document::{Document, Mode, Threshold};
use crate::result::latency::{Bounded, Latency, percentile};
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

/// What a condition with an upper bound allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Failed connections and packets without an answer.
    Errors,
    /// Lost packets.
    Lost,
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

impl From<Bounded> for Value {
    fn from(Bounded { ns, is_lower_bound, has_few_samples }: Bounded) -> Self {
        Self { value: ns, is_lower_bound, has_few_samples }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Latency(LatencyKind, Statistic),
    /// Packets received per second.
    Rate,
    /// Payload bytes received per second.
    Throughput,
    /// Failed connections.
    Errors,
    /// Packets without an answer and connections that could not be opened, in percent of all packets and such connections.
    ErrorsPct,
    Lost,
    /// In percent of the packets that were sent.
    LostPct,
    /// Connections that were opened.
    Connects,
    ConnectTime(Statistic),
    HandshakeTime(Statistic),
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

    /// Whether the condition is a budget: an upper bound on something that otherwise fails the run.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let budget = match self.metric {
            Metric::Errors | Metric::ErrorsPct => Budget::Errors,
            Metric::Lost | Metric::LostPct => Budget::Lost,
            _ => return None,
        };
        (!self.operator.is_lower_limit()).then_some(budget)
    }

    /// The bound of a condition on a latency, in ns.
    pub(crate) fn latency_bound(&self) -> Option<f64> {
        matches!(self.metric, Metric::Latency(..)).then_some(self.bound)
    }

    /// An error if the condition does not get harder to meet as the rate grows: a search needs that.
    pub(crate) fn check_for_search(&self) -> Result<(), String> {
        match (self.metric, self.operator) {
            (
                Metric::Latency(..) | Metric::Errors | Metric::ErrorsPct | Metric::Lost | Metric::LostPct,
                Operator::Less | Operator::LessOrEqual,
            ) => Ok(()),
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

/// For `--abort-on`.
impl Condition {
    pub(crate) fn is_latency(&self) -> bool {
        matches!(self.metric, Metric::Latency(..))
    }

    /// Whether it can end a run: a latency or a number of errors that is too high.
    pub(crate) fn is_for_abort(&self) -> bool {
        let is_errors = matches!(self.metric, Metric::Errors | Metric::ErrorsPct);
        (self.is_latency() || is_errors) && self.operator.is_lower_limit()
    }

    pub(crate) fn is_errors_pct(&self) -> bool {
        self.metric == Metric::ErrorsPct
    }

    /// Whether it holds in an interval. Outstanding packets count with their age, as a lower bound of their latency; those
    /// that are older than `timeout_ns` count as errors.
    pub(crate) fn holds_in(&self, recording: &Recording, timeout_ns: u64) -> bool {
        let value = match self.metric {
            Metric::Latency(kind, statistic) => {
                let is_service = kind == LatencyKind::Service;
                let latency = recording.with_outstanding(is_service);
                (!latency.is_empty()).then(|| match statistic {
                    Statistic::Percentile(percent) => percentile(&latency, percent).unwrap_or(0) as f64,
                    Statistic::Mean => latency.mean(),
                    Statistic::Max => latency.max() as f64,
                })
            }
            Metric::Errors => Some(recording.failed as f64),
            Metric::ErrorsPct => {
                let errors = recording.failed + recording.failed_packets + recording.older_than(timeout_ns);
                Some(percentage(errors, recording.traffic.sent_packets))
            }
            _ => None,
        };
        value.is_some_and(|value| self.operator.holds(value, self.bound))
    }
}

impl Metric {
    fn value(self, document: &Document) -> Option<Value> {
        let Document { totals, window, integrity, .. } = document;
        let is_rate = totals.received > 0 && window.seconds > 0.0;
        let value = match self {
            Self::Latency(kind, statistic) => {
                return statistic.value(kind.latency(document)?).map(Value::from);
            }
            Self::Rate => is_rate.then_some(totals.packets_per_s),
            Self::Throughput => is_rate.then(|| window.per_second(totals.bytes_received)),
            Self::Errors => Some(document.errors.count() as f64),
            Self::ErrorsPct => Some(errors_pct(document)),
            Self::Lost => Some(integrity.lost as f64),
            Self::LostPct => Some(percentage(integrity.lost, integrity.sent())),
            Self::Connects => document.connections.as_ref().map(|connections| connections.opened as f64),
            Self::ConnectTime(statistic) => {
                let connect_ns = &document.connections.as_ref()?.connect_ns;
                return statistic.value(connect_ns).map(Value::from);
            }
            Self::HandshakeTime(statistic) => {
                let handshake_ns = document.connections.as_ref()?.handshake_ns.as_ref()?;
                return statistic.value(handshake_ns).map(Value::from);
            }
        };
        value.map(|value| Value { value, is_lower_bound: false, has_few_samples: false })
    }

    fn bound(self, text: &str) -> Option<f64> {
        match self {
            Self::Latency(..) | Self::ConnectTime(_) | Self::HandshakeTime(_) => time(text),
            Self::Rate => number_and_unit(text, &MULTIPLES),
            Self::Throughput => text.parse().ok().map(|size: ByteSize| size.as_u64() as f64),
            Self::Errors | Self::Lost | Self::Connects => {
                text.parse().ok().map(|count: u32| f64::from(count))
            }
            Self::ErrorsPct | Self::LostPct => {
                let percent = text.strip_suffix('%')?;
                decimal(percent.trim_end()).filter(|percent| *percent <= 100.0)
            }
        }
    }

    /// What a bound of this metric looks like, for error messages.
    fn example(self) -> &'static str {
        match self {
            Self::Latency(..) | Self::ConnectTime(_) | Self::HandshakeTime(_) => {
                "a time with its unit, such as 2ms or 1.5s"
            }
            Self::Rate => "packets per second, such as 50000, 50k or 1.5M",
            Self::Throughput => "bytes per second, such as 100MiB",
            Self::Errors | Self::Lost | Self::ErrorsPct | Self::LostPct => {
                "a whole number, such as 1, or a percentage up to 100%, such as 0.1%"
            }
            Self::Connects => "a whole number, such as 1000",
        }
    }

    fn describe(self, value: f64) -> String {
        match self {
            Self::Latency(..) | Self::ConnectTime(_) | Self::HandshakeTime(_) => units::time(value),
            Self::Rate => format!("{} packets/s", units::rate(value)),
            Self::Throughput => units::bytes_per_s(value),
            Self::Errors | Self::Lost | Self::Connects => units::count(value as u64),
            Self::ErrorsPct | Self::LostPct => units::percent(value),
        }
    }
}

fn errors_pct(document: &Document) -> f64 {
    let Document { errors, integrity, .. } = document;
    let failed = integrity.unanswered.saturating_add(errors.connect);
    // A connection may also fail while no packet is outstanding.
    percentage(failed.max(errors.count()), integrity.sent().saturating_add(errors.connect))
}

fn percentage(count: u64, of: u64) -> f64 {
    if count == 0 { 0.0 } else { count as f64 / of.max(count) as f64 * 100.0 }
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
        let bound = bound.trim();
        let metric = match metric.trim().parse()? {
            Metric::Errors if bound.ends_with('%') => Metric::ErrorsPct,
            Metric::Lost if bound.ends_with('%') => Metric::LostPct,
            metric => metric,
        };
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
            "connects" => Self::Connects,
            name => match (name.strip_prefix("connect_"), name.strip_prefix("handshake_")) {
                (Some(statistic), _) => Self::ConnectTime(statistic.parse()?),
                (_, Some(statistic)) => Self::HandshakeTime(statistic.parse()?),
                _ => Self::Latency(kind.unwrap_or(LatencyKind::Primary), name.parse()?),
            },
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
                     errors, lost, connects, connect_p99 or handshake_p99"
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
    format!("{} {holds}: {measured}", printable::name(&threshold.expr))
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
    use crate::traffic::verify::Integrity;

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
            ("errors<0.1%", 0.1),
            ("lost<=0", 0.0),
            ("lost<=5 %", 5.0),
            ("connects>=100", 100.0),
            ("connect_p99<50ms", 50e6),
            ("handshake_max<1s", 1e9),
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
            ("errors<101%", "a percentage up to 100%"),
            ("errors<-1%", "a percentage up to 100%"),
            ("connects<5%", "a whole number"),
            ("connect_<5ms", "unknown metric ''"),
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
    fn a_percentage_of_errors_is_that_of_packets_without_an_answer() {
        let mut document = measured();
        assert!(holds("errors<=0%", &document) && holds("lost<=0%", &document));
        document.integrity = Integrity { verified: 989, lost: 1, unanswered: 10, ..Integrity::default() };
        document.errors.reset = 2;
        assert!(holds("errors<=1%", &document) && !holds("errors<1%", &document));
        assert!(holds("lost<=0.1%", &document) && !holds("lost<0.1%", &document));
        // Connections that could not be opened had no packet.
        document.errors.connect = 990;
        assert_eq!(condition("errors<50%").judge(&document).value.map(f64::round), Some(50.0));
        document.integrity = Integrity::default();
        assert!(holds("errors>=100%", &document), "nothing was sent at all");
    }

    #[test]
    fn the_connections_can_be_judged() {
        let mut document = measured();
        let mut times = new_histogram();
        times.record(3_000_000).unwrap();
        let connections = document.connections.as_mut().unwrap();
        (connections.opened, connections.connect_ns) = (7, Latency::of(&times, None));
        assert!(holds("connects>=7", &document) && !holds("connects>7", &document));
        assert!(holds("connect_p99<4ms", &document) && !holds("connect_mean<2ms", &document));
        assert!(!holds("handshake_p99<1s", &document), "there is no TLS");
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
