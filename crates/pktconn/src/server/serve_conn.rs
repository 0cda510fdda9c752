//! Handlers that borrow their connection, which is closed when they return.

use std::future::Future;

use crate::{HandlerResult, PacketConn, PacketServer, ShutdownReport};

/// A handler for [`PacketServer::serve_conn`]: an `async fn(&mut PacketConn) -> HandlerResult`, or an async closure of that shape whose
/// captures can be cloned.
///
/// Its future must be `Send`. You do not implement this trait: such functions and closures have it.
pub trait ConnHandler<'a>: FnOnce(&'a mut PacketConn) -> <Self as ConnHandler<'a>>::Future {
    /// The handler at work.
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
    /// Like [`serve`](Self::serve), with a handler that borrows its connection. When the handler returns `Ok`, the connection is
    /// [closed](PacketConn::close), so that everything sent is delivered. When it returns an error, the connection is
    /// [dropped](PacketConn#dropping).
    ///
    /// Each connection gets a clone of the handler.
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
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server at once: it drops the listeners, the handlers and their connections.
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
