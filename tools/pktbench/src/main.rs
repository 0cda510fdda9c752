//! `pktbench`: loads a server that echoes packets, checks every byte that comes back, and tells how fast it was.
//!
//! ```text
//!   options -> plan -> run -> report, or json -> exit code
//!
//!   run:  conductor ---- connect, go, stop ----> workers, a thread each: load, load, ...
//!                   <--- connected, tallies ----            account: is this the packet that was expected?
//! ```
//!
//! It uses the public interface of `pktconn` alone, of whose codec the load is made.

mod options;

mod plan;

mod sizes;

mod run;

mod server;

mod files;

mod worker;

mod connect;

mod event_loop;

mod connection;

mod stream;

mod failure;

mod load;

mod payload;

mod account;

mod tally;

mod patience;

mod progress;

mod outcome;

mod report;

mod json;

mod units;

use std::io::{self, Write};
use std::process::ExitCode;

use options::{Format, Job};
use outcome::Outcome;

fn main() -> ExitCode {
    let Job { plan, format } = match Job::from_args() {
        Ok(job) => job,
        Err(exit) => return exit,
    };
    log_to_stderr();
    match run::run(plan) {
        Ok(outcome) => {
            if let Err(error) = print(&outcome, format) {
                eprintln!("error: cannot print the result: {error}");
                return ExitCode::FAILURE;
            }
            ExitCode::from(outcome.verdict().exit_code())
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is gone.
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::WARN.into())
                .from_env_lossy(),
        )
        .init();
}

fn print(outcome: &Outcome, format: Format) -> io::Result<()> {
    if let Some(problem) = &outcome.not_connected {
        eprintln!("error: {problem}");
    }
    let text = match format {
        Format::Json => json::document(outcome),
        // Nothing was measured: the line above says it all.
        Format::Text if outcome.not_connected.is_some() => return Ok(()),
        Format::Text => report::text(outcome),
    };
    match writeln!(io::stdout().lock(), "{text}") {
        // A reader that has gone away is no reason for another exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
