//! `Packet`: an immutable payload with a read cursor, for sending and receiving.
//!
//! ```text
//!   bytes  | header | payload            | checksum |      framed: the bytes on the wire
//!   bytes           | payload            |                 not framed: made from bytes of the application
//!                          ^ position
//! ```
//!
//! A received packet is a slice of the read buffer that includes its header and checksum. So it can be forwarded
//! without encoding it again. `read` contains the typed reads, `write` contains the mutable `PacketMut`.

mod read;

mod write;
pub use write::PacketMut;

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::{Buf, Bytes, BytesMut};

use crate::CodecConfig;
use crate::config::Framing;
use crate::control::CONTROL_PREFIX_LEN;

/// Free bytes in front of a payload that [`Packet::into_mut`] has copied: two `u64`, such as an id and a time.
const PREPEND_ROOM: usize = 16;

/// A packet: an immutable payload and a read cursor.
///
/// - Make one with [`PacketMut`], or with `Packet::from`. From `Bytes`, `Vec<u8>`, `String` or `&'static [u8]` this
///   copies nothing; from `&str` it copies the text.
/// - Read it with the typed `read_*` methods (little-endian, checked), as a [`Buf`], or as a slice with
///   [`payload`](Self::payload).
/// - Clones share the bytes; each clone has its own cursor.
/// - Two packets are equal if their payloads are equal. Cursors do not matter.
///
/// A received packet shares its memory with packets that arrived with it. To keep a packet for long, call
/// [`detach`](Self::detach).
#[derive(Clone, Default)]
pub struct Packet {
    bytes: Bytes,
    /// The format of the header and checksum in `bytes`; `None` if `bytes` is only the payload.
    framing: Option<Framing>,
    /// The lengths of the header and the checksum in `bytes`. They follow from `framing`, but every access to the
    /// payload needs them.
    header_len: u8,
    trailer_len: u8,
    /// The cursor, in bytes from the start of the payload. Never beyond its end.
    position: usize,
}

impl Packet {
    /// A packet from a complete frame that the caller has verified.
    #[inline]
    pub(crate) fn from_frame(frame: Bytes, framing: Framing) -> Self {
        debug_assert!(frame.len() >= framing.overhead_len());
        let header_len = framing.header.header_len() as u8;
        let trailer_len = framing.checksum.checksum_len() as u8;
        Self { bytes: frame, framing: Some(framing), header_len, trailer_len, position: 0 }
    }

    /// A control frame, from its bytes on the wire. The last `trailer_len` are its checksum.
    pub(crate) fn from_control_frame(frame: Bytes, framing: Framing, trailer_len: usize) -> Self {
        debug_assert!(frame.len() >= CONTROL_PREFIX_LEN + trailer_len);
        let (header_len, trailer_len) = (CONTROL_PREFIX_LEN as u8, trailer_len as u8);
        Self { bytes: frame, framing: Some(framing), header_len, trailer_len, position: 0 }
    }

    /// A control frame, to be sent over connections of this format. `frame` is complete.
    #[doc(hidden)]
    #[must_use]
    pub fn from_control(frame: Bytes, config: &CodecConfig) -> Self {
        Self::from_control_frame(frame, config.framing, config.framing.checksum.checksum_len())
    }

    /// Whether this is a control frame. Its payload is its body; [`control_bytes`](Self::control_bytes) is all of it.
    #[doc(hidden)]
    #[must_use]
    #[inline]
    pub fn is_control(&self) -> bool {
        self.header_len() == CONTROL_PREFIX_LEN
    }

    /// The bytes of a control frame on the wire. If its body is over-long, only its first 6 bytes.
    #[doc(hidden)]
    #[must_use]
    pub fn control_bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    pub(crate) fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// The payload, with header and checksum if the packet is framed.
    #[inline]
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[inline]
    pub(crate) fn header_len(&self) -> usize {
        self.header_len.into()
    }

    #[inline]
    fn trailer_len(&self) -> usize {
        self.trailer_len.into()
    }

