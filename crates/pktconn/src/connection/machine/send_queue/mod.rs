//! The send queue: encoded frames in order, waiting to be written. This file does no I/O.
//!
//! ```text
//!   sealed: [ small frames, 64 KiB ][ large frame ][ small frames ]      open: [ small frames ... ]
//!            ^ written
//! ```
//!
//! Small frames are copied into one buffer, so that one write sends many of them. A large frame is queued without a
//! copy and written from its own memory.
//!
//! If the transport blocks, large frames that may be part of a read chunk are copied. Otherwise they would keep the
//! whole chunk alive, and the queue would hold more memory than it counts.
//!
//! Every chunk starts and ends between two frames, and is kept until all of it is written. So the packets that a dead
//! connection did not write can be given back.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};
use pktconn_codec::{Packet, PacketCodec};

use crate::connection::pool;

mod chunk;
pub(crate) use chunk::{Chunk, MAX_SHARED_LEN};
use chunk::{LARGE_FRAME, MIN_OPEN, has_excess_capacity};

mod outgoing;
pub(crate) use outgoing::Outgoing;

mod sealed;
use sealed::Sealed;

/// Enough bytes for one efficient write. A larger write saves almost nothing, because the cost of the system call is
/// already spread over many packets.
pub(crate) const FULL_WRITE: usize = pool::CHUNK;

/// The largest header plus checksum, in bytes.
const MAX_HEADER_AND_CHECKSUM: usize = 8;

/// Maximum number of slices per write. More slices only enlarge the kernel's own array.
pub(crate) const MAX_SLICES: usize = 32;

// Each connection has a send queue, so the struct is small. Mostly it is empty or only has the open buffer. `repr(C)`
// keeps the length first: each packet reads it.
#[derive(Default)]
#[repr(C)]
pub(crate) struct SendQueue {
    /// Bytes not yet written.
    len: usize,
    sealed: Option<Box<Sealed>>,
    /// The buffer for the next small frame. Its frames come after all sealed chunks.
    open: BytesMut,
}

/// The number of packets and bytes that were dropped to make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) packets: u64,
    pub(crate) bytes: usize,
}

impl SendQueue {
    /// Bytes not yet written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that count against the high-water mark: all unwritten bytes, plus the written part of a large frame, whose
    /// memory is freed only when the whole frame is written.
    #[inline]
    pub(crate) fn occupied(&self) -> usize {
        self.len
            + self
                .sealed
                .as_ref()
                .map_or(0, |sealed| if sealed.written > MAX_SHARED_LEN { sealed.written } else { 0 })
    }

