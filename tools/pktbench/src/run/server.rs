//! The built-in echo server, for a run without `--connect`. It has a thread and a tokio runtime of its own, so that it
//! and the load share nothing but the cores.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use pktconn::{ConnConfig, PacketServer, ServerHandle};
use tokio::runtime::{Builder, Runtime};

/// How long connections may take to finish once the server is stopped. Short, because the load has closed its ends by
/// then. After an interrupt in an overload, a server has more to do than anyone wants to wait for.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// An echo server that runs until it is dropped.
pub(crate) struct OwnServer {
    addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl OwnServer {
    pub(crate) fn start(config: ConnConfig, threads: usize) -> anyhow::Result<Self> {
        let runtime = runtime(threads)?;
        let server = runtime.block_on(PacketServer::bind_with((Ipv4Addr::LOCALHOST, 0), config));
        let server =
            server.map_err(|error| anyhow::anyhow!("cannot start the built-in echo server: {error}"))?;
        let addr = server.local_addr().socket_addr().context("the built-in echo server has no address")?;
        let handle = server.handle();
        let thread = std::thread::Builder::new()
            .name("echo-server".to_owned())
            .spawn(move || runtime.block_on(serve(server)))
            .context("cannot start the thread of the built-in echo server")?;
        Ok(Self { addr, handle, thread: Some(thread) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.handle.shutdown_within(DRAIN_TIME);
        if let Some(thread) = self.thread.take() {
            // A panic has already printed its message and failed the connections of the load.
            let _ = thread.join();
        }
    }
}

/// For one thread, tokio's current-thread scheduler: it is cheaper, as it moves no tasks between threads.
fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("cannot start the threads of the built-in echo server")
}

async fn serve(server: PacketServer) {
    server
        .serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        })
        .await;
}
