//! The bytes of a packet on the wire, without a copy of the payload: `Frame` for a packet, `PartsFrame` for a payload
//! in several parts.

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::Framing;
use crate::wire::InlineBytes;
use crate::{FrameError, Packet};

/// The bytes of one packet on the wire: `head`, `body` and `tail`.
///
/// The body borrows the memory of the packet. If the packet was received or frozen in the same format, the body also
/// contains the header and the checksum, and head and tail are empty.
pub struct Frame<'a> {
    head: InlineBytes,
    body: &'a [u8],
    tail: InlineBytes,
    packet: &'a Packet,
    /// The length of head, body and tail together, in bytes.
    len: usize,
}

impl<'a> Frame<'a> {
    /// The frame of `packet`. Fails if the payload is longer than `max` bytes.
    #[inline]
    pub(crate) fn new(packet: &'a Packet, framing: Framing, max: usize) -> Result<Self, FrameError> {
        let len = packet.len();
        if len > max {
            return Self::over_limit(packet, max);
        }
        if packet.framing() == Some(framing) {
            return Ok(Self::from_parts(
                InlineBytes::default(),
                packet.bytes(),
                InlineBytes::default(),
                packet,
            ));
        }
        Self::reframed(packet, framing).ok_or(FrameError::PayloadTooLarge { len, max })
    }

    /// A control frame is not a payload, so no limit holds for it.
    #[cold]
    fn over_limit(packet: &'a Packet, max: usize) -> Result<Self, FrameError> {
        if packet.is_control() {
            let nothing = InlineBytes::default();
            return Ok(Self::from_parts(nothing, packet.bytes(), nothing, packet));
        }
        Err(FrameError::PayloadTooLarge { len: packet.len(), max })
    }

    /// The frame of a packet that is not framed in this format. `None` if the length field cannot hold its length.
    fn reframed(packet: &'a Packet, framing: Framing) -> Option<Self> {
        let (len, bytes) = (packet.len(), packet.bytes());
        Some(match packet.framing() {
            Some(present) if present.header == framing.header => {
                // Only the checksum differs: the header is reused.
                let body = &bytes[..present.header.header_len() + len];
                Self::from_parts(InlineBytes::default(), body, framing.checksum.trailer([body]), packet)
            }
            _ => {
                let head = framing.header.encode_len(len)?;
                let body = packet.payload();
                Self::from_parts(head, body, framing.checksum.trailer([head.as_slice(), body]), packet)
            }
        })
    }

    #[inline]
    fn from_parts(head: InlineBytes, body: &'a [u8], tail: InlineBytes, packet: &'a Packet) -> Self {
        let len = head.as_slice().len() + body.len() + tail.as_slice().len();
        Self { head, body, tail, packet, len }
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub fn packet(&self) -> &'a Packet {
        self.packet
    }

    /// The length of the whole frame, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame has a header: it is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The header, or nothing if the body contains it.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.head.as_slice()
    }

    /// The payload, with the header and the checksum of the packet as far as they can be reused.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The body as `Bytes`, without a copy.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        self.packet.bytes().slice_ref(self.body)
    }

    /// The checksum, or nothing if the body contains it or there is none.
    #[must_use]
    #[inline]
    pub fn tail(&self) -> &[u8] {
        self.tail.as_slice()
    }

    /// Appends the whole frame to `buffer`.
    #[inline]
    pub fn put_into(&self, buffer: &mut BytesMut) {
        // A packet that is forwarded in the same format has only a body.
        if self.body.len() == self.len {
            return buffer.extend_from_slice(self.body);
        }
        buffer.reserve(self.len);
        self.head.put_into(buffer);
        buffer.put_slice(self.body);
        self.tail.put_into(buffer);
    }
}

/// The bytes on the wire of a packet whose payload is in several parts.
pub struct PartsFrame<'a> {
    head: InlineBytes,
    parts: &'a [Bytes],
    tail: InlineBytes,
    /// The length of head, parts and tail together, in bytes.
    len: usize,
}

impl<'a> PartsFrame<'a> {
    /// The frame of `parts`. Fails if they have more than `max` bytes together.
    pub(crate) fn new(parts: &'a [Bytes], framing: Framing, max: usize) -> Result<Self, FrameError> {
        let len = parts.iter().map(Bytes::len).fold(0, usize::saturating_add);
        let Some(head) = framing.header.encode_len(len).filter(|_| len <= max) else {
            return Err(FrameError::PayloadTooLarge { len, max });
        };
        let covered = std::iter::once(head.as_slice()).chain(parts.iter().map(|part| &part[..]));
        let tail = framing.checksum.trailer(covered);
        Ok(Self { head, parts, tail, len: framing.overhead_len() + len })
    }

    /// The length of the whole frame, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame has a header: it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the whole frame to `buffer`.
    pub fn put_into(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.len);
        self.head.put_into(buffer);
        self.parts.iter().for_each(|part| buffer.put_slice(part));
        self.tail.put_into(buffer);
    }

    /// The frame in pieces. Parts of at least `min_shared_len` bytes are shared, everything else is copied.
    #[must_use]
    pub fn pieces(&self, min_shared_len: usize) -> Vec<Bytes> {
        let (mut pieces, mut copied) = (Vec::new(), BytesMut::new());
        copied.extend_from_slice(self.head.as_slice());
        for part in self.parts {
            if part.len() < min_shared_len {
                copied.extend_from_slice(part);
                continue;
            }
            if !copied.is_empty() {
                pieces.push(copied.split().freeze());
            }
            pieces.push(part.clone());
        }
        copied.extend_from_slice(self.tail.as_slice());
        if !copied.is_empty() {
            pieces.push(copied.freeze());
        }
        pieces
    }
}
