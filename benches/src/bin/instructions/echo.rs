//! Echoes over a connection whose peer is in memory.
//!
//! ```text
//!   peer: sends all frames --> recv, send, recv waits: writes the send queue --> peer: all replies are there, repeats
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pktconn::{ConnConfig, Error, PacketConn};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Builder;

#[derive(Clone, Copy)]
pub(crate) enum Mode {
    OneByOne,
    InBatches,
}

/// Echoes all of `frames`, `times` times, on a runtime with one thread.
pub(crate) fn run(mode: Mode, frames: &[u8], times: u32) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    let peer = Peer::new(frames, times);
    let ended = runtime.block_on(async move {
        let conn = PacketConn::new(peer, ConnConfig::new()).expect("the default configuration is valid");
        // In a task, as in a server.
        tokio::spawn(echo(conn, mode)).await.expect("no panic")
    });
    let echoed_bytes = ended.expect("the echo succeeds");
    assert_eq!(echoed_bytes, frames.len() as u64 * u64::from(times));
}

/// Makes `times` connections, one after the other, each in its own task. Each echoes `frames` once and is closed after
/// its peer.
pub(crate) fn run_short(frames: &[u8], times: u32) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    runtime.block_on(async move {
        for _ in 0..times {
            let conn = PacketConn::new(Peer::new(frames, 1), ConnConfig::new());
            let conn = conn.expect("the default configuration is valid");
            let ended = tokio::spawn(echo(conn, Mode::OneByOne)).await.expect("no panic");
            assert_eq!(ended.expect("the echo succeeds"), frames.len() as u64);
        }
    });
}

/// Returns the number of bytes written.
async fn echo(mut conn: PacketConn, mode: Mode) -> Result<u64, Error> {
    match mode {
        Mode::OneByOne => {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
        }
        Mode::InBatches => {
            let mut packets = Vec::new();
            while conn.recv_many(&mut packets, 64).await? > 0 {
                conn.send_many(&mut packets).await?;
            }
        }
    }
    conn.close().await?;
    Ok(conn.stats().bytes_sent)
}

/// The other end: sends all frames at once, reads all replies, and only then sends the frames again.
struct Peer {
    frames: Vec<u8>,
    /// Bytes sent this time.
    sent_len: usize,
    /// Bytes that came back this time.
    replied_len: usize,
    times_left: u32,
    /// Wakes the task that waits for the next frames.
    reader: Option<Waker>,
}

impl Peer {
    fn new(frames: &[u8], times: u32) -> Self {
        Self { frames: frames.to_vec(), sent_len: 0, replied_len: 0, times_left: times, reader: None }
    }

    /// Compares a part of the replies with the frames, and starts again when they are complete.
    fn check(&mut self, reply: &[u8]) {
        let expected = &self.frames[self.replied_len..][..reply.len()];
        assert!(reply == expected, "the reply differs from what was sent");
        self.replied_len += reply.len();
        if self.replied_len == self.frames.len() {
            (self.sent_len, self.replied_len) = (0, 0);
            self.times_left -= 1;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unsent = &self.frames[self.sent_len..];
        if self.times_left == 0 {
            Poll::Ready(Ok(()))
        } else if unsent.is_empty() {
            self.reader = Some(cx.waker().clone());
            Poll::Pending
        } else {
            let len = unsent.len().min(buf.remaining());
            buf.put_slice(&unsent[..len]);
            self.sent_len += len;
            Poll::Ready(Ok(()))
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        bufs.iter().for_each(|buf| self.check(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
