//! A chunk of the send queue: whole frames, in one piece of memory.

use bytes::{Bytes, BytesMut};
use pktconn_codec::Packet;

use crate::connection::pool;

/// Up to this length a received packet is a part of a read chunk; a longer one has memory of its own.
pub(super) const MOST_SHARED: usize = pool::CHUNK;

/// The least that a buffer of small frames has room for: a few packets of the size that most applications send.
pub(super) const MIN_OPEN: usize = 1024;

pub(super) enum Chunk {
    /// Its memory is that of the whole buffer, also where frames at the start of it were dropped.
    Small {
        frames: BytesMut,
        memory: usize,
    },
    Large {
        packet: Packet,
        parts: [Bytes; 3],
    },
}

/// What a chunk takes beside its frames: its place in a list that doubles when it is full.
pub(super) const PLACE: usize = 2 * size_of::<Chunk>();

/// Whether a buffer that takes no more frames is larger than it need be: two frames of 22 KiB in one of 64 KiB.
pub(super) fn is_roomy(frames: &BytesMut) -> bool {
    frames.capacity() - frames.len() > frames.len() / 16 + MIN_OPEN
}

impl Chunk {
    pub(super) fn small(frames: BytesMut) -> Self {
        Self::Small { memory: frames.capacity(), frames }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small { frames, .. } => frames.len(),
            Self::Large { parts, .. } => parts.iter().map(Bytes::len).sum(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let memory = match self {
            Self::Small { memory, .. } => *memory,
            // It may keep a whole read chunk alive.
            Self::Large { .. } => self.len().max(MOST_SHARED),
        };
        memory + PLACE
    }

    /// Gives a packet whose own memory was queued to `done`.
    pub(super) fn done(self, done: &mut impl FnMut(Packet)) {
        if let Self::Large { packet, .. } = self {
            done(packet);
        }
    }
}
