//! Compares how many packets per second `pktbench` and the bare client, which checks nothing, can send from one core.
//!
//! ```text
//! core 0:  bare_epoll_server
//! core 1:  bare_epoll_client | pktbench --threads 1, in turns
//! ```
//!
//! The server is the fastest one, so that the client is saturated where possible.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pktconn_benches::{
    load::LoadReport,
    plan::{Regime, ServerSpec, SizeRange, program_beside},
    report::{exit_code, median, ratio_cell},
    system::{Pinning, ServerProcess},
};
use pktconn_tools::values::{parse_duration, whole_number};

/// Compares the packets/s of pktbench with those of the bare client; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// Connections x packets outstanding on each. May be given several times
    #[arg(long = "regime", default_values = ["1000x1", "64x1", "64x32"])]
    regimes: Vec<Regime>,
    /// Number of rounds in each regime; each client runs once per round
    #[arg(long, default_value_t = 9, value_parser = whole_number::<u32>(1.., 9))]
    rounds: u32,
    /// How long a client sends in each round
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, uniformly distributed, both ends included; a regime may set its own
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Core of the server
    #[arg(long, default_value_t = 0, value_parser = whole_number::<usize>(0.., 0))]
    server_core: usize,
    /// Core of the clients
    #[arg(long, default_value_t = 1, value_parser = whole_number::<usize>(0.., 1))]
    client_core: usize,
    /// Fail if pktbench sends less than 0.95 (64x1) or 0.85 (64x32) of what the bare client sends
    #[arg(long, conflicts_with = "regimes")]
    check: bool,
}

/// The regimes of `--check`, and the least median of the ratios of pktbench to the bare client.
const LIMITS: [(&str, f64); 2] = [("64x1", 0.95), ("64x32", 0.85)];

/// Long enough for the server to grow its buffers and for the core's clock speed to rise.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    exit_code("load_compare", run(&Options::parse()))
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
    let regimes = match options.check {
        true => LIMITS.iter().map(|(regime, _)| regime.parse()).collect::<Result<Vec<Regime>, _>>(),
        false => Ok(options.regimes.clone()),
    };
    let regimes = regimes.map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let mut too_low = Vec::new();
    for (index, regime) in regimes.into_iter().enumerate() {
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
            let median = median(rounds.iter().map(packets_per_s)).context("no round was measured")?;
            let ratios = rounds.iter().map(|round| packets_per_s(round) / round.0);
            println!("| {regime} | {name} | {median:.0} | {} |", ratio_cell(ratios));
            anyhow::Ok(())
        };
        row("bare", |round| round.0)?;
        row("pktbench", |round| round.1)?;
        let ratio = median(rounds.iter().map(|round| round.1 / round.0)).context("no round was measured")?;
        if options.check && ratio < LIMITS[index].1 {
            too_low.push(format!("{regime}: {ratio:.3}, at least {} is required", LIMITS[index].1));
        }
    }
    ensure!(too_low.is_empty(), "pktbench sends too little: {}", too_low.join("; "));
    Ok(())
}

fn program(name: &str) -> Result<String> {
    let path = program_beside(&std::env::current_exe()?, name)?;
    path.into_os_string().into_string().ok().context("the path of a program is not valid UTF-8")
}

/// Both clients, and the address of the server.
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
        arguments.extend(["--threads", "1", "--warmup", "0", "--json"].map(str::to_owned));
        let output = self.pinning.run_client(&self.pktbench, &arguments)?;
        let report: serde_json::Value =
            serde_json::from_str(&output).context("pktbench printed no document")?;
        report["totals"]["packets_per_s"].as_f64().context("pktbench printed no packets/s")
    }

    /// Arguments that both clients accept.
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
