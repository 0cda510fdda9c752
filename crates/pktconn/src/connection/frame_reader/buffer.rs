//! The buffer of a receiver: whose memory it is, how it grows, and when it is given back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use pktconn_codec::PacketCodec;

use super::{FrameReader, Memory};
use crate::connection::pool::{self, CHUNK};
use crate::connection::shared::Found;

/// Less room than this is not worth a read, when it is not known how much will come.
const MIN_READ: usize = CHUNK / 4;

const HALF_A_CHUNK: usize = CHUNK / 2;

/// How much rustls makes room for behind what it holds back (0.23).
const RUSTLS_READ: usize = 4 * 1024;

impl FrameReader {
    /// Packets that have arrived wait where they came in, without a copy; the rest of the chunk is for others. Where memory is
    /// counted they do not keep a whole chunk for a few bytes.
    pub(super) fn keep_packets(&mut self) {
        let is_counted = self.shared.account().is_some();
        if is_counted && self.buffer.len() < MIN_READ {
            self.release_memory();
        } else if self.memory == Memory::Chunk {
            let rest = self.buffer.split_off(self.buffer.len());
            pool::return_read_chunk(rest);
            self.memory = Memory::Part;
        }
        if is_counted {
            self.note_held();
        }
    }

    /// The memory that its bytes keep from other use. A part of a chunk may be the only one that keeps it alive. Of a chunk that
    /// goes back to the thread when its packets are received, a thread does not read into what is left when that is less than
    /// half: so it counts half as much again, by rule of thumb.
    pub(super) fn held(&self) -> usize {
        let read = match (self.memory, self.buffer.len()) {
            (Memory::Own, _) => self.buffer.capacity(),
            (Memory::Chunk, len @ ..HALF_A_CHUNK) => len + len / 2,
            (Memory::Chunk | Memory::Part, _) => CHUNK,
        };
        // rustls has room for as much again as it reads at a time.
        read + if self.held_back > 0 { self.held_back + RUSTLS_READ } else { 0 }
    }

    /// What was read stays on the account, also when the caller has received it, until it comes for more.
    #[inline]
    pub(super) fn note_held(&self) {
        if let Some(account) = self.shared.account() {
            account.note_read(self.held());
        }
    }

    #[inline(always)]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Without a reader an end is set: `recv` does not come this far.
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        if self.buffer.is_empty() {
            // Most reads, and each that finds nothing: the chunk comes here with bytes alone.
            let mut chunk = pool::read_chunk(0);
            let read = tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut chunk);
            if chunk.is_empty() {
                pool::return_read_chunk(chunk);
            } else {
                (self.buffer, self.memory) = (chunk, Memory::Chunk);
            }
            return read;
        }
        make_room(&mut self.buffer, &mut self.memory, &self.codec);
        tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut self.buffer)
    }

    /// Reads once where memory is counted: under pressure little at a time, or not at all.
    #[cold]
    #[inline(never)]
    pub(super) fn poll_more_counted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = match self.shared.may_read(self.held(), cx) {
            // A peer that is not read is not to blame for what has not arrived: it has no deadline.
            None => {
                self.pause();
                self.in_turn = 0;
                self.release_memory();
                self.note_undelivered();
                match self.shared.before_wait(cx) {
                    Found::Nothing => Poll::Pending,
                    found => self.poll_end(found, false, cx),
                }
            }
            Some(most) => {
                let read =
                    if most == usize::MAX { self.poll_read(cx) } else { self.poll_read_some(most, cx) };
                self.after_read(read, cx)
            }
        };
        self.note_held();
        polled
    }

    pub(super) fn poll_read_some(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        // In memory of its own: who holds little is to hold no chunk.
        if self.buffer.capacity() - self.buffer.len() < most || self.memory != Memory::Own {
            let mut own = BytesMut::with_capacity(self.buffer.len() + most);
            own.extend_from_slice(&self.buffer);
            self.buffer = own;
            self.memory = Memory::Own;
        }
        let read = tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut (&mut self.buffer).limit(most));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read
    }

    /// Lets go of the memory that waiting does not need.
    pub(super) fn release_memory(&mut self) {
        let len = self.buffer.len();
        let holds_more = self.memory != Memory::Own || self.buffer.capacity() > len;
        // An empty buffer may still be the end of a chunk, and keep the thread from using that anew.
        if len == 0 || (len < MIN_READ && holds_more) {
            // The start of a frame moves to memory of its own size.
            let start = if len == 0 { BytesMut::new() } else { BytesMut::from(&self.buffer[..]) };
            let large = std::mem::replace(&mut self.buffer, start);
            if self.memory == Memory::Chunk {
                pool::return_read_chunk(large);
            }
            self.memory = Memory::Own;
        }
        // What is more than that keeps the chunk: to copy it at each wait would make a peer that drips costly.
        if self.memory == Memory::Chunk {
            self.memory = Memory::Part;
        }
    }
}

/// How much room is enough for a read: what is known to come, and not less than is worth it. But a chunk that was kept at
/// the last wait is not given up for more than it takes to fill it: a peer that drips would have it copied at each wait.
fn least_room(missing: usize, is_chunk: bool) -> usize {
    if is_chunk || missing == 0 { missing.max(MIN_READ) } else { missing }
}

