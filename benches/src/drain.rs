//! The other end of a broadcast: it takes all that arrives, keeps nothing, and counts.
//!
//! ```text
//!   sender:  write to all  | sleeps            | write to all  | sleeps
//!   drain:   sleeps | reads, without a sleep   | sleeps | ...
//!                                              ^ all bytes of the broadcast are here
//! ```

use std::{
    io::{ErrorKind, Read},
    net::TcpStream as StdTcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::READ_BUFFER_LEN;

/// As many as `epoll_wait` may report at once: a broadcast to a thousand takes few calls.
const EVENTS_CAPACITY: usize = 1024;

/// After this long without a byte, something is lost: a broadcast takes milliseconds.
const QUIET_LIMIT: Duration = Duration::from_secs(20);

/// The receiving ends of all connections.
#[derive(Debug)]
pub struct Drain {
    poll: Poll,
    conns: Vec<Conn>,
    broadcast_len: u64,
    received_len: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    received_len: u64,
    ended: bool,
}

impl Drain {
    /// Reads from `streams`, to which a broadcast brings `broadcast_len` bytes in all, at least 1.
    ///
    /// # Errors
    ///
    /// Whatever the sockets report.
    pub fn new(streams: Vec<StdTcpStream>, broadcast_len: u64) -> Result<Self> {
        let poll = Poll::new()?;
        let mut conns = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            conns.push(Conn { stream, received_len: 0, ended: false });
        }
        Ok(Self { poll, conns, broadcast_len, received_len: 0, buffer: vec![0; READ_BUFFER_LEN] })
    }

    /// Reads until all streams have ended, calls `arrived` when all bytes of a broadcast are there, and gives back how
    /// many bytes each stream has brought. A broadcast must not begin before the one in front of it has arrived.
    ///
    /// # Errors
    ///
    /// When a socket fails, more arrives than a broadcast has, or nothing does for 20 s.
    pub fn run(mut self, mut arrived: impl FnMut()) -> Result<Vec<u64>> {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        let mut heard_at = Instant::now();
        while self.conns.iter().any(|conn| !conn.ended) {
            // A drain that slept between two packets would have to be woken by the sender's next write, the more often the
            // further apart the writes are: part of the figure would be about the drain. So a broadcast wakes it once.
            let begun = self.received_len % self.broadcast_len > 0;
            let timeout = if begun { Duration::ZERO } else { QUIET_LIMIT };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if !events.is_empty() {
                heard_at = Instant::now();
            }
            ensure!(heard_at.elapsed() < QUIET_LIMIT, "no byte has arrived for {QUIET_LIMIT:?}");
            for event in &events {
                self.take(event.token().0, event.is_read_closed(), &mut arrived)?;
            }
        }
        Ok(self.conns.into_iter().map(|conn| conn.received_len).collect())
    }

    /// Takes all that a stream has.
    fn take(&mut self, index: usize, read_closed: bool, arrived: &mut impl FnMut()) -> Result<()> {
        let conn = &mut self.conns[index];
        loop {
            let fresh_len = match conn.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.context("cannot read what was sent")?,
            };
            if fresh_len == 0 {
                conn.ended = true;
                return Ok(());
            }
            conn.received_len += fresh_len as u64;
            let missing_len = self.broadcast_len - self.received_len % self.broadcast_len;
            ensure!(fresh_len as u64 <= missing_len, "more bytes arrived than were sent");
            self.received_len += fresh_len as u64;
            if fresh_len as u64 == missing_len {
                arrived();
            }
            // A short read emptied the socket, unless there is an end of the stream to find behind it.
            if fresh_len < self.buffer.len() && !read_closed {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::TcpListener,
        sync::mpsc::{self, Receiver},
        thread::{self, JoinHandle},
    };

    use super::*;

    struct Running {
        senders: Vec<StdTcpStream>,
        arrived: Receiver<()>,
        thread: JoinHandle<Result<Vec<u64>>>,
    }

    /// A drain of two connections, whose broadcasts have 10 bytes.
    fn drain() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |_| StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let senders: Vec<_> = (0..2).map(connect).collect();
        let drain = Drain::new((0..2).map(|_| listener.accept().unwrap().0).collect(), 10).unwrap();
        let (tell, arrived) = mpsc::channel();
        let thread = thread::spawn(move || drain.run(|| tell.send(()).unwrap()));
        Running { senders, arrived, thread }
    }

    #[test]
    fn a_broadcast_has_arrived_with_its_last_byte() {
        let Running { mut senders, arrived, thread } = drain();
        for _ in 0..3 {
            senders[0].write_all(b"123").unwrap();
            senders[1].write_all(b"45678").unwrap();
            assert!(arrived.try_recv().is_err());
            senders[0].write_all(b"90").unwrap();
            arrived.recv().unwrap();
        }
        drop(senders);
        assert_eq!(thread.join().unwrap().unwrap(), [15, 15]);
        assert!(arrived.recv().is_err(), "three broadcasts, and no more");
    }

    #[test]
    fn bytes_that_are_missing_show_in_the_count_of_their_connection() {
        let Running { mut senders, arrived, thread } = drain();
        senders[1].write_all(b"1234").unwrap();
        drop(senders);
        assert_eq!(thread.join().unwrap().unwrap(), [0, 4]);
        assert!(arrived.recv().is_err());
    }

    #[test]
    fn more_bytes_than_a_broadcast_has_are_an_error() {
        let Running { mut senders, thread, .. } = drain();
        senders[0].write_all(b"12345678901").unwrap();
        let error = thread.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "more bytes arrived than were sent");
    }
}
