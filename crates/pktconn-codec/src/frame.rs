//! A packet as it stands on the wire, in up to three parts.

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::Framing;
use crate::wire::Inline;
use crate::{FrameError, Packet};

/// The bytes of one packet on the wire: `head`, `body` and `tail`, one after the other.
///
/// The body is a part of the packet's own memory. It holds the header and the checksum too where the packet came with
/// the right ones around it; what is missing stands in the head and the tail. So a frame is written without a copy of
/// the payload, by [`PacketCodec::frame`](crate::PacketCodec::frame) and a vectored write.
pub struct Frame<'a> {
    head: Inline,
    body: &'a [u8],
    tail: Inline,
    owner: &'a Bytes,
    /// Of all three together.
    len: usize,
}

impl<'a> Frame<'a> {
    /// The frame of `packet` in `framing`, when its payload has at most `max` bytes.
    #[inline]
    pub(crate) fn new(packet: &'a Packet, framing: Framing, max: usize) -> Result<Self, FrameError> {
        let (len, owner) = (packet.len(), packet.bytes());
        if len > max {
            return Err(FrameError::PayloadTooLarge { len, max });
        }
        if packet.framing() == Some(framing) {
            return Ok(Self::of_parts(Inline::default(), owner, Inline::default(), owner));
        }
        Self::around(packet, framing).ok_or(FrameError::PayloadTooLarge { len, max })
    }

    /// The frame of a packet that does not stand in `framing` yet; `None` where the length field is too small for it.
    fn around(packet: &'a Packet, framing: Framing) -> Option<Self> {
        let (len, owner) = (packet.len(), packet.bytes());
        Some(match packet.framing() {
            Some(present) if present.header == framing.header => {
                let body = &owner[..present.header.header_len() + len];
                Self::of_parts(Inline::default(), body, framing.checksum.trailer([body, &[]]), owner)
            }
            _ => {
                let head = framing.header.write(len)?;
                let body = packet.payload();
                Self::of_parts(head, body, framing.checksum.trailer([head.as_slice(), body]), owner)
            }
        })
    }

    #[inline]
    fn of_parts(head: Inline, body: &'a [u8], tail: Inline, owner: &'a Bytes) -> Self {
        let len = head.as_slice().len() + body.len() + tail.as_slice().len();
        Self { head, body, tail, owner, len }
    }

    /// The length of the whole frame, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame has a header: it is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What goes out before the body: a header, or nothing.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.head.as_slice()
    }

    /// The payload, and what else of the frame stands around it in memory.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The body as `Bytes` that share the packet's memory.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        self.owner.slice_ref(self.body)
    }

    /// What goes out behind the body: a checksum, or nothing.
    #[must_use]
    #[inline]
    pub fn tail(&self) -> &[u8] {
        self.tail.as_slice()
    }

    /// Appends the whole frame to `buffer`.
    #[inline]
    pub fn put_into(&self, buffer: &mut BytesMut) {
        // Of a packet that is sent on as it came, only the body is there.
        if self.body.len() == self.len {
            return buffer.extend_from_slice(self.body);
        }
        buffer.reserve(self.len);
        self.head.put_into(buffer);
        buffer.put_slice(self.body);
        self.tail.put_into(buffer);
    }
}
