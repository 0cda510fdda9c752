//! Accepting connections, and a task for each.
//!
//! ```text
//!   listener -- accept --> PacketConn --> handler, in a task of its own
//!      ^ until shutdown()                   '-- serve() returns when the last one has finished
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::config::{Origin, Settings};
use crate::error::Reason;
use crate::error::failure::Operation;
use crate::server::accept_pause::AcceptPause;
use crate::server::acceptor::Acceptor;
use crate::server::budget;
use crate::server::drain::{drain, log_panic};
use crate::server::failure_log::Kind;
use crate::server::handler::{CONNECTION_FAILED, HandlerResult, Handling, Stage};
use crate::server::registry::Ticket;
use crate::transport::addr::Addr;
use crate::transport::listener::Listener;
use crate::transport::plain_stream::PlainStream;
use crate::{Error, PacketConn, ServerConfig, ServerHandle, ShutdownReport};

/// A server that runs a handler for each connection, over TCP or by Unix sockets.
///
/// See the [crate's example](crate#a-server-and-a-client).
#[derive(Debug)]
pub struct PacketServer {
    listeners: Vec<Listener>,
    local_addrs: Vec<Addr>,
    config: ServerConfig,
    handle: ServerHandle,
}

impl PacketServer {
    /// Listens on an [address](Addr), with the default configuration for its connections. Port 0 asks for a free port.
    ///
    /// A Unix socket that nobody listens on any more, as a program leaves it that was killed, is replaced. When the
    /// server is dropped or has [served](Self::serve), its file is removed.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, is not of this machine, or is in use; or at the path of a
    /// Unix socket is another file. [`is_config`](Error::is_config): the address can never be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn bind(addr: impl Into<Addr>) -> Result<Self, Error> {
        Self::bind_with(addr, ServerConfig::new()).await
    }

    /// Listens on an [address](Addr), with a configuration of the caller's: a [`ServerConfig`], or a
    /// [`ConnConfig`](crate::ConnConfig) for its connections.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, is not of this machine, or is in use.
    /// [`is_config`](Error::is_config): the configuration contradicts itself, or the address can never be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn bind_with(addr: impl Into<Addr>, config: impl Into<ServerConfig>) -> Result<Self, Error> {
        let config = config.into();
        config.check()?;
        Self::from_listener(Listener::bind(addr).await?, config)
    }

    /// Makes a server of a socket that listens already, tokio's `TcpListener` or `UnixListener`: one that was handed
    /// down by another process, or that has options of its own, such as `SO_REUSEPORT` for a server on each core.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the socket has no address. [`is_config`](Error::is_config): the configuration
    /// contradicts itself.
    pub fn from_listener(
        listener: impl Into<Listener>,
        config: impl Into<ServerConfig>,
    ) -> Result<Self, Error> {
        let config = config.into();
        config.check()?;
        let handle = ServerHandle::new(&config)?;
        let mut server = Self { listeners: Vec::new(), local_addrs: Vec::new(), config, handle };
        server.also_listen(listener)?;
        Ok(server)
    }

    /// Has the server listen on one more address: all of them have the configuration and the limits in common.
    ///
    /// ```
    /// # async fn start() -> Result<(), pktconn::Error> {
    /// let mut server = pktconn::PacketServer::bind("0.0.0.0:14572").await?;
    /// if let Err(error) = server.also_bind("[::]:14572").await {
    ///     eprintln!("without IPv6: {error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The server goes on as it was before.
    /// [`is_io`](Error::is_io): the address does not resolve, is not of this machine, or is in use.
    /// [`is_config`](Error::is_config): it can never be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the server as it was before.
    pub async fn also_bind(&mut self, addr: impl Into<Addr>) -> Result<(), Error> {
        let listener = Listener::bind(addr).await?;
        self.also_listen(listener)
    }

    /// Has the server listen on one more socket, as [`from_listener`](Self::from_listener) does on the first.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the socket has no address. It is closed, and the server goes on as it was before.
    pub fn also_listen(&mut self, listener: impl Into<Listener>) -> Result<(), Error> {
        let listener = listener.into();
        let unusable = |error| Reason::io(Operation::Listen, None::<String>, error);
        listener.set_inherited_options(&self.config.conn.tcp).map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        self.local_addrs.push(local_addr);
        self.listeners.push(listener);
        Ok(())
    }

    /// The address that the server listens on, with the real port; the first one, where it has several.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        self.local_addrs[0].clone()
    }

    /// The addresses that the server listens on, with the real ports, in the order in which they were added.
    #[must_use]
    pub fn local_addrs(&self) -> &[Addr] {
        &self.local_addrs
    }

    /// A handle to stop the server with.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Accepts connections and runs `handler` for each, in a task of its own. Returns when the server was [shut
    /// down](ServerHandle::shutdown) and the last handler has finished, or the time that was
    /// [granted](ServerHandle::shutdown_within) for that is over: then it closes the connections that are still there,
    /// and drops their handlers.
    ///
    /// The handler owns its connection. It should [`close`](PacketConn::close) it at its end:
    /// [dropping](PacketConn#dropping) it may lose what the peer has not taken yet. A handler that fails or panics ends
    /// its own connection alone, and is logged: at the level of warnings, and where it fails with an [`Error`] of this
    /// crate, which is mostly the peer's doing, at that of debugging. It may fail with any error, boxed: where its work
    /// is a function with an error of its own, `Ok(work(conn).await?)` boxes it.
    ///
    /// Each handler runs in a `tracing` span, `connection`, at the level of debugging, with the address of its `peer`;
    /// at its end an event says the `reason`. At the level of information the server says nothing.
    ///
    /// When no connection can be accepted, because a limit on open files is reached, the server logs it, waits (10 ms,
    /// doubling to 1 s, or until a handler has finished) and tries again; the connections that it has go on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server at once: the listener is closed, and the handlers are dropped with their
    /// connections.
    pub async fn serve<H, F>(self, handler: H) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let control = Arc::clone(self.handle.control());
        let accepting = self.accept_all(handler);
        #[cfg(feature = "metrics")]
        let accepting = super::metrics::told(&control.registry, accepting);
        tokio::select! {
            report = accepting => report,
            // It never ends.
            () = budget::watch(&control.registry) => ShutdownReport::default(),
        }
    }

    async fn accept_all<H, F>(self, handler: H) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let acceptor = Arc::new(Acceptor {
            settings: Settings::new(&self.config.conn, Origin::Accepted),
            config: self.config.conn.clone(),
            control: Arc::clone(self.handle.control()),
            report: Arc::default(),
            #[cfg(feature = "proxy-protocol")]
            proxies: self.config.proxies.clone(),
        });
        let handler = Arc::new(handler);
        let mut handlers = JoinSet::new();
        let mut pause = AcceptPause::default();
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.handle.stopping() => break,
                Some(finished) = handlers.join_next() => {
                    log_panic(finished);
                    continue;
                }
                accepted = poll_fn(|cx| self.poll_accept(&mut next, cx)) => accepted,
            };
            match accepted {
                Ok((stream, peer_addr)) => {
                    pause.reset();
                    let client = peer_addr.filter(|_| !acceptor.is_behind_proxy());
                    let Some(ticket) = Ticket::of(&acceptor.control.registry, client) else {
                        acceptor.refused(peer_addr);
                        continue;
                    };
                    let stage = if acceptor.has_handshake() {
                        let shaking = Arc::clone(&acceptor).shake_hands(stream, peer_addr, ticket);
                        Stage::ShakingHands { shaking: Box::pin(shaking), handler: Arc::clone(&handler) }
                    } else {
                        match acceptor.open(stream, peer_addr, ticket) {
                            Ok(conn) => Stage::ToBeCalled { with: Some((conn, Arc::clone(&handler))) },
                            // Gone between being accepted and being looked at.
                            Err(error) => {
                                acceptor.report.tell(Kind::Io, peer_addr, CONNECTION_FAILED, &error);
                                continue;
                            }
                        }
                    };
                    let report = Arc::clone(&acceptor.report);
                    handlers.spawn(Handling::new(stage, report));
                }
                Err(error) => self.wait_after(&error, &mut pause, &mut handlers).await,
            }
        }
        drop(self.listeners);
        drain(self.handle.control(), handlers).await
    }

    /// Accepts a connection of any listener. None of them waits for one that is busier: `next` says which is asked
    /// first.
    fn poll_accept(
        &self,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(PlainStream, Option<SocketAddr>)>> {
        for _ in &self.listeners {
            let listener = &self.listeners[*next];
            *next = (*next + 1) % self.listeners.len();
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    async fn wait_after(&self, error: &io::Error, pause: &mut AcceptPause, handlers: &mut JoinSet<()>) {
        // A peer that gave up before it was accepted says nothing about the next one.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        let (pause, tell) = pause.next(Instant::now());
        if tell {
            tracing::warn!(
                addr = %self.local_addr(),
                %error,
                "no connection can be accepted, trying again; if the limit on open files is reached, raise it (ulimit -n)"
            );
        }
        tokio::select! {
            () = self.handle.stopping() => {}
            () = tokio::time::sleep(pause) => {}
            // With its connection, most likely, a file is free again.
            Some(finished) = handlers.join_next() => log_panic(finished),
        }
    }
}
