//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use pktconn_benches::plan::{STANDARD_WORKLOADS, ServerSpec, SizeRange, Workload};
use pktconn_tools::values::{parse_duration, whole_number};

/// Compares echo servers by the CPU time that an echoed packet costs them; prints a Markdown table.
#[derive(Parser)]
pub(crate) struct Options {
    /// A server, as NAME=COMMAND LINE; the others are compared with the first one. It must print "listening on ADDR"
    /// and echo packets (u32 little-endian length, payload, no checksum; with a CRC-32 if NAME ends in +crc). The words
    /// {cert} and {key} stand for PEM files with a certificate and its key. May be given several times [default: the programs of this repository, in the folder of this one]
    #[arg(long = "server")]
    pub(crate) servers: Vec<ServerSpec>,
    /// Connections x packets outstanding on each, optionally with payload sizes: 8x4:1048576-1048576. With tls: in front,
    /// over TLS: tls:64x1. With edge: in front, pktecho with and without the limits for the open Internet: edge:64x1. With
    /// short: in front, each connection sends one packet: short:64x1. May be given several times
    #[arg(long = "workload", default_values = STANDARD_WORKLOADS)]
    pub(crate) workloads: Vec<Workload>,
    /// Number of rounds of each workload; each server runs once per round
    #[arg(long, default_value_t = 70, value_parser = whole_number::<u32>(1.., 70))]
    pub(crate) rounds: u32,
    /// How long the client sends in each round
    #[arg(long, default_value = "300ms", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Payload sizes in bytes, uniformly distributed, both ends included; a workload may set its own
    #[arg(long, default_value = "0-2048")]
    pub(crate) sizes: SizeRange,
    /// Seed of the payload sizes in the first round, the same for all servers; each round adds 1
    #[arg(long, default_value_t = 1, value_parser = whole_number::<u64>(0.., 1))]
    pub(crate) seed: u64,
    /// After the rounds of a workload other than short:, run as many with an open loop at half the packets/s of the first server, at the
    /// same rate for all servers: shows the latencies of a server that is not saturated
    #[arg(long)]
    pub(crate) half_rate: bool,
    /// Fail if the CPU time of pktecho, as a ratio to the first server, exceeds the limit of a workload. Runs only these
    /// two servers, with the workloads that have a limit
    #[arg(long, conflicts_with_all = ["servers", "workloads", "sizes", "half_rate"])]
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
