//! The load generator of the echo comparison: one thread, one epoll loop.
//!
//! ```text
//! closed loop    packet -> reply -> packet -> reply ...       --pipeline of these on each connection
//! open loop      packet . packet . packet . packet ...        --rate per second, regardless of replies
//! short          connect, packet -> reply, close, connect ... --conns connections at a time
//! ```
//!
//! It sends nothing more after `--duration`, and ends with the last reply, so that the server echoed exactly the
//! packets that are counted. It checks the length and order of replies, not their payloads or checksums: comparing
//! payloads would cost more than the echo itself.

#![forbid(unsafe_code)]

mod connection;
mod load;
mod options;
mod run;
mod short;
mod transport;

use std::{io, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use pktconn_benches::{
    load::{CONNECTED_LINE, LoadReport, NotKeptUp},
    system::raise_open_file_limit,
};

use options::Options;
use run::Run;
use short::short_conns;

fn main() -> ExitCode {
    let options = Options::parse();
    raise_open_file_limit();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare_epoll_client: {error:#}");
            if error.is::<NotKeptUp>() { ExitCode::from(NotKeptUp::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.short {
        return runs(options, |seed| short_conns(options, seed));
    }
    let mut run = Run::connect(options)?;
    runs(options, |seed| run.run(seed))
}

/// Runs once, or with `--hold` once per line of standard input. Prints a line after each run.
fn runs(options: &Options, mut run: impl FnMut(u64) -> Result<LoadReport>) -> Result<()> {
    let mut run = |seed| -> Result<()> {
        println!("{}", serde_json::to_string(&run(seed)?)?);
        Ok(())
    };
    if !options.hold {
        return run(options.seed);
    }
    println!("{CONNECTED_LINE}");
    for line in io::stdin().lines() {
        let line = line.context("cannot read from standard input")?;
        run(line.parse().with_context(|| format!("expected a seed on standard input, not {line:?}"))?)?;
    }
    Ok(())
}
