//! A byte stream with TLS, on the client's or the server's side.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{ConnectionCommon, SideData};

use super::read_memory::ReadMemory;
use super::record_tracker::RecordTracker;
use crate::transport::handshake_bytes::HandshakeBytes;
use crate::transport::plain_stream::PlainStream;
use crate::transport::socket::{SCRATCH_LEN, read_now_len};
use crate::transport::transport_stream::TransportStream;

pub(crate) struct Tls {
    stream: TlsStream<TrackedStream>,
    /// A read error to return after the bytes that arrived before it.
    deferred_error: Option<io::Error>,
}

impl Tls {
    pub(super) fn new(stream: impl Into<TlsStream<TrackedStream>>) -> Self {
        let mut stream = stream.into();
        // The handshake is complete.
        match &mut stream {
            TlsStream::Client(stream) => stream.get_mut().0.handshake = None,
            TlsStream::Server(stream) => stream.get_mut().0.handshake = None,
        }
        Self { stream, deferred_error: None }
    }

    pub(super) fn stream(&self) -> &TlsStream<TrackedStream> {
        &self.stream
    }

    /// The socket below TLS.
    pub(crate) fn socket(&self) -> &PlainStream {
        &self.stream.get_ref().0.stream
    }

    fn read_available(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let scratch = &mut [0; SCRATCH_LEN][..read_now_len(buffer)];
        let read = match (self.deferred_error.take(), &mut self.stream) {
            (Some(error), _) => Err(error),
            (None, TlsStream::Client(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session(socket, session, scratch)
            }
            (None, TlsStream::Server(stream)) => {
                let (socket, session) = stream.get_mut();
                read_session(socket, session, scratch)
            }
        };
        let count = read.or_else(|error| self.defer_error(error, scratch))?;
        let is_full = count == scratch.len();
        buffer.extend_from_slice(&scratch[..count]);
        self.note_unread(is_full);
        Ok(count)
    }

    /// Updates whether rustls holds decrypted bytes, after a read that has filled its buffer or not.
    fn note_unread(&mut self, is_full: bool) {
        let has_unread = is_full && self.has_unread_plaintext();
        match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().0.memory.has_unread = has_unread,
            TlsStream::Server(stream) => stream.get_mut().0.memory.has_unread = has_unread,
        }
    }

    fn has_unread_plaintext(&mut self) -> bool {
        // There is nothing to process. An error was returned already, or the next read returns it.
        let state = match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().1.process_new_packets(),
            TlsStream::Server(stream) => stream.get_mut().1.process_new_packets(),
        };
        state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Returns the bytes that arrived before an invalid record or an alert first, and keeps the error for the next
    /// read.
    #[cold]
    fn defer_error(&mut self, error: io::Error, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().1.reader(),
            TlsStream::Server(stream) => stream.get_mut().1.reader(),
        };
        match reader.read(buffer) {
            Ok(count @ 1..) => {
                self.deferred_error = Some(error);
                Ok(count)
            }
            Ok(_) | Err(_) => Err(error),
        }
    }
}

impl TransportStream for Tls {
    fn read_now(self: Pin<&mut Self>, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        Some(self.get_mut().read_available(buffer))
    }

    fn can_read_now(&self) -> bool {
        self.socket().can_read_now()
    }

    /// `poll_write` goes to the socket, which uses the room that it has now.
    fn can_write_now(&self) -> bool {
        self.socket().can_write_now()
    }

    fn may_buffer(&self) -> bool {
        true
    }

    fn has_unread(&self) -> bool {
        self.socket().has_unread()
    }

    /// The bytes of an incomplete record: none of them can be decrypted yet.
    fn held_back(&self) -> Option<usize> {
        Some(self.stream.get_ref().0.records.partial_len)
    }

    fn read_buffer_bytes(&self) -> usize {
        self.stream.get_ref().0.memory.bytes()
    }

    fn missing_of_record(&self) -> usize {
        self.stream.get_ref().0.records.missing_len()
    }

    fn is_unix_socket(&self) -> bool {
        self.socket().is_unix_socket()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        self.socket().tcp()
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.deferred_error.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buf)),
        };
        if let Err(error) = read {
            let count = self.defer_error(error, buf.initialize_unfilled())?;
            buf.advance(count);
        }
        self.note_unread(buf.remaining() == 0);
        Poll::Ready(Ok(()))
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

/// The socket below TLS, with a count of the bytes of an incomplete record, and of those of a running handshake.
pub(super) struct TrackedStream {
    stream: PlainStream,
    records: RecordTracker,
    memory: ReadMemory,
    handshake: Option<HandshakeBytes>,
}

impl TrackedStream {
    /// `handshake` counts the bytes that arrive until [`Tls::new`].
    pub(super) fn new(stream: PlainStream, handshake: Option<HandshakeBytes>) -> Self {
        Self { stream, records: RecordTracker::default(), memory: ReadMemory::default(), handshake }
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let partial_len = self.records.partial_len;
        self.memory.before_read(partial_len, buf.remaining());
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        self.memory.after_read(partial_len, read.len());
        self.records.advance(read);
        Poll::Ready(self.handshake.as_ref().map_or(Ok(()), |handshake| handshake.add(read.len())))
    }
}

impl AsyncWrite for TrackedStream {
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

/// Reads decrypted bytes; reads from the socket without blocking until a record is complete.
fn read_session<S: SideData>(
    socket: &mut TrackedStream,
    session: &mut ConnectionCommon<S>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        session.read_tls(&mut SyncReader(socket))?;
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

/// Reads from the socket without blocking, as `std::io::Read`: the form that rustls needs.
struct SyncReader<'a>(&'a mut TrackedStream);

impl Read for SyncReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let partial_len = self.0.records.partial_len;
        self.0.memory.before_read(partial_len, buffer.len());
        let count = self.0.stream.read_now_into(buffer)?;
        self.0.memory.after_read(partial_len, count);
        self.0.records.advance(&buffer[..count]);
        Ok(count)
    }
}
