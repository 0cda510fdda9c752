//! A byte stream with TLS, on the client's or the server's side.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{ConnectionCommon, SideData};

use super::read_memory::ReadMemory;
use super::record_tracker::RecordTracker;
use super::write_memory::WriteMemory;
use crate::transport::handshake_bytes::HandshakeBytes;
use crate::transport::plain_stream::PlainStream;
use crate::transport::socket::{SCRATCH_LEN, read_now_len};
use crate::transport::transport_stream::{StreamBuffers, TransportStream};

pub(crate) struct Tls {
    stream: TlsStream<TrackedStream>,
    /// A read error to return after the bytes that arrived before it.
    deferred_error: Option<io::Error>,
    buffers: Arc<StreamBuffers>,
}

impl Tls {
    pub(super) fn new(stream: impl Into<TlsStream<TrackedStream>>) -> Self {
        let mut tls = Self { stream: stream.into(), deferred_error: None, buffers: Arc::default() };
        // The handshake is complete.
        tls.tracked_mut().handshake = None;
        tls
    }

    pub(super) fn stream(&self) -> &TlsStream<TrackedStream> {
        &self.stream
    }

    fn tracked_mut(&mut self) -> &mut TrackedStream {
        match &mut self.stream {
            TlsStream::Client(stream) => stream.get_mut().0,
            TlsStream::Server(stream) => stream.get_mut().0,
        }
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
        let read = read.or_else(|error| self.defer_error(error, scratch));
        self.note_read(matches!(read, Ok(count) if count == scratch.len()));
        buffer.extend_from_slice(&scratch[..*read.as_ref().unwrap_or(&0)]);
        read
    }

    fn poll_decrypted(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Self { stream, deferred_error, .. } = self;
        let read = match (deferred_error.take(), stream) {
            (Some(error), _) => Err(error),
            (None, TlsStream::Client(stream)) => {
                let (socket, session) = stream.get_mut();
                ready!(poll_session(socket, session, cx, buf))
            }
            (None, TlsStream::Server(stream)) => {
                let (socket, session) = stream.get_mut();
                ready!(poll_session(socket, session, cx, buf))
            }
        };
        match read {
            Ok(()) => {}
            Err(error) if buf.filled().len() > before => self.deferred_error = Some(error),
            Err(error) => {
                let count = self.defer_error(error, buf.initialize_unfilled())?;
                buf.advance(count);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Updates what rustls holds for reading, after a read that has filled its buffer or not.
    fn note_read(&mut self, is_full: bool) {
        let has_unread = is_full && self.has_unread_plaintext();
        let tracked = self.tracked_mut();
        tracked.read_memory.has_unread = has_unread;
        // Held back are the bytes of an incomplete record: none of them can be decrypted yet.
        let (held_back, bytes) = (tracked.records.partial_len, tracked.read_memory.bytes());
        self.buffers.note_read(held_back, bytes);
    }

    /// Updates whether rustls holds bytes for writing, after a write or a flush.
    fn note_write(&self) {
        self.buffers.note_write(self.stream.get_ref().1.wants_write());
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

    fn buffered_bytes(&self) -> Option<usize> {
        Some(self.stream.get_ref().0.write_memory.bytes())
    }

    fn has_unread(&self) -> bool {
        self.socket().has_unread()
    }

    fn buffers(&self) -> Option<Arc<StreamBuffers>> {
        Some(Arc::clone(&self.buffers))
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

/// Reads from the session directly: the `poll_read` of tokio-rustls polls the socket once more although it is empty.
impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.poll_decrypted(cx, buf);
        self.note_read(polled.is_ready() && buf.remaining() == 0);
        polled
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The socket below TLS, with counts of the bytes of an incomplete record, of those of a running handshake, and of what
/// rustls holds.
pub(super) struct TrackedStream {
    stream: PlainStream,
    records: RecordTracker,
    read_memory: ReadMemory,
    write_memory: WriteMemory,
    handshake: Option<HandshakeBytes>,
}

impl TrackedStream {
    /// `handshake` counts the bytes that arrive until [`Tls::new`].
    pub(super) fn new(stream: PlainStream, handshake: Option<HandshakeBytes>) -> Self {
        Self {
            stream,
            records: RecordTracker::default(),
            read_memory: ReadMemory::default(),
            write_memory: WriteMemory::default(),
            handshake,
        }
    }

    fn note_offered(&mut self, records: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        let taken_len = if let Poll::Ready(Ok(len)) = written { *len } else { 0 };
        self.write_memory.offered(records, taken_len);
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
        self.read_memory.before_read(partial_len, buf.remaining());
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        self.read_memory.after_read(partial_len, read.len());
        self.records.advance(read);
        Poll::Ready(self.handshake.as_ref().map_or(Ok(()), |handshake| handshake.add(read.len())))
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_offered(&[IoSlice::new(buf)], &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_offered(bufs, &written);
        written
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

/// Reads decrypted bytes until `buf` is full or the socket is empty. `Pending` if there are none. A caller that gets an
/// error may have got bytes before it.
fn poll_session<S: SideData>(
    socket: &mut TrackedStream,
    session: &mut ConnectionCommon<S>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buf.filled().len();
    let mut is_socket_empty = false;
    loop {
        let mut reader = session.reader();
        match reader.fill_buf() {
            // After a `close_notify`, also the next time.
            Ok([]) => return Poll::Ready(Ok(())),
            Ok(decrypted) => {
                let len = decrypted.len().min(buf.remaining());
                buf.put_slice(&decrypted[..len]);
                reader.consume(len);
                if buf.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        let has_bytes = buf.filled().len() > before;
        if has_bytes && is_socket_empty {
            return Poll::Ready(Ok(()));
        }
        let mut polled = PolledSocket { socket, cx, is_empty: false };
        match session.read_tls(&mut polled) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return if has_bytes { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            Err(error) => return Poll::Ready(Err(error)),
            Ok(_) => is_socket_empty = polled.is_empty,
        }
        if let Err(error) = session.process_new_packets() {
            // Tells the peer why, if the socket has room. The error itself counts, whatever becomes of this.
            let _ = session.write_tls(&mut PolledSocket { socket, cx, is_empty: false });
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
    }
}

/// Polls the socket, as `std::io::Read` and `Write`: the form that rustls needs.
struct PolledSocket<'a, 'b> {
    socket: &'a mut TrackedStream,
    cx: &'a mut Context<'b>,
    /// Whether the last read has not filled its buffer, so that the socket had no more bytes.
    is_empty: bool,
}

impl Read for PolledSocket<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buffer) {
            Poll::Ready(read) => {
                // The end of the stream needs one more read.
                self.is_empty = !buffer.filled().is_empty() && buffer.remaining() > 0;
                read.map(|()| buffer.filled().len())
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for PolledSocket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write(self.cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        self.0.read_memory.before_read(partial_len, buffer.len());
        let count = self.0.stream.read_now_into(buffer)?;
        self.0.read_memory.after_read(partial_len, count);
        self.0.records.advance(&buffer[..count]);
        Ok(count)
    }
}
