//! A transport that does what the simulation says, and knows of it what tokio would.
//!
//! ```text
//!   the peer's machine:  room, bytes that have arrived, an end       changed by the simulation, at any time
//!   what tokio knows:    whether it can be written or read           learned in a turn of the driver alone
//! ```
//!
//! A poll that finds less than tokio knows corrects that, and leaves its waker, which the next turn of the driver wakes. A
//! task that has used up its budget is told to come back, as by tokio's own sockets.

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

/// How the peer's side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerEnd {
    Open,
    Closed,
    Reset,
}

pub(crate) struct Pipe {
    /// How many bytes it takes now.
    pub(crate) room: usize,
    /// What it has taken, and when it last took something.
    pub(crate) taken: Vec<u8>,
    pub(crate) taken_at: Instant,
    /// What the peer has sent and was not read, and when something last arrived or was read.
    pub(crate) arrived: VecDeque<u8>,
    pub(crate) arrived_at: Instant,
    pub(crate) peer: PeerEnd,
    /// After so many bytes, writing fails.
    pub(crate) fails_at: usize,
    pub(crate) has_failed: bool,
    pub(crate) is_shut_down: bool,
    pub(crate) is_dropped: bool,
    /// Whether bytes that it took wait for a flush.
    pub(crate) buffers: bool,
    pub(crate) unflushed: usize,
    /// What tokio knows.
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
            taken: Vec::new(),
            taken_at: now,
            arrived: VecDeque::new(),
            arrived_at: now,
            peer: PeerEnd::Open,
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

    /// A turn of tokio's driver: it learns what there is, and wakes those who wait for it.
    pub(crate) fn driver_turn(&self) {
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

    /// Whether the next write fails: what has failed once fails for good.
    pub(crate) fn can_fail(&self) -> bool {
        self.has_failed || self.peer == PeerEnd::Reset || self.taken.len() >= self.fails_at
    }

    fn can_read(&self) -> bool {
        !self.arrived.is_empty() || self.peer != PeerEnd::Open
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
        if pipe.is_readable && !pipe.arrived.is_empty() {
            let count = buf.remaining().min(pipe.arrived.len());
            // By slices: byte by byte takes most of the time of a debug build.
            let (front, back) = pipe.arrived.as_slices();
            let at_front = count.min(front.len());
            buf.put_slice(&front[..at_front]);
            buf.put_slice(&back[..count - at_front]);
            pipe.arrived.drain(..count);
            pipe.arrived_at = Instant::now();
            return Poll::Ready(Ok(()));
        }
        match pipe.peer {
            PeerEnd::Closed if pipe.is_readable => Poll::Ready(Ok(())),
            PeerEnd::Reset if pipe.is_readable => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
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
        let until_failure = pipe.fails_at - pipe.taken.len();
        let count = buf.len().min(pipe.room).min(until_failure);
        pipe.room -= count;
        pipe.taken.extend_from_slice(&buf[..count]);
        pipe.taken_at = Instant::now();
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
        pipe.taken_at = Instant::now();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe().is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// The end of the connection that the library holds.
pub(crate) struct Held(pub(crate) Transport);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.pipe().is_dropped = true;
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
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
