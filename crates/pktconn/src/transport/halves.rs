//! The two halves of a byte stream, as a connection reads and writes them.
//!
//! TCP is known by its type, because most connections are TCP: a half is a pointer to the socket, without a box and a table
//! of methods on the way. Anything else is a [`SharedStream`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::shared_stream::{Duplex, SharedStream};
use super::socket::{self, Acks};

pub(crate) enum Reader {
    Tcp(OwnedReadHalf),
    Other(Arc<SharedStream>),
}

pub(crate) enum Writer {
    Tcp(TcpWriter),
    Other(Arc<SharedStream>),
}

/// Both halves of `stream`.
pub(crate) fn split(stream: impl Duplex + 'static) -> (Reader, Writer) {
    let stream = Arc::new(SharedStream::new(stream));
    (Reader::Other(Arc::clone(&stream)), Writer::Other(stream))
}

pub(crate) fn split_tcp(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Reader::Tcp(reader), Writer::Tcp(TcpWriter(Some(writer))))
}

/// The writing half of a TCP socket. Dropping it sends no FIN: tokio's own half does, and a FIN that is out makes a reset
/// look like a clean close.
pub(crate) struct TcpWriter(Option<OwnedWriteHalf>);

impl TcpWriter {
    fn half(&mut self) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        // It is there until the drop.
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
    /// Reads what has arrived, without asking tokio whether something has: what it knows of a socket is as old as the last
    /// turn of its driver, and a task that has used up its budget is told nothing at all. `None` where the transport has no
    /// such way.
    pub(crate) fn read_now(&mut self, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(reader) => Some(socket::read_now(AsRef::<TcpStream>::as_ref(reader), buffer)),
            Self::Other(stream) => stream.read_now(buffer),
        }
    }
}

impl Reader {
    /// Whether [`read_now`](Self::read_now) tells what has arrived.
    pub(crate) fn can_read_now(&self) -> bool {
        match self {
            Self::Tcp(_) => cfg!(unix),
            Self::Other(stream) => stream.can_read_now(),
        }
    }

    /// Whether [`held_back`](Self::held_back) may be more than 0.
    pub(crate) fn may_hold_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(stream) => stream.held_back().is_some(),
        }
    }

    /// How many bytes have arrived and cannot be read before more have: those of a record of TLS.
    pub(crate) fn held_back(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Other(stream) => stream.held_back().unwrap_or(0),
        }
    }

    /// Has the end of the transport not look like a clean close, where this half is the last to go.
    pub(crate) fn reset(&self) {
        match self {
            Self::Tcp(reader) => socket::reset(AsRef::<TcpStream>::as_ref(reader)),
            Self::Other(stream) => stream.prepare_reset(),
        }
    }
}

impl Writer {
    /// Whether [`write_now`](Self::write_now), or the stream itself, takes what there is room for, whatever tokio knows of it.
    pub(crate) fn can_write_now(&self) -> bool {
        match self {
            Self::Tcp(_) => cfg!(unix),
            Self::Other(stream) => stream.can_write_now(),
        }
    }

    /// Whether it may have a buffer of its own in front of a socket.
    pub(crate) fn may_gather(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(stream) => stream.may_gather(),
        }
    }

    /// Writes what the transport has room for, without asking tokio whether it has. `None` where it has no such way.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(writer) => writer.stream().map(|stream| socket::write_now(stream, bytes)),
            Self::Other(stream) => stream.write_now(bytes),
        }
    }

    /// The socket, of a connection over TCP without anything in between.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(writer) => writer.stream(),
            Self::Other(_) => None,
        }
    }

    /// What the peer's kernel has acknowledged of what the transport took.
    ///
    /// # Errors
    ///
    /// The socket has failed.
    pub(crate) fn acks(&self) -> io::Result<Acks> {
        match self {
            Self::Tcp(writer) => writer.stream().map_or(Ok(Acks::NoNetwork), socket::acks),
            Self::Other(stream) => stream.acks(),
        }
    }

    /// Whether bytes have arrived that were not read.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(writer) => writer.stream().is_some_and(socket::has_unread),
            Self::Other(stream) => stream.has_unread(),
        }
    }

    /// Lets go of the transport, so that the peer learns of the end now, also where the reading half is held by a receiver
    /// that nobody polls. With a `reset`, the end does not look like a clean close: TCP is reset, and what it had not sent is
    /// discarded.
    ///
    /// The stream itself comes back where it may be code of the application's: drop it without a lock.
    pub(crate) fn release(self, reset: bool, reader_is_elsewhere: bool) -> Option<Pin<Box<dyn Duplex>>> {
        match self {
            Self::Tcp(writer) => {
                if let Some(stream) = writer.stream() {
                    if reset {
                        socket::reset(stream);
                    } else if reader_is_elsewhere {
                        socket::send_fin(stream);
                    }
                }
                None
            }
            Self::Other(stream) => {
                if reset {
                    stream.prepare_reset();
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
            // It has no buffer of its own.
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
