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
mod start;
mod transport;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pktconn_benches::{
    load::{LoadReport, NotKeptUp, Schedule},
    system::raise_open_file_limit,
};

use options::Options;
use run::Run;
use short::short_conns;

fn main() -> ExitCode {
    let options = Options::parse();
    raise_open_file_limit();
    match run(&options).and_then(|report| Ok(serde_json::to_string(&report)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bare_epoll_client: {error:#}");
            if error.is::<NotKeptUp>() { ExitCode::from(NotKeptUp::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(options: &Options) -> Result<LoadReport> {
    if options.short {
        return short_conns(options);
    }
    let run = Run::connect(options)?;
    match options.rate {
        None => run.closed_loop(options.pipeline, options.duration),
        Some(rate_per_s) => run.open_loop(&Schedule::new(rate_per_s, options.duration)),
    }
}
