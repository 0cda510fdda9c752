//! The two halves of what a connection runs over.
//!
//! TCP is known by its type, because most connections are of it: so a half is a pointer to the socket, without a box and
//! a table of methods on the way. Anything else is boxed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub(crate) enum Reader {
    Tcp(OwnedReadHalf),
    /// The mutex is never locked: it makes a receiver `Sync`, which a future that holds a reference to it across an
    /// `await` needs to be `Send`.
    ///
    /// Boxed twice, as below: so one that is TCP, as most are, has no room for a pointer to a table of methods.
    Other(Box<Mutex<Box<dyn AsyncRead + Send + Unpin>>>),
}

pub(crate) enum Writer {
    Tcp(OwnedWriteHalf),
    Other(Box<Box<dyn AsyncWrite + Send + Unpin>>),
}

impl Reader {
    pub(crate) fn other(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Other(Box::new(Mutex::new(Box::new(reader))))
    }
}

impl Writer {
    pub(crate) fn other(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::Other(Box::new(Box::new(writer)))
    }
}

impl AsyncRead for Reader {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(reader) => Pin::new(reader).poll_read(cx, buf),
            Self::Other(reader) => {
                Pin::new(reader.get_mut().unwrap_or_else(PoisonError::into_inner)).poll_read(cx, buf)
            }
        }
    }
}

impl AsyncWrite for Writer {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(writer) => Pin::new(writer).poll_write(cx, buf),
            Self::Other(writer) => Pin::new(writer).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(writer) => Pin::new(writer).poll_write_vectored(cx, bufs),
            Self::Other(writer) => Pin::new(writer).poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(writer) => Pin::new(writer).poll_flush(cx),
            Self::Other(writer) => Pin::new(writer).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(writer) => Pin::new(writer).poll_shutdown(cx),
            Self::Other(writer) => Pin::new(writer).poll_shutdown(cx),
        }
    }
}
