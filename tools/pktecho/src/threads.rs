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
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use listenfd::ListenFd;
use pktconn::{PacketServer, ServerConfig, ServerHandle, ShutdownReport};
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::echo;
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

/// Listens on `addr` with `count` sockets, which the kernel deals connections to. With `shares_port`, other servers may listen
/// there too.
pub(crate) fn listen(addr: &str, count: usize, shares_port: bool) -> io::Result<Vec<TcpListener>> {
    let mut failure = None;
    for addr in addr.to_socket_addrs()? {
        match listen_on(addr, count, shares_port) {
            Ok(listeners) => return Ok(listeners),
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
pub(crate) fn handed_over(count: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut fds = ListenFd::from_env();
    let mut all = Vec::new();
    for index in 0..fds.len() {
        let Some(listener) = fds.take_tcp_listener(index)? else { continue };
        listener.set_nonblocking(true)?;
        let mut listeners = (1..count).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()?;
        listeners.push(listener);
        all.push(listeners);
    }
    Ok(all)
}

fn bind(addr: SocketAddr, shares_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if shares_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What serves the connections of its listeners: a runtime in a thread, or in several, or a task.
pub(crate) struct Worker {
    handle: ServerHandle,
    /// Told at the end; gone when that was heard.
    finished: Option<oneshot::Receiver<ShutdownReport>>,
}

impl Worker {
    /// Starts to serve in threads of its own.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        threads: usize,
        config: ServerConfig,
        board: &Arc<Board>,
    ) -> anyhow::Result<Self> {
        let runtime = runtime(threads).context("cannot start the threads of the server")?;
        let (worker, work) = {
            let _inside = runtime.enter();
            Self::new(listeners, config, board)?
        };
        thread::Builder::new()
            .name("pktecho".to_owned())
            // A panic was printed by the hook.
            .spawn(move || drop(runtime.block_on(runtime.spawn(work))))
            .context("cannot start the threads of the server")?;
        Ok(worker)
    }

    /// Starts to serve in the runtime that this is called in: one thread needs no other beside it.
    pub(crate) fn start_here(
        listeners: Vec<TcpListener>,
        config: ServerConfig,
        board: &Arc<Board>,
    ) -> anyhow::Result<Self> {
        let (worker, work) = Self::new(listeners, config, board)?;
        tokio::spawn(work);
        Ok(worker)
    }

    fn new(
        listeners: Vec<TcpListener>,
        config: ServerConfig,
        board: &Arc<Board>,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let mut listeners = listeners.into_iter().map(tokio::net::TcpListener::from_std);
        let first = listeners.next().context("there is nothing to listen on")??;
        let server = PacketServer::from_listener(first, config)?;
        let server =
            listeners.try_fold(server, |server, listener| anyhow::Ok(server.also_listen(listener?)?))?;
        let handle = server.handle();
        let board = Arc::clone(board);
        let (finish, finished) = oneshot::channel();
        let work = async move {
            let _ = finish.send(echo::serve(server, board).await);
        };
        Ok((Self { handle, finished: Some(finished) }, work))
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
