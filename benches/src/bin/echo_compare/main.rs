//! Compares echo servers by the CPU time that an echoed packet costs them, as a ratio to the first server.
//!
//! ```text
//! core 0:  server A  |  server B  |  server A  |  server B  ...   one has work at a time, the others sleep
//! core 1:  client    |  client    |  client    |  client    ...
//!          <------ round 1 ------>|<------ round 2 ------>
//! ```
//!
//! With `--half-rate`, as many rounds follow in which the client sends at half the rate of the first server.
//!
//! Whatever slows the machine down for a while affects all servers of a round. So a ratio is taken within each round,
//! and the result is the median over the rounds.

#![forbid(unsafe_code)]

mod certificate;
mod limits;
mod measure;
mod options;
mod plot;
mod results;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pktconn_benches::{
    plan::WorkloadKind,
    report::{OutputFile, exit_code},
};

use limits::{check_ratios, checked_workloads};
use measure::Setup;
use options::Options;
use plot::plot_svg;
use results::{Comparison, WorkloadResult};

/// A round counts as disturbed if other processes use more than this share of the server's core. Undisturbed rounds
/// showed up to 0.02.
const FOREIGN_LIMIT: f64 = 0.05;

const LEGEND: &str = "A workload is connections x packets outstanding on each; tls: over TLS; edge: with and without the \
limits for the open Internet; short: each connection sends one packet, so a figure per packet is one per connection, and a \
latency includes the connect. A ratio is relative to the first server in the same round; the table shows the median of the \
rounds; lower is better.";

fn main() -> ExitCode {
    exit_code("echo_compare", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let setup = Setup::new(options)?;
    let json = options.json.as_deref().map(OutputFile::create).transpose()?;
    let svg = options.svg.as_deref().map(OutputFile::create).transpose()?;
    let mut results = Vec::new();
    println!("{}", table::HEAD);
    let checked = if options.check { checked_workloads()? } else { Vec::new() };
    for &workload in if options.check { &checked } else { &options.workloads } {
        let result = setup.measure(workload)?;
        println!("{}", table::rows(&result).join("\n"));
        warn_if_disturbed(&result);
        results.push(result);
    }
    if options.half_rate {
        println!("\n{}", table::HALF_RATE_HEAD);
        results.iter().for_each(|result| println!("{}", table::half_rate_rows(result).join("\n")));
    }
    // On standard error, so that standard output has only the tables.
    eprintln!("{LEGEND}");
    if let Some(file) = svg {
        // Only these have the same servers, and the bare loop as the first one.
        let echoes: Vec<_> =
            results.iter().filter(|result| result.workload.kind == WorkloadKind::Echo).cloned().collect();
        file.write_text(&plot_svg(&echoes, options.duration.as_secs_f64())?)?;
    }
    let verdicts: Vec<_> =
        if options.check { results.iter().map(check_ratios).collect() } else { Vec::new() };
    if let Some(file) = json {
        file.write_json(&comparison(options, results))?;
    }
    // Prints all verdicts; the last failure is the error.
    let mut outcome = Ok(());
    for verdict in verdicts {
        match verdict {
            Ok(line) => println!("{line}"),
            Err(error) => {
                println!("{error}");
                outcome = Err(error);
            }
        }
    }
    outcome
}

fn warn_if_disturbed(result: &WorkloadResult) {
    let (workload, disturbed) = (result.workload, result.disturbed_rounds(FOREIGN_LIMIT));
    if disturbed > 0 {
        let percent = FOREIGN_LIMIT * 100.0;
        eprintln!(
            "{workload}: other processes used over {percent} % of the server's core in {disturbed} rounds; try an idle machine"
        );
    }
}

fn comparison(options: &Options, workloads: Vec<WorkloadResult>) -> Comparison {
    Comparison {
        server_core: options.server_core,
        client_core: options.client_core,
        round_seconds: options.duration.as_secs_f64(),
        seed: options.seed,
        workloads,
    }
}
