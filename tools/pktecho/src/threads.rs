//! The threads that serve, and the sockets that they listen on.
//!
//! ```text
//!   main thread:  signals, statistics
//!      |  stop
//!      v
//!   workers:      listeners -> runtime -> connections
//! ```
//!
//! By default all threads have one runtime, which moves work between them. The other way is a runtime and a listener for
//! each thread, to which the kernel deals the connections out (`SO_REUSEPORT`): a connection stays on its thread, and a
//! thread with few of them idles while others have many. With two threads on two cores that the load shared, its CPU time
//! per packet was 1.11, 1.00 and 0.96 times that of one runtime (64 x 1, 64 x 32, 1000 x 1; medians of 8 rounds) and its
//! p99 1.3, 2.0 and 0.6 times: no reason to prefer it. Machines with many cores may show another picture.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use listenfd::ListenFd;
use pktconn::{Addr, Listener, PacketServer, ServerConfig, ServerHandle, ShutdownReport, TlsServerConfig};
use socket2::{Domain, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::echo;
use crate::messages::cannot_listen;
use crate::tally::Board;

/// How several threads share the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sharing {
    /// Each has a runtime of its own, and the connections that the kernel deals it (Linux)
    Own,
    /// All have one runtime, which moves work between them
    One,
}

/// The most that Linux grants by default (`net.core.somaxconn`): many clients may connect at once.
const BACKLOG: i32 = 4096;

/// A socket that one worker listens on, or is to.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// A Unix socket that is yet to be made: by the server, who knows what to do about its file.
    At(Addr),
}

