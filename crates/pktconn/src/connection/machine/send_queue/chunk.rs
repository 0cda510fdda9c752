//! A chunk of the send queue: one or more whole frames, and the memory that they use.

use bytes::{Bytes, BytesMut};
use pktconn_codec::Packet;

use crate::connection::pool;

/// Up to this length a received packet shares the memory of a read chunk. A longer packet has its own memory.
pub(crate) const MAX_SHARED_LEN: usize = pool::CHUNK;

/// A frame of at least this length is queued without a copy, and copied only if the transport blocks. A shorter frame
/// is always copied: it may be a small part of a read chunk, and would then keep much more memory alive than the queue
/// counts. A frame of half a chunk keeps at most twice its own length alive, and only until the end of the turn.
pub(super) const LARGE_FRAME: usize = pool::CHUNK / 2;

/// The smallest capacity of a buffer for small frames. It holds a few packets of the size that most applications send.
pub(super) const MIN_OPEN: usize = 1024;

pub(crate) enum Chunk {
    /// Copied frames. `memory` is the capacity of the whole buffer: dropping frames at its start frees nothing.
    Small {
        frames: BytesMut,
        memory: usize,
    },
    Large {
        packet: Packet,
        parts: [Bytes; 3],
    },
    /// A large frame in pieces. Those that are long, and short enough for a read chunk, may be part of one unless they
    /// are `detached`.
    Pieces {
        pieces: Vec<Bytes>,
        detached: bool,
    },
}

/// The memory of a chunk in the list of chunks, in bytes. Twice its size, because the list doubles when it is full.
pub(super) const SLOT_SIZE: usize = 2 * size_of::<Chunk>();

/// Whether a sealed buffer wastes memory, such as two frames of 22 KiB in a buffer of 64 KiB.
pub(super) fn has_excess_capacity(frames: &BytesMut) -> bool {
    frames.capacity() - frames.len() > frames.len() / 16 + MIN_OPEN
}

/// Whether a piece may be part of a read chunk, and keep all of it alive.
fn may_be_shared(piece: &Bytes) -> bool {
    (LARGE_FRAME..=MAX_SHARED_LEN).contains(&piece.len())
}

impl Chunk {
    pub(super) fn small(frames: BytesMut) -> Self {
        Self::Small { memory: frames.capacity(), frames }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small { frames, .. } => frames.len(),
            Self::Large { parts, .. } => parts.iter().map(Bytes::len).sum(),
            Self::Pieces { pieces, .. } => pieces.iter().map(Bytes::len).sum(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let memory = match self {
            Self::Small { memory, .. } => *memory,
            // The frame may keep a whole read chunk alive.
            Self::Large { .. } => self.len().max(MAX_SHARED_LEN),
            Self::Pieces { pieces, detached } => {
                let held = |piece: &Bytes| {
                    if !detached && may_be_shared(piece) { MAX_SHARED_LEN } else { piece.len() }
                };
                pieces.iter().map(|piece| size_of::<Bytes>() + held(piece)).sum()
            }
        };
        memory + SLOT_SIZE
    }

    /// Passes packets whose own memory was queued to `done`, so that the caller can drop them without the lock.
    pub(super) fn release_into(self, done: &mut impl FnMut(Packet)) {
        match self {
            Self::Small { .. } => {}
            Self::Large { packet, .. } => done(packet),
            Self::Pieces { pieces, .. } => pieces.into_iter().map(Packet::from).for_each(done),
        }
    }

    /// Whether the chunk may keep more memory alive than its frames need.
    pub(super) fn may_pin_memory(&self) -> bool {
        match self {
            Self::Small { frames, .. } => has_excess_capacity(frames),
            Self::Large { .. } => self.len() <= MAX_SHARED_LEN,
            Self::Pieces { pieces, detached } => !detached && pieces.iter().any(may_be_shared),
        }
    }

    /// Copies frames that may keep more memory alive than they need. The old memory is passed to `done`.
    pub(super) fn detach(&mut self, done: &mut impl FnMut(Packet)) {
        if !self.may_pin_memory() {
            return;
        }
        let copy = match self {
            Self::Small { frames, .. } => BytesMut::from(&frames[..]),
            Self::Large { parts, .. } => {
                let mut frame = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| frame.extend_from_slice(part));
                frame
            }
            Self::Pieces { pieces, detached } => {
                for piece in pieces.iter_mut().filter(|piece| may_be_shared(piece)) {
                    let copy = Bytes::copy_from_slice(piece);
                    done(std::mem::replace(piece, copy).into());
                }
                *detached = true;
                return;
            }
        };
        std::mem::replace(self, Self::small(copy)).release_into(done);
    }
}
