//! The task of a server's connection: runs the handshake, then the handler, and logs how they ended.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tracing::Span;

use super::logs::failure_log::{FailureKind, FailureLog};
use crate::connection::conn_core::ConnCore;
use crate::error::failure::with_sources;
use crate::{ConnStats, Error, PacketConn};

/// Any error that a handler returns. The `?` operator converts other errors into it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The return type of a handler. An error is logged, and ends only the connection of this handler.
pub type HandlerResult = Result<(), BoxError>;

pin_project! {
    /// The task of a connection. Not an async block, because that would keep memory for the connection in addition to
    /// the handler that owns it.
    // This order in memory puts the span and the handler, which each poll uses, next to each other.
    #[repr(C)]
    pub(super) struct ConnTask<H, F> {
        // `Some` if a subscriber is interested in it.
        span: Option<Box<Span>>,
        #[pin]
        stage: Stage<H, F>,
        // `Some` once there is a connection.
        core: Option<Arc<ConnCore>>,
        failure_log: Arc<FailureLog>,
    }
}

pin_project! {
    #[project = StageProjection]
    pub(super) enum Stage<H, F> {
        Handshake { handshake: Pin<Box<dyn Future<Output = Option<PacketConn>> + Send>>, handler: Arc<H> },
        /// The handler is called inside the task, so that a panic ends only this task. `with` is `None` after that.
        Ready { with: Option<(PacketConn, Arc<H>)> },
        Running {
            #[pin]
            handler: F,
        },
    }
}

impl<H, F> ConnTask<H, F> {
    pub(super) fn new(stage: Stage<H, F>, failure_log: Arc<FailureLog>) -> Self {
        Self { span: None, stage, core: None, failure_log }
    }
}

impl<H, F> Future for ConnTask<H, F>
where
    H: Fn(PacketConn) -> F,
    F: Future<Output = HandlerResult>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Handshake { handshake, handler } => {
                    let Some(conn) = ready!(handshake.as_mut().poll(cx)) else { return Poll::Ready(()) };
                    let with = Some((conn, Arc::clone(handler)));
                    this.stage.set(Stage::Ready { with });
                }
                StageProjection::Ready { with } => {
                    // `None` only if the handler panicked, and tokio does not poll a task after a panic.
                    let Some((conn, handler)) = with.take() else { return Poll::Ready(()) };
                    let peer = conn.peer_addr().map(tracing::field::display);
                    let span = tracing::debug_span!("connection", id = %conn.id(), peer);
                    *this.span = (!span.is_disabled()).then(|| Box::new(span));
                    *this.core = Some(Arc::clone(conn.core()));
                    let _inside = this.span.as_deref().map(Span::enter);
                    let handler = handler(conn);
                    this.stage.set(Stage::Running { handler });
                }
                StageProjection::Running { handler } => {
                    let _inside = this.span.as_deref().map(Span::enter);
                    let result = ready!(handler.poll(cx));
                    if let Some(core) = this.core {
                        log_failure(this.failure_log, result, core);
                        log_end(core);
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}

pub(super) const CONNECTION_FAILED: &str = "the connection failed";

const HANDLER_FAILED: &str = "the connection's handler failed";

/// Logs why the connection and why the handler failed, without repeating the same error.
fn log_failure(failure_log: &FailureLog, result: HandlerResult, core: &Arc<ConnCore>) {
    let peer = core.endpoints.peer();
    // Logged even if the handler does not return the connection's error.
    let end =
        core.reason().and_then(|reason| Some((FailureKind::of(&reason)?, Error::from(reason).to_string())));
    if let Some((kind, end)) = &end {
        failure_log.log(*kind, peer, CONNECTION_FAILED, end);
    }
    let Err(error) = result else { return };
    let peer_field = peer.map(tracing::field::display);
    match error.downcast::<Error>() {
        Ok(error) if end.is_some_and(|(_, end)| end == error.to_string()) => {}
        Ok(error) => match FailureKind::of(&error.reason()) {
            // An error of another connection, which the handler has made.
            Some(kind) => failure_log.log(kind, peer, HANDLER_FAILED, &error),
            None => tracing::debug!(peer = peer_field, %error, "{HANDLER_FAILED}"),
        },
        // Not rate-limited: peers do not control how often a handler fails with its own error.
        Err(error) => tracing::warn!(peer = peer_field, error = with_sources(&*error), "{HANDLER_FAILED}"),
    }
}

fn log_end(core: &Arc<ConnCore>) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let ConnStats { packets_received, packets_sent, .. } = core.stats();
        // Without a reason the connection is still open: the handler has passed it on.
        let reason = core.reason().map(|reason| Error::from(reason).to_string());
        let reason = reason.as_deref().unwrap_or("the connection stays open without its handler");
        tracing::debug!(reason, packets_received, packets_sent, "the handler has finished");
    }
}
