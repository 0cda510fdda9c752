//! `pktbench`: loads a server that echoes packets, checks every byte that comes back, and tells how fast it was.
//!
//! ```text
//!   cli, options -> plan -> run -> report, or json -> exit code
//!
//!   run:  conductor ---- connect, go, stop ----> workers, a thread each: load, load, ...
//!                   <--- connected, tallies ----            account: is this the packet that was expected?
//! ```
//!
//! It uses the public interface of `pktconn` alone, of whose codec the load is made.

mod cli;

mod options;

mod plan;

mod clock;

mod schedule;

mod sizes;

mod size_file;

mod arrivals;

mod run;

mod interrupt;

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

mod random;

mod payload;

mod account;

mod tally;

mod recording;

mod size_classes;

mod client;

mod intervals;

mod over_time;

mod patience;

mod view;

mod progress;

mod tui;

mod outcome;

mod report;

mod html;

mod document;

mod latency;

mod json;

mod output;

mod live;

mod sink;

mod hdr_log;

mod hgrm;

mod read;

mod threshold;

mod compare;

mod gate;

mod merge;

mod search;

mod units;

mod manual;

mod conform;

use std::process::ExitCode;

use cli::Job;
use gate::Gate;
use output::Output;
use plan::Plan;

fn main() -> ExitCode {
    let job = match Job::from_args() {
        Ok(job) => job,
        Err(exit) => return exit,
    };
    log_to_stderr();
    let done = match job {
        Job::Run { plan, output, gate } => run(*plan, output, &gate),
        Job::Search { plan, output, condition } => search::find(&plan, output, &condition),
        Job::Conform(plan) => conform::run(plan),
        Job::Compare { comparison, json } => compare::print(&comparison, json),
        Job::Merge(sum) => sum.write(),
        Job::Completions(shell) => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Job::Html { document, file } => html::write(&document, &file).map(|()| ExitCode::SUCCESS),
        Job::Man(dir) => manual::pages(&dir).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(plan: Plan, output: Output, gate: &Gate) -> anyhow::Result<ExitCode> {
    let (outcome, sinks) = run::run(plan, output.open()?)?;
    let mut document = json::document(&outcome);
    gate.judge(&mut document);
    Ok(sinks.exit(&document))
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
