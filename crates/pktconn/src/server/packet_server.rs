//! The public server: binds listeners, accepts connections, and starts a task with a handler for each.
//!
//! ```text
//!   listener -- accept --> PacketConn --> handler, one task per connection
//!      ^ until shutdown()                   '-- serve() returns when the last one has finished
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::yielding;
use crate::server::accept_backoff::AcceptBackoff;
use crate::server::conn_setup::ConnSetup;
use crate::server::conn_task::{CONNECTION_FAILED, ConnTask, HandlerResult, Stage};
use crate::server::drain::{drain, log_if_panicked};
use crate::server::listener::{Listener, ServerListener};
use crate::server::logs::failure_log::{FailureKind, FailureLog};
use crate::server::memory_budget;
use crate::server::process_memory;
use crate::server::registry::ConnSlot;
use crate::transport::addr::Addr;
use crate::transport::plain_stream::PlainStream;
use crate::{Error, PacketConn, ServerConfig, ServerHandle, ShutdownReport};

/// How many connections are accepted before handlers that have finished are freed, and open connections are served:
/// a flood of new connections must not delay them.
const MAX_ACCEPTED_IN_ROW: u32 = 16;

/// A server that accepts connections over TCP and Unix sockets, and runs a handler for each.
///
/// Make it with [`bind`](Self::bind), then call [`serve`](Self::serve). See the
/// [example of the crate](crate#a-server-and-a-client).
#[derive(Debug)]
pub struct PacketServer {
    listeners: Vec<ServerListener>,
    local_addrs: Vec<Addr>,
    config: ServerConfig,
    handle: ServerHandle,
}

impl PacketServer {
    /// Listens on an [address](Addr), with the default configuration.
    ///
    /// Port 0 selects a free port; [`local_addr`](Self::local_addr) returns it. At the path of a Unix socket, a socket
    /// file that no program has open is replaced, for example one that a killed program left. The file is removed when
    /// [`serve`](Self::serve) stops accepting, or when the server is dropped. See [`Addr`](Addr#unix-sockets) for its
    /// lock file and its permissions.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the address does not resolve, does not belong to this machine, or is in use; or the
    ///   path of a Unix socket is taken by a file that is not a socket.
    /// - [`is_config`](Error::is_config): nothing can ever listen on the address.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves no listening socket behind.
    pub async fn bind(addr: impl Into<Addr>) -> Result<Self, Error> {
        Self::bind_with(addr, ServerConfig::new()).await
    }

