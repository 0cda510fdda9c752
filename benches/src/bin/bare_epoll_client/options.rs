//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// Open a connection per packet: connect, send one packet, read its echo, close. Keeps --conns of them open. The
    /// latencies are those from before the connect until the echo was read
    #[arg(long, conflicts_with_all = ["pipeline", "rate", "tls_ca"])]
    pub(crate) short: bool,
    /// Use TLS, and trust the certificates in this PEM file. The server's certificate must be for its IP address. The
    /// handshakes are completed before the first packet
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// After connecting, print "connected". Each line on standard input, a seed, is then a run with the same
    /// connections. Ends with standard input
    #[arg(long)]
    pub(crate) hold: bool,
}

impl Options {
    pub(crate) fn generator(&self, seed: u64) -> FrameGenerator {
        let generator = FrameGenerator::new(self.sizes, seed);
        if self.crc { generator.with_checksum() } else { generator }
    }
}
