//! Runs echo servers side by side, and tells what an echoed packet costs each of them, as a ratio to the first.
//!
//! ```text
//! core 0:  server A  |  server B  |  server A  |  server B  ...   one has work at a time, the others sleep
//! core 1:  client    |  client    |  client    |  client    ...
//!          <------ round 1 ------>|<------ round 2 ------>
//! ```
//!
//! Whatever slows the machine for a while slows both halves of a round, so a ratio is taken within each round, and the
//! median over the rounds is what counts.

#![forbid(unsafe_code)]

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pktconn_benches::{
    Comparison, JsonFile, LoadReport, Pinning, Regime, RegimeResult, Round, ServerProcess, ServerResult,
    ServerSpec, SizeRange, TABLE_HEAD, clock_ticks_per_s, core_busy_ticks, cpu_ticks, peak_rss_bytes,
    program_in, table_rows,
};

/// Compares echo servers by the CPU time that an echoed packet costs them; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// A server, as NAME=COMMAND LINE; the first is what the others are compared with. It has to print "listening on
    /// ADDR" and echo packets (u32 little-endian length, payload, no checksum; with a CRC-32 if NAME ends in +crc)
    #[arg(long = "server", required = true)]
    servers: Vec<ServerSpec>,
    /// Connections x packets outstanding on each, then payload sizes of its own if wanted: 8x4:1048576-1048576
    #[arg(long = "regime", default_values = ["64x1", "64x32", "1000x1"])]
    regimes: Vec<Regime>,
    /// Rounds in each regime, each server once a round
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long the client sends in each round
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included, in each regime that has none of its own
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes in the first round; each round adds 1, the same for all servers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Writes all rounds to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Long enough for a server to size its buffers and for the clock of the core to rise.
const WARM_UP: Duration = Duration::from_millis(500);

/// Lets a server finish closing the client's connections, so that this falls into the round that caused it.
const SETTLE: Duration = Duration::from_millis(200);

/// The share of the server's core that others may take before a run counts as disturbed: rounds that nobody disturbed
/// showed up to 0.02, so that this is clear of the background.
const FOREIGN_LIMIT: f64 = 0.05;

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
    let json = options.json.as_deref().map(JsonFile::create).transpose()?;
    let mut regimes = Vec::new();
    println!("{TABLE_HEAD}");
    for &regime in &options.regimes {
        let result = setup.measure(regime)?;
        println!("{}", table_rows(&result).join("\n"));
        warn_if_disturbed(&result);
        regimes.push(result);
    }
    match json {
        Some(file) => file.write(&comparison(options, regimes)),
        None => Ok(()),
    }
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

struct Setup<'a> {
    options: &'a Options,
    pinning: Pinning,
    client: String,
}

impl<'a> Setup<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let pinning = Pinning { server_core: options.server_core, client_core: options.client_core };
        pinning.check()?;
        let folder = env::current_exe()?.with_file_name("");
        let client = program_in(&folder, "bare_epoll_client")?;
        Ok(Self { options, pinning, client })
    }

    /// All rounds of all servers in one regime. Each server is started once, so that its peak memory is of this regime.
    fn measure(&self, regime: Regime) -> Result<RegimeResult> {
        let mut contenders = Vec::new();
        for spec in &self.options.servers {
            contenders.push(Contender::start(spec, self.pinning)?);
        }
        for contender in &mut contenders {
            self.load(contender, regime, WARM_UP, self.options.seed)?;
        }
        for round in 0..self.options.rounds {
            let mut first_cpu_ns = None;
            for contender in &mut contenders {
                let measured = self.round(contender, regime, round, first_cpu_ns)?;
                first_cpu_ns.get_or_insert(measured.cpu_ns_per_packet);
                self.tell(&contender.spec.name, regime, round, &measured);
                contender.rounds.push(measured);
            }
        }
        let servers = contenders.into_iter().map(Contender::finish).collect::<Result<_>>()?;
        Ok(RegimeResult { regime, sizes: self.sizes(regime), servers })
    }

    fn sizes(&self, regime: Regime) -> SizeRange {
        regime.sizes.unwrap_or(self.options.sizes)
    }

    fn round(
        &self,
        contender: &mut Contender,
        regime: Regime,
        round: u32,
        first: Option<f64>,
    ) -> Result<Round> {
        let (pid, core) = (contender.process.pid(), self.pinning.server_core);
        let (started, ticks_before, busy_before) = (Instant::now(), cpu_ticks(pid)?, core_busy_ticks(core)?);
        let seed = self.options.seed.wrapping_add(u64::from(round));
        let load = self.load(contender, regime, self.options.duration, seed)?;
        let (cpu_ticks, busy_ticks) = (cpu_ticks(pid)? - ticks_before, core_busy_ticks(core)? - busy_before);
        let wall_ticks = started.elapsed().as_secs_f64() * clock_ticks_per_s() as f64;
        // The kernel rounds both down, so they may differ by a tick in either direction.
        let foreign_share = busy_ticks.saturating_sub(cpu_ticks) as f64 / wall_ticks;
        ensure!(cpu_ticks > 0, "server {:?} used no CPU time: the rounds are too short", contender.spec.name);
        let cpu_ns_per_packet = cpu_ticks as f64 * 1e9 / clock_ticks_per_s() as f64 / load.packets as f64;
        let ratio = cpu_ns_per_packet / first.unwrap_or(cpu_ns_per_packet);
        Ok(Round { cpu_ticks, cpu_ns_per_packet, ratio, foreign_share, load })
    }

    fn load(
        &self,
        contender: &mut Contender,
        regime: Regime,
        duration: Duration,
        seed: u64,
    ) -> Result<LoadReport> {
        let arguments = [
            ("--connect", contender.process.address().to_string()),
            ("--conns", regime.conns.to_string()),
            ("--pipeline", regime.pipeline.to_string()),
            ("--duration", format!("{}ns", duration.as_nanos())),
            ("--sizes", self.sizes(regime).to_string()),
            ("--seed", seed.to_string()),
        ];
        let mut arguments: Vec<_> =
            arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        if contender.spec.has_checksum() {
            arguments.push("--crc".to_owned());
        }
        let output = self.pinning.run_client(&self.client, &arguments);
        thread::sleep(SETTLE);
        // First, as it explains whatever the client saw.
        contender.process.check_alive()?;
        let name = &contender.spec.name;
        let output = output.with_context(|| format!("server {name:?} in regime {regime}"))?;
        serde_json::from_str(&output).with_context(|| format!("the client printed no report for {name:?}"))
    }

    fn tell(&self, name: &str, regime: Regime, round: u32, measured: &Round) {
        let (rounds, cpu_ns) = (self.options.rounds, measured.cpu_ns_per_packet);
        eprintln!(
            "{regime} round {}/{rounds} {name}: {cpu_ns:.0} ns/packet, {:.3}",
            round + 1,
            measured.ratio
        );
    }
}

/// A server that runs, and what was measured of it so far.
struct Contender {
    spec: ServerSpec,
    process: ServerProcess,
    rounds: Vec<Round>,
}

impl Contender {
    fn start(spec: &ServerSpec, pinning: Pinning) -> Result<Self> {
        let process = ServerProcess::start(spec, pinning)?;
        Ok(Self { spec: spec.clone(), process, rounds: Vec::new() })
    }

    fn finish(self) -> Result<ServerResult> {
        let peak_rss_bytes = peak_rss_bytes(self.process.pid())?;
        let ServerSpec { name, command } = self.spec;
        Ok(ServerResult { name, command, peak_rss_bytes, rounds: self.rounds })
    }
}
