//! `pktbench`: a load generator for echo servers of length-prefixed packets. It measures throughput and latency, and
//! checks every byte that comes back.
//!
//! ```text
//!   cli -> plan -> run -> result -> judge -> report -> exit code
//!
//!   run:  conductor ---- connect, go, stop ----> workers, one thread each, with many connections each
//!                   <--- connected, tallies ----            verify: is this the packet that was expected?
//! ```
//!
//! It uses only the public API of `pktconn`, whose codec also frames the packets of the load.

mod traffic;

mod plan;

mod result;

mod record;

mod load;

mod judge;

mod report;

mod merge;

mod run;

mod conform;

mod cli;

use std::process::ExitCode;

use cli::{Job, manual};
use judge::gate::Gate;
use pktconn_tools::logging;
use pktconn_tools::printable::print_error;
use plan::Plan;
use report::output::Output;
use report::{comparison, html};
use run::{conductor, search, to_document};

fn main() -> ExitCode {
    let job = match Job::from_args() {
        Ok(job) => job,
        Err(exit) => return exit,
    };
    logging::start("warn", false);
    if let Job::Run { plan, .. } | Job::Search { plan, .. } = &job {
        plan.warn();
    }
    let result = match job {
        Job::Run { plan, output, gate } => run(*plan, output, &gate),
        Job::Search { plan, output, condition } => search::find(&plan, output, &condition),
        Job::Conform(plan) => conform::run(plan),
        Job::Compare { comparison, json } => comparison::print(&comparison, json),
        Job::Merge(sum) => sum.write(),
        Job::Completions(shell) => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Job::Html { document, file } => html::write(&document, &file).map(|()| ExitCode::SUCCESS),
        Job::Man(dir) => manual::pages(&dir).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        print_error(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn run(plan: Plan, output: Output, gate: &Gate) -> anyhow::Result<ExitCode> {
    let abort = gate.abort_watch(plan.timeout);
    let (outcome, sinks) = conductor::run(plan, output.open()?, abort)?;
    let mut document = to_document::document(&outcome);
    gate.judge(&mut document);
    Ok(sinks.exit(&document))
}