    /// The whole payload. Does not depend on the cursor.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len()..self.bytes.len() - self.trailer_len()]
    }

    /// The payload from the cursor to the end.
    #[must_use]
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.payload()[self.position..]
    }

    /// The length of the whole payload, in bytes. Does not depend on the cursor.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.header_len() - self.trailer_len()
    }

    /// Whether the payload is empty. Empty packets are valid and can be sent.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole payload as `Bytes`, without a copy.
    #[must_use]
    pub fn into_payload(mut self) -> Bytes {
        let (start, len) = (self.header_len(), self.len());
        self.bytes.advance(start);
        self.bytes.truncate(len);
        self.bytes
    }

    /// Turns the packet into a [`PacketMut`], to append to its payload or to [prepend](PacketMut::prepend_bytes) to it.
    ///
    /// The result has the whole payload, and no position. If this packet is the only owner of its memory, nothing is
    /// copied here, and there is no free memory in front: `prepend_bytes` then copies the payload. Otherwise the
    /// payload is copied to new memory with 16 free bytes in front, enough to prepend an id. Received packets are
    /// usually copied, because they share memory with the connection and with packets that arrived with them. To
    /// forward a large payload with an id in front and without a copy, use [`PacketSender::send_parts`].
    ///
    /// [`PacketSender::send_parts`]: https://docs.rs/pktconn/latest/pktconn/struct.PacketSender.html#method.send_parts
    #[must_use]
    pub fn into_mut(self) -> PacketMut {
        let (header_len, payload_end) = (self.header_len(), self.header_len() + self.len());
        match self.bytes.try_into_mut() {
            Ok(mut bytes) => {
                bytes.truncate(payload_end);
                PacketMut::from_parts(bytes, header_len)
            }
            Err(shared) => {
                let payload = &shared[header_len..payload_end];
                let mut packet = PacketMut::with_headroom(PREPEND_ROOM, payload.len());
                packet.write_bytes(payload);
                packet
            }
        }
    }

    /// Copies the packet to its own memory. The copy has the same cursor.
    ///
    /// A received packet is a slice of a read buffer and keeps that whole buffer alive: up to 64 KiB, or more after a
    /// larger packet. Detach small packets that you keep for long, for example in a cache or in a queue that can stall.
    /// Packets that you handle and drop need no copy.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    /// Like [`detach`](Self::detach), to memory that several packets share. Returns `None` if `memory` has no room: it is
    /// not made larger.
    #[doc(hidden)]
    #[must_use]
    pub fn detach_into(&self, memory: &mut BytesMut) -> Option<Self> {
        if memory.capacity() - memory.len() < self.bytes.len() {
            return None;
        }
        memory.extend_from_slice(&self.bytes);
        Some(Self { bytes: memory.split().freeze(), ..*self })
    }
}

/// Reads from the cursor to the end. `get_u16` and similar are big-endian, `get_u16_le` and similar little-endian.
///
/// As the trait requires, `advance` and `get_*` panic beyond the end. The `read_*` methods of [`Packet`] are
/// little-endian and return an error instead.
impl Buf for Packet {
    fn remaining(&self) -> usize {
        self.len() - self.position
    }

    fn chunk(&self) -> &[u8] {
        self.unread()
    }

    fn advance(&mut self, count: usize) {
        let remaining = self.remaining();
        assert!(
            count <= remaining,
            "cannot advance by {count} bytes: the packet has only {remaining} bytes left"
        );
        self.position += count;
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let start = self.header_len() + self.position;
        self.advance(len);
        self.bytes.slice(start..start + len)
    }
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.payload() == other.payload()
    }
}

impl Eq for Packet {}

impl Hash for Packet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.payload().hash(state);
    }
}

/// Shows the length, the cursor and the first 32 bytes of the payload.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("position", &self.position)
            .field("payload", &Preview(self.payload()))
            .finish()
    }
}

/// Formats the first bytes of a payload as a byte string literal.
struct Preview<'a>(&'a [u8]);

