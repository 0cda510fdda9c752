//! Measures how much memory an idle connection costs an echo server, before and after the connection was used.
//!
//! ```text
//! start, warm up  |  open N connections  |  echo bursts on all of them  |
//!               empty                  fresh                        after use     (resident memory of the server)
//! ```

#![forbid(unsafe_code)]

mod echo;
mod measure;
mod result;
mod steady;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use pktconn_benches::{
    plan::{ServerSpec, SizeRange, WorkloadKind, checked_servers, standard_servers},
    report::{OutputFile, exit_code},
    system::{check_open_file_limit, raise_open_file_limit},
};
use pktconn_tools::values::whole_number;

use measure::measure;
use result::{IdleResult, TABLE_HEAD};

/// Measures the memory that an idle connection costs echo servers; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// A server, as NAME=COMMAND LINE. It must print "listening on ADDR" and echo packets (u32 little-endian length,
    /// payload, no checksum) [default: the servers of the echo comparison]
    #[arg(long = "server")]
    servers: Vec<ServerSpec>,
    /// Number of connections. May be given several times
    #[arg(long = "conns", default_values = ["1000", "5000", "9000"], value_parser = whole_number::<u32>(1.., 1000))]
    conns: Vec<u32>,
    /// Fail if an idle connection costs pktecho more than 1536 B of resident memory, before or after use. Measures only
    /// pktecho, with 2000 connections
    #[arg(long, conflicts_with_all = ["servers", "conns"])]
    check: bool,
    /// Payload sizes in bytes, uniformly distributed, both ends included
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes, the same for all servers
    #[arg(long, default_value_t = 1, value_parser = whole_number::<u64>(0.., 1))]
    seed: u64,
    /// Write all readings to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The most resident memory that an idle connection may cost `pktecho` with `--check`, in bytes, before and after use.
const CHECK_LIMIT_BYTES: f64 = 1536.0;

/// Number of connections with `--check`.
const CHECK_CONNS: u32 = 2000;

fn main() -> ExitCode {
    exit_code("idle", run(Options::parse()))
}

fn run(mut options: Options) -> Result<()> {
    // The servers inherit the limit.
    raise_open_file_limit();
    if options.check {
        // All but the first, which is the bare server.
        options.servers = checked_servers(&env::current_exe()?, WorkloadKind::Echo)?.split_off(1);
        options.conns = vec![CHECK_CONNS];
    }
    for &conns in &options.conns {
        check_open_file_limit(conns as usize, 1)?;
    }
    if options.servers.is_empty() {
        options.servers = standard_servers(&env::current_exe()?, WorkloadKind::Echo)?;
    }
    let json = options.json.as_deref().map(OutputFile::create).transpose()?;
    let mut results = Vec::new();
    println!("{TABLE_HEAD}");
    for &conns in &options.conns {
        for spec in &options.servers {
            let memory = measure(spec, conns as usize, options.sizes, options.seed)
                .with_context(|| format!("server {:?} with {conns} connections", spec.name))?;
            let result = IdleResult::new(spec, conns as usize, memory);
            println!("{}", result.row());
            results.push(result);
        }
    }
    if let Some(file) = json {
        file.write_json(&results)?;
    }
    if options.check {
        for result in &results {
            result.check(CHECK_LIMIT_BYTES)?;
        }
        println!("within the limit of {CHECK_LIMIT_BYTES} B");
    }
    Ok(())
}
