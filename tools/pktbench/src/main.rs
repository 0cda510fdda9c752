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

mod clock;

mod schedule;

mod sizes;

mod arrivals;

mod run;

mod server;

mod files;

mod worker;

mod connect;

mod alarm;

mod event_loop;

mod connection;

mod stream;

mod failure;

mod load;

mod payload;

mod account;

mod tally;

mod recording;

mod size_classes;

mod client;

mod intervals;

mod over_time;

mod patience;

mod progress;

mod outcome;

mod report;

mod document;

mod latency;

mod json;

mod units;

mod manual;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use options::{Format, Job};
use outcome::Outcome;
use plan::Plan;

fn main() -> ExitCode {
    let job = match Job::from_args() {
        Ok(job) => job,
        Err(exit) => return exit,
    };
    log_to_stderr();
    let done = match job {
        Job::Run { plan, format } => run(plan, format),
        Job::Completions(shell) => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Job::Man(dir) => manual::pages(&dir).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(plan: Plan, format: Format) -> anyhow::Result<ExitCode> {
    let outcome = run::run(plan)?;
    print(&outcome, format).context("cannot print the result")?;
    Ok(ExitCode::from(outcome.verdict().exit_code()))
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
        Format::Json => json::text(&json::document(outcome)),
        // Nothing was measured: the line above says it all.
        Format::Text if outcome.not_connected.is_some() => return Ok(()),
        Format::Text => report::text(&json::document(outcome)),
    };
    match writeln!(io::stdout().lock(), "{text}") {
        // A reader that has gone away is no reason for another exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
