//! The receiving end of a broadcast: it reads and counts all bytes, and keeps none.
//!
//! ```text
//!   sender:    write to all    | sleeps          | write to all    | sleeps
//!   receiver:  sleeps | reads without sleeping   | sleeps | ...
//!                                                ^ all bytes of the broadcast have arrived
//! ```

use std::{
    io::{ErrorKind, Read},
    net::TcpStream as StdTcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use pktconn_benches::wire::READ_BUFFER_LEN;

/// Events per call of `epoll_wait`: a broadcast to a thousand connections needs few calls.
const EVENTS_CAPACITY: usize = 1024;

/// After this long without a byte, bytes are lost: a broadcast takes milliseconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// The receiving ends of all connections.
#[derive(Debug)]
pub(crate) struct Receiver {
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

impl Receiver {
    /// Prepares to read from `streams`. A broadcast has `broadcast_len` bytes over all streams, at least 1.
    pub(crate) fn new(streams: Vec<StdTcpStream>, broadcast_len: u64) -> Result<Self> {
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

    /// Reads until all streams have ended. Calls `arrived` when all bytes of a broadcast have arrived, and returns the
    /// number of bytes per stream. A broadcast must not begin before the previous one has arrived.
    ///
    /// # Errors
    ///
    /// A socket fails, a broadcast has too many bytes, or no byte arrives for 20 s.
    pub(crate) fn run(mut self, mut arrived: impl FnMut()) -> Result<Vec<u64>> {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        let mut last_event_at = Instant::now();
        while self.conns.iter().any(|conn| !conn.ended) {
            // A receiver that sleeps between two packets is woken by the sender's next write, and the wake-up costs the
            // sender CPU time, which would be part of the figure. So the receiver sleeps only between broadcasts.
            let has_begun = !self.received_len.is_multiple_of(self.broadcast_len);
            let timeout = if has_begun { Duration::ZERO } else { SILENCE_LIMIT };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if !events.is_empty() {
                last_event_at = Instant::now();
            }
            ensure!(last_event_at.elapsed() < SILENCE_LIMIT, "no byte arrived for {SILENCE_LIMIT:?}");
            for event in &events {
                self.read_all(event.token().0, event.is_read_closed(), &mut arrived)?;
            }
        }
        Ok(self.conns.into_iter().map(|conn| conn.received_len).collect())
    }

    /// Reads all that has arrived on a stream.
    fn read_all(&mut self, index: usize, is_read_closed: bool, arrived: &mut impl FnMut()) -> Result<()> {
        let conn = &mut self.conns[index];
        loop {
            let read_len = match conn.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.with_context(|| format!("cannot read from connection {index}"))?,
            };
            if read_len == 0 {
                conn.ended = true;
                return Ok(());
            }
            conn.received_len += read_len as u64;
            let missing_len = self.broadcast_len - self.received_len % self.broadcast_len;
            ensure!(read_len as u64 <= missing_len, "more bytes arrived than were sent");
            self.received_len += read_len as u64;
            if read_len as u64 == missing_len {
                arrived();
            }
            // A short read means that the socket is empty, unless the end of the stream follows.
            if read_len < self.buffer.len() && !is_read_closed {
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
        sync::mpsc,
        thread::{self, JoinHandle},
    };

    use super::*;

    struct Running {
        senders: Vec<StdTcpStream>,
        arrived: mpsc::Receiver<()>,
        thread: JoinHandle<Result<Vec<u64>>>,
    }

    /// Starts a receiver on two connections, with broadcasts of 10 bytes.
    fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |_| StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let senders: Vec<_> = (0..2).map(connect).collect();
        let receiver = Receiver::new((0..2).map(|_| listener.accept().unwrap().0).collect(), 10).unwrap();
        let (notify, arrived) = mpsc::channel();
        let thread = thread::spawn(move || receiver.run(|| notify.send(()).unwrap()));
        Running { senders, arrived, thread }
    }

    #[test]
    fn a_broadcast_has_arrived_when_its_last_byte_has() {
        let Running { mut senders, arrived, thread } = start();
        for _ in 0..3 {
            senders[0].write_all(b"123").unwrap();
            senders[1].write_all(b"45678").unwrap();
            assert!(arrived.try_recv().is_err());
            senders[0].write_all(b"90").unwrap();
            arrived.recv().unwrap();
        }
        drop(senders);
        assert_eq!(thread.join().unwrap().unwrap(), [15, 15]);
        assert!(arrived.recv().is_err(), "there were only three broadcasts");
    }

    #[test]
    fn missing_bytes_show_in_the_count_of_their_connection() {
        let Running { mut senders, arrived, thread } = start();
        senders[1].write_all(b"1234").unwrap();
        drop(senders);
        assert_eq!(thread.join().unwrap().unwrap(), [0, 4]);
        assert!(arrived.recv().is_err());
    }

    #[test]
    fn too_many_bytes_for_a_broadcast_are_an_error() {
        let Running { mut senders, thread, .. } = start();
        senders[0].write_all(b"12345678901").unwrap();
        let error = thread.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "more bytes arrived than were sent");
    }
}
