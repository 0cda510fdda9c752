//! What the command line says.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use pktconn_benches::{Regime, STANDARD_REGIMES, ServerSpec, SizeRange};

/// Compares echo servers by the CPU time that an echoed packet costs them; prints a Markdown table.
#[derive(Parser)]
pub(crate) struct Options {
    /// A server, as NAME=COMMAND LINE; the first is what the others are compared with. It has to print "listening on
    /// ADDR" and echo packets (u32 little-endian length, payload, no checksum; with a CRC-32 if NAME ends in +crc)
    /// [default: the programs of this repository, found beside this one]
    #[arg(long = "server")]
    pub(crate) servers: Vec<ServerSpec>,
    /// Connections x packets outstanding on each, then payload sizes of its own if wanted: 8x4:1048576-1048576
    #[arg(long = "regime", default_values = STANDARD_REGIMES)]
    pub(crate) regimes: Vec<Regime>,
    /// Rounds in each regime, each server once a round
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How long the client sends in each round
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included, in each regime that has none of its own
    #[arg(long, default_value = "0-2048")]
    pub(crate) sizes: SizeRange,
    /// Seed of the payload sizes in the first round; each round adds 1, the same for all servers
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// After the rounds of a regime, as many with an open loop at half the packets/s of the first server, the same rate
    /// for all servers: latencies of a server that is not loaded to its limit
    #[arg(long)]
    pub(crate) half_rate: bool,
    /// Fails where the CPU time of pktecho, as a ratio to the bare server, exceeds the limit of a regime. Runs these two
    /// servers in the regimes that have a limit: 1000x1, 64x1 and 64x32
    #[arg(long, conflicts_with_all = ["servers", "regimes", "sizes", "half_rate"])]
    pub(crate) check: bool,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    pub(crate) client_core: usize,
    /// Writes a plot of the ratios to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Writes all rounds to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