/// Listens on `addr` with `count` sockets, which the kernel deals connections to. With `shares_port`, other servers may listen
/// there too.
pub(crate) fn listen(addr: &Addr, count: usize, shares_port: bool) -> io::Result<Vec<Socket>> {
    if addr.unix_path().is_some() {
        return Ok(vec![Socket::At(addr.clone())]);
    }
    let mut failure = None;
    for addr in addr.to_string().to_socket_addrs()? {
        match listen_on(addr, count, shares_port) {
            Ok(listeners) => return Ok(listeners.into_iter().map(Socket::Tcp).collect()),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

fn listen_on(addr: SocketAddr, count: usize, shares_port: bool) -> io::Result<Vec<TcpListener>> {
    // Alone at first: sockets that share their port would join those of another server, instead of telling that the port
    // is in use.
    let first = bind(addr, shares_port)?;
    if count == 1 {
        return Ok(vec![first]);
    }
    let addr = first.local_addr()?;
    drop(first);
    (0..count).map(|_| bind(addr, true)).collect()
}

/// The sockets that the one who started this has handed over (`LISTEN_FDS`, as systemd does): of each, one for each of `count`
/// workers.
pub(crate) fn handed_over(count: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut fds = ListenFd::from_env();
    let mut all = Vec::new();
    for index in 0..fds.len() {
        // One of the other kind stays where it is.
        let sockets = if let Ok(listener) = fds.take_tcp_listener(index) {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            (0..count).map(|_| Ok(Socket::Tcp(listener.try_clone()?))).collect()
        } else {
            let Some(listener) = fds.take_unix_listener(index)? else { continue };
            listener.set_nonblocking(true)?;
            (0..count).map(|_| Ok(Socket::Unix(listener.try_clone()?))).collect()
        };
        all.push(sockets);
    }
    all.into_iter().collect()
}

fn bind(addr: SocketAddr, shares_port: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if shares_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What serves the connections of its sockets: a runtime in a thread, or in several, or a task.
pub(crate) struct Worker {
    handle: ServerHandle,
    addrs: Vec<Addr>,
    /// Told at the end; gone when that was heard.
    finished: Option<oneshot::Receiver<ShutdownReport>>,
}

impl Worker {
    /// Starts to serve in threads of its own.
    pub(crate) async fn start(
        sockets: Vec<Socket>,
        threads: usize,
        config: ServerConfig,
        board: &Arc<Board>,
    ) -> anyhow::Result<Self> {
        let board = Arc::clone(board);
        let (start, started) = oneshot::channel();
        let run = move || {
            let served =
                runtime(threads).context("cannot start the threads of the server").and_then(|runtime| {
                    let (worker, work) = runtime.block_on(Self::new(sockets, config, board))?;
                    Ok((worker, runtime, work))
                });
            let (result, work) = match served {
                Ok((worker, runtime, work)) => (Ok(worker), Some((runtime, work))),
                Err(error) => (Err(error), None),
            };
            let _ = start.send(result);
            if let Some((runtime, work)) = work {
                // A panic was printed by the hook.
                drop(runtime.block_on(runtime.spawn(work)));
            }
        };
        thread::Builder::new()
            .name("pktecho".to_owned())
            .spawn(run)
            .context("cannot start the threads of the server")?;
        started.await.context("the server panicked")?
    }

    /// Starts to serve in the runtime that this is called in: one thread needs no other beside it.
    pub(crate) async fn start_here(
        sockets: Vec<Socket>,
        config: ServerConfig,
        board: &Arc<Board>,
    ) -> anyhow::Result<Self> {
        let (worker, work) = Self::new(sockets, config, Arc::clone(board)).await?;
        tokio::spawn(work);
        Ok(worker)
    }

    async fn new(
        sockets: Vec<Socket>,
        config: ServerConfig,
        board: Arc<Board>,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let mut server: Option<PacketServer> = None;
        for socket in sockets {
            let listener = match socket {
                Socket::Tcp(listener) => tokio::net::TcpListener::from_std(listener)?.into(),
                Socket::Unix(listener) => tokio::net::UnixListener::from_std(listener)?.into(),
                Socket::At(addr) => {
                    Listener::bind(&addr).await.map_err(|error| cannot_listen(&addr, error))?
                }
            };
            match &mut server {
                None => server = Some(PacketServer::from_listener(listener, config.clone())?),
                Some(server) => server.also_listen(listener)?,
            }
        }
        let server = server.context("there is nothing to listen on")?;
        let (handle, addrs) = (server.handle(), server.local_addrs().to_vec());
        let (finish, finished) = oneshot::channel();
        let work = async move {
            let _ = finish.send(echo::serve(server, board).await);
        };
        Ok((Self { handle, addrs, finished: Some(finished) }, work))
    }

    /// Where it listens.
    pub(crate) fn addrs(&self) -> &[Addr] {
        &self.addrs
    }

    /// Has connections from now on accepted with what stands in the files.
    pub(crate) fn set_tls(&self, tls: &TlsServerConfig) -> Result<(), pktconn::Error> {
        self.handle.set_tls(tls)
    }

    /// Stops accepting, and has the connections finish within `timeout`.
    pub(crate) fn shutdown_within(&self, timeout: Duration) {
        self.handle.shutdown_within(timeout);
    }

    /// Waits for the last connection to finish. `None` where that was told before, or where the server panicked.
    pub(crate) async fn finished(&mut self) -> Option<ShutdownReport> {
        let report = self.finished.as_mut()?.await.ok();
        self.finished = None;
        report
    }
}

/// Sockets that are looked at in a turn, and so connections that are served before the next look. With tokio's 1,024, the
/// tasks and sockets of 1,000 connections that are ready at once have left the cache when they are served: 0.2 µs for a
/// packet that stands alone, of 1.5 µs outside of the kernel. A call of the system for 64 of them costs a tenth of that.
const EVENTS_A_TURN: usize = 64;

/// One thread needs no scheduler that moves tasks between threads.
pub(crate) fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread()
            .enable_all()
            .max_io_events_per_tick(EVENTS_A_TURN)
            // Of tasks: with those that the served ones wake.
            .event_interval(2 * EVENTS_A_TURN as u32)
            .build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}
