//! Output while the run goes on: a line of NDJSON or CSV for each interval, and the HdrHistogram log.

use std::time::SystemTime;

use serde::Serialize;

use crate::plan::clock::unix_ns;
use crate::record::recording::{FailureNote, Recording};
use crate::report::hdr_log;
use crate::report::output::{Format, Sinks};
use crate::result::document::{Config, Interval, SCHEMA, Tool};
use crate::result::json;

/// A line of NDJSON. The last line, with the document as `result`, is written by `output`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// The load starts at `unix_ns`, and the window, to which all `t_s` are relative, at `window_start_unix_ns`.
    Start { schema: &'a str, unix_ns: u64, window_start_unix_ns: u64, tool: Tool, config: &'a Config },
    /// A connection failed. Of many failures in an interval, only the first ones have this event; the `errors` of the
    /// interval counts all.
    Error { unix_ns: u64, error: &'a str },
    Interval {
        #[serde(flatten)]
        interval: &'a Interval,
    },
}

/// The columns of CSV. The latency columns are empty in an interval without a sample.
const COLUMNS: &str =
    "t_s,received,p50_ns,p99_ns,p999_ns,max_ns,unix_ns,sent,bytes_sent,bytes_received,errors";

impl Sinks {
    /// Writes the headers. The load starts at `started`. The times of all intervals are relative to `since`.
    pub(crate) fn begin(&mut self, config: &Config, started: SystemTime, since: SystemTime) {
        match self.format {
            Format::Text | Format::Json => {}
            Format::Ndjson => {
                let start = Event::Start {
                    schema: SCHEMA,
                    unix_ns: unix_ns(started),
                    window_start_unix_ns: unix_ns(since),
                    tool: Tool::this_program(),
                    config,
                };
                self.result.line(&json::to_line(&start));
            }
            Format::Csv => self.result.line(COLUMNS),
        }
        if let Some(log) = &mut self.hdr_log {
            hdr_log::begin(log, since);
        }
    }

    /// Writes a failure, which happened at `unix_ns`.
    pub(crate) fn show_failure(&mut self, unix_ns: u64, failure: &FailureNote) {
        if self.format == Format::Ndjson {
            self.result.line(&json::to_line(&Event::Error { unix_ns, error: &failure.text }));
        }
    }

    /// Writes a complete interval that began at `from_s`.
    pub(crate) fn show(&mut self, from_s: f64, interval: &Interval, recording: &Recording) {
        match self.format {
            Format::Text | Format::Json => {}
            Format::Ndjson => self.result.line(&json::to_line(&Event::Interval { interval })),
            Format::Csv => self.result.line(&row(interval)),
        }
        if let Some(metrics) = &self.metrics {
            metrics.add(recording);
        }
        if let Some(log) = &mut self.hdr_log {
            hdr_log::add(log, from_s, interval.t_s, recording);
        }
    }
}

fn row(interval: &Interval) -> String {
    let Interval { t_s, received, p50_ns, p99_ns, p999_ns, max_ns, .. } = interval;
    let Interval { unix_ns, sent, bytes_sent, bytes_received, errors, .. } = interval;
    let latencies = [p50_ns, p99_ns, p999_ns, max_ns].map(|ns| ns.map_or(String::new(), |ns| ns.to_string()));
    let latencies = latencies.join(",");
    format!("{t_s:.3},{received},{latencies},{unix_ns},{sent},{bytes_sent},{bytes_received},{errors}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_field_for_each_column() {
        let interval = Interval {
            t_s: 1.5,
            received: 7,
            p50_ns: Some(10),
            p99_ns: Some(20),
            p999_ns: Some(30),
            max_ns: Some(40),
            unix_ns: 1_700_000_000_000_000_000,
            sent: 8,
            bytes_sent: 800,
            bytes_received: 700,
            errors: 1,
        };
        assert_eq!(row(&interval), "1.500,7,10,20,30,40,1700000000000000000,8,800,700,1");
        let empty = Interval { t_s: 2.0, ..Interval::default() };
        assert_eq!(row(&empty), "2.000,0,,,,,0,0,0,0,0");
        assert_eq!(row(&empty).matches(',').count(), COLUMNS.matches(',').count());
    }
}
