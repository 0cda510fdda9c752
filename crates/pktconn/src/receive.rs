//! From the transport to packets.
//!
//! ```text
//!   transport -- a chunk a read --> buffer -- PacketCodec --> Packet, a slice of the buffer
//! ```
//!
//! Reading happens inside of `recv` alone. A chunk is as large as the traffic has lately been, so that a busy connection
//! needs few reads and a quiet one little memory. While it waits, an idle connection holds no buffer at all, and one in
//! the middle of a frame holds little more than what has arrived of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_core::Stream;
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::error::Reason;
use crate::shared::{Reader, Shared};

/// Room for a read on a quiet connection: a page, two packets of 2,048 B at once.
const MIN_CHUNK: usize = 4 * 1024;

/// Room for a read on a busy one. With 16 KiB instead, 32 packets of 0 to 2048 B that arrive together cost 1.7 times the
/// CPU time.
const MAX_CHUNK: usize = 64 * 1024;

/// The receiving side of a connection that was [split](crate::PacketConn::split).
///
/// Also a [`Stream`] of packets. It ends after a clean close of the peer, and after the first error.
///
/// Dropping it leaves the senders as they are; when they are gone too, the connection is closed at once.
pub struct PacketReceiver {
    shared: Arc<Shared>,
    /// Gone once nothing more is received. The mutex is never locked: it makes the receiver `Sync`, which a future that
    /// holds a reference to it across an `await` needs to be `Send`.
    reader: Option<Mutex<Reader>>,
    buffer: BytesMut,
    /// What the buffer held room for when it was last made.
    allocated: usize,
    chunk: Chunk,
    codec: PacketCodec,
    end: End,
}

/// What `recv` says from now on.
enum End {
    NotYet,
    Clean,
    Failed(Reason),
}

impl PacketReceiver {
    pub(crate) fn new(shared: &Arc<Shared>, reader: Reader) -> Self {
        shared.add_handle();
        Self {
            shared: Arc::clone(shared),
            reader: Some(Mutex::new(reader)),
            buffer: BytesMut::new(),
            allocated: 0,
            chunk: Chunk::default(),
            codec: shared.codec.clone(),
            end: End::NotYet,
        }
    }

