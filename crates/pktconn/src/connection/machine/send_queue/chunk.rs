//! A chunk of the send queue: whole frames, in one piece of memory.

use bytes::{Bytes, BytesMut};
use pktconn_codec::Packet;

use crate::connection::pool;

/// Up to this length a received packet is a part of a read chunk; a longer one has memory of its own.
pub(crate) const MAX_SHARED_LEN: usize = pool::CHUNK;

/// From this length on a frame is not copied before it has to stay. A shorter one is: it may be a small part of a read chunk,
/// and eight times as much memory would be held as is counted. From half a chunk on that is twice at most, and for the
/// moment of a turn.
pub(super) const LARGE_FRAME: usize = pool::CHUNK / 2;

/// The least that a buffer of small frames has room for: a few packets of the size that most applications send.
pub(super) const MIN_OPEN: usize = 1024;

pub(crate) enum Chunk {
    /// Its memory is that of the whole buffer, also where frames at the start of it were dropped.
    Small {
        frames: BytesMut,
        memory: usize,
    },
    Large {
        packet: Packet,
        parts: [Bytes; 3],
    },
    /// A large frame of a payload in parts.
    Pieces(Vec<Bytes>),
}

/// What a chunk takes beside its frames: its place in a list that doubles when it is full.
pub(super) const SLOT_SIZE: usize = 2 * size_of::<Chunk>();

/// Whether a buffer that takes no more frames is larger than it need be: two frames of 22 KiB in one of 64 KiB.
pub(super) fn has_excess_capacity(frames: &BytesMut) -> bool {
    frames.capacity() - frames.len() > frames.len() / 16 + MIN_OPEN
}

/// A short piece has its own memory. A longer one may keep a whole read chunk alive.
fn memory_of_piece(piece: &Bytes) -> usize {
    size_of::<Bytes>() + if may_be_shared(piece) { piece.len().max(MAX_SHARED_LEN) } else { piece.len() }
}

/// Whether a piece may be part of a read chunk.
pub(super) fn may_be_shared(piece: &Bytes) -> bool {
    piece.len() >= LARGE_FRAME
}

impl Chunk {
    pub(super) fn small(frames: BytesMut) -> Self {
        Self::Small { memory: frames.capacity(), frames }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small { frames, .. } => frames.len(),
            Self::Large { parts, .. } => parts.iter().map(Bytes::len).sum(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let memory = match self {
            Self::Small { memory, .. } => *memory,
            // It may keep a whole read chunk alive.
            Self::Large { .. } => self.len().max(MAX_SHARED_LEN),
            Self::Pieces(pieces) => pieces.iter().map(memory_of_piece).sum(),
        };
        memory + SLOT_SIZE
    }

    /// Gives a packet whose own memory was queued to `done`.
    pub(super) fn done(self, done: &mut impl FnMut(Packet)) {
        match self {
            Self::Small { .. } => {}
            Self::Large { packet, .. } => done(packet),
            Self::Pieces(pieces) => pieces.into_iter().map(Packet::from).for_each(done),
        }
    }

    /// Whether it may keep more memory alive than its own.
    pub(super) fn may_pin_memory(&self) -> bool {
        match self {
            Self::Small { frames, .. } => has_excess_capacity(frames),
            Self::Large { .. } => self.len() <= MAX_SHARED_LEN,
            Self::Pieces(pieces) => {
                pieces.iter().any(|piece| may_be_shared(piece) && piece.len() <= MAX_SHARED_LEN)
            }
        }
    }

    /// Copies what may keep more memory alive than its own. Memory that is let go of goes to `done`.
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
            Self::Pieces(pieces) => {
                let loose =
                    pieces.iter_mut().filter(|piece| may_be_shared(piece) && piece.len() <= MAX_SHARED_LEN);
                for piece in loose {
                    let copy = Bytes::copy_from_slice(piece);
                    done(std::mem::replace(piece, copy).into());
                }
                return;
            }
        };
        std::mem::replace(self, Self::small(copy)).done(done);
    }
}