    /// The memory of the queue in bytes, including free room in its buffers, the written part of the first chunk, and
    /// dropped frames whose buffer is still in use.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        if self.is_empty() {
            debug_assert!(self.sealed.is_none() && self.open.capacity() == 0, "an empty queue has a buffer");
            return 0;
        }
        self.sealed.as_ref().map_or(0, |sealed| sealed.memory) + self.open.capacity()
    }

    /// Appends `frame`. `stays`: the transport is blocked, so the frame may stay for long. It is then copied if it may
    /// keep more memory alive than it needs.
    #[inline(always)]
    pub(crate) fn push(&mut self, frame: &impl Outgoing, stays: bool) {
        let len = frame.len();
        if len >= LARGE_FRAME {
            self.push_large(frame, stays);
        } else {
            if self.open.capacity() - self.open.len() < len || self.open.len() + len > FULL_WRITE {
                self.reserve(len, stays);
            }
            frame.put_into(&mut self.open);
        }
        self.len += len;
    }

    fn push_large(&mut self, frame: &impl Outgoing, stays: bool) {
        self.seal(stays);
        if stays && frame.len() <= MAX_SHARED_LEN {
            let mut copy = BytesMut::with_capacity(frame.len());
            frame.put_into(&mut copy);
            self.push_sealed(Chunk::small(copy), 0);
            return;
        }
        let mut chunk = frame.to_chunk();
        if stays {
            chunk.detach(&mut |_| ());
        }
        let may_pin_memory = !stays && chunk.may_pin_memory();
        self.push_sealed(chunk, 0).may_pin_memory |= may_pin_memory;
    }

    /// Appends a chunk to the sealed ones. `written`: how many of its bytes are written. Only used if it is the first
    /// chunk.
    fn push_sealed(&mut self, chunk: Chunk, written: usize) -> &mut Sealed {
        let sealed = self.sealed.get_or_insert_with(|| {
            Box::new(Sealed { chunks: VecDeque::new(), written, may_pin_memory: false, memory: 0 })
        });
        sealed.memory += chunk.memory();
        sealed.chunks.push_back(chunk);
        sealed
    }

    /// How many bytes of the first chunk are written. Without sealed chunks, the open buffer is the first.
    fn written(&self) -> usize {
        match &self.sealed {
            None => self.open.len() - self.len,
            Some(sealed) => sealed.written,
        }
    }

    fn reserve(&mut self, len: usize, stays: bool) {
        if self.open.len() + len > FULL_WRITE {
            self.seal(stays);
        }
        self.grow_by(len);
    }

    /// Reserves room for the small packets among `packets`, which the caller is about to push.
    pub(crate) fn reserve_for(&mut self, packets: &[Packet]) {
        let worth = FULL_WRITE - self.open.len();
        if self.open.capacity() - self.open.len() < worth {
            let lens = packets.iter().map(|packet| packet.len() + MAX_HEADER_AND_CHECKSUM);
            let small: usize = lens.filter(|&len| len < LARGE_FRAME).sum();
            self.grow_by(small.min(worth));
        }
    }

    /// Makes room for `len` more bytes in the open buffer. Its capacity is at most [`FULL_WRITE`].
    fn grow_by(&mut self, len: usize) {
        if self.open.capacity() == 0 {
            self.open = pool::write_buffer();
        }
        let least = self.open.len() + len;
        if self.open.capacity() < least {
            // Grow in large steps, because each step copies the buffer, and a sender of a few packets may send many
            // more. `reserve` is not used: it may allocate twice `FULL_WRITE`.
            let capacity = least.max(4 * self.open.capacity()).clamp(MIN_OPEN, FULL_WRITE);
            let mut larger = BytesMut::with_capacity(capacity);
            larger.extend_from_slice(&self.open);
            self.open = larger;
        }
    }

    /// All unwritten bytes, if they are in one buffer. This is the usual case.
    pub(crate) fn contiguous(&self) -> Option<&[u8]> {
        if self.sealed.is_none() { Some(&self.open[self.open.len() - self.len..]) } else { None }
    }

    /// Points `slices` to the bytes to write next. Returns how many slices are in use.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut skip = self.written();
        let mut count = 0;
        let mut add = |bytes: &'a [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() && count < MAX_SLICES {
                slices[count] = IoSlice::new(&bytes[skipped..]);
                count += 1;
            }
        };
        for chunk in self.sealed.iter().flat_map(|sealed| &sealed.chunks).take(MAX_SLICES) {
            match chunk {
                Chunk::Small { frames, .. } => add(frames),
                Chunk::Large { parts, .. } => parts.iter().for_each(|part| add(part)),
                Chunk::Pieces { pieces, .. } => pieces.iter().for_each(|piece| add(piece)),
            }
        }
        // If some sealed chunks were left out, the open buffer does not come next.
        if self.sealed.as_ref().is_none_or(|sealed| sealed.chunks.len() < MAX_SLICES) {
            add(&self.open);
        }
        count
    }

    /// Removes `count` written bytes. Packets that were written from their own memory are passed to `done`, because
    /// dropping them may run code of the application.
    pub(crate) fn advance(&mut self, count: usize, mut done: impl FnMut(Packet)) {
        debug_assert!(count <= self.len, "the transport took {count} bytes of {}", self.len);
        self.len -= count;
        if let Some(sealed) = &mut self.sealed {
            sealed.written += count;
            while let Some(chunk) = sealed.chunks.front() {
                let chunk_len = chunk.len();
                if sealed.written < chunk_len {
                    return;
                }
                sealed.written -= chunk_len;
                if let Some(chunk) = sealed.chunks.pop_front() {
                    sealed.memory -= chunk.memory();
                    chunk.release_into(&mut done);
                }
            }
            self.sealed = None;
        }
        if self.is_empty() {
            // An idle connection holds no buffer.
            pool::return_write_buffer(std::mem::take(&mut self.open));
        }
    }

    /// The unwritten bytes of a partly written frame. Call it only after [`drop_oldest`](Self::drop_oldest), which
    /// moves such a frame into its own chunk.
    pub(crate) fn partial_len(&self) -> usize {
        let begun = self.sealed.as_ref().filter(|sealed| sealed.written > 0);
        begun.and_then(|sealed| Some(sealed.chunks.front()?.len() - sealed.written)).unwrap_or(0)
    }

    /// Drops the oldest packets until at most `target` bytes are left. A partly written packet is never dropped.
    /// Dropped packets that own their memory are passed to `done`.
    pub(crate) fn drop_oldest(
        &mut self,
        target: usize,
        codec: &PacketCodec,
        mut done: impl FnMut(Packet),
    ) -> Dropped {
        let mut dropped = Dropped::default();
        let part_off =
            |queue: &mut Self| queue.sealed.as_mut().map_or(0, |sealed| sealed.split_off_partial(codec));
        let mut begun = part_off(self);
        while self.len > target {
            match self.sealed.as_mut().and_then(|sealed| sealed.drop_first(begun, codec, &mut done)) {
                Some(len) => {
                    dropped.packets += 1;
                    dropped.bytes += len;
                    self.len -= len;
                    self.sealed.take_if(|sealed| sealed.chunks.is_empty());
                }
                None if self.open.is_empty() => break,
                // Seal the open buffer only when its frames are next. If it were sealed earlier, each packet without
                // room would start a new buffer.
                None => {
                    self.seal(true);
                    begun = part_off(self);
                }
            }
        }
        dropped
    }

    /// Frees memory that the queued frames do not need. Called when the transport blocks, since the frames may stay for
    /// long.
    pub(crate) fn compact(&mut self, mut done: impl FnMut(Packet)) {
        self.shrink();
        let Some(sealed) = self.sealed.as_mut().filter(|sealed| sealed.may_pin_memory) else { return };
        sealed.may_pin_memory = false;
        for chunk in &mut sealed.chunks {
            let before = chunk.memory();
            chunk.detach(&mut done);
            sealed.memory = sealed.memory + chunk.memory() - before;
        }
    }

    fn shrink(&mut self) {
        if self.open.capacity() > 2 * self.open.len() + MIN_OPEN {
            let exact = BytesMut::from(&self.open[..]);
            pool::return_write_buffer(std::mem::replace(&mut self.open, exact));
        }
    }

    /// Empties the queue. Returns the packets that were not completely written.
    pub(crate) fn take_unsent(&mut self, codec: &PacketCodec) -> Vec<Packet> {
        let mut unsent = Vec::new();
        while !self.is_empty() {
            self.take_chunk(codec, &mut unsent);
        }
        unsent
    }

    /// Removes the first chunk, and appends its packets that were not completely written to `unsent`.
    pub(crate) fn take_chunk(&mut self, codec: &PacketCodec, unsent: &mut Vec<Packet>) {
        if self.sealed.is_none() {
            self.seal(false);
        }
        let Some(sealed) = &mut self.sealed else { return };
        let written = std::mem::take(&mut sealed.written);
        let Some(chunk) = sealed.chunks.pop_front() else { return };
        sealed.memory -= chunk.memory();
        self.sealed.take_if(|sealed| sealed.chunks.is_empty());
        let chunk_len = chunk.len();
        self.len -= chunk_len - written;
        match chunk {
            Chunk::Small { mut frames, .. } => {
                let mut codec = PacketCodec::new(*codec.config());
                // The same codec has encoded these frames, so decoding does not fail.
                while let Ok(Some(packet)) = codec.decode_frame(&mut frames) {
                    if chunk_len - frames.remaining() > written {
                        unsent.push(packet);
                    }
                }
            }
            Chunk::Large { packet, .. } => unsent.push(packet),
            Chunk::Pieces { pieces, .. } => {
                let mut frame = BytesMut::with_capacity(chunk_len);
                pieces.iter().for_each(|piece| frame.extend_from_slice(piece));
                unsent.extend(PacketCodec::new(*codec.config()).decode_frame(&mut frame).ok().flatten());
            }
        }
    }

    /// Seals the open buffer and starts a new one. `stays`: the transport is blocked, so the sealed buffer is shrunk to
    /// its frames.
    fn seal(&mut self, stays: bool) {
        if !self.open.is_empty() {
            let written = self.written();
            self.shrink();
            let mut frames = std::mem::take(&mut self.open);
            let has_excess_capacity = has_excess_capacity(&frames);
            if has_excess_capacity && stays {
                let exact = BytesMut::from(&frames[..]);
                pool::return_write_buffer(std::mem::replace(&mut frames, exact));
            }
            self.push_sealed(Chunk::small(frames), written).may_pin_memory |= has_excess_capacity && !stays;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::chunk::SLOT_SIZE;
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    use crate::{Checksum, CodecConfig};

    fn push(queue: &mut SendQueue, codec: &PacketCodec, packet: &Packet) {
        queue.push(&codec.frame(packet).unwrap(), false);
    }

    fn pending(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = queue.fill(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn a_large_frame_is_written_from_its_own_memory() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        let packet = Packet::from(vec![7; LARGE_FRAME]);
        push(&mut queue, &codec, &packet);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        assert_eq!(queue.fill(&mut slices), 2);
        assert_eq!(&slices[0][..], (LARGE_FRAME as u32).to_le_bytes());
        assert_eq!(slices[1].as_ptr(), packet.payload().as_ptr());
    }

    #[test]
    fn a_queue_that_was_written_out_holds_no_memory() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        for len in [10, LARGE_FRAME, 20] {
            push(&mut queue, &codec, &vec![1; len].into());
        }
        queue.advance(queue.len(), drop);
        assert!(queue.open.capacity() == 0 && queue.sealed.is_none());
    }

    #[test]
    fn the_memory_of_a_queue_is_all_that_its_buffers_take() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        let packet = Packet::from(vec![7; 996]);
        for _ in 0..60 {
            push(&mut queue, &codec, &packet);
        }
        queue.drop_oldest(1000, &codec, drop);
        assert_eq!(queue.len(), 1000);
        assert!(queue.held() >= 60_000, "{} B: the dropped frames are still in its buffer", queue.held());
        queue.take_unsent(&codec);
        // One partly written frame, with another frame after it.
        for _ in 0..3 {
            push(&mut queue, &codec, &packet);
        }
        queue.advance(1, drop);
        queue.drop_oldest(0, &codec, drop);
        assert_eq!((queue.len(), queue.held()), (999, 1000 + SLOT_SIZE));
        queue.advance(999, drop);
        push(&mut queue, &codec, &vec![7; LARGE_FRAME].into());
        assert_eq!(queue.held(), pool::CHUNK + SLOT_SIZE, "the frame may share a read chunk");
        queue.compact(drop);
        assert_eq!(queue.held(), LARGE_FRAME + 4 + SLOT_SIZE);
        queue.advance(queue.len(), drop);
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn frames_in_a_blocked_queue_use_no_more_memory_than_they_need() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue { open: BytesMut::with_capacity(FULL_WRITE), ..SendQueue::default() };
        push(&mut queue, &codec, &b"small".into());
        queue.advance(3, drop);
        queue.compact(drop);
        assert!(queue.open.capacity() <= 2 * MIN_OPEN, "{} bytes", queue.open.capacity());
        assert_eq!(pending(&queue), b"\0small");
    }

    #[test]
    fn frames_added_to_a_blocked_queue_use_little_more_memory_than_their_bytes() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        let packets = vec![Packet::from(vec![7; 1000]); 1000];
        for batch in packets.chunks(40) {
            queue.reserve_for(batch);
            batch.iter().for_each(|packet| push(&mut queue, &codec, packet));
            queue.compact(drop);
        }
        let sealed = queue.sealed.as_ref().expect("more bytes than a full write");
        let sealed = sealed.chunks.iter().map(|chunk| match chunk {
            Chunk::Small { frames, .. } => frames.capacity(),
            Chunk::Large { .. } | Chunk::Pieces { .. } => panic!("all frames are small"),
        });
        let room = sealed.sum::<usize>() + queue.open.capacity();
        assert!(room <= queue.len() + queue.len() / 16 + FULL_WRITE, "{room} for {}", queue.len());
    }

    #[test]
    fn small_frames_before_a_large_one_take_no_more_room_than_they_need() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue { open: BytesMut::with_capacity(FULL_WRITE), ..SendQueue::default() };
        push(&mut queue, &codec, &b"small".into());
        push(&mut queue, &codec, &vec![7; LARGE_FRAME].into());
        let sealed = queue.sealed.as_ref().expect("the large frame seals the open buffer");
        let Some(Chunk::Small { frames, .. }) = sealed.chunks.front() else {
            panic!("small frames are first")
        };
        assert!(frames.capacity() <= 2 * MIN_OPEN, "{} bytes", frames.capacity());
    }

    /// Pushes one frame whose payload is in several `parts`.
    fn push_parts(queue: &mut SendQueue, codec: &PacketCodec, parts: &[Bytes], stays: bool) {
        queue.push(&codec.frame_of_parts(parts).unwrap(), stays);
    }

    /// Pushes every second packet as a payload in parts.
    fn push_either_way(queue: &mut SendQueue, codec: &PacketCodec, number: usize, packet: &Packet) {
        if number % 2 == 0 {
            return push(queue, codec, packet);
        }
        let mut rest = packet.clone().into_payload();
        let first = rest.split_to(rest.len().min(8));
        push_parts(queue, codec, &[first, rest], false);
    }

    #[test]
    fn large_parts_are_written_from_their_own_memory_and_small_ones_are_copied() {
        let codec = PacketCodec::new(CodecConfig::new().checksum(Checksum::Crc32));
        let mut queue = SendQueue::default();
        let (id, payload) = (Bytes::from_static(b"12345678"), Bytes::from(vec![7; 100_000]));
        let parts = [id.clone(), payload.clone(), id.clone(), Bytes::new(), payload.clone()];
        push_parts(&mut queue, &codec, &parts, false);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        assert_eq!(queue.fill(&mut slices), 5);
        assert_eq!(slices.map(|slice| slice.len())[..5], [12, 100_000, 8, 100_000, 4]);
        assert_eq!(slices[1].as_ptr(), payload.as_ptr());
        assert_eq!(slices[3].as_ptr(), payload.as_ptr());
        let joined = Packet::from(parts.concat());
        let mut whole = BytesMut::new();
        codec.encode_frame(&joined, &mut whole).unwrap();
        assert!(pending(&queue) == whole, "one frame");
        // A partly written packet comes back whole.
        queue.advance(50_000, drop);
        assert!(pending(&queue) == whole[50_000..]);
        assert!(queue.take_unsent(&codec) == [joined]);
        assert_eq!((queue.len(), queue.held()), (0, 0));
    }

    #[test]
    fn parts_that_stay_keep_no_read_chunk_alive() {
        let codec = PacketCodec::default();
        let part = || Bytes::from(vec![7; LARGE_FRAME]);
        for stays in [true, false] {
            let mut queue = SendQueue::default();
            let parts = [part(), part(), part()];
            push_parts(&mut queue, &codec, &parts, stays);
            let mut given = 0;
            if !stays {
                assert!(queue.held() >= 3 * MAX_SHARED_LEN, "each part may share a read chunk");
                queue.compact(|_| given += 1);
            }
            assert_eq!(given, if stays { 0 } else { 3 });
            assert!(parts.iter().all(Bytes::is_unique), "they were copied");
            let pieces = 4 + 3 * LARGE_FRAME + 4 * size_of::<Bytes>();
            assert_eq!(queue.held(), pieces + SLOT_SIZE, "what they take now");
            queue.compact(|_| given += 1);
            assert_eq!(given, if stays { 0 } else { 3 }, "they are copied once");
            assert!(pending(&queue)[4..] == parts.concat());
        }
    }

    #[test]
    fn room_for_a_batch_is_made_once() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        let packets = vec![Packet::from(vec![7; 1000]); 50];
        queue.reserve_for(&packets);
        let (room, capacity) = (queue.open.as_ptr(), queue.open.capacity());
        assert!((50 * 1004..=FULL_WRITE).contains(&capacity), "{capacity} bytes");
        packets.iter().for_each(|packet| push(&mut queue, &codec, packet));
        assert_eq!((queue.open.as_ptr(), queue.open.len()), (room, 50 * 1004), "it was not copied");
        // The buffer is at its limit, and large packets need no room in it.
        queue.reserve_for(&[vec![7; 2 * LARGE_FRAME].into()]);
        assert_eq!(queue.open.capacity(), capacity);
    }

    #[test]
    fn a_buffer_of_small_frames_grows_by_large_steps() {
        let codec = PacketCodec::default();
        // A new thread, whose pool has no buffer to lend yet.
        std::thread::spawn(move || {
            let mut queue = SendQueue::default();
            let mut capacities = Vec::new();
            while queue.len() < FULL_WRITE - 8 {
                push(&mut queue, &codec, &b"1234".into());
                if capacities.last() != Some(&queue.open.capacity()) {
                    capacities.push(queue.open.capacity());
                }
            }
            assert_eq!(capacities, [MIN_OPEN, 4 * MIN_OPEN, 16 * MIN_OPEN, FULL_WRITE]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn small_frames_share_a_buffer_up_to_a_full_write() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        // 16 of these frames are exactly one full write.
        for _ in 0..17 {
            push(&mut queue, &codec, &vec![7; FULL_WRITE / 16 - 4].into());
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = queue.fill(&mut slices);
        let lens: Vec<usize> = slices[..count].iter().map(|slice| slice.len()).collect();
        assert_eq!(lens, [FULL_WRITE, FULL_WRITE / 16]);
    }

    #[test]
    fn a_frame_that_was_written_in_part_is_unsent() {
        let codec = PacketCodec::default();
        let mut queue = SendQueue::default();
        // Of the second frame, nothing, one byte, all but one byte, or everything is written.
        for (written, first_unsent) in [(9, 1), (9 + 1, 1), (9 + 9, 1), (9 + 10, 2)] {
            let packets: [Packet; 3] = [b"first".into(), b"second".into(), b"third".into()];
            packets.iter().for_each(|packet| push(&mut queue, &codec, packet));
            queue.advance(written, drop);
            assert_eq!(queue.take_unsent(&codec), packets[first_unsent..], "after {written} bytes");
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn the_oldest_unstarted_packets_are_dropped() {
        let codec = PacketCodec::default();
        // Frames of 9, 10, LARGE_FRAME + 4 and 9 bytes.
        let packets: [Packet; 4] =
            [b"first".into(), b"second".into(), vec![7; LARGE_FRAME].into(), b"third".into()];
        let large = LARGE_FRAME + 4;
        for (written, target, expected) in [
            (0, usize::MAX, &packets[..]),
            (0, 19 + large, &packets[1..]),
            (9, 9 + large, &packets[2..]),
            // The first packet is partly written, so it stays.
            (1, 8 + 9 + large, &[&packets[..1], &packets[2..]].concat()),
            (1, 8 + 9, &[&packets[..1], &packets[3..]].concat()),
            (1, 0, &packets[..1]),
            (19 + 1, 0, &packets[2..3]),
            (0, 0, &[]),
        ] {
            let mut queue = SendQueue::default();
            packets.iter().for_each(|packet| push(&mut queue, &codec, packet));
            queue.advance(written, drop);
            let before = queue.len();
            let dropped = queue.drop_oldest(target, &codec, drop);
            assert_eq!(before - queue.len(), dropped.bytes);
            assert_eq!(pending(&queue).len(), queue.len());
            let begun = usize::from(written >= 9) + usize::from(written >= 19);
            let unsent = queue.take_unsent(&codec);
            assert_eq!(unsent, expected, "{written} written, {target} to stay");
            assert_eq!(dropped.packets as usize, 4 - begun - unsent.len());
        }
    }

    proptest! {
        // Each case moves megabytes. 32 cases take one or two seconds in a debug build.
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// For any packets and any sizes of writes: each byte comes out once, in order, and packets that were not
        /// completely written are given back unchanged.
        #[test]
        fn nothing_is_lost_duplicated_or_reordered(
            lens in prop::collection::vec(prop_oneof![0..300_usize, 30_000..36_000_usize, 60_000..70_000_usize], 1..40),
            takes in prop::collection::vec(1..50_000_usize, 0..60),
            crc: bool,
        ) {
            let checksum = if crc { Checksum::Crc32 } else { Checksum::None };
            let codec = PacketCodec::new(CodecConfig::new().checksum(checksum));
            let packets: Vec<Packet> =
                lens.iter().enumerate().map(|(i, &len)| vec![i as u8; len].into()).collect();
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            let mut ends = Vec::new();
            for (i, packet) in packets.iter().enumerate() {
                push_either_way(&mut queue, &codec, i, packet);
                let frame = codec.frame(packet).unwrap();
                expected.extend_from_slice(frame.head());
                expected.extend_from_slice(frame.body());
                expected.extend_from_slice(frame.tail());
                ends.push(expected.len());
            }
            let mut written = Vec::new();
            for take in takes {
                let next = pending(&queue);
                let take = take.min(next.len());
                written.extend_from_slice(&next[..take]);
                queue.advance(take, drop);
            }
            prop_assert_eq!(&written[..], &expected[..written.len()]);
            prop_assert_eq!(queue.len(), expected.len() - written.len());
            let whole = ends.iter().filter(|&&end| end <= written.len()).count();
            prop_assert_eq!(&queue.take_unsent(&codec)[..], &packets[whole..]);
        }

        /// For any sequence of drops: the output is whole frames in order, and only the dropped ones are missing.
        #[test]
        fn drops_leave_whole_frames_in_order(
            steps in prop::collection::vec(
                (prop_oneof![0..300_usize, 30_000..36_000_usize], 0..40_000_usize, prop::option::of(0..70_000_usize)), 1..60),
            crc: bool,
        ) {
            let checksum = if crc { Checksum::Crc32 } else { Checksum::None };
            let codec = PacketCodec::new(CodecConfig::new().checksum(checksum));
            let mut queue = SendQueue::default();
            let (mut written, mut dropped) = (BytesMut::new(), 0);
            let count = steps.len() as u64;
            let take = |queue: &mut SendQueue, written: &mut BytesMut, count: usize| {
                let next = pending(queue);
                let count = count.min(next.len());
                written.extend_from_slice(&next[..count]);
                queue.advance(count, drop);
            };
            for (number, (len, taken, target)) in steps.into_iter().enumerate() {
                push_either_way(&mut queue, &codec, number, &vec![number as u8; len].into());
                take(&mut queue, &mut written, taken);
                if let Some(target) = target {
                    dropped += queue.drop_oldest(target, &codec, drop).packets;
                    // A partly written frame may exceed the target.
                    prop_assert!(queue.len() <= target.max(36_100));
                }
            }
            while !queue.is_empty() {
                take(&mut queue, &mut written, usize::MAX);
            }
            let (mut decoder, mut numbers) = (PacketCodec::new(*codec.config()), Vec::new());
            let mut empty = 0;
            while let Some(packet) = decoder.decode_frame(&mut written).unwrap() {
                match packet.payload() {
                    [] => empty += 1,
                    payload => {
                        prop_assert!(payload.iter().all(|byte| *byte == payload[0]));
                        numbers.push(payload[0]);
                    }
                }
            }
            prop_assert!(written.is_empty() && numbers.is_sorted());
            prop_assert_eq!(numbers.len() as u64 + empty + dropped, count);
        }
    }
}