    /// Listens on an [address](Addr), with a [`ServerConfig`] or with a [`ConnConfig`](crate::ConnConfig) for its
    /// connections.
    ///
    /// Otherwise like [`bind`](Self::bind).
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the address does not resolve, does not belong to this machine, or is in use; or the
    ///   path of a Unix socket is taken by a file that is not a socket.
    /// - [`is_config`](Error::is_config): the configuration is invalid, or nothing can ever listen on the address.
    /// - [`is_tls`](Error::is_tls): a certificate or key file cannot be read or used.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves no listening socket behind.
    pub async fn bind_with(addr: impl Into<Addr>, config: impl Into<ServerConfig>) -> Result<Self, Error> {
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "only TLS reads files"))]
        let mut config = config.into();
        config.check()?;
        // Here, because `from_listener` would block while it reads the files.
        #[cfg(feature = "tls")]
        if let Some(tls) = &config.tls {
            config.tls = Some(tls.load().await?);
        }
        Self::from_listener(Listener::bind(addr).await?, config)
    }

    /// Makes a server from a listening socket: a [`Listener`], or tokio's `TcpListener` or `UnixListener`.
    ///
    /// Use it for a socket that another process passed on, or for a socket with special options, such as `SO_REUSEPORT`
    /// for one server per core. With TLS, it blocks while it reads the files, for 5 s at most; see `TlsServerConfig::load`.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the socket reports no address, or refuses the buffer sizes of the
    ///   [`TcpConfig`](crate::TcpConfig).
    /// - [`is_config`](Error::is_config): the configuration is invalid.
    /// - [`is_tls`](Error::is_tls): a certificate or key file cannot be read or used.
    pub fn from_listener(
        listener: impl Into<Listener>,
        config: impl Into<ServerConfig>,
    ) -> Result<Self, Error> {
        let config = config.into();
        config.check()?;
        let handle = ServerHandle::new(&config)?;
        let mut server = Self { listeners: Vec::new(), local_addrs: Vec::new(), config, handle };
        server.add_listener(listener)?;
        Ok(server)
    }

    /// Listens on one more address, with the configuration of the server. For other settings use
    /// [`add_listener`](Self::add_listener). All addresses share the limits and the counts.
    ///
    /// On Linux, `[::]` accepts IPv4 connections too. It cannot be added to `0.0.0.0` on the same port: the address is
    /// then in use.
    ///
    /// # Errors
    ///
    /// The server stays as it was before.
    ///
    /// - [`is_io`](Error::is_io): the address does not resolve, does not belong to this machine, or is in use; or the
    ///   path of a Unix socket is taken by a file that is not a socket.
    /// - [`is_config`](Error::is_config): nothing can ever listen on the address.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves the server as it was before.
    ///
    /// # Example
    ///
    /// ```
    /// # async fn start() -> Result<(), pktconn::Error> {
    /// let mut server = pktconn::PacketServer::bind("[::]:14572").await?;
    /// server.add_addr("unix:/run/app.sock").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn add_addr(&mut self, addr: impl Into<Addr>) -> Result<(), Error> {
        let listener = Listener::bind(addr).await?;
        self.add_listener(listener)
    }

    /// Adds a listening socket, before [`serve`](Self::serve): it then accepts the connections of this socket, too. All
    /// sockets share the limits and the counts. A [`Listener`] can have its own TLS, PROXY protocol and
    /// [`ConnConfig`](crate::ConnConfig).
    ///
    /// # Errors
    ///
    /// The server stays as it was before, and the socket is closed.
    ///
    /// - [`is_io`](Error::is_io): the socket reports no address, or refuses the buffer sizes of the
    ///   [`TcpConfig`](crate::TcpConfig).
    /// - [`is_config`](Error::is_config): a setting of the listener is invalid.
    /// - [`is_tls`](Error::is_tls): a certificate or key file of the listener cannot be read or used.
    pub fn add_listener(&mut self, listener: impl Into<Listener>) -> Result<(), Error> {
        let listener = listener.into().for_server(&self.config, self.handle.state())?;
        self.local_addrs.push(listener.local_addr.clone());
        self.listeners.push(listener);
        Ok(())
    }

    /// The address that the server listens on, with the real port. With several addresses, the first one.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        self.local_addrs[0].clone()
    }

    /// All addresses that the server listens on, in the order in which they were added. Port 0 is replaced by the port
    /// that the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[Addr] {
        &self.local_addrs
    }

    /// Returns a handle that stops the server and reports its counts.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Accepts connections and runs `handler` for each, in its own task, until the server is
    /// [shut down](ServerHandle::shutdown).
    ///
    /// After a shutdown it returns when all handlers have finished. With a deadline
    /// ([`shutdown_within`](ServerHandle::shutdown_within)) it also waits for connections that handlers have passed on,
    /// and at the deadline it closes the remaining connections and drops their handlers.
    ///
    /// The handler owns its connection and should end with [`close`](PacketConn::close):
    /// [dropping](PacketConn#dropping) the connection may lose packets that the peer has not received yet. A handler
    /// that fails or panics ends only its own connection. Handlers return a [`HandlerResult`](crate::HandlerResult).
    /// If the work is in a function with another error type, `Ok(work(conn).await?)` converts the error.
    ///
    /// If the process cannot accept a connection, for example because it has too many open files, the server logs a
    /// warning and tries again after a pause: 10 ms, doubling up to 1 s, or until a handler has finished. Open
    /// connections are not affected.
    ///
    /// # Log
    ///
    /// The server logs with `tracing`:
    ///
    /// - ERROR: a handler panicked.
    /// - WARN: a handler failed with an error that is not an [`Error`] of this crate.
    /// - WARN, at most once per second and kind of failure, otherwise DEBUG: a connection or a handshake failed, or a
    ///   connection was refused. The field `suppressed` counts those that were logged at DEBUG.
    /// - DEBUG: the handler of a connection has finished, with the `reason` for the connection's end.
    /// - WARN, at most once per second: [`memory_budget`](ServerConfig::memory_budget) acts, or
    ///   [`max_process_memory`](ServerConfig::max_process_memory) begins to. INFO: the latter ends.
    /// - INFO, target `pktconn::access`: the [access log](ServerConfig::access_log), if it is on.
    ///
    /// It logs nothing else at INFO. Each handler runs in a DEBUG span `connection` with the fields `id` (the
    /// [`ConnId`](crate::ConnId)) and `peer`.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future stops the server at once. The listeners are closed, and the handlers are
    /// dropped with their connections.
    pub async fn serve<H, F>(self, handler: H) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        #[cfg(feature = "session")]
        if self.config.sessions.is_some() {
            tracing::warn!("ServerConfig::sessions has no effect: it needs serve_sessions");
        }
        let handle = self.handle.clone();
        self.serve_until(async move { handle.stopping().await }, handler).await
    }

    /// Like [`serve`](Self::serve), but accepts connections until `stopped` completes.
    pub(super) async fn serve_until<H, F>(
        self,
        stopped: impl Future<Output = ()>,
        handler: H,
    ) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let state = Arc::clone(self.handle.state());
        let accepting = self.accept_all(stopped, handler);
        #[cfg(feature = "metrics")]
        let accepting = super::metrics::publish_while(&state.registry, accepting);
        tokio::select! {
            report = accepting => report,
            // These never end.
            () = memory_budget::enforce(&state.registry) => ShutdownReport::default(),
            () = process_memory::watch(state.registry.process_memory.as_ref()) => ShutdownReport::default(),
        }
    }

    /// Makes the connections decode control frames. Returns the configuration of sessions, and the time for handshakes.
    #[cfg(feature = "session")]
    pub(super) fn prepare_sessions(&mut self) -> (crate::SessionConfig, Option<std::time::Duration>) {
        for listener in &mut self.listeners {
            listener.conn.codec = listener.conn.codec.control_frames(true);
        }
        let registry = &self.handle.state().registry;
        registry.serves_sessions.store(true, std::sync::atomic::Ordering::Relaxed);
        let Some(sessions) = self.config.sessions.clone() else {
            panic!("serve_sessions needs ServerConfig::sessions")
        };
        (sessions, self.config.conn.handshake_timeout)
    }

    async fn accept_all<H, F>(self, stopped: impl Future<Output = ()>, handler: H) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let failure_log = Arc::<FailureLog>::default();
        let new_setup = |listener| Arc::new(ConnSetup::new(listener, self.handle.state(), &failure_log));
        let setups: Vec<_> = self.listeners.iter().map(new_setup).collect();
        let handler = Arc::new(handler);
        let mut handlers = JoinSet::new();
        let mut backoff = AcceptBackoff::default();
        let mut next_listener = 0;
        let mut accepted_in_row = 0;
        // One future for all connections: it registers its waker only once.
        let mut stopping = pin!(stopped);
        loop {
            // Not a `select!`, which would look for finished handlers before each connection.
            let accepted = poll_fn(|cx| {
                if stopping.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                if accepted_in_row < MAX_ACCEPTED_IN_ROW {
                    if let Poll::Ready(accepted) = self.poll_accept(&mut next_listener, cx) {
                        accepted_in_row += 1;
                        return Poll::Ready(Some(accepted));
                    }
                }
                if mem::take(&mut accepted_in_row) == MAX_ACCEPTED_IN_ROW {
                    yielding::yield_turn(cx);
                }
                while let Poll::Ready(Some(finished)) = handlers.poll_join_next(cx) {
                    log_if_panicked(finished);
                }
                Poll::Pending
            });
            let Some(accepted) = accepted.await else { break };
            match accepted {
                Ok((listener, stream, peer_addr)) => {
                    backoff.reset();
                    let conn_setup = &setups[listener];
                    let client = conn_setup.client_at_accept(peer_addr);
                    let accepted_at = Instant::now();
                    let slot = match ConnSlot::reserve(&conn_setup.server.registry, client, accepted_at) {
                        Ok(slot) => slot,
                        Err(refusal) => {
                            conn_setup.refuse(stream, peer_addr, accepted_at, refusal);
                            continue;
                        }
                    };
                    let stage = if conn_setup.has_handshake() {
                        let handshake = Arc::clone(conn_setup).handshake(stream, peer_addr, slot);
                        Stage::Handshake { handshake: Box::pin(handshake), handler: Arc::clone(&handler) }
                    } else {
                        match conn_setup.open_conn(stream, peer_addr, slot) {
                            Ok(conn) => Stage::Ready { with: Some((conn, Arc::clone(&handler))) },
                            // The peer reset the connection between the accept and now.
                            Err(error) => {
                                failure_log.log(FailureKind::Io, peer_addr, CONNECTION_FAILED, &error);
                                let registry = &conn_setup.server.registry;
                                registry.log_access_not_opened(peer_addr, accepted_at, "io", &error);
                                continue;
                            }
                        }
                    };
                    handlers.spawn(ConnTask::new(stage, Arc::clone(&failure_log)));
                }
                Err(error) => self.pause_after_accept_error(&error, &mut backoff, &mut handlers).await,
            }
        }
        drop(self.listeners);
        drain(self.handle.state(), handlers).await
    }

    /// Accepts a connection from any listener, and returns the listener's index. Starts with `next_listener`, so that a
    /// busy listener cannot starve the others.
    fn poll_accept(
        &self,
        next_listener: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(usize, PlainStream, Option<SocketAddr>)>> {
        for _ in &self.listeners {
            let index = *next_listener;
            *next_listener = (index + 1) % self.listeners.len();
            if let Poll::Ready(accepted) = self.listeners[index].socket.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, peer_addr)| (index, stream, peer_addr)));
            }
        }
        Poll::Pending
    }

    async fn pause_after_accept_error(
        &self,
        error: &io::Error,
        backoff: &mut AcceptBackoff,
        handlers: &mut JoinSet<()>,
    ) {
        // The peer gave up before it was accepted. This is no reason to pause.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        let (pause, should_log) = backoff.next_pause(Instant::now());
        if should_log {
            tracing::warn!(
                addr = %self.local_addr(),
                %error,
                "cannot accept connections, trying again; if too many files are open, raise the limit (ulimit -n)"
            );
        }
        tokio::select! {
            () = self.handle.stopping() => {}
            () = tokio::time::sleep(pause) => {}
            // A finished handler has probably closed a socket.
            Some(finished) = handlers.join_next() => log_if_panicked(finished),
        }
    }
}
