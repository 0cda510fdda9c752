//! The buffer of a receiver: which memory it uses, how it grows, when it is returned, and how it counts towards the
//! memory budget.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use pktconn_codec::PacketCodec;

use super::{FrameReader, Memory, WaitClock};
use crate::connection::conn_core::WaitDecision;
use crate::connection::memory::EXEMPT_BYTES;
use crate::connection::pool::{self, CHUNK};
use crate::transport::Reader;

/// The least room for a read, in bytes, if it is not known how much will arrive. Less is not worth a system call.
const MIN_READ: usize = CHUNK / 4;

const HALF_CHUNK: usize = CHUNK / 2;

/// How much room rustls 0.23 allocates after the bytes that it holds back: the size of one of its reads.
const RUSTLS_SPARE_LEN: usize = 4 * 1024;

impl FrameReader {
    /// Keeps unreceived packets in their part of the chunk without a copy, and returns the rest of the chunk. With a
    /// memory budget, less than a quarter of a chunk is copied instead, so that a few bytes do not keep a whole chunk
    /// alive.
    pub(super) fn return_chunk_rest(&mut self) {
        let is_counted = self.core.has_budget();
        if is_counted && self.buffer.len() < MIN_READ {
            self.release_memory();
        } else if self.memory == Memory::Chunk {
            let rest = self.buffer.split_off(self.buffer.len());
            pool::return_read_chunk(rest);
            self.memory = Memory::Part;
        }
        if is_counted {
            self.update_account();
        }
    }

    /// The memory that the unreceived bytes keep from other uses, in bytes.
    ///
    /// A part of a chunk counts as the whole chunk, because it may be the only part that keeps the chunk alive. A chunk
    /// goes back to the thread when its packets are received, but the thread does not read into a rest of less than
    /// half a chunk. So bytes in a chunk count one and a half times, as a rule of thumb.
    pub(super) fn held(&self) -> usize {
        let read = match (self.memory, self.buffer.len()) {
            (Memory::Own, _) => self.buffer.capacity(),
            (Memory::Chunk, len @ ..HALF_CHUNK) => len + len / 2,
            (Memory::Chunk | Memory::Part, _) => CHUNK,
        };
        read + self.counted_of_held_back()
    }

    /// Updates the account with the memory in use. Packets stay on the account after the caller has received them,
    /// until the next call to `recv`.
    #[inline]
    pub(super) fn update_account(&mut self) {
        let held = self.held();
        if held == 0 && self.counted.buffer == 0 {
            return;
        }
        if let Some(account) = self.core.account() {
            account.note_read(held);
            self.counted.buffer = u32::try_from(held).unwrap_or(u32::MAX);
        }
    }

    /// Reads once into the buffer.
    #[inline(always)]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // There is always a reader here: without one, receiving has ended, and `recv` does not read.
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        if self.buffer.is_empty() {
            // Most reads, and all that find nothing, start with an empty buffer. Keep the chunk only if bytes were
            // read.
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

    /// Reads once, with a memory budget.
    #[inline(never)]
    pub(super) fn poll_more_with_budget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = if self.core.is_under_pressure() {
            self.poll_more_under_pressure(cx)
        } else {
            let read = self.poll_read(cx);
            self.after_read(read, cx)
        };
        if polled.is_pending() || !self.may_count_later() {
            self.update_account();
        }
        if self.may_hold_back {
            self.update_transport_account();
        }
        polled
    }

    /// Reads once, little at a time or nothing.
    #[cold]
    fn poll_more_under_pressure(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.update_account();
        let read = match self.core.read_limit(cx) {
            None => return self.poll_paused(cx),
            Some(usize::MAX) => self.poll_read(cx),
            Some(most) => self.poll_read_limited(most, cx),
        };
        self.after_read(read, cx)
    }

    /// Whether the bytes of the last read may be counted at the next wait. Mostly none of them is left then, and the
    /// shared totals are not written for each packet.
    fn may_count_later(&self) -> bool {
        (1..EXEMPT_BYTES).contains(&self.buffer.len()) && (self.counted.buffer as usize) < EXEMPT_BYTES
    }

    /// Updates the account with the memory that TLS uses beyond what [`held`](Self::held) counts. Apart from that,
    /// because a pause must not depend on it: to read what TLS has decrypted makes it less.
    fn update_transport_account(&mut self) {
        let bytes = self.reader.as_ref().map_or(0, Reader::read_buffer_bytes);
        let more = bytes.saturating_sub(self.counted_of_held_back());
        if more == 0 && self.counted.transport == 0 {
            return;
        }
        if let Some(account) = self.core.account() {
            account.note_transport(more);
            self.counted.transport = more as u32;
        }
    }

    /// The part of [`held`](Self::held) that counts for an incomplete TLS record, with the room for the next read.
    fn counted_of_held_back(&self) -> usize {
        if self.held_back > 0 { self.held_back as usize + RUSTLS_SPARE_LEN } else { 0 }
    }

