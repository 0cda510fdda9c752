//! The frames that the send queue accepts: frames of packets, and of payloads in several parts.

use bytes::{Bytes, BytesMut};
use pktconn_codec::{Frame, PartsFrame};

use super::chunk::{Chunk, LARGE_FRAME};

/// A frame to send.
pub(crate) trait Outgoing {
    /// The length in bytes, including header and checksum.
    fn len(&self) -> usize;

    /// Appends the frame to `buffer`.
    fn put_into(&self, buffer: &mut BytesMut);

    /// The frame as a chunk that shares the memory of the payload instead of copying it.
    fn to_chunk(&self) -> Chunk;
}

impl Outgoing for Frame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn put_into(&self, buffer: &mut BytesMut) {
        // Inlined here: a packet that is forwarded as it came has only a body, and a call costs as much as the copy of
        // a small one.
        if self.body().len() == self.len() {
            buffer.extend_from_slice(self.body());
        } else {
            self.put_into(buffer);
        }
    }

    fn to_chunk(&self) -> Chunk {
        let parts =
            [Bytes::copy_from_slice(self.head()), self.body_bytes(), Bytes::copy_from_slice(self.tail())];
        Chunk::Large { packet: self.packet().clone(), parts }
    }
}

impl Outgoing for PartsFrame<'_> {
    fn len(&self) -> usize {
        self.len()
    }

    fn put_into(&self, buffer: &mut BytesMut) {
        self.put_into(buffer);
    }

    fn to_chunk(&self) -> Chunk {
        Chunk::Pieces { pieces: self.pieces(LARGE_FRAME), detached: false }
    }
}
