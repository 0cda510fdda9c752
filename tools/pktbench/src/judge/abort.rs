//! `--abort-on`: ends a run early if a condition holds in every interval over some time, such as `p99>1s for 2s`.
//!
//! ```text
//!   interval     |  1  |  2  |  3  |  4  |  5  |  6  |
//!   p99>1s       | no  | yes | no  | yes | yes |          ends the run here, with intervals of 1 s
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::judge::threshold::Condition;
use crate::record::recording::Recording;
use crate::result::document::Mode;
use crate::traffic::parse::parse_time;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AbortCondition {
    /// As it was written.
    text: String,
    condition: Condition,
    /// `None` for one interval.
    time: Option<Duration>,
}

/// Follows the intervals of a run.
#[derive(Debug, Default)]
pub(crate) struct AbortWatch {
    conditions: Vec<Watched>,
    /// A packet that has waited for so long is one without an answer.
    timeout_ns: u64,
}

#[derive(Debug)]
struct Watched {
    condition: AbortCondition,
    /// The start of the first of the intervals in which it holds, up to the last one.
    since_ns: Option<u64>,
}

impl AbortWatch {
    pub(crate) fn new(conditions: &[AbortCondition], timeout_ns: u64) -> Self {
        let watched = |condition: &AbortCondition| Watched { condition: condition.clone(), since_ns: None };
        Self { conditions: conditions.iter().map(watched).collect(), timeout_ns }
    }

    /// Adds the next interval. Returns the condition that ends the run, if there is one.
    pub(crate) fn add(
        &mut self,
        start_ns: u64,
        end_ns: u64,
        recording: &Recording,
    ) -> Option<&AbortCondition> {
        let mut met = None;
        for Watched { condition, since_ns } in &mut self.conditions {
            *since_ns = match condition.condition.holds_in(recording, self.timeout_ns) {
                true => Some(since_ns.unwrap_or(start_ns)),
                false => None,
            };
            let needed = condition.time.map_or(0, |time| time.as_nanos() as u64);
            if since_ns.is_some_and(|since_ns| end_ns - since_ns >= needed) {
                met.get_or_insert(&*condition);
            }
        }
        met
    }
}

impl AbortCondition {
    /// Whether it needs the ages of the outstanding packets: a server that answers nothing has no other latency.
    pub(crate) fn needs_outstanding(&self) -> bool {
        self.condition.is_latency() || self.condition.is_errors_pct()
    }

    /// An error if it cannot be judged in intervals of this length, or in this mode.
    pub(crate) fn check(&self, interval: Duration, mode: Mode) -> Result<(), String> {
        let text = |time| humantime::format_duration(time).to_string();
        if let Some(time) = self.time.filter(|time| *time < interval) {
            let (time, interval) = (text(time), text(interval));
            return Err(format!(
                "--abort-on '{self}': {time} is shorter than an interval; write at least 'for {interval}', or give a \
                 shorter --interval"
            ));
        }
        self.condition.check(mode).map_err(|_| {
            format!(
                "--abort-on '{self}': a closed loop has no response times; write service: or give a --rate"
            )
        })
    }
}

impl FromStr for AbortCondition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLES: &str = "such as 'p99>1s for 5s' or 'errors>5% for 3s'";
        let (condition, time) = match text.rsplit_once(" for ") {
            Some((condition, time)) => (condition, Some(time)),
            None => (text, None),
        };
        let time = time.map(|time| parse_time(time.trim())).transpose();
        let time = time.map_err(|problem| format!("{problem}; write a condition and a time, {EXAMPLES}"))?;
        let condition: Condition = condition.parse()?;
        if !condition.is_for_abort() {
            return Err(format!("write an upper bound of a latency or of errors with > or >=, {EXAMPLES}"));
        }
        Ok(Self { text: text.trim().to_owned(), condition, time })
    }
}

/// Shows the original text.
impl fmt::Display for AbortCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn condition(text: &str) -> AbortCondition {
        text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    /// The condition that ends a run with these intervals of 1 s, and the number of the interval.
    fn met(conditions: &[&str], intervals: &[Recording]) -> Option<(String, usize)> {
        let conditions: Vec<_> = conditions.iter().map(|text| condition(text)).collect();
        let mut watch = AbortWatch::new(&conditions, 10 * SECOND_NS);
        intervals.iter().enumerate().find_map(|(index, recording)| {
            let start_ns = index as u64 * SECOND_NS;
            let met = watch.add(start_ns, start_ns + SECOND_NS, recording)?;
            Some((met.to_string(), index + 1))
        })
    }

    /// An interval with 100 packets, which were answered after so many ms.
    fn answered(ms: u64) -> Recording {
        let mut recording = Recording::new(false);
        recording.record(ms * 1_000_000, 0, 100);
        recording.traffic.sent_packets = 100;
        recording
    }

