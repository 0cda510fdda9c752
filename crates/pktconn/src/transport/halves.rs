//! The reading and the writing half of a connection's byte stream.
//!
//! TCP without TLS has its own variant because most connections are of this kind: each half is then a pointer to the
//! socket, without a box, a lock or dynamic dispatch. All other streams, including TLS, are a [`LockedStream`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::locked_stream::LockedStream;
use super::socket::{self, UnackedBytes};
use super::transport_stream::TransportStream;

pub(crate) enum Reader {
    Tcp(OwnedReadHalf),
    Other(Arc<LockedStream>),
}

pub(crate) enum Writer {
    Tcp(TcpWriter),
    Other(Arc<LockedStream>),
}

pub(crate) fn split(stream: impl TransportStream + 'static) -> (Reader, Writer) {
    let stream = Arc::new(LockedStream::new(stream));
    (Reader::Other(Arc::clone(&stream)), Writer::Other(stream))
}

pub(crate) fn split_tcp(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Reader::Tcp(reader), Writer::Tcp(TcpWriter(Some(writer))))
}

/// The writing half of a TCP socket. Dropping it does not shut the socket down: tokio's own half would send a FIN, and
/// after a FIN a reset looks like a clean close. The socket closes when both halves are dropped.
pub(crate) struct TcpWriter(Option<OwnedWriteHalf>);

impl TcpWriter {
    fn half(&mut self) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        // Always `Some`: only `drop` takes it out.
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn stream(&self) -> Option<&TcpStream> {
        self.0.as_ref().map(AsRef::as_ref)
    }
}

impl Drop for TcpWriter {
    fn drop(&mut self) {
        if let Some(writer) = self.0.take() {
            writer.forget();
        }
    }
}

impl Reader {
    /// Reads what has arrived with a system call that does not block, and bypasses tokio's readiness. Tokio's readiness
    /// is as old as the last run of its I/O driver, and tokio reports nothing ready to a task that has used up its
    /// budget. 0 bytes are the end of the stream. `None`, or `WouldBlock` on systems without such a call, if the
    /// transport cannot do this: see [`can_read_now`](Self::can_read_now).
    pub(crate) fn read_now(&mut self, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(reader) => Some(socket::read_now(AsRef::<TcpStream>::as_ref(reader), buffer)),
            Self::Other(stream) => stream.read_now(buffer),
        }
    }

    /// Whether [`read_now`](Self::read_now) works for this transport on this system.
    pub(crate) fn can_read_now(&self) -> bool {
        match self {
            Self::Tcp(_) => cfg!(unix),
            Self::Other(stream) => stream.can_read_now(),
        }
    }

    /// Whether this is TLS, so that [`held_back`](Self::held_back) can be more than 0.
    pub(crate) fn may_hold_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(stream) => stream.may_hold_back(),
        }
    }

    /// How many bytes have arrived that cannot be read before more arrive: those of an incomplete TLS record.
    pub(crate) fn held_back(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Other(stream) => stream.held_back(),
        }
    }

    /// The memory, in bytes, that TLS uses for what it has read and this has not returned: encrypted and decrypted.
    pub(crate) fn read_buffer_bytes(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Other(stream) => stream.read_buffer_bytes(),
        }
    }

    /// How many bytes of an incomplete TLS record are missing, as far as is known.
    pub(crate) fn missing_of_record(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Other(stream) => stream.missing_of_record(),
        }
    }

    /// Ends a TCP connection, with or without TLS, with a reset instead of a clean close: on Linux at once, on other
    /// systems when the last half is dropped. No effect on other transports.
    pub(crate) fn reset(&self) {
        match self {
            Self::Tcp(reader) => socket::reset(AsRef::<TcpStream>::as_ref(reader)),
            Self::Other(stream) => stream.reset(),
        }
    }
}

impl Writer {
    /// Whether a write can use the room that the socket has now although tokio reports none: with
    /// [`write_now`](Self::write_now), or because the stream's own `poll_write` tries it (TLS).
    pub(crate) fn can_write_now(&self) -> bool {
        match self {
            Self::Tcp(_) => cfg!(unix),
            Self::Other(stream) => stream.can_write_now(),
        }
    }

    /// Whether the transport may buffer writes in memory before the socket takes them.
    pub(crate) fn may_buffer(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(stream) => stream.may_buffer(),
        }
    }

    /// Whether the transport has buffered writes, so that it must be flushed.
    pub(crate) fn has_buffered(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(stream) => stream.has_buffered(),
        }
    }

    /// The memory, in bytes, of writes that the transport has buffered. `None` if that is unknown.
    pub(crate) fn buffered_bytes(&self) -> Option<usize> {
        match self {
            Self::Tcp(_) => Some(0),
            Self::Other(stream) => stream.buffered_bytes(),
        }
    }

    /// Writes what the socket has room for with a system call that does not block, and bypasses tokio's readiness.
    /// `None` if the transport cannot do this.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(writer) => writer.stream().map(|stream| socket::write_now(stream, bytes)),
            Self::Other(stream) => stream.write_now(bytes),
        }
    }

    /// The socket of a connection over TCP without TLS.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(writer) => writer.stream(),
            Self::Other(_) => None,
        }
    }

    /// How much of the written bytes the peer's kernel has not acknowledged yet.
    ///
    /// # Errors
    ///
    /// The socket has failed.
    pub(crate) fn unacked_bytes(&self) -> io::Result<UnackedBytes> {
        match self {
            Self::Tcp(writer) => writer.stream().map_or(Ok(UnackedBytes::NoSocket), socket::unacked_bytes),
            Self::Other(stream) => stream.unacked_bytes(),
        }
    }

    /// Whether the kernel holds bytes that arrived and were not read. `false` if that is unknown.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(writer) => writer.stream().is_some_and(socket::has_unread),
            Self::Other(stream) => stream.has_unread(),
        }
    }

    /// Closes the transport, even if the application keeps the reading half in a receiver that it never polls
    /// (`reader_is_elsewhere`).
    ///
    /// With `reset`, a TCP connection is reset instead of closed: the peer sees no clean close, and bytes that the
    /// kernel has not sent are discarded. On systems other than Linux, the reset happens when the reading half is
    /// dropped.
    ///
    /// Returns the stream if it is not a plain TCP socket. Drop it without holding a lock: it may be application code.
    pub(crate) fn release(
        self,
        reset: bool,
        reader_is_elsewhere: bool,
    ) -> Option<Pin<Box<dyn TransportStream>>> {
        match self {
            Self::Tcp(writer) => {
                if let Some(stream) = writer.stream() {
                    if reset {
                        socket::reset(stream);
                    } else if reader_is_elsewhere {
                        socket::shut_down(stream);
                    }
                }
                None
            }
            Self::Other(stream) => {
                if reset {
                    stream.reset();
                }
                stream.take()
            }
        }
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
            Self::Other(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Writer {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(writer) => writer.half()?.poll_write(cx, buf),
            Self::Other(stream) => stream.poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(writer) => writer.half()?.poll_write_vectored(cx, bufs),
            Self::Other(stream) => stream.poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A socket has nothing to flush.
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Other(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(writer) => writer.half()?.poll_shutdown(cx),
            Self::Other(stream) => stream.poll_shutdown(cx),
        }
    }
}
