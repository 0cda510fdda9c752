//! The trait that a connection needs of a byte stream, and a wrapper that implements it for streams of the application.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::BytesMut;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the own buffers of a stream hold after its last read or write. Each packet needs this: without the lock.
#[derive(Default)]
pub(crate) struct StreamBuffers {
    /// See [`Reader::held_back`](super::Reader::held_back).
    pub(super) held_back: AtomicUsize,
    /// See [`Reader::read_buffer_bytes`](super::Reader::read_buffer_bytes).
    pub(super) read_bytes: AtomicUsize,
    /// See [`Writer::has_buffered`](super::Writer::has_buffered).
    pub(super) has_unwritten: AtomicBool,
}

impl StreamBuffers {
    pub(super) fn note_read(&self, held_back: usize, read_bytes: usize) {
        self.held_back.store(held_back, Relaxed);
        self.read_bytes.store(read_bytes, Relaxed);
    }

    pub(super) fn note_write(&self, has_unwritten: bool) {
        self.has_unwritten.store(has_unwritten, Relaxed);
    }
}

/// A byte stream, and what it knows about the socket below it. The defaults are for a stream without a socket.
pub(crate) trait TransportStream: AsyncRead + AsyncWrite + Send {
    /// See [`Reader::read_now`](super::Reader::read_now).
    fn read_now(self: Pin<&mut Self>, _buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        None
    }

    /// See [`Reader::can_read_now`](super::Reader::can_read_now).
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

    /// See [`Writer::may_buffer`](super::Writer::may_buffer).
    fn may_buffer(&self) -> bool {
        true
    }

    /// See [`Writer::buffered_bytes`](super::Writer::buffered_bytes).
    fn buffered_bytes(&self) -> Option<usize> {
        None
    }

    /// Whether the kernel holds bytes that arrived and were not read. `false` if that is unknown.
    fn has_unread(&self) -> bool {
        false
    }

    /// What the stream's own buffers hold, kept up to date. `None` if that is unknown, or always nothing.
    fn buffers(&self) -> Option<Arc<StreamBuffers>> {
        None
    }

    /// How many bytes of an incomplete TLS record are missing, as far as is known.
    fn missing_of_record(&self) -> usize {
        0
    }

    /// Whether this runs over a Unix socket: the peer's kernel is this kernel, so a write is acknowledged at once.
    fn is_unix_socket(&self) -> bool {
        false
    }

    /// The TCP socket below.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

pin_project! {
    /// A stream that the application provides.
    pub(crate) struct CustomStream<T> {
        #[pin]
        stream: T,
    }
}

impl<T> CustomStream<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream }
    }
}

impl<T: AsyncRead + AsyncWrite + Send> TransportStream for CustomStream<T> {}

impl<T: AsyncRead> AsyncRead for CustomStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, buf)
    }
}

impl<T: AsyncWrite> AsyncWrite for CustomStream<T> {
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