impl fmt::Debug for Preview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to recognize a packet, short enough for one log line.
        const PREVIEW_LEN: usize = 32;
        let shown = &self.0[..self.0.len().min(PREVIEW_LEN)];
        write!(f, "b\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

impl From<Bytes> for Packet {
    fn from(payload: Bytes) -> Self {
        Self { bytes: payload, ..Self::default() }
    }
}

impl From<BytesMut> for Packet {
    fn from(payload: BytesMut) -> Self {
        payload.freeze().into()
    }
}

impl From<Vec<u8>> for Packet {
    fn from(payload: Vec<u8>) -> Self {
        Bytes::from(payload).into()
    }
}

impl From<&'static [u8]> for Packet {
    fn from(payload: &'static [u8]) -> Self {
        Bytes::from_static(payload).into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Packet {
    fn from(payload: &'static [u8; N]) -> Self {
        payload.as_slice().into()
    }
}

/// Copies the text.
impl From<&str> for Packet {
    fn from(payload: &str) -> Self {
        Bytes::copy_from_slice(payload.as_bytes()).into()
    }
}

impl From<String> for Packet {
    fn from(payload: String) -> Self {
        payload.into_bytes().into()
    }
}

impl From<PacketMut> for Packet {
    fn from(packet: PacketMut) -> Self {
        packet.freeze()
    }
}

impl From<Packet> for Bytes {
    fn from(packet: Packet) -> Self {
        packet.into_payload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checksum;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn debug_of_a_megabyte_fits_in_one_line() {
        let packet = Packet::from(vec![b'x'; 1024 * 1024]);
        let shown = format!("{packet:?}");
        assert!(shown.starts_with("Packet { len: 1048576, position: 0, payload: b\"xxxx"), "{shown}");
        assert!(shown.ends_with("x\"... }"), "{shown}");
        assert!(shown.len() < 120, "{} characters", shown.len());
        assert_eq!(
            format!("{:?}", Packet::from(b"\x00a")),
            r#"Packet { len: 2, position: 0, payload: b"\x00a" }"#
        );
    }

    /// Packets with the same payload: not framed, framed in two formats, and with another cursor.
    fn variants(payload: &'static [u8]) -> [Packet; 4] {
        let write = || {
            let mut packet = PacketMut::new();
            packet.write_bytes(payload);
            packet
        };
        let checked = CodecConfig::new().checksum(Checksum::Crc32);
        let mut read = Packet::from(payload);
        read.seek(payload.len()).unwrap();
        [payload.into(), write().freeze(), write().freeze_for(&checked), read]
    }

    #[test]
    fn packets_are_equal_if_their_payloads_are_equal() {
        for (a, b) in variants(b"abc").into_iter().flat_map(|a| variants(b"abc").map(|b| (a.clone(), b))) {
            assert!(a == b, "{a:?}, {b:?}");
        }
        let others: [&[u8]; 5] = [b"", b"ab", b"abcd", b"abd", b"bbc"];
        for (a, b) in
            others.into_iter().flat_map(variants).flat_map(|b| variants(b"abc").map(|a| (a, b.clone())))
        {
            assert!(a != b, "{a:?}, {b:?}");
        }
    }

    #[test]
    fn a_packet_has_the_hash_of_its_payload() {
        let hasher = RandomState::new();
        for payload in [&b""[..], b"abc", b"abd"] {
            for packet in variants(payload) {
                assert_eq!(hasher.hash_one(&packet), hasher.hash_one(payload), "{packet:?}");
            }
        }
        assert_ne!(hasher.hash_one(Packet::from(b"abc")), hasher.hash_one(Packet::from(b"abd")));
    }

    #[test]
    fn a_packet_converts_to_its_payload_without_a_copy() {
        for payload in [&b""[..], b"\0", b"abc"] {
            for packet in variants(payload) {
                assert_eq!(packet.as_ref(), payload);
                assert_eq!(packet.is_empty(), payload.is_empty());
                let address = packet.payload().as_ptr();
                let bytes = Bytes::from(packet);
                assert_eq!(bytes, payload);
                assert!(payload.is_empty() || bytes.as_ptr() == address, "the payload was copied");
            }
        }
    }

    #[test]
    fn a_packet_mut_becomes_a_framed_packet() {
        let mut packet = PacketMut::new();
        packet.write_bytes(b"abc");
        let packet = Packet::from(packet);
        assert_eq!((packet.payload(), &packet.bytes()[..]), (&b"abc"[..], &b"\x03\0\0\0abc"[..]));
    }

    #[test]
    fn into_mut_copies_nothing_if_the_packet_is_the_only_owner() {
        let mut packet = PacketMut::with_capacity(1000);
        packet.write_bytes(b"before ");
        let packet = packet.freeze();
        let address = packet.payload().as_ptr();
        let mut packet = packet.into_mut();
        packet.write_bytes(b"after");
        assert_eq!(packet.payload(), b"before after");
        assert_eq!(packet.payload().as_ptr(), address);
    }

    #[test]
    fn into_mut_does_not_change_other_owners_of_the_bytes() {
        let mut packet = PacketMut::new();
        packet.write_bytes(b"shared");
        let kept = packet.freeze();
        let mut changed = kept.clone().into_mut();
        changed.payload_mut()[0] = b'S';
        changed.write_u8(b'!');
        assert_eq!(kept.payload(), b"shared");
        assert_eq!(changed.payload(), b"Shared!");
    }

    #[test]
    fn a_detached_packet_has_its_own_memory_and_cursor() {
        let mut packet = Packet::from(vec![1, 2, 3, 4]);
        packet.read_u8().unwrap();
        let mut detached = packet.detach();
        assert_ne!(detached.payload().as_ptr(), packet.payload().as_ptr());
        assert_eq!(detached.position(), 1);
        detached.read_u16().unwrap();
        assert_eq!((packet.position(), detached.position()), (1, 3));
    }

    #[test]
    fn as_a_buf_a_packet_returns_its_unread_bytes_without_a_copy() {
        let mut packet = PacketMut::new();
        packet.write_bytes(b"\x01\x02rest");
        let mut packet = packet.freeze();
        assert_eq!(packet.get_u16(), 0x0102);
        let address = packet.unread().as_ptr();
        let rest = packet.copy_to_bytes(4);
        assert_eq!(&rest[..], b"rest");
        assert_eq!(rest.as_ptr(), address);
        assert!(!packet.has_remaining());
    }
}
