//! A worker: a running server, in its own threads or, with `--threads 1`, in the main thread.
//!
//! ```text
//!   main thread:  signals, statistics
//!      |  stop
//!      v
//!   workers:      sockets -> runtime -> connections
//! ```
//!
//! By default, there is one worker, whose threads share a runtime that moves work between them. With `--runtimes own`,
//! each thread has its own worker with its own runtime and sockets (`SO_REUSEPORT`; sockets from systemd are shared),
//! and the kernel distributes the connections among the workers. A connection then stays on its thread, so a thread with few connections idles while
//! others are busy.
//!
//! Measured with two threads on two cores, which the load generator shared (medians of 8 rounds, in the regimes 64 x 1,
//! 64 x 32 and 1000 x 1): the CPU time per packet was 1.11, 1.00 and 0.96 times that of one runtime, and the p99 of the latency was
//! 1.3, 2.0 and 0.6 times that of one runtime. So `own` is not the default. Machines with many cores may differ.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use pktconn::{Addr, Listener, PacketServer, ServerConfig, ServerHandle, ShutdownReport, TlsServerConfig};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::counters::Counters;
use crate::echo;
use crate::output::cannot_listen;
use crate::sockets::Socket;

/// A running server. It runs in one or several threads, or in a task of the current runtime.
pub(crate) struct Worker {
    handle: ServerHandle,
    addrs: Vec<Addr>,
    /// Receives the report at the end; `None` after that.
    finished: Option<oneshot::Receiver<ShutdownReport>>,
}

/// How each worker serves.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) config: ServerConfig,
    pub(crate) has_sessions: bool,
    pub(crate) counters: Arc<Counters>,
}

impl Worker {
    /// Starts to serve in a new runtime with `threads` threads.
    pub(crate) async fn start(sockets: Vec<Socket>, threads: usize, setup: Setup) -> anyhow::Result<Self> {
        let (start, started) = oneshot::channel();
        let run = move || {
            let served =
                runtime(threads).context("cannot start the threads of the server").and_then(|runtime| {
                    let (worker, work) = runtime.block_on(Self::new(sockets, setup))?;
                    Ok((worker, runtime, work))
                });
            let (result, work) = match served {
                Ok((worker, runtime, work)) => (Ok(worker), Some((runtime, work))),
                Err(error) => (Err(error), None),
            };
            let _ = start.send(result);
            if let Some((runtime, work)) = work {
                // If the task panics, the panic hook has printed the message.
                drop(runtime.block_on(runtime.spawn(work)));
            }
        };
        thread::Builder::new()
            .name("pktecho".to_owned())
            .spawn(run)
            .context("cannot start the threads of the server")?;
        started.await.context("the server panicked")?
    }

    /// Starts to serve in a task of the current runtime. A server with one thread needs no second thread.
    pub(crate) async fn start_here(sockets: Vec<Socket>, setup: Setup) -> anyhow::Result<Self> {
        let (worker, work) = Self::new(sockets, setup).await?;
        tokio::spawn(work);
        Ok(worker)
    }

    async fn new(
        sockets: Vec<Socket>,
        setup: Setup,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let Setup { config, has_sessions, counters } = setup;
        let mut server: Option<PacketServer> = None;
        for socket in sockets {
            let listener = match socket {
                Socket::Tcp(listener) => tokio::net::TcpListener::from_std(listener)?.into(),
                Socket::Unix(listener) => tokio::net::UnixListener::from_std(listener)?.into(),
                Socket::UnixAddr(addr) => {
                    Listener::bind(&addr).await.map_err(|error| cannot_listen(&addr, error))?
                }
            };
            match &mut server {
                None => server = Some(PacketServer::from_listener(listener, config.clone())?),
                Some(server) => server.add_listener(listener)?,
            }
        }
        let server = server.context("there is no socket to listen on")?;
        let (handle, addrs) = (server.handle(), server.local_addrs().to_vec());
        let (finish, finished) = oneshot::channel();
        let work = async move {
            let report = if has_sessions {
                echo::serve_sessions(server, counters).await
            } else {
                echo::serve(server, counters).await
            };
            let _ = finish.send(report);
        };
        Ok((Self { handle, addrs, finished: Some(finished) }, work))
    }

    /// The addresses that it listens on.
    pub(crate) fn addrs(&self) -> &[Addr] {
        &self.addrs
    }

    /// Uses this certificate for new connections.
    pub(crate) async fn set_tls(&self, tls: &TlsServerConfig) -> Result<(), pktconn::Error> {
        self.handle.set_tls(tls).await
    }

    /// Stops accepting, and gives connections `timeout` to finish.
    pub(crate) fn shutdown_within(&self, timeout: Duration) {
        self.handle.shutdown_within(timeout);
    }

    /// Like [`shutdown_within`](Self::shutdown_within), and asks the clients of sessions to move at moments within `spread`.
    pub(crate) fn go_away(&self, timeout: Duration, spread: Duration) {
        self.handle.go_away(timeout, spread);
    }

    /// Waits until the last connection has finished. Returns `None` if the server panicked, or if the report was
    /// already returned.
    pub(crate) async fn finished(&mut self) -> Option<ShutdownReport> {
        let report = self.finished.as_mut()?.await.ok();
        self.finished = None;
        report
    }
}

/// Maximum number of ready sockets per poll of epoll, and so of connections that are served before the next poll.
///
/// tokio's default is 1,024. With 1,000 connections ready at once, the tasks and sockets of the last ones have left the
/// cache when they are served: this costs 0.2 µs of the 1.5 µs that a single packet takes outside of the kernel. A
/// system call per 64 connections costs 0.02 µs per packet. Only for runtimes with one thread.
const EVENTS_PER_POLL: usize = 64;

/// Creates a runtime. With one thread, it has no scheduler that moves tasks between threads.
pub(crate) fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread()
            .enable_all()
            .max_io_events_per_tick(EVENTS_PER_POLL)
            // The number of tasks between two polls of epoll: those of the served connections, and one that each may
            // wake. The default, 61, would cut a batch short.
            .event_interval(2 * EVENTS_PER_POLL as u32)
            .build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}
