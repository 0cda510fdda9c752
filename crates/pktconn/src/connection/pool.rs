//! What each thread keeps for its connections: a chunk to read into, and a buffer to gather small frames in.
//!
//! A connection borrows them while it has something in hand and gives them back when it waits. So an idle connection
//! holds no buffer, a busy one allocates none, and a thread holds two whatever the number of its connections.

use std::cell::Cell;

use bytes::BytesMut;

/// The size of a read, and of a buffer of small frames. With 16 KiB instead, 32 packets of 0 to 2048 B that arrive
/// together cost 1.7 times the CPU time; beyond 64 KiB nothing more is gained.
pub(crate) const CHUNK: usize = 64 * 1024;

thread_local! {
    static READ: Cell<Option<BytesMut>> = const { Cell::new(None) };
    static WRITE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// An empty buffer with room for `least` bytes, which a chunk holds, and for half a chunk.
///
/// Packets are slices of it. While none of the earlier ones is alive all of it is used again, from its start, which is
/// still in the cache; otherwise what they leave of it, and where that is too little, other memory.
pub(crate) fn read_chunk(least: usize) -> BytesMut {
    let mut chunk = READ.try_with(Cell::take).ok().flatten().unwrap_or_default();
    if !chunk.try_reclaim(CHUNK) && chunk.capacity() < least.max(CHUNK / 2) {
        chunk.reserve(CHUNK);
    }
    chunk
}

/// Takes back what [`read_chunk`] gave.
pub(crate) fn return_read_chunk(mut chunk: BytesMut) {
    chunk.clear();
    // Without the slot, at the end of the thread, it is just dropped.
    let _ = READ.try_with(|slot| slot.set(Some(chunk)));
}

/// An empty buffer, of any capacity.
pub(crate) fn write_buffer() -> BytesMut {
    WRITE.try_with(Cell::take).ok().flatten().unwrap_or_default()
}

/// Takes back what [`write_buffer`] gave, or another buffer in its place: the larger one serves better.
pub(crate) fn return_write_buffer(mut buffer: BytesMut) {
    buffer.clear();
    let _ = WRITE.try_with(|slot| {
        let kept = slot.take().unwrap_or_default();
        slot.set(Some(if kept.capacity() < buffer.capacity() { buffer } else { kept }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_used_again_when_its_packets_are_gone() {
        let mut chunk = read_chunk(0);
        let address = chunk.as_ptr();
        for _ in 0..1000 {
            chunk.extend_from_slice(&[7; 40_000]);
            let packet = chunk.split_to(30_000).freeze();
            return_read_chunk(chunk);
            drop(packet);
            chunk = read_chunk(0);
            assert_eq!((chunk.len(), chunk.as_ptr(), chunk.capacity()), (0, address, CHUNK));
        }
    }

    #[test]
    fn a_chunk_whose_packets_are_alive_is_left_to_them() {
        let mut chunk = read_chunk(0);
        chunk.extend_from_slice(&[7; 60_000]);
        let packet = chunk.split_to(60_000).freeze();
        return_read_chunk(chunk);
        let mut next = read_chunk(0);
        next.extend_from_slice(&[8; 60_000]);
        assert_eq!(packet, vec![7; 60_000]);
    }

    #[test]
    fn the_larger_buffer_is_kept() {
        return_write_buffer(BytesMut::with_capacity(100));
        return_write_buffer(BytesMut::with_capacity(1000));
        return_write_buffer(BytesMut::with_capacity(10));
        assert!(write_buffer().capacity() >= 1000);
        assert_eq!(write_buffer().capacity(), 0, "it was taken");
    }
}
