//! A scripted transport that reports readiness as a tokio socket does.
//!
//! ```text
//!   state of the kernel:  room, unread bytes, how the peer ended       the simulation changes it at any time
//!   readiness:            whether tokio polls_driver it writable, readable     only `poll_driver` sets it
//! ```
//!
//! A poll that finds the transport not ready clears the readiness and stores its waker. The next `poll_driver` that
//! finds it ready wakes it. As with tokio's sockets, a task that has used up its cooperative budget must yield.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Transport(pub(crate) Arc<Mutex<Pipe>>);

/// Whether and how the peer has ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerState {
    Open,
    Closed,
    Reset,
}

pub(crate) struct Pipe {
    /// How many more bytes can be written now.
    pub(crate) room: usize,
    /// All bytes written so far, and the time of the last write or flush.
    pub(crate) written: Vec<u8>,
    pub(crate) last_write: Instant,
    /// The bytes that the peer has sent and the connection has not read, and the time of the last read.
    pub(crate) unread: VecDeque<u8>,
    pub(crate) last_read: Instant,
    pub(crate) peer_state: PeerState,
    /// Writing fails after this many bytes.
    pub(crate) fails_at: usize,
    pub(crate) has_failed: bool,
    pub(crate) is_shut_down: bool,
    pub(crate) is_dropped: bool,
    /// Whether the transport has its own buffer, as TLS does, so that written bytes need a flush.
    pub(crate) buffers: bool,
    pub(crate) unflushed: usize,
    /// The readiness, as tokio's driver last saw it.
    pub(crate) is_writable: bool,
    pub(crate) is_readable: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

impl Transport {
    pub(crate) fn new(room: usize, buffers: bool) -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Pipe {
            room,
            written: Vec::new(),
            last_write: now,
            unread: VecDeque::new(),
            last_read: now,
            peer_state: PeerState::Open,
            fails_at: usize::MAX,
            has_failed: false,
            is_shut_down: false,
            is_dropped: false,
            buffers,
            unflushed: 0,
            is_writable: true,
            is_readable: true,
            writer: None,
            reader: None,
        })))
    }

    pub(crate) fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a poll of tokio's I/O driver does: sets the readiness and wakes the waiting tasks.
    pub(crate) fn poll_driver(&self) {
        let mut pipe = self.pipe();
        let mut wakers = Vec::new();
        if pipe.can_write() {
            pipe.is_writable = true;
            wakers.extend(pipe.writer.take());
        }
        if pipe.can_read() {
            pipe.is_readable = true;
            wakers.extend(pipe.reader.take());
        }
        drop(pipe);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Pipe {
    pub(crate) fn can_write(&self) -> bool {
        self.room > 0 || self.can_fail()
    }

    /// Returns true if the next write fails. After one failure all writes fail.
    pub(crate) fn can_fail(&self) -> bool {
        self.has_failed || self.peer_state == PeerState::Reset || self.written.len() >= self.fails_at
    }

    fn can_read(&self) -> bool {
        !self.unread.is_empty() || self.peer_state != PeerState::Open
    }

    fn wait_to_write<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.is_writable = false;
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn check(&mut self) -> io::Result<()> {
        if self.can_fail() {
            self.has_failed = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(pin!(tokio::task::coop::consume_budget()).poll(cx));
        let mut pipe = self.pipe();
        if pipe.is_readable && !pipe.unread.is_empty() {
            let count = buf.remaining().min(pipe.unread.len());
            // Copies slices: single bytes would need most of the time of a debug build.
            let (front, back) = pipe.unread.as_slices();
            let at_front = count.min(front.len());
            buf.put_slice(&front[..at_front]);
            buf.put_slice(&back[..count - at_front]);
            pipe.unread.drain(..count);
            pipe.last_read = Instant::now();
            return Poll::Ready(Ok(()));
        }
        match pipe.peer_state {
            PeerState::Closed if pipe.is_readable => Poll::Ready(Ok(())),
            PeerState::Reset if pipe.is_readable => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => {
                pipe.is_readable = false;
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(pin!(tokio::task::coop::consume_budget()).poll(cx));
        let mut pipe = self.pipe();
        if !pipe.is_writable {
            return pipe.wait_to_write(cx);
        }
        pipe.check()?;
        if pipe.room == 0 {
            return pipe.wait_to_write(cx);
        }
        let until_failure = pipe.fails_at - pipe.written.len();
        let count = buf.len().min(pipe.room).min(until_failure);
        pipe.room -= count;
        pipe.written.extend_from_slice(&buf[..count]);
        pipe.last_write = Instant::now();
        if pipe.buffers {
            pipe.unflushed += count;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe();
        if pipe.unflushed == 0 {
            return Poll::Ready(Ok(()));
        }
        if !pipe.is_writable {
            return pipe.wait_to_write(cx);
        }
        pipe.check()?;
        if pipe.room == 0 {
            return pipe.wait_to_write(cx);
        }
        pipe.unflushed = 0;
        pipe.last_write = Instant::now();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe().is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// The end of the transport that the connection owns. It notes when the connection drops it.
pub(crate) struct ConnEnd(pub(crate) Transport);

impl Drop for ConnEnd {
    fn drop(&mut self) {
        self.0.pipe().is_dropped = true;
    }
}

impl AsyncRead for ConnEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ConnEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
