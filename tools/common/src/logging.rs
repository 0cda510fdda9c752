//! The log of a tool: on standard error, filtered by `RUST_LOG`. What peers sent is escaped.

use std::io::{self, Write, stderr};

use tracing_subscriber::EnvFilter;

use crate::printable;

/// Starts logging to standard error, without colors. The environment variable `RUST_LOG` sets the filter; the default
/// level is WARN. An invalid filter is ignored. An event is one line: control characters in it are escaped, and a long one
/// is cut.
///
/// # Panics
///
/// If called twice in one process.
pub fn log_to_stderr() {
    log_to_stderr_from("warn");
}

/// Like [`log_to_stderr`], with this filter if `RUST_LOG` is not set, such as `warn,mytool=info`.
///
/// # Panics
///
/// If called twice in one process.
pub fn log_to_stderr_from(default_filter: &str) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => default_filter.to_owned(),
    };
    tracing_subscriber::fmt()
        .with_writer(|| Lines(stderr()))
        .with_ansi(false)
        // Internal errors are printed to standard error, which panics if it is closed.
        .log_internal_errors(false)
        .with_env_filter(
            EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).parse_lossy(filter),
        )
        .init();
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
    fn an_event_is_one_printable_line() {
        let mut lines = Lines(Vec::new());
        lines.write_all("WARN peer=\u{1b}[31m\nWARN forged\n".as_bytes()).unwrap();
        lines.write_all("WARN second\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(lines.0).unwrap(), "WARN peer=\\u{1b}[31m\\nWARN forged\nWARN second\n");
    }
}
