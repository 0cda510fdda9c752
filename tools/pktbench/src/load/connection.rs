//! The bytes of one connection: writes frames and reads frames, without waiting.
//!
//! ```text
//!   frames of several packets -- one write --> socket      bytes that the socket does not accept stay in `unsent`
//!   socket -- one read --> buffer of the worker -- PacketCodec::peek --> payloads, in the buffer
//!                              '-- an incomplete frame --> `partial`, until the rest arrives
//! ```
//!
//! A load generator must need less time per packet than the server under test. So it does not use `PacketConn`, which
//! has a task and a send queue per connection and a `Packet` per payload. `PacketConn` took a quarter more CPU time
//! (including the kernel) with 32 packets outstanding on each of 64 connections, and a third more with one on each of
//! 1,000.

use std::io;

use bytes::{Buf, BytesMut};
use mio::event::Source;
use pktconn::{CodecConfig, FrameError, PacketCodec};

use crate::load::stream::{ReadOutcome, Stream};
use crate::plan::clock::Clock;
use crate::record::failure::Failure;

pub(crate) struct Connection {
    stream: Stream,
    codec: PacketCodec,
    partial: Partial,
    /// Frames that the socket has not accepted yet.
    unsent: BytesMut,
}

impl Connection {
    pub(crate) fn new(stream: Stream, codec: CodecConfig) -> Self {
        Self { stream, codec: PacketCodec::new(codec), partial: Partial::default(), unsent: BytesMut::new() }
    }

    /// What to register with `mio`.
    pub(crate) fn source(&mut self) -> &mut impl Source {
        &mut self.stream
    }

    /// Whether the socket has accepted all frames.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && self.stream.is_flushed()
    }

    /// Appends the frame of `payload` to `frames`.
    pub(crate) fn encode(&self, payload: &[u8], frames: &mut BytesMut) -> Result<(), FrameError> {
        self.codec.encode_payload(payload, frames)
    }

    /// Writes `frames` and leaves an empty buffer. Earlier frames must be flushed.
    pub(crate) fn write(&mut self, frames: &mut BytesMut) -> io::Result<()> {
        let written = self.stream.write(frames)?;
        if written == frames.len() {
            frames.clear();
        } else {
            self.unsent = std::mem::take(frames);
            self.unsent.advance(written);
        }
        Ok(())
    }

    /// Writes the rest of earlier frames, until the socket is full.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.stream.flush()? {
            if self.unsent.is_empty() {
                // Frees the memory, which may be large.
                self.unsent = BytesMut::new();
                break;
            }
            match self.stream.write(&self.unsent)? {
                0 => break,
                written => self.unsent.advance(written),
            }
        }
        Ok(())
    }

    /// Reads once and calls `on_payload` with the time of the read and each complete payload. Reads into `buffer`,
    /// unless a part of a frame is left from an earlier read.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        clock: Clock,
        mut on_payload: impl FnMut(u64, &[u8]),
    ) -> Result<ReadOutcome, Failure> {
        let Self { stream, codec, partial, .. } = self;
        let is_partial = !partial.is_empty();
        let room = if is_partial { partial.room(codec, buffer.len()) } else { &mut *buffer };
        let (len, outcome) = match stream.read(room)? {
            Some((_, ReadOutcome::WouldBlock)) => return Ok(ReadOutcome::WouldBlock),
            Some(read) => read,
            None => {
                codec.decode_end(partial.filled())?;
                return Err(Failure::Closed);
            }
        };
        let now_ns = clock.now_ns();
        let bytes = if is_partial { partial.fill(len) } else { &buffer[..len] };
        let mut taken = 0;
        while let Some((payload, frame_len)) = codec.peek(&bytes[taken..])? {
            on_payload(now_ns, payload);
            taken += frame_len;
        }
        if is_partial {
            partial.remove_front(taken);
        } else if taken < len {
            *partial = Partial::new(&buffer[taken..len]);
        }
        Ok(outcome)
    }

    /// Ends the sending side, see [`Stream::shutdown`]. Unsent frames are dropped.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        self.unsent = BytesMut::new();
        self.stream.shutdown()
    }

    /// Reads once, and discards the bytes. [`Failure::Closed`] at the end of the stream.
    pub(crate) fn discard(&mut self, buffer: &mut [u8]) -> Result<ReadOutcome, Failure> {
        self.stream.discard(buffer)?.ok_or(Failure::Closed)
    }
}

