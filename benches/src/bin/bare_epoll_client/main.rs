//! The load of the echo comparison: one thread, one epoll loop.
//!
//! ```text
//! closed loop    packet -> reply -> packet -> reply ...       --pipeline of these on each connection
//! open loop      packet . packet . packet . packet ...        --rate a second, whatever the replies do
//! ```
//!
//! In the closed loop the replies of one read are answered by as many new packets, in one write. In the open one packet
//! `k` is due `k / rate` after the start, on connection `k` modulo their number; its latency counts from then, not from
//! when it was written: a packet that has to wait because the server, or this client, is behind shows the wait (no
//! coordinated omission). Packets of one connection that are due by then share a write.
//!
//! After `--duration` nothing more is sent, and the run ends with the last reply, so that the server echoed exactly the
//! packets that are counted.
//!
//! Replies are checked by length and order alone: comparing payloads would cost more than the echo itself. With `--crc`
//! the checksums of replies are not verified either: a server that verifies those of the packets is what it is for.

#![forbid(unsafe_code)]

mod conn;
mod load;
mod run;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;
use pktconn_benches::{LoadReport, NotKeptUp, Pattern, Schedule, SizeRange, raise_open_file_limit};

use run::Run;

/// Sends packets to an echo server of this wire format and measures it; prints one line of JSON.
#[derive(Parser)]
struct Options {
    /// Address of the server
    #[arg(long)]
    connect: SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 64)]
    conns: usize,
    /// Packets outstanding on each connection
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Packets a second over all connections together, evenly spaced, in place of a closed loop; exits 3 when more than
    /// 10,000 packets of a connection, or 512 MiB of all, have no reply
    #[arg(long, value_name = "N", conflicts_with = "pipeline")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,
    /// How long to send
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included; a number alone is both ends
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Put a CRC-32 behind each packet, and expect one; those of replies are not verified
    #[arg(long)]
    crc: bool,
}

impl Options {
    fn pattern(&self) -> Pattern {
        let pattern = Pattern::new(self.sizes, self.seed);
        if self.crc { pattern.with_checksum() } else { pattern }
    }
}

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
    ensure!(options.conns > 0 && options.pipeline > 0, "at least 1 connection and 1 packet are needed");
    let run = Run::connect(options)?;
    match options.rate {
        None => run.closed_loop(options.pipeline, options.duration),
        Some(rate_per_s) => run.open_loop(&Schedule::new(rate_per_s, options.duration)),
    }
}
