//! Keyed packets: only the latest packet of each key is worth sending, such as the state of a game object.
//!
//! ```text
//!   send queue: [ accepted before ............ ]     latest: [ key 7 ][ key 3 ][ key 9 ]
//!                                                              ^ joins the queue when all earlier bytes are
//!                                                                written; can be replaced until then
//! ```

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use pktconn_codec::Frame;

use super::send_queue::{Chunk, MAX_SHARED_LEN, Outgoing};

/// A whole encoded frame that owns its memory. Clones share it.
#[derive(Clone)]
pub(crate) struct Encoded(Bytes);

impl Encoded {
    /// Copies a frame that may be part of a read chunk. A longer frame already owns its memory.
    pub(crate) fn new(frame: &Frame<'_>) -> Self {
        if frame.body().len() == frame.len() && frame.len() > MAX_SHARED_LEN {
            return Self(frame.body_bytes());
        }
        let mut bytes = BytesMut::with_capacity(frame.len());
        frame.put_into(&mut bytes);
        Self(bytes.freeze())
    }
}

impl Outgoing for Encoded {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn put_into(&self, buffer: &mut BytesMut) {
        buffer.extend_from_slice(&self.0);
    }

    fn to_chunk(&self) -> Chunk {
        Chunk::Pieces { pieces: vec![self.0.clone()], detached: true }
    }
}

/// The keyed packets that wait behind the send queue, in the order in which their keys were first used.
#[derive(Default)]
pub(super) struct Latest {
    /// Each key, and the number of bytes that were accepted before it.
    order: VecDeque<(u64, u64)>,
    frames: HashMap<u64, Encoded>,
    /// The length of all frames, in bytes.
    len: usize,
}

impl Latest {
    /// Replaces the packet with this key, and returns the old one. Returns `Err(frame)` if there is none.
    pub(super) fn replace(&mut self, key: u64, frame: Encoded) -> Result<Encoded, Encoded> {
        let Some(waiting) = self.frames.get_mut(&key) else { return Err(frame) };
        self.len = self.len + frame.len() - waiting.len();
        Ok(std::mem::replace(waiting, frame))
    }

    /// Adds a packet with a new key, after `accepted` bytes.
    pub(super) fn put(&mut self, key: u64, frame: Encoded, accepted: u64) {
        self.order.push_back((key, accepted));
        self.len += frame.len();
        self.frames.insert(key, frame);
    }

    /// The number of bytes that were accepted before the first packet. `None` if no packet waits.
    pub(super) fn first_due(&self) -> Option<u64> {
        self.order.front().map(|&(_, accepted)| accepted)
    }

    /// Removes the first packet.
    pub(super) fn pop(&mut self) -> Option<Encoded> {
        let (key, _) = self.order.pop_front()?;
        let frame = self.frames.remove(&key)?;
        self.len -= frame.len();
        Some(frame)
    }

    /// The length of all waiting frames, in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The memory of the frames and their table entries, in bytes.
    pub(super) fn held(&self) -> usize {
        const ENTRY: usize = size_of::<(u64, u64)>() + size_of::<(u64, Encoded)>();
        // Both tables double when they are full.
        self.len + 2 * ENTRY * self.order.len()
    }
}
