//! The byte stream of a connection, taken out of it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::halves::{Reader, Writer};

/// The byte stream of a connection, from [`PacketConn::into_framed`](crate::PacketConn::into_framed): TCP, TLS, a Unix
/// socket, or the stream that the connection was made of.
///
/// Bytes that the connection has read and not returned are in the read buffer of the `Framed`, not here: to take the
/// stream out of the `Framed`, use `into_parts`, not `into_inner`.
///
/// To end the stream cleanly, shut it down before you drop it. Dropping alone sends no `close_notify` of TLS, and resets
/// a TCP connection with unread bytes.
pub struct ConnStream {
    /// `None` after the end of the stream.
    reader: Option<Reader>,
    writer: Writer,
}

impl ConnStream {
    pub(crate) fn new(reader: Option<Reader>, writer: Writer) -> Self {
        Self { reader, writer }
    }

    /// The halves, unless the reading half is missing.
    pub(super) fn into_halves(self) -> Result<(Reader, Writer), Self> {
        match self.reader {
            Some(reader) => Ok((reader, self.writer)),
            None => Err(self),
        }
    }
}

impl AsyncRead for ConnStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.reader {
            Some(reader) => Pin::new(reader).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for ConnStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

impl fmt::Debug for ConnStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnStream").finish_non_exhaustive()
    }
}
