//! The load of the echo comparison: one thread, one epoll loop, a closed loop on each connection.
//!
//! Each connection keeps `--pipeline` packets outstanding: the replies of one read are answered by as many new packets,
//! in one write. After `--duration` nothing more is sent, and the run ends with the last reply, so that the server
//! echoed exactly the packets that are counted.
//!
//! Replies are checked by length and order alone: comparing payloads would cost more than the echo itself.

#![forbid(unsafe_code)]

mod conn;
mod load;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mio::{Events, Poll};
use pktconn_benches::{LoadReport, Regime, SizeRange, raise_open_file_limit};

use conn::Conn;
use load::Load;

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
    /// How long to send
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Payload sizes in bytes, drawn uniformly, both ends included; a number alone is both ends
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How long after the last packet replies may still arrive.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

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
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<LoadReport> {
    let regime: Regime = format!("{}x{}", options.conns, options.pipeline).parse()?;
    let mut poll = Poll::new()?;
    let mut conns = (0..regime.conns)
        .map(|index| Conn::open(options.connect, poll.registry(), index))
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("cannot connect to {}", options.connect))?;
    // Counted from here: what connecting costs is not part of the figures.
    let mut load = Load::new(options);
    for conn in &mut conns {
        load.send(conn, regime.pipeline, load.started)?;
        conn.watch(poll.registry())?;
    }
    let mut events = Events::with_capacity(1024);
    while load.outstanding > 0 {
        let left = load.give_up_at().saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "{} packets unanswered {DRAIN_LIMIT:?} after the last one",
            load.outstanding
        );
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let conn = &mut conns[event.token().0];
            load.turn(conn, event.is_read_closed())
                .and_then(|()| conn.watch(poll.registry()))
                .with_context(|| format!("connection {}", event.token().0))?;
        }
    }
    Ok(load.report())
}
