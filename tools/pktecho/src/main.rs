//! `pktecho`: an echo server, which sends every packet back to its sender.
//!
//! `pktbench` uses it as a server to load, and you can test clients of the wire format with it. It uses only the public
//! API of `pktconn`, so every program can reach its performance.

mod counters;
mod echo;
mod metrics;
mod open_files;
mod options;
mod output;
mod signals;
mod sockets;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pktconn::{Addr, CutConn, MachineLimits};
use pktconn_tools::logging;
use pktconn_tools::printable::print_error;

use counters::Counters;
use options::{Limits, Options, Runtimes};
use output::{cannot_listen, error_line, format_connections, print_line};
use signals::{Signals, Stop};
use sockets::Socket;
use worker::{Setup, Worker};

const DEFAULT_ADDR: &str = "0.0.0.0:14572";

/// What the log shows if `RUST_LOG` is not set: warnings, and what the server does with its certificate.
const LOG_FILTER: &str = "warn,pktecho=info,pktconn::tls=info";

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    logging::start(LOG_FILTER, options.access_log);
    let runtime = worker::runtime(1).context("cannot start");
    let result = runtime.and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(error_line(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let (workers_count, threads_per_worker) = match options.runtimes {
        Runtimes::PerThread => (options.threads, 1),
        Runtimes::Shared => (1, options.threads),
    };
    let sockets = sockets_per_worker(options, workers_count)?;
    open_files::raise_limit();
    let limits = options.limits.on(MachineLimits::detect());
    let config = options.server_config(&limits, workers_count).await?;

    // Before the workers: they describe their metrics to the recorder when they start.
    let metrics = match &options.metrics {
        Some(addr) => Some(metrics::serve_at(addr).await?),
        None => None,
    };
    let counters = Arc::new(Counters::default());
    let setup = Setup { config, has_sessions: options.sessions.has_any(), counters: Arc::clone(&counters) };
    let started = Instant::now();
    let mut workers = Vec::new();
    for sockets in sockets {
        workers.push(match options.threads {
            1 => Worker::start_here(sockets, setup.clone()).await?,
            _ => Worker::start(sockets, threads_per_worker, setup.clone()).await?,
        });
    }
    workers[0].addrs().iter().for_each(|addr| print_line(&format!("listening on {addr}")));
    if let Some(addr) = metrics {
        print_line(&format!("metrics on http://{addr}/metrics"));
    }
    print_line(&format!("limits: {limits}"));
    if let Some(warning) = exposure_warning(workers[0].addrs(), options.tls().is_some(), &limits) {
        tracing::warn!("{warning}");
    }
    let stats = options.stats.then(|| tokio::spawn(echo::print_stats(Arc::clone(&counters))));

    match signals.stop_or_reload(async || reload_certificate(options, &workers).await).await {
        Stop::Now => workers.iter().for_each(|worker| worker.shutdown_within(options.drain_timeout)),
        Stop::Move => {
            let spread = options.drain_timeout / 2;
            workers.iter().for_each(|worker| worker.go_away(options.drain_timeout, spread));
        }
    }
    if let Some(stats) = stats {
        stats.abort();
    }
    let mut cut = Vec::new();
    tokio::select! {
        () = finished(&mut workers, &mut cut) => {}
        // A second signal ends the server at once.
        () = signals.stop() => {
            workers.iter().for_each(|worker| worker.shutdown_within(Duration::ZERO));
            finished(&mut workers, &mut cut).await;
        }
    }
    if !cut.is_empty() {
        let packets = cut.iter().map(|cut| cut.unsent.len()).sum();
        let _ = writeln!(io::stderr(), "{}", cut_warning(cut.len() as u64, packets));
    }
    print_line(&counters.summary(started.elapsed()));
    Ok(())
}

/// The sockets from systemd and those of `--listen`. Each worker gets one socket for each address.
fn sockets_per_worker(options: &Options, workers_count: usize) -> anyhow::Result<Vec<Vec<Socket>>> {
    let from_parent =
        sockets::from_parent(workers_count).context("cannot use the sockets from LISTEN_FDS")?;
    let default = [Addr::from(DEFAULT_ADDR)];
    let addrs = match &options.listen[..] {
        [] if from_parent.is_empty() => &default[..],
        addrs => addrs,
    };
    let listening = addrs.iter().map(|addr| {
        sockets::listen(addr, workers_count, options.reuse_port).map_err(|error| cannot_listen(addr, error))
    });
    let by_addr = from_parent.into_iter().map(Ok).chain(listening).collect::<anyhow::Result<Vec<_>>>()?;
    let mut by_worker: Vec<Vec<_>> = (0..workers_count).map(|_| Vec::new()).collect();
    for sockets in by_addr {
        by_worker.iter_mut().zip(sockets).for_each(|(of_worker, socket)| of_worker.push(socket));
    }
    Ok(by_worker)
}

/// What an operator should know of a server that other machines can reach. `None` if there is nothing.
fn exposure_warning(addrs: &[Addr], has_tls: bool, limits: &Limits) -> Option<String> {
    // A Unix socket has no such address.
    let exposed = addrs
        .iter()
        .find(|addr| addr.socket_addr().is_some_and(|addr| !addr.ip().to_canonical().is_loopback()))?;
    let lacks: Vec<_> =
        [(!has_tls, "TLS (--tls-cert)"), (limits.allow_one_client_all(), "limit per client (--edge)")]
            .into_iter()
            .filter_map(|(is_missing, what)| is_missing.then_some(what))
            .collect();
    if lacks.is_empty() {
        return None;
    }
    Some(format!("other machines can reach {exposed}, and the server has no {}", lacks.join(" and no ")))
}

/// Waits until all workers have finished, and collects the connections that were closed before they finished.
async fn finished(workers: &mut [Worker], cut: &mut Vec<CutConn>) {
    for worker in workers {
        cut.extend(worker.finished().await.into_iter().flat_map(|report| report.cut));
    }
}

fn cut_warning(conns: u64, packets: usize) -> String {
    let unsent = match packets {
        0 => String::new(),
        1 => ", 1 packet unsent".to_owned(),
        _ => format!(", {packets} packets unsent"),
    };
    format!("warning: closed {} that had not finished{unsent}", format_connections(conns))
}

/// Reads the certificate files again, once for all workers. If they cannot be used, the old certificate stays in use.
async fn reload_certificate(options: &Options, workers: &[Worker]) {
    let Some(tls) = options.tls() else {
        tracing::info!("SIGHUP is ignored: it reloads the certificate, and there is none without --tls-cert");
        return;
    };
    let reload = async {
        let loaded = tls.load().await?;
        for worker in workers {
            worker.set_tls(&loaded).await?;
        }
        Ok(())
    };
    match reload.await {
        Ok(()) => tracing::info!("reloaded the certificate"),
        Err(error) => {
            let error: pktconn::Error = error;
            tracing::warn!(
                "cannot reload the certificate, so the old one stays in use; correct the files and send SIGHUP again: \
                 {error}"
            );
        }
    }
}
