//! `pktecho`: sends every packet back to where it came from.
//!
//! It is the server that `pktbench` loads, and a server to test a client of this wire format against. It uses the public
//! interface of `pktconn` alone: what it reaches, any program can.

mod echo;
mod options;
mod tally;
mod threads;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use options::Options;
use tally::{Board, connections};
use threads::{Sharing, Worker, listen};

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is gone.
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::WARN.into())
                .from_env_lossy(),
        )
        .init();
    let runtime = threads::runtime(1).context("cannot start");
    let result = runtime.and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot watch for signals")?;
    let (listeners, threads_each) = match options.runtimes {
        Sharing::Own => (options.threads, 1),
        Sharing::One => (1, options.threads),
    };
    let listeners =
        listen(&options.listen, listeners).map_err(|error| cannot_listen(&options.listen, error))?;
    let addr = listeners[0].local_addr()?;

    let board = Arc::new(Board::default());
    let started = Instant::now();
    let start = |listener| match options.threads {
        1 => Worker::start_here(listener, options.conn_config(), &board),
        _ => Worker::start(listener, threads_each, options.conn_config(), &board),
    };
    let mut workers = listeners.into_iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    say(&format!("listening on {addr}"));
    let stats = options.stats.then(|| tokio::spawn(echo::print_stats(Arc::clone(&board))));

    signals.next().await;
    workers.iter().for_each(Worker::shutdown);
    if let Some(stats) = stats {
        stats.abort();
    }
    tokio::select! {
        () = finished(&mut workers) => {}
        () = tokio::time::sleep(options.drain_timeout) => cut(&mut workers, &board).await,
        // Whoever asks twice does not want to wait.
        () = signals.next() => cut(&mut workers, &board).await,
    }
    say(&board.summary(started.elapsed()));
    Ok(())
}

async fn finished(workers: &mut [Worker]) {
    for worker in workers {
        worker.finished().await;
    }
}

/// Drops the connections that have not finished, and says so: what their clients have not read is lost.
async fn cut(workers: &mut [Worker], board: &Board) {
    let open = board.totals().open;
    if open > 0 {
        let _ = writeln!(io::stderr(), "warning: cut off {} that had not finished", connections(open));
    }
    workers.iter_mut().for_each(Worker::cut);
    finished(workers).await;
}

/// What is wrong with the address, and what to do about it, in one line.
fn cannot_listen(addr: &str, error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has it, or choose another port (0: a free one)",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0 for all of them",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
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
