//! Handlers that borrow their connection. The server closes it after `Ok`, and drops it after an error.

use std::future::Future;

use crate::{HandlerResult, PacketConn, PacketServer, ShutdownReport};

/// A handler for [`PacketServer::serve_conn`]: an `async fn(&mut PacketConn) -> HandlerResult`, or an async closure of
/// that shape whose captures can be cloned.
///
/// The handler and its future must be `Send`, and the handler also `Sync`, `Clone` and `'static`. Do not implement this
/// trait: such functions and closures implement it already.
// Not `AsyncFn`: stable Rust cannot require that its future is `Send`.
pub trait ConnHandler<'a>: FnOnce(&'a mut PacketConn) -> <Self as ConnHandler<'a>>::Future {
    /// The future that the handler returns.
    type Future: Future<Output = HandlerResult> + Send + 'a;
}

impl<'a, H, F> ConnHandler<'a> for H
where
    H: FnOnce(&'a mut PacketConn) -> F,
    F: Future<Output = HandlerResult> + Send + 'a,
{
    type Future = F;
}

impl PacketServer {
    /// Like [`serve`](Self::serve), with a handler that borrows its connection.
    ///
    /// When the handler returns `Ok`, the server [closes](PacketConn::close) the connection, also for its
    /// [senders](PacketConn::sender). All sent packets are delivered, unless the close fails, which is logged. When the
    /// handler returns an error, the server [drops](PacketConn#dropping) the connection; senders that the handler passed
    /// on keep it open. Each connection gets a clone of the handler.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future stops the server at once. The listeners are closed, and the handlers are
    /// dropped with their connections.
    ///
    /// # Example
    ///
    /// ```
    /// use pktconn::{PacketConn, PacketServer};
    ///
    /// # async fn example() -> Result<(), pktconn::Error> {
    /// let server = PacketServer::bind("127.0.0.1:0").await?;
    /// server
    ///     .serve_conn(async |conn: &mut PacketConn| {
    ///         while let Some(packet) = conn.recv().await? {
    ///             conn.send(packet).await?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_conn<H>(self, handler: H) -> ShutdownReport
    where
        H: for<'a> ConnHandler<'a> + Clone + Send + Sync + 'static,
    {
        self.serve(move |mut conn| {
            let handler = handler.clone();
            async move {
                handler(&mut conn).await?;
                Ok(conn.close().await?)
            }
        })
        .await
    }
}
