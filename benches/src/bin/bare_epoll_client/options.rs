//! The command line.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use pktconn_benches::{load::FrameGenerator, plan::SizeRange};
use pktconn_tools::values::{parse_duration, whole_number};

/// Sends packets to an echo server and measures throughput and latency; prints one line of JSON.
#[derive(Parser)]
pub(crate) struct Options {
    /// Address of the server
    #[arg(long)]
    pub(crate) connect: SocketAddr,
    /// Number of connections
    #[arg(long, default_value_t = 64, value_parser = whole_number::<usize>(1.., 64))]
    pub(crate) conns: usize,
    /// Number of packets outstanding on each connection
    #[arg(long, default_value_t = 1, value_parser = whole_number::<usize>(1.., 32))]
    pub(crate) pipeline: usize,
    /// Open loop: packets per second over all connections, evenly spaced, regardless of replies. Exit code 3 if more
    /// than 10,000 packets of a connection, or 512 MiB over all connections, have no reply
    #[arg(long, value_name = "N", conflicts_with = "pipeline")]
    #[arg(value_parser = whole_number::<u64>(1..=1_000_000_000, 50_000))]
    pub(crate) rate: Option<u64>,
    /// How long to send
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Payload sizes in bytes, uniformly distributed, both ends included; one number stands for both ends
    #[arg(long, default_value = "0-2048")]
    pub(crate) sizes: SizeRange,
    /// Seed of the payload sizes
    #[arg(long, default_value_t = 1, value_parser = whole_number::<u64>(0.., 1))]
    pub(crate) seed: u64,
    /// Send a CRC-32 after each payload, and expect one in replies without verifying it
    #[arg(long)]
    pub(crate) crc: bool,
}

impl Options {
    pub(crate) fn generator(&self) -> FrameGenerator {
        let generator = FrameGenerator::new(self.sizes, self.seed);
        if self.crc { generator.with_checksum() } else { generator }
    }
}
