//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use pktconn_benches::plan::{Regime, STANDARD_REGIMES, ServerSpec, SizeRange};
use pktconn_tools::values::{parse_duration, whole_number};

/// Compares echo servers by the CPU time that an echoed packet costs them; prints a Markdown table.
#[derive(Parser)]
pub(crate) struct Options {
    /// A server, as NAME=COMMAND LINE; the others are compared with the first one. It must print "listening on ADDR"
    /// and echo packets (u32 little-endian length, payload, no checksum; with a CRC-32 if NAME ends in +crc). May be
    /// given several times [default: the programs of this repository, in the folder of this one]
    #[arg(long = "server")]
    pub(crate) servers: Vec<ServerSpec>,
    /// Connections x packets outstanding on each, optionally with payload sizes: 8x4:1048576-1048576. May be given
    /// several times
    #[arg(long = "regime", default_values = STANDARD_REGIMES)]
    pub(crate) regimes: Vec<Regime>,
    /// Number of rounds in each regime; each server runs once per round
    #[arg(long, default_value_t = 7, value_parser = whole_number::<u32>(1.., 7))]
    pub(crate) rounds: u32,
    /// How long the client sends in each round
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Payload sizes in bytes, uniformly distributed, both ends included; a regime may set its own
    #[arg(long, default_value = "0-2048")]
    pub(crate) sizes: SizeRange,
    /// Seed of the payload sizes in the first round, the same for all servers; each round adds 1
    #[arg(long, default_value_t = 1, value_parser = whole_number::<u64>(0.., 1))]
    pub(crate) seed: u64,
    /// After the rounds of a regime, run as many with an open loop at half the packets/s of the first server, at the
    /// same rate for all servers: shows the latencies of a server that is not saturated
    #[arg(long)]
    pub(crate) half_rate: bool,
    /// Fail if the CPU time of pktecho, as a ratio to the bare server, exceeds the limit of a regime. Runs only these
    /// two servers, in the regimes that have a limit: 1000x1, 64x1 and 64x32
    #[arg(long, conflicts_with_all = ["servers", "regimes", "sizes", "half_rate"])]
    pub(crate) check: bool,
    /// Core of the servers
    #[arg(long, default_value_t = 0, value_parser = whole_number::<usize>(0.., 0))]
    pub(crate) server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1, value_parser = whole_number::<usize>(0.., 1))]
    pub(crate) client_core: usize,
    /// Write a plot of the ratios to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write all rounds to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
