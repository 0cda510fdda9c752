//! A packet that is written no more: what is received, and what is sent.
//!
//! ```text
//!   bytes  | header | payload            | checksum |      framed: as it stands on the wire
//!   bytes           | payload            |                 not framed: made of bytes of the application's own
//!                          ^ position
//! ```
//!
//! A received packet is a slice of the read buffer with its header and its checksum still around it, so that it can be
//! sent on without being encoded again. `read` holds the typed reads, `write` the packet under construction.

mod read;

mod write;
pub use write::PacketMut;

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::{Buf, Bytes, BytesMut};

use crate::config::Framing;

/// Room in front of a payload that [`Packet::into_mut`] has copied: two `u64`, such as an id and a time.
const PREPEND_ROOM: usize = 16;

/// A packet: an immutable payload and a read cursor.
///
/// - Make one with [`PacketMut`], or from `Bytes`, `Vec<u8>`, `String` or `&'static [u8]` without a copy, or from `&str`.
/// - Read it with the typed `read_*` methods (little-endian, checked), as a [`Buf`], or as the slice [`payload`](Self::payload).
/// - Cloning shares the bytes; each clone has its own cursor. Two packets are equal if their payloads are, wherever the cursors are.
///
/// A received packet shares its memory with packets that arrived with it. Call [`detach`](Self::detach) on a packet that you keep.
#[derive(Clone, Default)]
pub struct Packet {
    bytes: Bytes,
    /// How `bytes` is framed; `None` when it is the payload alone.
    framing: Option<Framing>,
    /// The lengths of the header and of the checksum in `bytes`, which follow from `framing` and are asked for all the
    /// time.
    header_len: u8,
    trailer_len: u8,
    /// The cursor, counted from the start of the payload. Never beyond its end.
    position: usize,
}

impl Packet {
    /// A packet of a whole frame, which the caller has verified.
    #[inline]
    pub(crate) fn from_frame(frame: Bytes, framing: Framing) -> Self {
        debug_assert!(frame.len() >= framing.overhead_len());
        let header_len = framing.header.header_len() as u8;
        let trailer_len = framing.checksum.checksum_len() as u8;
        Self { bytes: frame, framing: Some(framing), header_len, trailer_len, position: 0 }
    }

    #[inline]
    pub(crate) fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// The payload with whatever stands around it.
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

    /// The whole payload, wherever the cursor stands.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_len()..self.bytes.len() - self.trailer_len()]
    }

    /// The payload from the cursor on.
    #[must_use]
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.payload()[self.position..]
    }

    /// The length of the payload in bytes, wherever the cursor stands.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.header_len() - self.trailer_len()
    }

    /// Whether the payload is empty. An empty packet is a legal one.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload as `Bytes`, which share the packet's memory.
    #[must_use]
    pub fn into_payload(mut self) -> Bytes {
        let (start, len) = (self.header_len(), self.len());
        self.bytes.advance(start);
        self.bytes.truncate(len);
        self.bytes
    }

    /// Turns the packet into one that can be changed: append to its payload, or [prepend](PacketMut::prepend_bytes) to it.
    ///
    /// If this packet is the only owner of its memory, nothing is copied. Otherwise the payload is copied to new memory with 16 free
    /// bytes in front, enough to prepend an id. A received packet shares its memory with the connection and with packets that
    /// arrived with it, so it is usually copied; [`PacketSender::send_parts`] forwards a large payload with an id in front without a copy.
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

    /// A copy in memory of its own, with the cursor where it was.
    ///
    /// A received packet is a slice of a read buffer of up to 64 KiB, or of what a large packet needed, and keeps all of
    /// that buffer alive. Packets that are handled and dropped want no copy; a small one that is kept for long (in a
    /// cache, in a queue that may stand) wants one.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }
}

/// Reads what is unread, in the byte order that `Buf`'s method names; the packet's own `read_*` are little-endian.
///
/// As `Buf` demands, its `get_*` and `advance` panic beyond the end. The `read_*` methods return an error instead.
impl Buf for Packet {
    fn remaining(&self) -> usize {
        self.len() - self.position
    }

    fn chunk(&self) -> &[u8] {
        self.unread()
    }

    fn advance(&mut self, count: usize) {
        let remaining = self.remaining();
        assert!(count <= remaining, "advanced by {count} with {remaining} bytes unread");
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

/// Shows the length, the cursor and the first 32 bytes, never a whole large payload.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("position", &self.position)
            .field("payload", &Preview(self.payload()))
            .finish()
    }
}

/// The first bytes of a payload, as a byte string literal.
struct Preview<'a>(&'a [u8]);

impl fmt::Debug for Preview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Two rows of a hex dump: enough to tell what a packet is, short enough for a line of a log.
        const SHOWN: usize = 32;
        let shown = &self.0[..self.0.len().min(SHOWN)];
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
    use crate::{Checksum, CodecConfig};
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn debug_of_a_megabyte_fits_in_a_line() {
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

    /// Packets of one payload that differ in everything else: made of it, framed in two ways, and partly read.
    fn alike(payload: &'static [u8]) -> [Packet; 4] {
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
    fn packets_are_equal_when_their_payloads_are() {
        for (a, b) in alike(b"abc").into_iter().flat_map(|a| alike(b"abc").map(|b| (a.clone(), b))) {
            assert!(a == b, "{a:?}, {b:?}");
        }
        let others: [&[u8]; 5] = [b"", b"ab", b"abcd", b"abd", b"bbc"];
        for (a, b) in others.into_iter().flat_map(alike).flat_map(|b| alike(b"abc").map(|a| (a, b.clone()))) {
            assert!(a != b, "{a:?}, {b:?}");
        }
    }

    #[test]
    fn a_packet_hashes_as_its_payload() {
        let hasher = RandomState::new();
        for payload in [&b""[..], b"abc", b"abd"] {
            for packet in alike(payload) {
                assert_eq!(hasher.hash_one(&packet), hasher.hash_one(payload), "{packet:?}");
            }
        }
        assert_ne!(hasher.hash_one(Packet::from(b"abc")), hasher.hash_one(Packet::from(b"abd")));
    }

    #[test]
    fn a_packet_is_its_payload_as_a_slice_and_as_bytes() {
        for payload in [&b""[..], b"\0", b"abc"] {
            for packet in alike(payload) {
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
    fn a_packet_under_construction_becomes_one_that_is_framed() {
        let mut packet = PacketMut::new();
        packet.write_bytes(b"abc");
        let packet = Packet::from(packet);
        assert_eq!((packet.payload(), &packet.bytes()[..]), (&b"abc"[..], &b"\x03\0\0\0abc"[..]));
    }

    #[test]
    fn into_mut_takes_the_bytes_over_from_a_sole_owner() {
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
    fn into_mut_leaves_the_other_owners_of_the_bytes_alone() {
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
    fn a_detached_packet_has_memory_and_a_cursor_of_its_own() {
        let mut packet = Packet::from(vec![1, 2, 3, 4]);
        packet.read_u8().unwrap();
        let mut detached = packet.detach();
        assert_ne!(detached.payload().as_ptr(), packet.payload().as_ptr());
        assert_eq!(detached.position(), 1);
        detached.read_u16().unwrap();
        assert_eq!((packet.position(), detached.position()), (1, 3));
    }

    #[test]
    fn as_a_buf_it_gives_what_is_unread_without_a_copy() {
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
