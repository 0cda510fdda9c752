//! A byte stream with TLS over it.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{ConnectionCommon, SideData};

use super::records::Records;
use crate::transport::plain_stream::PlainStream;
use crate::transport::shared_stream::Duplex;
use crate::transport::socket::{SCRATCH, room_for_read_now};

/// A byte stream with TLS over it.
pub(crate) struct Tls {
    stream: TlsStream<Below>,
    /// Why nothing more can be read, where bytes that had arrived before were still to come.
    failed: Option<io::Error>,
}

impl Tls {
    pub(super) fn new(stream: impl Into<TlsStream<Below>>) -> Self {
        Self { stream: stream.into(), failed: None }
    }

    pub(super) fn stream(&self) -> &TlsStream<Below> {
        &self.stream
    }

    /// What TLS runs over.
    pub(crate) fn below(&self) -> &PlainStream {
        &self.stream.get_ref().0.stream
    }

    fn read_what_has_arrived(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let scratch = &mut [0; SCRATCH][..room_for_read_now(buffer)];
        let read = match (self.failed.take(), &mut self.stream) {
            (Some(error), _) => Err(error),
            (None, TlsStream::Client(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session_now(socket, session, scratch)
            }
            (None, TlsStream::Server(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session_now(socket, session, scratch)
            }
        };
        let count = read.or_else(|error| self.put_off(error, scratch))?;
        buffer.extend_from_slice(&scratch[..count]);
        Ok(count)
    }

    /// What stands before a record that is not acceptable, or before an alert, has arrived and comes first.
    #[cold]
    fn put_off(&mut self, error: io::Error, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().1.reader(),
            TlsStream::Server(stream) => stream.get_mut().1.reader(),
        };
        match reader.read(buffer) {
            Ok(count @ 1..) => {
                self.failed = Some(error);
                Ok(count)
            }
            Ok(_) | Err(_) => Err(error),
        }
    }
}

impl Duplex for Tls {
    fn read_now(self: Pin<&mut Self>, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        Some(self.get_mut().read_what_has_arrived(buffer))
    }

    fn can_read_now(&self) -> bool {
        self.below().can_read_now()
    }

    /// It writes into a socket, which takes what there is room for.
    fn can_write_now(&self) -> bool {
        self.below().can_write_now()
    }

    fn may_gather(&self) -> bool {
        true
    }

    fn has_unread(&self) -> bool {
        self.below().has_unread()
    }

    /// The bytes of a record that is not whole yet: nothing of it can be read.
    fn held_back(&self) -> Option<usize> {
        Some(self.stream.get_ref().0.records.arrived)
    }

    fn is_local(&self) -> bool {
        self.below().is_local()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        self.below().tcp()
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.failed.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buf)),
        };
        Poll::Ready(read.or_else(|error| {
            let count = self.put_off(error, buf.initialize_unfilled())?;
            buf.advance(count);
            Ok(())
        }))
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What TLS runs over.
pub(super) struct Below {
    stream: PlainStream,
    records: Records,
}

impl Below {
    pub(super) fn new(stream: PlainStream) -> Self {
        Self { stream, records: Records::default() }
    }
}

impl AsyncRead for Below {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.records.note(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Below {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn read_session_now<S: SideData>(
    socket: &mut Below,
    session: &mut ConnectionCommon<S>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        session.read_tls(&mut Arrived(socket))?;
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

/// What a socket holds.
struct Arrived<'a>(&'a mut Below);

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.stream.recv_now(buffer)?;
        self.0.records.note(&buffer[..count]);
        Ok(count)
    }
}
