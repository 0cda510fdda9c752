//! The log of a tool: on standard error, filtered by `RUST_LOG`. Also the access log of a server, on standard output. What
//! peers sent is escaped.

use std::io::{self, Write, stderr, stdout};

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::printable;

/// The target of the access log of `pktconn`.
const ACCESS: &str = "pktconn::access";

/// Starts logging to standard error, without colors. The environment variable `RUST_LOG` sets the filter; if it is not
/// set, `default_filter` does, such as `warn,mytool=info`. An invalid filter is ignored. An event is one line: control
/// characters in it are escaped, and a long one is cut.
///
/// With `access_log`, the access log goes to standard output: one line per connection, whatever the filter says.
///
/// # Panics
///
/// If called twice in one process.
pub fn start(default_filter: &str, access_log: bool) {
    subscriber(env_filter(default_filter), access_log).init();
}

fn subscriber(filter: EnvFilter, access_log: bool) -> impl Subscriber + Send + Sync {
    // Without a hint about the level, no span is off: each poll of a connection would enter one.
    let is_other = FilterFn::new(|event| event.target() != ACCESS).with_max_level_hint(LevelFilter::TRACE);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(|| Lines(stderr()))
        .with_ansi(false)
        // Internal errors are printed to standard error, which panics if it is closed.
        .log_internal_errors(false)
        .with_filter(filter.and(is_other));
    let access = access_log.then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(|| Lines(stdout()))
            .with_ansi(false)
            .with_level(false)
            .with_target(false)
            .log_internal_errors(false)
            .with_filter(Targets::new().with_target(ACCESS, Level::INFO))
    });
    tracing_subscriber::registry().with(log).with(access)
}

fn env_filter(default: &str) -> EnvFilter {
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.as_deref().unwrap_or(default);
    EnvFilter::builder().with_default_directive(Level::WARN.into()).parse_lossy(filter)
}

/// Writes each event, which comes whole and with a line end, as one printable line.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = printable::line(text.strip_suffix('\n').unwrap_or(&text));
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_below_the_level_of_the_filter_are_off() {
        for (access_log, level) in [(false, LevelFilter::WARN), (true, LevelFilter::INFO)] {
            assert_eq!(subscriber(EnvFilter::new("warn"), access_log).max_level_hint(), Some(level));
        }
    }

    #[test]
    fn an_event_is_one_printable_line() {
        let mut lines = Lines(Vec::new());
        lines.write_all("WARN peer=\u{1b}[31m\nWARN forged\n".as_bytes()).unwrap();
        lines.write_all("WARN second\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(lines.0).unwrap(), "WARN peer=\\u{1b}[31m\\nWARN forged\nWARN second\n");
    }
}