/// An incomplete frame, and the bytes that arrive after it. Holds no memory when it is empty.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    len: usize,
}

impl Partial {
    fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), len: bytes.len() }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Room for the next read: as much as has arrived, and at least `at_least`. It does not depend on the length that
    /// the frame claims.
    fn room(&mut self, codec: &PacketCodec, at_least: usize) -> &mut [u8] {
        let room = codec.room(self.filled(), at_least).max(at_least);
        if self.bytes.len() < self.len + room {
            self.bytes.resize(self.len + room, 0);
        }
        &mut self.bytes[self.len..]
    }

    /// Adds `len` bytes that were read into the room, and returns all bytes.
    fn fill(&mut self, len: usize) -> &[u8] {
        self.len += len;
        self.filled()
    }

    /// Removes `len` bytes from the front.
    fn remove_front(&mut self, len: usize) {
        if len == self.len {
            *self = Self::default();
        } else if len > 0 {
            self.bytes.copy_within(len..self.len, 0);
            self.len -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use crate::load::stream::Socket;

    fn clock() -> Clock {
        Clock::new(std::time::Instant::now())
    }

    /// A connection and its peer, which is a blocking socket.
    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = Stream::new(Socket::Tcp(mio::net::TcpStream::from_std(stream)), None);
        (Connection::new(stream, CodecConfig::new()), listener.accept().unwrap().0)
    }

    /// Reads until `count` payloads were received.
    fn read_payloads(conn: &mut Connection, buffer: &mut [u8], count: usize) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        while payloads.len() < count {
            conn.read(buffer, clock(), |_, payload| payloads.push(payload.to_vec())).unwrap();
        }
        payloads
    }

    #[test]
    fn payloads_are_complete_however_the_stream_is_cut() {
        let (mut conn, mut peer) = pair();
        let lens = [0_usize, 1, 5, 100, 3000, 7, 70_000, 0, 2];
        let payloads: Vec<Vec<u8>> =
            lens.iter().enumerate().map(|(number, &len)| vec![number as u8 + 1; len]).collect();
        let stream: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| [&(payload.len() as u32).to_le_bytes(), &payload[..]].concat())
            .collect();
        // Buffers from less than a header to more than the stream. The peer's writes are cut at other positions.
        for room in [1, 3, 4, 5, 64, 1000, 1 << 17] {
            let writing = std::thread::spawn({
                let (stream, peer) = (stream.clone(), peer.try_clone().unwrap());
                move || {
                    for chunk in stream.chunks(977) {
                        (&peer).write_all(chunk).unwrap();
                    }
                }
            });
            assert_eq!(read_payloads(&mut conn, &mut vec![0; room], lens.len()), payloads, "room {room}");
            assert!(conn.partial.bytes.is_empty(), "memory between frames");
            writing.join().unwrap();
        }
        peer.write_all(&[5, 0, 0, 0, 1]).unwrap();
        drop(peer);
        let mut buffer = [0; 64];
        let end = std::iter::repeat_with(|| conn.read(&mut buffer, clock(), |_, _| {}))
            .find_map(Result::err)
            .unwrap();
        assert!(matches!(end, Failure::Frame(FrameError::Truncated { needed: 9, available: 5 })));
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        let (mut conn, mut peer) = pair();
        peer.write_all(&[0, 0, 0, 2, 1]).unwrap();
        let mut buffer = [0; 64];
        while conn.partial.len < 5 {
            conn.read(&mut buffer, clock(), |_, _| {}).unwrap();
        }
        let room = conn.partial.room(&conn.codec, 64).len();
        assert!((64..=2 * 64).contains(&room), "{room} bytes for a header that claims 32 MiB");
    }

    #[test]
    fn bytes_that_the_socket_does_not_accept_are_sent_later_and_once() {
        let (mut conn, mut peer) = pair();
        let mut frames = BytesMut::new();
        conn.encode(&vec![7; 8 << 20], &mut frames).unwrap();
        let expected = frames.to_vec();
        conn.write(&mut frames).unwrap();
        assert!(frames.is_empty() && !conn.is_flushed(), "8 MiB must not fit into the socket");
        let reading = std::thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            peer.read_exact(&mut received).unwrap();
            assert!(received == expected);
        });
        while !conn.is_flushed() {
            conn.flush().unwrap();
        }
        reading.join().unwrap();
        assert_eq!(conn.unsent.capacity(), 0);
    }
}