    /// An interval in which nothing was answered, with 5 outstanding packets of this age.
    fn frozen(age_ms: u64) -> Recording {
        let mut recording = Recording::new(false);
        (0..5).for_each(|_| recording.record_outstanding(age_ms * 1_000_000, age_ms * 1_000_000, 1));
        recording
    }

    fn failed(conns: u64, packets: u64) -> Recording {
        Recording { failed: conns, failed_packets: packets, ..answered(1) }
    }

    #[test]
    fn a_condition_must_hold_in_every_interval_over_its_time() {
        let intervals = [5, 2000, 5, 2000, 2000, 2000, 2000].map(answered);
        let at = |text: &str| met(&[text], &intervals).map(|(_, interval)| interval);
        assert_eq!(at("p99>1s"), Some(2));
        assert_eq!(at("p99>1s for 1s"), Some(2));
        assert_eq!(at("p99>1s for 1100ms"), Some(5), "rounded up to whole intervals");
        assert_eq!(at("p99>1s for 3s"), Some(6));
        assert_eq!(at("p99>1s for 5s"), None);
        assert_eq!(at("mean>=2s for 2s"), Some(5));
        assert_eq!(at("max>3s"), None);
    }

    #[test]
    fn the_first_of_several_conditions_that_is_met_ends_the_run() {
        let intervals = [answered(5), failed(1, 0), answered(2000)];
        let both = ["p99>1s", "errors>0"];
        assert_eq!(met(&both, &intervals), Some(("errors>0".to_owned(), 2)));
        assert_eq!(met(&both, &intervals[2..]), Some(("p99>1s".to_owned(), 1)));
        assert_eq!(met(&[], &intervals), None);
    }

    #[test]
    fn a_server_that_answers_nothing_has_the_latency_of_its_outstanding_packets() {
        let intervals = [answered(5), frozen(900), frozen(1900), frozen(2900)];
        assert_eq!(met(&["p99>1s for 2s"], &intervals), Some(("p99>1s for 2s".to_owned(), 4)));
        assert_eq!(met(&["service:p50>1s"], &intervals), Some(("service:p50>1s".to_owned(), 3)));
        assert_eq!(met(&["p99>5s"], &intervals), None);
    }

    #[test]
    fn errors_are_failed_connections_or_a_percentage_of_the_packets_sent() {
        let of = |text: &str, recording: Recording| met(&[text], &[recording]).is_some();
        assert!(of("errors>=3", failed(3, 50)) && !of("errors>3", failed(3, 50)));
        // 100 packets sent.
        assert!(of("errors>5%", failed(1, 5)) && !of("errors>6%", failed(1, 5)));
        assert!(of("errors >= 6 %", failed(1, 5)) && of("errors>0.5%", failed(1, 0)));
        assert!(!of("errors>0%", answered(9)) && !of("errors>0%", Recording::new(false)));
        let nothing_sent = Recording { failed: 1, ..Recording::new(false) };
        assert!(of("errors>99%", nothing_sent));
        assert!(of("errors>50%", frozen(11_000)), "longer than the timeout");
        assert!(!of("errors>50%", frozen(9000)));
    }

    #[test]
    fn only_what_needs_the_ages_of_outstanding_packets_asks_for_them() {
        let needs = ["p99>1s", "errors>5%", "errors>5"].map(|text| condition(text).needs_outstanding());
        assert_eq!(needs, [true, true, false]);
    }

    #[test]
    fn an_invalid_condition_is_an_error_that_says_what_to_write() {
        let cases = [
            ("", "such as 'p99<2ms'"),
            ("p99>1s for x", "such as 'p99>1s for 5s' or 'errors>5% for 3s'"),
            ("p99>1s for", "a time with its unit"),
            ("p99<1s for 5s", "with > or >=, such as"),
            ("rate>5k for 5s", "with > or >=, such as"),
            ("lost>5", "with > or >=, such as"),
            ("errors<5%", "with > or >=, such as"),
            ("errors>many%", "a percentage up to 100%"),
            ("errors>-1%", "a percentage up to 100%"),
            ("errors>nan%", "a percentage up to 100%"),
            ("p9x>1s", "unknown metric 'p9x'"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<AbortCondition>().expect_err(text);
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        }
        let check = |text: &str, mode| condition(text).check(Duration::from_secs(1), mode);
        let short = check("p99>1s for 500ms", Mode::Closed).unwrap_err();
        assert!(short.contains("500ms is shorter than an interval; write at least 'for 1s'"), "{short}");
        let closed = check("response:p99>1s", Mode::Closed).unwrap_err();
        assert!(closed.contains("write service: or give a --rate"), "{closed}");
        assert_eq!(check("response:p99>1s for 1s", Mode::Open), Ok(()));
    }
}
