//! The log of a tool: on standard error, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error, without colors. The environment variable `RUST_LOG` sets the filter; the default
/// level is WARN. An invalid filter is ignored.
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
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // Internal errors are printed to standard error, which panics if it is closed.
        .log_internal_errors(false)
        .with_env_filter(
            EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).parse_lossy(filter),
        )
        .init();
}
