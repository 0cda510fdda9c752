//! The sealed chunks of the send queue: no more frames are added to them. Frames can still be dropped from them.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use pktconn_codec::{Packet, PacketCodec};

use super::chunk::Chunk;

pub(super) struct Sealed {
    pub(super) chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk are written.
    pub(super) written: usize,
    /// Whether a chunk may keep more memory alive than its frames need.
    pub(super) may_pin_memory: bool,
    /// The memory of all chunks, in bytes.
    pub(super) memory: usize,
}

/// The length of the first frame in `frames`, which contains whole frames that the same codec has encoded.
fn first_frame_len(codec: &PacketCodec, frames: &[u8]) -> usize {
    match codec.frame_len(frames) {
        Ok(Some(len)) => len.min(frames.len()),
        // Unreachable. If it ever happens, this value ends the loops of the callers.
        _ => frames.len(),
    }
}

impl Sealed {
    /// Moves a partly written frame into its own chunk. Returns the number of partly written chunks: 0 or 1.
    pub(super) fn split_off_partial(&mut self, codec: &PacketCodec) -> usize {
        if self.written == 0 {
            return 0;
        }
        let Some(Chunk::Small { frames, .. }) = self.chunks.front_mut() else { return 1 };
        let len = loop {
            let len = first_frame_len(codec, frames);
            if len > self.written {
                break len;
            }
            frames.advance(len);
            self.written -= len;
            if self.written == 0 {
                // Completely written chunks are removed elsewhere, so this chunk still has frames.
                return 0;
            }
        };
        if frames.len() > len {
            // Copy the frame, so that each of the two chunks owns its memory.
            let begun = Chunk::small(BytesMut::from(&frames[..len]));
            frames.advance(len);
            self.memory += begun.memory();
            self.chunks.push_front(begun);
        }
        1
    }

    /// Drops the first frame after the `begun` partly written chunks. Returns its length.
    pub(super) fn drop_first(
        &mut self,
        begun: usize,
        codec: &PacketCodec,
        done: &mut impl FnMut(Packet),
    ) -> Option<usize> {
        let (len, is_chunk) = match self.chunks.get_mut(begun)? {
            Chunk::Small { frames, .. } => {
                let len = first_frame_len(codec, frames);
                frames.advance(len);
                (len, frames.is_empty())
            }
            large @ (Chunk::Large { .. } | Chunk::Pieces { .. }) => (large.len(), true),
        };
        if is_chunk {
            if let Some(chunk) = self.chunks.remove(begun) {
                self.memory -= chunk.memory();
                chunk.release_into(done);
            }
        }
        Some(len)
    }
}