/// Makes room in `buffer` for a read of `codec`'s next bytes, where there is not enough.
pub(super) fn make_room(buffer: &mut BytesMut, memory: &mut Memory, codec: &PacketCodec) {
    let missing = codec.missing(buffer);
    let (len, spare) = (buffer.len(), buffer.capacity() - buffer.len());
    let is_chunk = *memory == Memory::Chunk;
    if len + missing > CHUNK {
        let room = codec.room(buffer, MIN_READ);
        // `reserve` would double what is in front of the frame too: packets that were received.
        let begins_with_frame = *memory == Memory::Own && len >= CHUNK;
        if is_chunk || (spare == 0 && !begins_with_frame) {
            let mut own = BytesMut::with_capacity(len + room);
            own.extend_from_slice(buffer);
            let last = std::mem::replace(buffer, own);
            if is_chunk {
                pool::return_read_chunk(last);
            }
            *memory = Memory::Own;
        } else if spare == 0 {
            buffer.reserve(room);
        }
    } else if spare < least_room(missing, is_chunk) && !(is_chunk && buffer.try_reclaim(CHUNK - len)) {
        let mut chunk = pool::read_chunk(len + missing);
        chunk.extend_from_slice(buffer);
        let last = std::mem::replace(buffer, chunk);
        if is_chunk {
            pool::return_read_chunk(last);
        }
        *memory = Memory::Chunk;
    }
}

#[cfg(test)]
mod tests {
    use pktconn_codec::Packet;

    use super::*;

    /// Lets a frame of `len` bytes arrive in steps of `step`, as reads of whatever room there is, and shows each state of
    /// the buffer to `look`.
    fn arrive(
        buffer: &mut BytesMut,
        memory: &mut Memory,
        len: usize,
        step: usize,
        look: impl Fn(&BytesMut),
    ) -> Packet {
        let mut codec = PacketCodec::default();
        let frame: Vec<u8> = ((len - 4) as u32).to_le_bytes().into_iter().chain(vec![7; len - 4]).collect();
        for mut bytes in frame.chunks(step) {
            while !bytes.is_empty() {
                make_room(buffer, memory, &codec);
                let room = (buffer.capacity() - buffer.len()).min(bytes.len());
                assert!(room > 0, "a read without room");
                buffer.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                look(buffer);
                if let Some(packet) = codec.decode_frame(buffer).unwrap() {
                    return packet;
                }
            }
        }
        panic!("the frame did not arrive");
    }

    #[test]
    fn room_for_a_large_frame_follows_what_has_arrived_and_ends_with_the_frame() {
        for len in [CHUNK + 1, 1024 * 1024 + 4, 3_333_333] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            arrive(&mut buffer, &mut memory, len, 10_000, |buffer| {
                let (arrived, capacity) = (buffer.len(), buffer.capacity());
                assert!(capacity <= 2 * arrived + CHUNK, "{capacity} bytes of room after {arrived}");
                assert!(capacity <= len, "{capacity} bytes of room for a frame of {len}");
            });
            assert_eq!(memory, Memory::Own, "the thread does not get such a buffer");
        }
    }

    #[test]
    fn a_buffer_for_a_large_frame_has_no_room_for_what_was_in_front_of_it() {
        const LEN: usize = 1024 * 1024;
        let head = (LEN as u32 - 4).to_le_bytes();
        for memory in [Memory::Own, Memory::Part] {
            let mut codec = PacketCodec::default();
            let mut buffer =
                BytesMut::from(&[&6996_u32.to_le_bytes(), &[7; 6996][..], &head, &[7; 9000]].concat()[..]);
            let mut memory = memory;
            drop(codec.decode_frame(&mut buffer).unwrap().unwrap());
            while codec.decode_frame(&mut buffer).unwrap().is_none() {
                make_room(&mut buffer, &mut memory, &codec);
                let room = buffer.capacity() - buffer.len();
                assert!(buffer.capacity() <= LEN, "{} bytes for a frame of {LEN}", buffer.capacity());
                buffer.extend_from_slice(&vec![7; room]);
            }
        }
    }

    #[test]
    fn no_chunk_grows_where_most_of_it_is_the_start_of_a_frame() {
        let mut codec = PacketCodec::default();
        let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
        let frames =
            [[&[96, 0, 0, 0], &[1; 96][..]].concat(), [&[216, 255, 0, 0], &[2; 65_496][..]].concat()];
        let stream = frames.concat();
        make_room(&mut buffer, &mut memory, &codec);
        buffer.extend_from_slice(&stream[..CHUNK]);
        assert_eq!(codec.decode_frame(&mut buffer).unwrap().unwrap(), vec![1; 96].into());
        assert!(codec.decode_frame(&mut buffer).unwrap().is_none());
        make_room(&mut buffer, &mut memory, &codec);
        let capacity = buffer.capacity();
        assert!((frames[1].len()..=CHUNK).contains(&capacity), "{capacity} bytes");
        buffer.extend_from_slice(&stream[CHUNK..]);
        assert_eq!(codec.decode_frame(&mut buffer).unwrap().unwrap(), vec![2; 65_496].into());
    }

    #[test]
    fn frames_that_fit_a_chunk_are_read_into_it_again_and_again() {
        for len in [1000, 20_000, CHUNK - 1, CHUNK] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            for _ in 0..50 {
                arrive(&mut buffer, &mut memory, len, len, |buffer| {
                    assert!(buffer.capacity() <= CHUNK, "{} bytes for {len}", buffer.capacity());
                });
                assert_eq!(memory, Memory::Chunk);
            }
        }
    }
}
