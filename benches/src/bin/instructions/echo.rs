//! Echo turns of a connection, over a peer in memory.
//!
//! ```text
//!   peer: all frames of a turn --> recv, send, recv waits: the send queue is written --> peer: the reply is whole, next turn
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pktconn::{ConnConfig, Error, PacketConn};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Builder;

#[derive(Clone, Copy)]
pub(crate) enum How {
    OneByOne,
    InBatches,
}

/// Echoes `frames`, all of them in each turn, on a runtime of one thread.
pub(crate) fn run(how: How, frames: &[u8], turns: u32) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let peer = Peer::new(frames, turns);
    let ended = runtime.block_on(async move {
        let conn = PacketConn::new(peer, ConnConfig::new()).expect("the defaults fit together");
        // A task, as in a server.
        tokio::spawn(echo(conn, how)).await.expect("no panic")
    });
    let echoed_bytes = ended.expect("the peer ends between two frames");
    assert_eq!(echoed_bytes, frames.len() as u64 * u64::from(turns));
}

/// Tells how many bytes were written.
async fn echo(mut conn: PacketConn, how: How) -> Result<u64, Error> {
    match how {
        How::OneByOne => {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
        }
        How::InBatches => {
            let mut packets = Vec::new();
            while conn.recv_many(&mut packets, 64).await? > 0 {
                conn.send_many(&mut packets).await?;
            }
        }
    }
    conn.close().await?;
    Ok(conn.stats().bytes_sent)
}

/// The other end: sends the frames of a turn at once, reads the reply, and only then begins the next turn.
struct Peer {
    frames: Vec<u8>,
    /// How many bytes of them were sent in this turn, and how many came back.
    sent_len: usize,
    replied_len: usize,
    turns_left: u32,
    reader: Option<Waker>,
}

impl Peer {
    fn new(frames: &[u8], turns: u32) -> Self {
        Self { frames: frames.to_vec(), sent_len: 0, replied_len: 0, turns_left: turns, reader: None }
    }

    /// Reads `reply` by comparing it: a transport of memory has no other use for it.
    fn read(&mut self, reply: &[u8]) {
        let expected = &self.frames[self.replied_len..][..reply.len()];
        assert!(reply == expected, "the reply is not what was sent");
        self.replied_len += reply.len();
        if self.replied_len == self.frames.len() {
            (self.sent_len, self.replied_len) = (0, 0);
            self.turns_left -= 1;
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
        if self.turns_left == 0 {
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
        self.read(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        bufs.iter().for_each(|buf| self.read(buf));
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
