//! Accepting connections, and a task for each.
//!
//! ```text
//!   listener -- accept --> PacketConn --> handler, in a task of its own
//!      ^ until shutdown()                   '-- serve() returns when the last one has finished
//! ```

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Span;

use crate::addr::Addr;
use crate::budget;
use crate::byte_stream::ByteStream;
use crate::census::Ticket;
use crate::config::{Origin, Settings};
use crate::connection::shared::Shared;
use crate::control::Control;
use crate::entry::Entry;
use crate::error::Reason;
use crate::failure::{Operation, in_one_line};
use crate::listener::Listener;
use crate::report::{Kind, Report};
use crate::{ConnStats, Error, PacketConn, ServerConfig, ServerHandle, ShutdownReport};

type HandlerResult = Result<(), Box<dyn StdError + Send + Sync>>;

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
    /// A Unix socket that nobody listens on any more, as a program leaves it that was killed, is replaced. When the server is
    /// dropped or has [served](Self::serve), its file is removed.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, is not of this machine, or is in use; or at the path of a Unix
    /// socket is another file. [`is_config`](Error::is_config): the address can never be listened on.
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

    /// Makes a server of a socket that listens already, tokio's `TcpListener` or `UnixListener`: one that was handed down by
    /// another process, or that has options of its own, such as `SO_REUSEPORT` for a server on each core.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the socket has no address. [`is_config`](Error::is_config): the configuration contradicts
    /// itself.
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
        listener.set_options(&self.config.conn.tcp).map_err(unusable)?;
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

    /// Accepts connections and runs `handler` for each, in a task of its own. Returns when the server was
    /// [shut down](ServerHandle::shutdown) and the last handler has finished, or the time that was
    /// [granted](ServerHandle::shutdown_within) for that is over: then it closes the connections that are still there, and
    /// drops their handlers.
    ///
    /// The handler owns its connection. It should [`close`](PacketConn::close) it at its end: [dropping](PacketConn#dropping) it
    /// may lose what the peer has not taken yet. A handler that fails or panics ends its own connection alone, and is logged: at the level of
    /// warnings, and where it fails with an [`Error`] of this crate, which is mostly the peer's doing, at that of debugging.
    /// It may fail with any error, boxed: where its work is a function with an error of its own, `Ok(work(conn).await?)`
    /// boxes it.
    ///
    /// Each handler runs in a `tracing` span, `connection`, at the level of debugging, with the address of its `peer`; at
    /// its end an event says the `reason`. At the level of information the server says nothing.
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
        let accepting = crate::metrics::told(&control.census, accepting);
        tokio::select! {
            report = accepting => report,
            // It never ends.
            () = budget::watch(&control.census) => ShutdownReport::default(),
        }
    }

    async fn accept_all<H, F>(self, handler: H) -> ShutdownReport
    where
        H: Fn(PacketConn) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let entry = Arc::new(Entry {
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
                    let client = peer_addr.filter(|_| !entry.is_behind_proxy());
                    let Some(ticket) = Ticket::of(&entry.control, client) else {
                        entry.refused(peer_addr);
                        continue;
                    };
                    let stage = if entry.has_handshake() {
                        let shaking = Arc::clone(&entry).shake_hands(stream, peer_addr, ticket);
                        Stage::ShakingHands { shaking: Box::pin(shaking), handler: Arc::clone(&handler) }
                    } else {
                        match entry.open(stream, peer_addr, ticket) {
                            Ok(conn) => Stage::ToBeCalled { with: Some((conn, Arc::clone(&handler))) },
                            // Gone between being accepted and being looked at.
                            Err(error) => {
                                entry.report.tell(Kind::Io, peer_addr, CONNECTION_FAILED, &error);
                                continue;
                            }
                        }
                    };
                    let report = Arc::clone(&entry.report);
                    handlers.spawn(Handling { shared: None, span: None, report, stage });
                }
                Err(error) => self.wait_after(&error, &mut pause, &mut handlers).await,
            }
        }
        drop(self.listeners);
        drain(self.handle.control(), handlers).await
    }

    /// Accepts a connection of any listener. None of them waits for one that is busier: `next` says which is asked first.
    fn poll_accept(
        &self,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(ByteStream, Option<SocketAddr>)>> {
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

/// Waits for the handlers to finish, and within the time that is set, if one is, for connections that they have passed on.
async fn drain(control: &Control, mut handlers: JoinSet<()>) -> ShutdownReport {
    let at_first = control.census.open();
    let open_at_first = at_first.len();
    if control.drains {
        // They receive what has arrived, and then the end.
        at_first.iter().for_each(Shared::drain);
    }
    drop(at_first);
    let mut cut_at = control.cut_at.subscribe();
    let cut = loop {
        let due = *cut_at.borrow_and_update();
        tokio::select! {
            biased;
            Some(finished) = handlers.join_next() => log_panic(finished),
            () = control.census.emptied(), if handlers.is_empty() => break None,
            // They may yet be given a time.
            () = ending_are_over(control), if handlers.is_empty() && due.is_none() => break None,
            // It is there as long as the control.
            _ = cut_at.changed() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let open = control.census.open();
                break Some((open.len(), open.iter().filter_map(Shared::cut).collect()));
            }
        }
    };
    // Those that are still at work.
    handlers.shutdown().await;
    ending_are_over(control).await;
    let (still_open, cut) = cut.unwrap_or_else(|| (control.census.open().len(), Vec::new()));
    ShutdownReport { drained: open_at_first.saturating_sub(still_open), cut }
}

/// Waits for the connections that end by themselves: what they have left to be written and acknowledged has a time for it.
async fn ending_are_over(control: &Control) {
    let mut conns = control.census.open();
    conns.retain(Shared::is_ending);
    for conn in conns {
        let wait = conn.wait();
        poll_fn(|cx| conn.poll_over(wait.key, cx)).await;
    }
}

pin_project! {
    /// A connection at work. No async block, which has room for the connection beside that of the handler that it went to.
    // In this order in memory: each poll looks at the span, and at the handler.
    #[repr(C)]
    struct Handling<H, F> {
        // Where somebody wants it.
        span: Option<Box<Span>>,
        #[pin]
        stage: Stage<H, F>,
        // Once there is one.
        shared: Option<Arc<Shared>>,
        report: Arc<Report>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<H, F> {
        ShakingHands { shaking: Pin<Box<dyn Future<Output = Option<PacketConn>> + Send>>, handler: Arc<H> },
        /// The handler is called in its task: where it panics, it is alone.
        ToBeCalled { with: Option<(PacketConn, Arc<H>)> },
        Called {
            #[pin]
            handler: F,
        },
    }
}

impl<H, F> Future for Handling<H, F>
where
    H: Fn(PacketConn) -> F,
    F: Future<Output = HandlerResult>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::ShakingHands { shaking, handler } => {
                    let Some(conn) = ready!(shaking.as_mut().poll(cx)) else { return Poll::Ready(()) };
                    let with = Some((conn, Arc::clone(handler)));
                    this.stage.set(Stage::ToBeCalled { with });
                }
                StageProjection::ToBeCalled { with } => {
                    // Gone where the handler panicked, after which nobody polls.
                    let Some((conn, handler)) = with.take() else { return Poll::Ready(()) };
                    let peer = conn.peer_addr().map(tracing::field::display);
                    let span = tracing::debug_span!("connection", peer);
                    *this.span = (!span.is_disabled()).then(|| Box::new(span));
                    *this.shared = Some(Arc::clone(conn.shared()));
                    let _inside = this.span.as_deref().map(Span::enter);
                    let handler = handler(conn);
                    this.stage.set(Stage::Called { handler });
                }
                StageProjection::Called { handler } => {
                    let _inside = this.span.as_deref().map(Span::enter);
                    let result = ready!(handler.poll(cx));
                    if let Some(shared) = this.shared {
                        log_failure(this.report, result, shared);
                        log_end(shared);
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}

const CONNECTION_FAILED: &str = "the connection failed";

const HANDLER_FAILED: &str = "the connection's handler failed";

/// Tells why a connection or its handler failed, each of them once.
fn log_failure(report: &Report, result: HandlerResult, shared: &Arc<Shared>) {
    let peer = shared.ends.peer();
    // Also of a connection whose handler does not pass its error on.
    let end = shared.reason().and_then(|reason| Some((Kind::of(&reason)?, Error::from(reason).to_string())));
    if let Some((kind, end)) = &end {
        report.tell(*kind, peer, CONNECTION_FAILED, end);
    }
    let Err(error) = result else { return };
    let peer_field = peer.map(tracing::field::display);
    match error.downcast::<Error>() {
        Ok(error) if end.is_some_and(|(_, end)| end == error.to_string()) => {}
        Ok(error) => match Kind::of(&error.reason()) {
            // Of another connection: one that the handler has made.
            Some(kind) => report.tell(kind, peer, HANDLER_FAILED, &error),
            None => tracing::debug!(peer = peer_field, %error, "{HANDLER_FAILED}"),
        },
        // What a handler itself says is told always: it is not the peer who decides how often that comes.
        Err(error) => tracing::warn!(peer = peer_field, error = in_one_line(&*error), "{HANDLER_FAILED}"),
    }
}

fn log_end(shared: &Arc<Shared>) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let ConnStats { packets_received, packets_sent, .. } = shared.stats();
        // A handler may have passed its connection on.
        let reason = shared.reason().map(|reason| Error::from(reason).to_string());
        let reason = reason.as_deref().unwrap_or("it goes on without its handler");
        tracing::debug!(reason, packets_received, packets_sent, "the handler has finished");
    }
}

fn log_panic(finished: Result<(), JoinError>) {
    // The panic itself was printed by the hook; this says that only one handler is gone.
    if finished.is_err_and(|error| error.is_panic()) {
        tracing::error!("a connection's handler panicked; its connection is closed");
    }
}

/// How long to wait when nothing can be accepted: a file may be closed at any moment, and a busy loop helps nobody.
struct AcceptPause {
    next: Duration,
    /// When it was last told of.
    told: Option<Instant>,
}

impl AcceptPause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The next pause, and whether it is worth a line in the log: one a second is, however often it comes and goes.
    fn next(&mut self, now: Instant) -> (Duration, bool) {
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        let tell = self.told.is_none_or(|told| now.duration_since(told) >= Duration::from_secs(1));
        if tell {
            self.told = Some(now);
        }
        (pause, tell)
    }

    /// Something was accepted.
    fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

impl Default for AcceptPause {
    fn default() -> Self {
        Self { next: Self::FIRST, told: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_to_a_second_and_begins_anew_when_something_was_accepted() {
        let mut pause = AcceptPause::default();
        for _ in 0..2 {
            let pauses = [(); 9].map(|()| pause.next(Instant::now()).0.as_millis());
            assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
            pause.reset();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_of_at_once_and_then_once_a_second_at_most() {
        let (mut pause, started) = (AcceptPause::default(), Instant::now());
        let told: Vec<_> = (0..30)
            .map(|number| number * 100)
            .filter(|&ms| {
                // A file is free now and then, and taken at once.
                pause.reset();
                pause.next(started + Duration::from_millis(ms)).1
            })
            .collect();
        assert_eq!(told, [0, 1000, 2000]);
    }
}
