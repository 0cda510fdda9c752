//! The log of a tool: on standard error, filtered by `RUST_LOG`. Also the access log of a server, on standard output.

use tracing::Level;
use tracing_subscriber::filter::{FilterExt, FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The target of the access log of `pktconn`.
const ACCESS: &str = "pktconn::access";

/// Starts logging to standard error, without colors. The environment variable `RUST_LOG` sets the filter; the default
/// level is WARN. An invalid filter is ignored.
///
/// # Panics
///
/// If called twice in one process.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // Internal errors are printed to standard error, which panics if it is closed.
        .log_internal_errors(false)
        .with_env_filter(env_filter())
        .init();
}

/// Like [`log_to_stderr`], and writes the access log to standard output: one line per connection, whatever `RUST_LOG`
/// says.
///
/// # Panics
///
/// If called twice in one process.
pub fn log_to_stderr_and_access_to_stdout() {
    let without_access = FilterFn::new(|metadata| metadata.target() != ACCESS);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_filter(env_filter().and(without_access));
    let access = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stdout)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_filter(Targets::new().with_target(ACCESS, Level::INFO));
    tracing_subscriber::registry().with(log).with(access).init();
}

fn env_filter() -> EnvFilter {
    EnvFilter::builder().with_default_directive(Level::WARN.into()).from_env_lossy()
}
