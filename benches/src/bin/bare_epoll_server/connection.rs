//! One connection: reads, echoes whole frames, keeps what is left over.
//!
//! An idle connection holds no buffer, and neither does one whose frames arrive and leave whole. While replies wait
//! because the peer does not read, nothing is read either, so a connection holds at most one frame and one read.

use std::io::{self, ErrorKind, Read};

use mio::{Interest, Registry, Token, net::TcpStream};
use pktconn_benches::wire::{Completed, PartialFrame, SendQueue, scan_frames, write_some};

/// What a connection waits for next.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Next {
    Read,
    Write,
    Close,
}

pub(crate) struct Conn {
    stream: TcpStream,
    partial: PartialFrame,
    send_queue: SendQueue,
    /// The peer announced a frame above the limit: nothing more is read, and the connection closes once the replies are
    /// written.
    is_refused: bool,
    watches_writable: bool,
}

impl Conn {
    pub(crate) fn register(mut stream: TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE)?;
        let (partial, send_queue) = (PartialFrame::default(), SendQueue::default());
        Ok(Self { stream, partial, send_queue, is_refused: false, watches_writable: false })
    }

    /// Writes queued replies, then echoes what can be read, as long as the socket accepts the replies.
    ///
    /// A short read means that the socket is empty, which saves the read that would return `WouldBlock`. After a short
    /// read, epoll reports only new events; it has already reported the end of the stream if `is_read_closed` is set,
    /// so then this reads up to the end. Events that epoll reported while replies were queued are not lost:
    /// [`Conn::watch`] makes epoll report them again.
    pub(crate) fn serve(&mut self, buffer: &mut [u8], is_read_closed: bool) -> io::Result<Next> {
        if !self.send_queue.is_empty() && !self.send_queue.flush(&mut self.stream)? {
            return Ok(Next::Write);
        }
        while !self.is_refused {
            let read_len = match self.stream.read(buffer) {
                Ok(0) => return Ok(Next::Close),
                Ok(read_len) => read_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Read),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.echo(&buffer[..read_len])?;
            if !self.send_queue.is_empty() {
                return Ok(Next::Write);
            }
            if read_len < buffer.len() && !is_read_closed && !self.is_refused {
                return Ok(Next::Read);
            }
        }
        Ok(Next::Close)
    }

    /// Writes back all whole frames, in one system call, and keeps the beginning of the next one.
    fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        let completed = self.partial.complete(bytes).map_err(|_| ErrorKind::InvalidData)?;
        let Some(Completed { frame: first, rest }) = completed else { return Ok(()) };
        let scan = scan_frames(rest);
        let (whole, rest) = rest.split_at(scan.whole_len);
        self.is_refused = scan.is_oversized;
        self.partial.start(rest);
        if first.is_empty() && whole.is_empty() {
            return Ok(());
        }
        let written_len = write_some(&mut self.stream, &first, whole)?;
        if written_len < first.len() + whole.len() {
            self.send_queue.push_unwritten(first, whole, written_len);
        }
        Ok(())
    }

    /// Registers with epoll for what comes next; epoll also reports what is ready already. Returns false if the
    /// connection is to be closed.
    pub(crate) fn watch(&mut self, next: Next, registry: &Registry, token: Token) -> io::Result<bool> {
        let watch_writable = next == Next::Write;
        if next != Next::Close && watch_writable != self.watches_writable {
            let interest = match watch_writable {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            registry.reregister(&mut self.stream, token, interest)?;
            self.watches_writable = watch_writable;
        }
        Ok(next != Next::Close)
    }
}
