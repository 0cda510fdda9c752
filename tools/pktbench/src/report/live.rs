//! Output while the run goes on: a line of NDJSON or CSV for each interval, and the HdrHistogram log.

use std::time::SystemTime;

use serde::Serialize;

use crate::record::recording::Recording;
use crate::report::hdr_log;
use crate::report::output::{Format, Sinks};
use crate::result::document::{Config, Interval, SCHEMA, Tool};
use crate::result::json;

/// A line of NDJSON. The last line, with the document as `result`, is written by `output`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Start {
        schema: &'a str,
        tool: Tool,
        config: &'a Config,
    },
    Interval {
        #[serde(flatten)]
        interval: &'a Interval,
    },
}

/// The columns of CSV. The latency columns are empty in an interval without a sample.
const COLUMNS: &str = "t_s,received,p50_ns,p99_ns,p999_ns,max_ns";

impl Sinks {
    /// Writes the headers. The times of all intervals are relative to `since`.
    pub(crate) fn begin(&mut self, config: &Config, since: SystemTime) {
        match self.format {
            Format::Text | Format::Json => {}
            Format::Ndjson => {
                let start = Event::Start { schema: SCHEMA, tool: Tool::this_program(), config };
                self.result.line(&json::to_line(&start));
            }
            Format::Csv => self.result.line(COLUMNS),
        }
        if let Some(log) = &mut self.hdr_log {
            hdr_log::begin(log, since);
        }
    }

    /// Writes a complete interval that began at `from_s`.
    pub(crate) fn show(&mut self, from_s: f64, interval: &Interval, recording: &Recording) {
        match self.format {
            Format::Text | Format::Json => {}
            Format::Ndjson => self.result.line(&json::to_line(&Event::Interval { interval })),
            Format::Csv => self.result.line(&row(interval)),
        }
        if let Some(log) = &mut self.hdr_log {
            hdr_log::add(log, from_s, interval.t_s, recording);
        }
    }
}

fn row(interval: &Interval) -> String {
    let Interval { t_s, received, p50_ns, p99_ns, p999_ns, max_ns } = interval;
    let latencies = [p50_ns, p99_ns, p999_ns, max_ns].map(|ns| ns.map_or(String::new(), |ns| ns.to_string()));
    format!("{t_s:.3},{received},{}", latencies.join(","))
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
        };
        assert_eq!(row(&interval), "1.500,7,10,20,30,40");
        let empty =
            Interval { t_s: 2.0, received: 0, p50_ns: None, p99_ns: None, p999_ns: None, max_ns: None };
        assert_eq!(row(&empty), "2.000,0,,,,");
        assert_eq!(row(&empty).matches(',').count(), COLUMNS.matches(',').count());
    }
}
