//! `pktecho`: sends every packet back to where it came from.
//!
//! It is the server that `pktbench` loads, and a server to test a client of this wire format against. It uses the public
//! interface of `pktconn` alone: what it reaches, any program can.

mod echo;
mod options;
mod tally;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use pktconn::PacketServer;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use options::Options;
use tally::{Board, connections};

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::WARN.into())
                .from_env_lossy(),
        )
        .init();
    let result = runtime(options.threads).and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread needs no scheduler that moves tasks between threads.
fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("cannot start the threads of the server")
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot watch for signals")?;
    let server = PacketServer::bind_with(&options.listen, options.conn_config())
        .await
        .map_err(|error| cannot_listen(&options.listen, error))?;
    say(&format!("listening on {}", server.local_addr()));

    let board = Arc::new(Board::default());
    let handle = server.handle();
    let started = Instant::now();
    let mut serving = tokio::spawn(echo::serve(server, Arc::clone(&board)));
    let stats = options.stats.then(|| tokio::spawn(echo::print_stats(Arc::clone(&board))));

    signals.next().await;
    handle.shutdown();
    if let Some(stats) = stats {
        stats.abort();
    }
    tokio::select! {
        _ = &mut serving => {}
        () = tokio::time::sleep(options.drain_timeout) => cut(serving, &board).await,
        // Whoever asks twice does not want to wait.
        () = signals.next() => cut(serving, &board).await,
    }
    say(&board.summary(started.elapsed()));
    Ok(())
}

/// Drops the connections that have not finished, and says so: what their clients have not read is lost.
async fn cut(serving: JoinHandle<()>, board: &Board) {
    let open = board.totals().open;
    if open > 0 {
        eprintln!("warning: cut off {} that had not finished", connections(open));
    }
    serving.abort();
    // Cancelled, as it was asked to be.
    let _ = serving.await;
}

/// What is wrong with the address, and what to do about it, in one line.
fn cannot_listen(addr: &str, error: pktconn::Error) -> anyhow::Error {
    let kind = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    let advice = match kind {
        Some(io::ErrorKind::AddrInUse) => {
            "stop the program that has it, or choose another port (0: a free one)"
        }
        Some(io::ErrorKind::AddrNotAvailable) => {
            "choose an address of this machine, or 0.0.0.0 for all of them"
        }
        Some(io::ErrorKind::PermissionDenied) => "choose a port from 1024 on",
        _ => "choose another with --listen HOST:PORT",
    };
    anyhow::Error::new(error).context(format!("cannot listen on {addr}; {advice}"))
}

/// The signals that ask for an end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Prints a line at once, also into a pipe. A reader that has gone away is no reason to stop serving.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
