//! A byte stream behind a lock, for both halves of a connection: Unix sockets, TLS, and streams of the application.
//!
//! Either half can take the stream away from the other. A connection that has ended must not keep its transport open
//! because the application keeps a receiver and never polls it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use super::socket::{self, UnackedBytes};
use super::transport_stream::{StreamBuffers, TransportStream};

type Stream = Pin<Box<dyn TransportStream>>;

pub(crate) struct LockedStream {
    stream: Mutex<Option<Stream>>,
    /// `None` unless the stream tells what its own buffers hold: TLS.
    buffers: Option<Arc<StreamBuffers>>,
    may_buffer: bool,
}

impl LockedStream {
    pub(super) fn new(stream: impl TransportStream + 'static) -> Self {
        let (buffers, may_buffer) = (stream.buffers(), stream.may_buffer());
        Self { stream: Mutex::new(Some(Box::pin(stream))), buffers, may_buffer }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stream out: both halves then fail with `NotConnected`.
    pub(super) fn take(&self) -> Option<Stream> {
        let stream = self.lock().take();
        if let Some(buffers) = &self.buffers {
            buffers.note_read(0, 0);
            buffers.note_write(false);
        }
        stream
    }

    #[inline]
    fn poll_with<T>(
        &self,
        poll: impl FnOnce(Pin<&mut dyn TransportStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.lock().as_mut() {
            Some(stream) => poll(stream.as_mut()),
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))),
        }
    }

    fn inspect<T>(&self, look: impl FnOnce(&dyn TransportStream) -> Option<T>) -> Option<T> {
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

    pub(super) fn may_buffer(&self) -> bool {
        self.may_buffer
    }

    pub(super) fn has_buffered(&self) -> bool {
        self.buffers.as_ref().map_or(self.may_buffer, |buffers| buffers.has_unwritten.load(Relaxed))
    }

    pub(super) fn buffered_bytes(&self) -> Option<usize> {
        self.inspect(|stream| stream.buffered_bytes())
    }

    pub(super) fn unacked_bytes(&self) -> io::Result<UnackedBytes> {
        let unacked = self.inspect(|stream| match stream.tcp() {
            None if stream.is_unix_socket() => Some(Ok(UnackedBytes::Count(0))),
            tcp => tcp.map(socket::unacked_bytes),
        });
        unacked.unwrap_or(Ok(UnackedBytes::NoSocket))
    }

    pub(super) fn has_unread(&self) -> bool {
        self.inspect(|stream| Some(stream.has_unread())).unwrap_or(false)
    }

    pub(super) fn may_hold_back(&self) -> bool {
        self.buffers.is_some()
    }

    pub(super) fn held_back(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.held_back.load(Relaxed))
    }

    pub(super) fn read_buffer_bytes(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.read_bytes.load(Relaxed))
    }

    pub(super) fn missing_of_record(&self) -> usize {
        self.inspect(|stream| Some(stream.missing_of_record())).unwrap_or(0)
    }

    pub(super) fn reset(&self) {
        self.inspect(|stream| stream.tcp().map(socket::reset));
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_with(|stream| stream.poll_read(cx, buf))
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write(cx, buf))
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write_vectored(cx, bufs))
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(|stream| stream.poll_flush(cx))
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(|stream| stream.poll_shutdown(cx))
    }
}