    /// Receives the next packet, or `None` once the peer has closed its side between two frames.
    ///
    /// Before it waits it has what was sent written, so that a loop of `recv` and `send` answers at once and in batches.
    ///
    /// # Errors
    ///
    /// The connection has ended, and every later call says the same: [`is_truncated`](Error::is_truncated),
    /// [`is_protocol`](Error::is_protocol), [`is_io`](Error::is_io), or [`is_local_close`](Error::is_local_close) when
    /// this side was closed by another handle.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call goes on where it stopped.
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`recv`](Self::recv) for those who write futures by hand.
    ///
    /// # Errors
    ///
    /// Those of `recv`.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Error>> {
        loop {
            match &self.end {
                End::NotYet => {}
                End::Clean => return Poll::Ready(Ok(None)),
                End::Failed(reason) => return Poll::Ready(Err(reason.clone().into())),
            }
            if self.shared.is_closed_here() {
                self.stop();
                continue;
            }
            match self.codec.decode_frame(&mut self.buffer) {
                Ok(Some(packet)) => {
                    self.shared.received.packets.add(1);
                    return Poll::Ready(Ok(Some(packet)));
                }
                Ok(None) => {}
                Err(error) => {
                    self.fail(Reason::Frame(error));
                    continue;
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => self.end_of_stream(),
                Poll::Ready(Ok(count)) => {
                    self.shared.received.bytes.add(count as u64);
                    self.shared.received.reads.add(1);
                }
                Poll::Ready(Err(error)) => self.fail(error.into()),
                Poll::Pending => {
                    self.release_memory();
                    match self.shared.before_wait(cx) {
                        Ok(()) => return Poll::Pending,
                        Err(reason) => self.end_with(reason),
                    }
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        // Without a reader an end is set: `recv` does not come this far.
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        let reader = reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        let missing = self.codec.missing(&self.buffer);
        let wanted = self.chunk.wanted(missing, self.buffer.len(), self.buffer.capacity());
        if wanted > 0 {
            self.buffer.reserve(wanted);
            self.allocated = self.buffer.capacity();
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        let read = tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut self.buffer);
        if let Poll::Ready(Ok(count)) = read {
            self.chunk.record(count, spare);
        }
        read
    }

    /// Lets go of the memory that waiting does not need.
    fn release_memory(&mut self) {
        let len = self.buffer.len();
        if len == 0 {
            self.buffer = BytesMut::new();
        } else if self.allocated > 2 * len + MIN_CHUNK {
            // The start of a frame alone, in a chunk that was made for much more.
            let mut small = BytesMut::with_capacity(len);
            small.extend_from_slice(&self.buffer);
            self.buffer = small;
            self.allocated = len;
        }
    }

    fn end_of_stream(&mut self) {
        match self.codec.decode_end(&self.buffer) {
            Ok(()) => {
                self.end = End::Clean;
                self.reader = None;
                self.shared.remote_closed();
            }
            Err(error) => self.fail(Reason::Frame(error)),
        }
    }

    fn fail(&mut self, reason: Reason) {
        self.shared.receive_failed(&reason);
        self.end_with(reason);
    }

    fn end_with(&mut self, reason: Reason) {
        self.end = End::Failed(reason);
        self.park();
    }

    /// Receives nothing more, because this side was closed. What arrives from now on is discarded.
    pub(crate) fn stop(&mut self) {
        if matches!(self.end, End::NotYet) {
            self.end_with(Reason::LocalClose);
        }
    }

    /// Gives up the reading half and the buffer. A connection that is closing reads on without them.
    fn park(&mut self) {
        self.buffer = BytesMut::new();
        if let Some(reader) = self.reader.take() {
            self.shared.park_reader(reader.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for PacketReceiver {
    fn drop(&mut self) {
        self.park();
        self.shared.drop_handle();
    }
}

impl Stream for PacketReceiver {
    type Item = Result<Packet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // An error is said once: a stream that repeated it would never end.
        if self.reader.is_none() && matches!(self.end, End::Failed(_)) {
            return Poll::Ready(None);
        }
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for PacketReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketReceiver").field("peer_addr", &self.shared.peer_addr).finish_non_exhaustive()
    }
}

/// How much room a read is given.
struct Chunk {
    len: usize,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { len: MIN_CHUNK }
    }
}

impl Chunk {
    /// How much room to reserve before a read into a buffer of `len` bytes and of `capacity`; 0 where there is enough.
    /// `missing` is what the frame at its front still lacks.
    fn wanted(&self, missing: usize, len: usize, capacity: usize) -> usize {
        let spare = capacity - len;
        // The rest of a frame should come in one read where it can; between frames, a part of a chunk is worth a read.
        let enough = if missing > 0 { missing.min(self.len) } else { self.len / 4 };
        if spare >= enough.max(1) {
            return 0;
        }
        // A frame larger than a chunk doubles what has arrived: few copies, and never more than the peer has sent.
        self.len.max(missing.min(len))
    }

    /// Learns from a read of `count` bytes where there was room for `spare`.
    fn record(&mut self, count: usize, spare: usize) {
        if count >= spare {
            self.len = (self.len * 2).min(MAX_CHUNK);
        } else if count < self.len / 4 {
            self.len = (self.len / 2).max(MIN_CHUNK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_grows_with_full_reads_and_shrinks_with_small_ones() {
        let mut chunk = Chunk::default();
        for expected in [8, 16, 32, 64, 64] {
            chunk.record(chunk.len, chunk.len);
            assert_eq!(chunk.len, expected * 1024);
        }
        chunk.record(20 * 1024, chunk.len);
        assert_eq!(chunk.len, 64 * 1024, "a third of a chunk is no reason to shrink");
        for expected in [32, 16, 8, 4, 4] {
            chunk.record(100, chunk.len);
            assert_eq!(chunk.len, expected * 1024);
        }
    }

    #[test]
    fn room_follows_what_has_arrived_and_not_what_was_announced() {
        let chunk = Chunk::default();
        let announced = 32 * 1024 * 1024;
        assert_eq!(chunk.wanted(announced, 4, 4), MIN_CHUNK);
        for arrived in [MIN_CHUNK, 1024 * 1024, 20 * 1024 * 1024] {
            let wanted = chunk.wanted(announced - arrived, arrived, arrived);
            assert!(wanted <= arrived, "{wanted} bytes of room after {arrived}");
        }
    }

    #[test]
    fn room_that_serves_is_used_before_more_is_reserved() {
        let chunk = Chunk::default();
        assert_eq!(chunk.wanted(0, 0, 0), MIN_CHUNK);
        assert_eq!(chunk.wanted(0, 0, MIN_CHUNK / 4), 0);
        assert_eq!(chunk.wanted(100, 50, 150), 0, "the rest of the frame fits");
        assert!(chunk.wanted(100, 50, 149) > 0);
    }
}
