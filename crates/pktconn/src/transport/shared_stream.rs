//! A byte stream that is not TCP by its type: Unix sockets, TLS, and streams of the application's own.
//!
//! Both halves of a connection point to it, and either can take it away from the other: a connection that has ended must
//! not keep its transport open because a receiver is kept that nobody polls.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::socket::{self, Acks};

/// A byte stream, and what is known of the socket below it.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {
    /// See [`Reader::read_now`](super::Reader::read_now).
    fn read_now(self: Pin<&mut Self>, _buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        None
    }

    fn can_read_now(&self) -> bool {
        false
    }

    /// See [`Writer::write_now`](super::Writer::write_now).
    fn write_now(&self, _bytes: &[u8]) -> Option<io::Result<usize>> {
        None
    }

    /// See [`Writer::can_write_now`](super::Writer::can_write_now).
    fn can_write_now(&self) -> bool {
        false
    }

    /// See [`Writer::may_gather`](super::Writer::may_gather).
    fn may_gather(&self) -> bool {
        true
    }

    /// Whether bytes have arrived that were not read, as far as that can be seen.
    fn has_unread(&self) -> bool {
        false
    }

    /// How many bytes have arrived and cannot be read before more have. `None` where there are never any.
    fn held_back(&self) -> Option<usize> {
        None
    }

    /// Whether what it takes is at once in the hands of the peer's kernel, which is this one.
    fn is_local(&self) -> bool {
        false
    }

    /// The TCP socket that it runs over.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

pin_project! {
    /// A stream of the application's.
    pub(crate) struct Foreign<T> {
        #[pin]
        stream: T,
    }
}

impl<T> Foreign<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream }
    }
}

pub(crate) struct SharedStream(Mutex<Option<Pin<Box<dyn Duplex>>>>);

impl SharedStream {
    pub(super) fn new(stream: impl Duplex + 'static) -> Self {
        Self(Mutex::new(Some(Box::pin(stream))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pin<Box<dyn Duplex>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Pin<Box<dyn Duplex>>> {
        self.lock().take()
    }

    /// Runs `act` on the stream.
    #[inline]
    fn with<T>(&self, act: impl FnOnce(Pin<&mut dyn Duplex>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.lock().as_mut() {
            Some(stream) => act(stream.as_mut()),
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))),
        }
    }

    fn inspect<T>(&self, look: impl FnOnce(&dyn Duplex) -> Option<T>) -> Option<T> {
        self.lock().as_ref().and_then(|stream| look(&**stream))
    }

    pub(super) fn read_now(&self, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        self.lock().as_mut().and_then(|stream| stream.as_mut().read_now(buffer))
    }

    pub(super) fn can_read_now(&self) -> bool {
        self.inspect(|stream| Some(stream.can_read_now())).unwrap_or(false)
    }

    pub(super) fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        self.inspect(|stream| stream.write_now(bytes))
    }

    pub(super) fn can_write_now(&self) -> bool {
        self.inspect(|stream| Some(stream.can_write_now())).unwrap_or(false)
    }

    pub(super) fn may_gather(&self) -> bool {
        self.inspect(|stream| Some(stream.may_gather())).unwrap_or(false)
    }

    pub(super) fn acks(&self) -> io::Result<Acks> {
        let acks = self.inspect(|stream| match stream.tcp() {
            None if stream.is_local() => Some(Ok(Acks::Missing(0))),
            tcp => tcp.map(socket::acks),
        });
        acks.unwrap_or(Ok(Acks::NoNetwork))
    }

    pub(super) fn has_unread(&self) -> bool {
        self.inspect(|stream| Some(stream.has_unread())).unwrap_or(false)
    }

    pub(super) fn held_back(&self) -> Option<usize> {
        self.inspect(|stream| stream.held_back())
    }

    pub(super) fn prepare_reset(&self) {
        self.inspect(|stream| stream.tcp().map(socket::reset));
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, bufs))
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for Foreign<T> {}

impl<T: AsyncRead> AsyncRead for Foreign<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, buf)
    }
}

impl<T: AsyncWrite> AsyncWrite for Foreign<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}
