//! Servers with sessions: one handler per session, over any number of its connections.
//!
//! ```text
//!   accepted connection -- conn: HELLO --> table: the session, new or found --> handler, once per session
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pktconn_session::frame::{GoAway, GoAwayReason};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use self::table::SessionTable;
use crate::error::failure::with_sources;
use crate::server::drain::log_if_panicked;
use crate::server::server_handle::ServerState;
use crate::session::core::SessionCore;
use crate::{Error, HandlerResult, PacketServer, Session, ShutdownReport};
use pin_project_lite::pin_project;

mod conn;

mod table;

type HandlerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Starts the handler of a session.
type SpawnHandler = Box<dyn Fn(&mut JoinSet<()>, Session, Span) + Send + Sync>;

/// What the connections of a server with sessions share.
struct Sessions {
    table: Arc<SessionTable>,
    server: Arc<ServerState>,
    /// How long a client may take to confirm its session.
    handshake_timeout: Option<Duration>,
    spawn_handler: SpawnHandler,
    /// For a connection without a session, in the task of the connection.
    handler: Box<dyn Fn(Session) -> HandlerFuture + Send + Sync>,
    handlers: Mutex<JoinSet<()>>,
}

impl PacketServer {
    /// Accepts connections, and runs `handler` for each session, in its own task, until the server is
    /// [shut down](crate::ServerHandle::shutdown). A session outlives its connections: see [`Session`].
    ///
    /// The handler owns its session and should end with [`close`](Session::close): see [dropping](Session#dropping). A client
    /// without sessions gets a handler, too, unless [`SessionMode::Required`](crate::SessionMode::Required) is set: its session
    /// ends with its connection.
    ///
    /// After a shutdown the server takes no new sessions. It asks its clients to move to another server (GOAWAY), and still
    /// accepts connections for sessions that it has. It returns when all sessions have ended. A deadline is that of
    /// [`shutdown_within`](crate::ServerHandle::shutdown_within): its last quarter, at most
    /// [`close_timeout`](crate::SessionConfig::close_timeout), is left to end the sessions that remain.
    ///
    /// [`ServerConfig::sessions`](crate::ServerConfig::sessions) has the settings.
    ///
    /// # Panics
    ///
    /// Without [`ServerConfig::sessions`](crate::ServerConfig::sessions).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future stops the server at once. The listeners are closed, and the handlers are
    /// dropped with their sessions.
    ///
    /// # Example
    ///
    /// ```
    /// use pktconn::{PacketServer, ServerConfig, SessionConfig};
    ///
    /// # async fn example() -> Result<(), pktconn::Error> {
    /// let config = ServerConfig::new().sessions(SessionConfig::new());
    /// let server = PacketServer::bind_with("127.0.0.1:0", config).await?;
    /// server
    ///     .serve_sessions(|mut session| async move {
    ///         while let Some(packet) = session.recv().await? {
    ///             session.send(packet).await?;
    ///         }
    ///         Ok(session.close().await?)
    ///     })
    ///     .await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_sessions<H, F>(mut self, handler: H) -> ShutdownReport
    where
        H: Fn(Session) -> F + Send + Sync + 'static,
        F: Future<Output = HandlerResult> + Send + 'static,
    {
        let (config, handshake_timeout) = self.prepare_sessions();
        let handler = Arc::new(handler);
        let sessions = Arc::new(Sessions {
            table: Arc::new(SessionTable::new(config)),
            server: Arc::clone(self.handle().state()),
            handshake_timeout,
            spawn_handler: Box::new({
                let handler = Arc::clone(&handler);
                move |handlers, session, span| {
                    let handler = Arc::clone(&handler);
                    let task = HandlerTask::Ready { with: Some((handler, session)) };
                    // A span that nobody is interested in is not kept.
                    if span.is_disabled() {
                        handlers.spawn(task);
                    } else {
                        handlers.spawn(task.instrument(span));
                    }
                }
            }),
            handler: Box::new(move |session| Box::pin(handler(session))),
            handlers: Mutex::default(),
        });
        let _expire = ExpireOnDrop(Arc::clone(&sessions.table));
        let drained = Arc::clone(&sessions);
        let of_conns = Arc::clone(&sessions);
        let serving = self.serve_until(async move { drained.drain().await }, move |conn| {
            Arc::clone(&of_conns).serve_conn(conn)
        });
        let report = tokio::select! {
            report = serving => report,
            // Never ends.
            () = sessions.table.run_timers() => ShutdownReport::default(),
        };
        sessions.end_handlers().await;
        report
    }
}

