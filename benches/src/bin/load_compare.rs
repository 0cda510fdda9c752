//! Tells how many packets `pktbench` drives on one core, next to the bare client that checks nothing.
//!
//! ```text
//! core 0:  bare_epoll_server
//! core 1:  bare_epoll_client | pktbench --threads 1, in turns
//! ```
//!
//! The server is the fastest one here, so that the client is the limit as far as one can be.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use pktconn_benches::{
    LoadReport, Pinning, Regime, ServerProcess, ServerSpec, SizeRange, median, program_beside, ratio_cell,
};

/// Compares the packets/s of pktbench with those of the bare client; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// Connections x packets outstanding on each
    #[arg(long = "regime", default_values = ["1000x1", "64x1", "64x32"])]
    regimes: Vec<Regime>,
    /// Rounds in each regime, each client once a round
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a client sends in each round
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included, in each regime that has none of its own
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the clients
    #[arg(long, default_value_t = 1)]
    client_core: usize,
}

/// Long enough for the server to size its buffers and for the clock of the core to rise.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load_compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let pinning = Pinning { server_core: options.server_core, client_core: options.client_core };
    pinning.check()?;
    let server = ServerProcess::start(
        &ServerSpec {
            name: "bare".to_owned(),
            command: vec![program("bare_epoll_server")?, "--listen".to_owned(), "127.0.0.1:0".to_owned()],
        },
        pinning,
    )?;
    let clients = Clients {
        pinning,
        bare: program("bare_epoll_client")?,
        pktbench: program("pktbench")?,
        address: server.address().to_string(),
    };
    println!("| regime | client | packets/s | ratio (min-max) |\n|---|---|--:|--:|");
    for &regime in &options.regimes {
        let sizes = regime.sizes.unwrap_or(options.sizes);
        clients.bare(regime, sizes, WARM_UP, 0)?;
        let mut rounds = Vec::new();
        for round in 1..=options.rounds {
            let bare = clients.bare(regime, sizes, options.duration, round)?;
            let pktbench = clients.pktbench(regime, sizes, options.duration, round)?;
            eprintln!(
                "{regime} round {round}/{}: bare {bare:.0}, pktbench {pktbench:.0} packets/s",
                options.rounds
            );
            rounds.push((bare, pktbench));
        }
        let row = |name, packets_per_s: fn(&(f64, f64)) -> f64| {
            let middle = median(rounds.iter().map(packets_per_s)).context("there is at least one round")?;
            let ratios = rounds.iter().map(|round| packets_per_s(round) / round.0);
            println!("| {regime} | {name} | {middle:.0} | {} |", ratio_cell(ratios));
            anyhow::Ok(())
        };
        row("bare", |round| round.0)?;
        row("pktbench", |round| round.1)?;
    }
    Ok(())
}

fn program(name: &str) -> Result<String> {
    let path = program_beside(&std::env::current_exe()?, name)?;
    path.into_os_string().into_string().ok().context("the path of a program is no text")
}

/// Both clients, and the server that they load.
struct Clients {
    pinning: Pinning,
    bare: String,
    pktbench: String,
    address: String,
}

impl Clients {
    fn bare(&self, regime: Regime, sizes: SizeRange, duration: Duration, seed: u32) -> Result<f64> {
        let output = self.pinning.run_client(&self.bare, &self.arguments(regime, sizes, duration, seed))?;
        let report: LoadReport =
            serde_json::from_str(&output).context("the bare client printed no report")?;
        Ok(report.packets_per_s)
    }

    fn pktbench(&self, regime: Regime, sizes: SizeRange, duration: Duration, seed: u32) -> Result<f64> {
        let mut arguments = self.arguments(regime, sizes, duration, seed);
        arguments.extend(["--threads", "1", "--json"].map(str::to_owned));
        let output = self.pinning.run_client(&self.pktbench, &arguments)?;
        let report: serde_json::Value =
            serde_json::from_str(&output).context("pktbench printed no document")?;
        report["totals"]["packets_per_s"].as_f64().context("pktbench printed no packets/s")
    }

    /// Those that both understand.
    fn arguments(&self, regime: Regime, sizes: SizeRange, duration: Duration, seed: u32) -> Vec<String> {
        [
            ("--connect", self.address.clone()),
            ("--conns", regime.conns.to_string()),
            ("--pipeline", regime.pipeline.to_string()),
            ("--duration", format!("{}ns", duration.as_nanos())),
            ("--sizes", sizes.to_string()),
            ("--seed", seed.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}
