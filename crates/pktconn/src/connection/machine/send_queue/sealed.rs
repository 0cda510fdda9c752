//! The chunks of the send queue that take no more frames.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use pktconn_codec::{Packet, PacketCodec};

use super::chunk::Chunk;

pub(super) struct Sealed {
    pub(super) chunks: VecDeque<Chunk>,
    /// How much of the first chunk the transport has taken.
    pub(super) written: usize,
    /// Whether a chunk may keep more memory alive than its own.
    pub(super) may_pin_memory: bool,
    /// The memory of all chunks.
    pub(super) memory: usize,
}

/// The length of the first of whole frames that this very codec has encoded.
fn first_frame_len(codec: &PacketCodec, frames: &[u8]) -> usize {
    match codec.frame_len(frames) {
        Ok(Some(len)) => len.min(frames.len()),
        // Never; and never a loop without an end.
        _ => frames.len(),
    }
}

impl Sealed {
    /// Makes a chunk of its own of a frame that was written in part, and returns how many chunks are begun: one or none.
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
                // A chunk that was wholly written is gone: there is something left of this one.
                return 0;
            }
        };
        if frames.len() > len {
            // A copy, so that each of the two has memory of its own.
            let begun = Chunk::small(BytesMut::from(&frames[..len]));
            frames.advance(len);
            self.memory += begun.memory();
            self.chunks.push_front(begun);
        }
        1
    }

    /// Drops the first frame behind the chunks that are `begun`, and returns its length.
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
            large @ (Chunk::Large { .. } | Chunk::Pieces(_)) => (large.len(), true),
        };
        if is_chunk {
            if let Some(chunk) = self.chunks.remove(begun) {
                self.memory -= chunk.memory();
                chunk.done(done);
            }
        }
        Some(len)
    }
}
