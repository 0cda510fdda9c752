//! A connection at work: its handshake, then its handler, and what is logged of their ends.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tracing::Span;

use super::failure_log::{FailureLog, Kind};
use crate::connection::shared::Shared;
use crate::error::failure::with_sources;
use crate::{ConnStats, Error, PacketConn};

/// Any error, as handlers return it: `?` converts into it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a handler returns. An error is logged, and ends only the handler's connection.
pub type HandlerResult = Result<(), BoxError>;

pin_project! {
    /// A connection at work. No async block, which has room for the connection beside that of the handler that it went
    /// to.
    // In this order in memory: each poll looks at the span, and at the handler.
    #[repr(C)]
    pub(super) struct Handling<H, F> {
        // Where somebody wants it.
        span: Option<Box<Span>>,
        #[pin]
        stage: Stage<H, F>,
        // Once there is one.
        shared: Option<Arc<Shared>>,
        report: Arc<FailureLog>,
    }
}

pin_project! {
    #[project = StageProjection]
    pub(super) enum Stage<H, F> {
        ShakingHands { shaking: Pin<Box<dyn Future<Output = Option<PacketConn>> + Send>>, handler: Arc<H> },
        /// The handler is called in its task: where it panics, it is alone.
        ToBeCalled { with: Option<(PacketConn, Arc<H>)> },
        Called {
            #[pin]
            handler: F,
        },
    }
}

impl<H, F> Handling<H, F> {
    pub(super) fn new(stage: Stage<H, F>, report: Arc<FailureLog>) -> Self {
        Self { span: None, stage, shared: None, report }
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

pub(super) const CONNECTION_FAILED: &str = "the connection failed";

const HANDLER_FAILED: &str = "the connection's handler failed";

/// Tells why a connection or its handler failed, each of them once.
fn log_failure(report: &FailureLog, result: HandlerResult, shared: &Arc<Shared>) {
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
        Err(error) => tracing::warn!(peer = peer_field, error = with_sources(&*error), "{HANDLER_FAILED}"),
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