impl Sessions {
    /// Starts the handler of a session.
    fn start_handler(self: &Arc<Self>, core: &Arc<SessionCore>) {
        let session = Session::new(core);
        let span = tracing::debug_span!("session", id = session.id().map(tracing::field::display));
        (self.spawn_handler)(&mut self.handlers(), session, span);
    }

    fn handlers(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the handlers that have finished.
    fn reap_handlers(&self) {
        let mut handlers = self.handlers();
        while let Some(finished) = handlers.try_join_next() {
            log_if_panicked(finished);
        }
    }

    /// After a shutdown has begun, waits until there are no sessions, or until the deadline.
    async fn drain(&self) {
        self.server.registry.shutdown.triggered().await;
        let mut deadline = self.server.close_deadline.subscribe();
        loop {
            let due = *deadline.borrow_and_update();
            self.send_go_away(due);
            tokio::select! {
                () = self.table.wait_until_empty() => return,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return,
                // Never fails: the server's state owns the sender.
                _ = deadline.changed() => {}
            }
        }
    }

    fn send_go_away(&self, due: Option<Instant>) {
        let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        // The rest is for sessions whose clients have not moved.
        let deadline = left - (left / 4).min(self.table.config.close_timeout);
        let go_away = GoAway {
            reason: GoAwayReason::Shutdown,
            deadline_ms: deadline.as_millis().try_into().unwrap_or(u32::MAX),
            spread_ms: self.server.go_away_spread().as_millis().try_into().unwrap_or(u32::MAX),
            address: String::new(),
        };
        for session in self.table.all() {
            session.go_away(go_away.clone());
        }
    }

    /// Waits for the handlers if there are no sessions left, or drops them.
    async fn end_handlers(&self) {
        let mut handlers = std::mem::take(&mut *self.handlers());
        let mut deadline = self.server.close_deadline.subscribe();
        loop {
            let due = *deadline.borrow_and_update();
            tokio::select! {
                biased;
                finished = handlers.join_next() => match finished {
                    Some(finished) => log_if_panicked(finished),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => break,
                // Never fails: the server's state owns the sender.
                _ = deadline.changed() => {}
            }
        }
        handlers.shutdown().await;
    }
}

/// Ends the sessions that are left when the server ends: nobody runs their timers any more.
struct ExpireOnDrop(Arc<SessionTable>);

impl Drop for ExpireOnDrop {
    fn drop(&mut self) {
        self.0.all().iter().for_each(|session| session.expire());
    }
}

pin_project! {
    /// The task of a handler. Not an async block, because that would have room for the session beside the handler that owns it.
    #[project = HandlerTaskProjection]
    enum HandlerTask<H, F> {
        /// The handler is called inside the task, so that a panic ends only this task. `None` after that.
        Ready { with: Option<(Arc<H>, Session)> },
        Running {
            #[pin]
            handler: F,
        },
    }
}

impl<H, F> Future for HandlerTask<H, F>
where
    H: Fn(Session) -> F,
    F: Future<Output = HandlerResult>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let HandlerTaskProjection::Ready { with } = self.as_mut().project() {
            // `None` only if the handler panicked, and tokio does not poll a task after a panic.
            let Some((handler, session)) = with.take() else { return Poll::Ready(()) };
            self.set(HandlerTask::Running { handler: handler(session) });
        }
        let HandlerTaskProjection::Running { handler } = self.project() else { return Poll::Ready(()) };
        if let Err(error) = ready!(handler.poll(cx)) {
            log_failure(&*error);
        }
        Poll::Ready(())
    }
}

fn log_failure(error: &(dyn std::error::Error + Send + Sync + 'static)) {
    const HANDLER_FAILED: &str = "the handler of a session failed";
    if error.is::<Error>() {
        tracing::debug!(%error, "{HANDLER_FAILED}");
    } else {
        // Not rate-limited: peers do not control how often a handler fails with its own error.
        tracing::warn!(error = with_sources(error), "{HANDLER_FAILED}");
    }
}
