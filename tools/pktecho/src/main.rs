//! `pktecho`: sends every packet back to where it came from.
//!
//! It is the server that `pktbench` loads, and a server to test a client of this wire format against. It uses the public
//! interface of `pktconn` alone: what it reaches, any program can.

mod echo;
mod messages;
mod metrics;
mod options;
mod tally;
mod threads;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pktconn::{Addr, CutConn};
use pktconn_tools::logging::log_to_stderr;
use tokio::signal::unix::{Signal, SignalKind, signal};

use messages::{cannot_listen, say};
use options::Options;
use tally::{Board, connections};
use threads::{Sharing, Worker, listen};

const DEFAULT_ADDR: &str = "0.0.0.0:14572";

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    log_to_stderr();
    let runtime = threads::runtime(1).context("cannot start");
    let result = runtime.and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new(options.tls().is_some()).context("cannot watch for signals")?;
    let (runtimes, threads_each) = match options.runtimes {
        Sharing::Own => (options.threads, 1),
        Sharing::One => (1, options.threads),
    };
    let handed_over =
        threads::handed_over(runtimes).context("cannot use the sockets that were handed over")?;
    let default = [Addr::from(DEFAULT_ADDR)];
    let own = match &options.listen[..] {
        [] if handed_over.is_empty() => &default[..],
        own => own,
    };
    let own = own
        .iter()
        .map(|addr| listen(addr, runtimes, options.reuse_port).map_err(|error| cannot_listen(addr, error)));
    // Of each address one for each worker; and of each worker one on each address.
    let by_addr = handed_over.into_iter().map(Ok).chain(own).collect::<anyhow::Result<Vec<_>>>()?;
    let mut sockets: Vec<Vec<_>> = (0..runtimes).map(|_| Vec::new()).collect();
    for of_addr in by_addr {
        sockets.iter_mut().zip(of_addr).for_each(|(of_worker, socket)| of_worker.push(socket));
    }

    // Before the servers, which tell what their figures mean when they begin.
    let metrics = match &options.metrics {
        Some(addr) => Some(metrics::serve_at(addr).await?),
        None => None,
    };
    let board = Arc::new(Board::default());
    let started = Instant::now();
    let mut workers = Vec::new();
    for sockets in sockets {
        workers.push(match options.threads {
            1 => Worker::start_here(sockets, options.server_config(), &board).await?,
            _ => Worker::start(sockets, threads_each, options.server_config(), &board).await?,
        });
    }
    workers[0].addrs().iter().for_each(|addr| say(&format!("listening on {addr}")));
    if let Some(addr) = metrics {
        say(&format!("metrics on http://{addr}/metrics"));
    }
    let stats = options.stats.then(|| tokio::spawn(echo::print_stats(Arc::clone(&board))));

    signals.next_but(|| reload(options, &workers)).await;
    workers.iter().for_each(|worker| worker.shutdown_within(options.drain_timeout));
    if let Some(stats) = stats {
        stats.abort();
    }
    let mut cut = Vec::new();
    tokio::select! {
        () = finished(&mut workers, &mut cut) => {}
        // Whoever asks twice does not want to wait.
        () = signals.next() => {
            workers.iter().for_each(|worker| worker.shutdown_within(Duration::ZERO));
            finished(&mut workers, &mut cut).await;
        }
    }
    if !cut.is_empty() {
        let packets = cut.iter().map(|cut| cut.unsent.len()).sum();
        let _ = writeln!(io::stderr(), "{}", cut_off(cut.len() as u64, packets));
    }
    say(&board.summary(started.elapsed()));
    Ok(())
}

/// Waits for the workers to finish, and gathers the connections that did not.
async fn finished(workers: &mut [Worker], cut: &mut Vec<CutConn>) {
    for worker in workers {
        cut.extend(worker.finished().await.into_iter().flat_map(|report| report.cut));
    }
}

/// What is lost with connections that were cut off: what their clients have not read.
fn cut_off(conns: u64, packets: usize) -> String {
    let unsent = match packets {
        0 => String::new(),
        1 => ", 1 packet unsent".to_owned(),
        _ => format!(", {packets} packets unsent"),
    };
    format!("warning: cut off {} that had not finished{unsent}", connections(conns))
}

/// An error and what is behind it. One of `pktconn` says what its source says.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for text in error.chain().map(ToString::to_string).filter(|text| !text.is_empty()) {
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// Reads the certificate again. What cannot be used leaves the one that there is.
fn reload(options: &Options, workers: &[Worker]) {
    let Some(tls) = options.tls() else { return };
    for worker in workers {
        if let Err(error) = worker.set_tls(&tls) {
            tracing::warn!("the certificate is not replaced: {error}");
            return;
        }
    }
    tracing::info!("the certificate was read again");
}

/// The signals that ask for an end, and the one that asks for something else.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Where there is something that can be read again. It ends programs otherwise, this one too.
    hangup: Option<Signal>,
}

impl Signals {
    fn new(reloads: bool) -> io::Result<Self> {
        let hangup = reloads.then(|| signal(SignalKind::hangup())).transpose()?;
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// Waits for one that asks for an end.
    async fn next(&mut self) {
        self.next_but(|| {}).await;
    }

    /// The same, and calls `reload` at each of the other kind.
    async fn next_but(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                () = async {
                    match &mut self.hangup {
                        Some(hangup) => { hangup.recv().await; }
                        None => std::future::pending().await,
                    }
                } => reload(),
            }
        }
    }
}
