//! Runs echo servers side by side, and tells what an echoed packet costs each of them, as a ratio to the first.
//!
//! ```text
//! core 0:  server A  |  server B  |  server A  |  server B  ...   one has work at a time, the others sleep
//! core 1:  client    |  client    |  client    |  client    ...
//!          <------ round 1 ------>|<------ round 2 ------>
//! ```
//!
//! With `--half-rate` as many rounds follow in which the client sends at half the rate of the first server.
//!
//! Whatever slows the machine for a while slows both halves of a round, so a ratio is taken within each round, and the
//! median over the rounds is what counts.

#![forbid(unsafe_code)]

mod measure;
mod options;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pktconn_benches::{
    Comparison, HALF_RATE_TABLE_HEAD, OutputFile, RegimeResult, TABLE_HEAD, check_ratios, checked_regimes,
    clock_ticks_per_s, half_rate_table_rows, plot_svg, table_rows,
};

use measure::Setup;
use options::Options;

/// The share of the server's core that others may take before a run counts as disturbed: rounds that nobody disturbed
/// showed up to 0.02, so that this is clear of the background.
const FOREIGN_LIMIT: f64 = 0.05;

const LEGEND: &str = "A regime is connections x packets outstanding on each. A ratio is that to the first server in the same \
round, here the median of the rounds; lower is better. Rounds below a second are for trying the command, or for many of them.";

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let setup = Setup::new(options)?;
    let json = options.json.as_deref().map(OutputFile::create).transpose()?;
    let svg = options.svg.as_deref().map(OutputFile::create).transpose()?;
    let mut regimes = Vec::new();
    println!("{TABLE_HEAD}");
    let checked = if options.check { checked_regimes()? } else { Vec::new() };
    for &regime in if options.check { &checked } else { &options.regimes } {
        let result = setup.measure(regime)?;
        println!("{}", table_rows(&result).join("\n"));
        warn_if_disturbed(&result);
        regimes.push(result);
    }
    if options.half_rate {
        println!("\n{HALF_RATE_TABLE_HEAD}");
        regimes.iter().for_each(|result| println!("{}", half_rate_table_rows(result).join("\n")));
    }
    // Not for who puts the tables into a document.
    eprintln!("{LEGEND}");
    if let Some(file) = svg {
        file.write_text(&plot_svg(&regimes, options.duration.as_secs_f64())?)?;
    }
    let verdicts: Vec<_> =
        if options.check { regimes.iter().map(check_ratios).collect() } else { Vec::new() };
    if let Some(file) = json {
        file.write_json(&comparison(options, regimes))?;
    }
    // All of them are told, and the last failure is the error.
    let mut checked = Ok(());
    for verdict in verdicts {
        match verdict {
            Ok(line) => println!("{line}"),
            Err(error) => {
                println!("{error}");
                checked = Err(error);
            }
        }
    }
    checked
}

fn warn_if_disturbed(result: &RegimeResult) {
    let (regime, disturbed) = (result.regime, result.disturbed_rounds(FOREIGN_LIMIT));
    if disturbed > 0 {
        let percent = FOREIGN_LIMIT * 100.0;
        eprintln!(
            "{regime}: others took over {percent} % of the server's core in {disturbed} runs; try an idle machine"
        );
    }
}

fn comparison(options: &Options, regimes: Vec<RegimeResult>) -> Comparison {
    Comparison {
        server_core: options.server_core,
        client_core: options.client_core,
        round_seconds: options.duration.as_secs_f64(),
        seed: options.seed,
        clock_ticks_per_s: clock_ticks_per_s(),
        regimes,
    }
}