    /// Waits without reading. The deadlines of an incomplete frame and of the first packet go on: otherwise clients could
    /// hold up the memory for as long as the pressure lasts.
    fn poll_paused(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.packets_in_turn = 0;
        self.release_memory();
        self.note_undelivered();
        let has_part = !self.buffer.is_empty() || self.held_back > 0;
        let in_frame = has_part && self.core.settings.rules.times_frames();
        let awaits_first = self.awaits_first_packet();
        let decision = if in_frame || awaits_first {
            self.wait_clock = WaitClock::Running;
            self.core.before_paused_wait(in_frame, awaits_first, cx)
        } else {
            self.stop_waiting();
            self.core.before_wait(cx)
        };
        match decision {
            WaitDecision::Wait => Poll::Pending,
            decision => self.poll_end(decision, false, cx),
        }
    }

    /// Reads once, up to `most` bytes, without a chunk: a connection that holds little must not keep a chunk.
    pub(super) fn poll_read_limited(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
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

    /// Releases the memory that a waiting connection does not need.
    pub(super) fn release_memory(&mut self) {
        let len = self.buffer.len();
        let holds_more = self.memory != Memory::Own || self.buffer.capacity() > len;
        // Also an empty buffer: it may be the end of a chunk, and the thread could then not reuse that chunk.
        if len == 0 || (len < MIN_READ && holds_more) {
            // Copy the start of a frame to memory of exactly that size.
            let start = if len == 0 { BytesMut::new() } else { BytesMut::from(&self.buffer[..]) };
            let large = std::mem::replace(&mut self.buffer, start);
            if self.memory == Memory::Chunk {
                pool::return_read_chunk(large);
            }
            self.memory = Memory::Own;
        }
        // More bytes keep the chunk. Copying them at each wait would be expensive if the peer sends a few bytes at a
        // time.
        if self.memory == Memory::Chunk {
            self.memory = Memory::Part;
        }
    }
}

/// How much room is enough for a read, in bytes: the `missing` bytes of the frame, and at least [`MIN_READ`]. For
/// memory that is not a chunk, such as the part of a chunk that was kept at the last wait, the missing bytes are
/// enough: otherwise a peer that sends a few bytes at a time would cause a copy at each wait.
fn min_room(missing: usize, is_chunk: bool) -> usize {
    if is_chunk || missing == 0 { missing.max(MIN_READ) } else { missing }
}

/// Makes room in `buffer` for a read of the bytes that `codec` needs next, if there is not enough.
pub(super) fn make_room(buffer: &mut BytesMut, memory: &mut Memory, codec: &PacketCodec) {
    let missing = codec.missing(buffer);
    let (len, spare) = (buffer.len(), buffer.capacity() - buffer.len());
    let is_chunk = *memory == Memory::Chunk;
    if len + missing > CHUNK {
        let room = codec.room(buffer, MIN_READ);
        // `reserve` would also double the room of received packets in front of the frame.
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
    } else if spare < min_room(missing, is_chunk) && !(is_chunk && buffer.try_reclaim(CHUNK - len)) {
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

    /// Receives a frame of `len` bytes in steps of up to `step` bytes, each read into the room that the buffer has.
    /// Calls `check` with the buffer after each read.
    fn arrive(
        buffer: &mut BytesMut,
        memory: &mut Memory,
        len: usize,
        step: usize,
        check: impl Fn(&BytesMut),
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
                check(buffer);
                if let Some(packet) = codec.decode_frame(buffer).unwrap() {
                    return packet;
                }
            }
        }
        panic!("the frame did not arrive");
    }

    #[test]
    fn room_for_a_large_frame_grows_with_the_received_bytes_and_ends_with_the_frame() {
        for len in [CHUNK + 1, 1024 * 1024 + 4, 3_333_333] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            arrive(&mut buffer, &mut memory, len, 10_000, |buffer| {
                let (arrived, capacity) = (buffer.len(), buffer.capacity());
                assert!(capacity <= 2 * arrived + CHUNK, "{capacity} bytes of room after {arrived}");
                assert!(capacity <= len, "{capacity} bytes of room for a frame of {len}");
            });
            assert_eq!(memory, Memory::Own, "such a buffer is not returned to the thread");
        }
    }

    #[test]
    fn a_buffer_for_a_large_frame_has_no_room_for_the_packets_before_it() {
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
    fn the_buffer_is_no_larger_than_a_chunk_for_a_frame_that_fits_into_one() {
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
        assert!((frames[1].len()..=CHUNK).contains(&capacity), "the buffer has {capacity} bytes");
        buffer.extend_from_slice(&stream[CHUNK..]);
        assert_eq!(codec.decode_frame(&mut buffer).unwrap().unwrap(), vec![2; 65_496].into());
    }

    #[test]
    fn frames_that_fit_a_chunk_are_read_into_it_again_and_again() {
        for len in [1000, 20_000, CHUNK - 1, CHUNK] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            for _ in 0..50 {
                arrive(&mut buffer, &mut memory, len, len, |buffer| {
                    assert!(buffer.capacity() <= CHUNK, "{} bytes for a frame of {len}", buffer.capacity());
                });
                assert_eq!(memory, Memory::Chunk);
            }
        }
    }
}
