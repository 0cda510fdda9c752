//! `PacketMut`: a packet that the application writes.
//!
//! ```text
//!   bytes  | headroom | payload ...            (spare capacity)
//! ```
//!
//! `freeze` writes the header into the headroom and the checksum into the spare capacity. So it makes a frame without
//! copying the payload.

use std::fmt;
use std::io;

use bytes::{BufMut, BytesMut};

use super::{Packet, Preview};
use crate::config::Framing;
use crate::wire::HeaderFormat;
use crate::{Checksum, CodecConfig, WriteError};

/// A packet that you write; [`freeze`](Self::freeze) turns it into a [`Packet`].
///
/// - The typed `write_*` methods append little-endian values.
/// - [`buf_mut`](Self::buf_mut) returns a [`BufMut`] that appends, for prost and similar crates.
/// - `PacketMut` implements [`io::Write`], for `write!` and for serde formats.
///
/// Functions that accept `impl Into<Packet>` also accept a `PacketMut`.
#[derive(Clone)]
pub struct PacketMut {
    bytes: BytesMut,
    /// The number of bytes in front of the payload, for the header and for `prepend_bytes`.
    headroom: usize,
}

/// Defines a write method for each number type.
macro_rules! number_writes {
    ($($name:ident: $type:ty, $what:literal;)*) => {$(
        #[doc = concat!("Appends ", $what, ".")]
        #[inline]
        pub fn $name(&mut self, value: $type) {
            self.write_bytes(&value.to_le_bytes());
        }
    )*};
}

/// Defines the write methods for bytes and strings with a length prefix.
macro_rules! var_writes {
    ($($bytes_name:ident, $str_name:ident: $prefix:ty;)*) => {$(
        #[doc = concat!("Appends the length of `bytes` as a `", stringify!($prefix), "`, then the bytes.")]
        ///
        /// # Errors
        ///
        #[doc = concat!(
            "[`WriteError::TooLong`] if there are more than `", stringify!($prefix), "::MAX` bytes; nothing is written."
        )]
        pub fn $bytes_name(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
            let Ok(len) = <$prefix>::try_from(bytes.len()) else {
                return Err(WriteError::TooLong { len: bytes.len(), max: <$prefix>::MAX as usize });
            };
            self.reserve(size_of::<$prefix>() + bytes.len());
            self.write_bytes(&len.to_le_bytes());
            self.write_bytes(bytes);
            Ok(())
        }

        #[doc = concat!(
            "Appends the length of `text` in bytes as a `", stringify!($prefix), "`, then its UTF-8 bytes."
        )]
        ///
        /// # Errors
        ///
        #[doc = concat!(
            "[`WriteError::TooLong`] if there are more than `", stringify!($prefix), "::MAX` bytes; nothing is written."
        )]
        pub fn $str_name(&mut self, text: &str) -> Result<(), WriteError> {
            self.$bytes_name(text.as_bytes())
        }
    )*};
}

impl PacketMut {
    /// Makes the allocation 64 bytes, one cache line, including header and checksum.
    const DEFAULT_CAPACITY: usize = 64 - HeaderFormat::MAX_LEN - Checksum::MAX_LEN;

    /// An empty packet with room for a payload of 56 bytes. It grows as you write.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// An empty packet with room for a payload of `payload_len` bytes. It grows if you write more.
    ///
    /// # Panics
    ///
    /// If the capacity overflows, as with `Vec`.
    #[must_use]
    pub fn with_capacity(payload_len: usize) -> Self {
        Self::with_headroom(0, payload_len)
    }

    /// An empty packet with room for a payload of `payload_len` bytes and for `prepend_len` bytes in front of it.
    pub(super) fn with_headroom(prepend_len: usize, payload_len: usize) -> Self {
        let headroom = HeaderFormat::MAX_LEN + prepend_len;
        let mut bytes = BytesMut::with_capacity(payload_len.saturating_add(headroom + Checksum::MAX_LEN));
        bytes.put_bytes(0, headroom);
        Self { bytes, headroom }
    }

    /// A packet whose payload is `bytes` without the first `headroom` bytes.
    pub(super) fn from_parts(bytes: BytesMut, headroom: usize) -> Self {
        Self { bytes, headroom }
    }

    /// Reserves room for `additional` more bytes of payload.
    ///
    /// # Panics
    ///
    /// If the capacity overflows, as with `Vec`.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional.saturating_add(Checksum::MAX_LEN));
    }

    /// The payload so far.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.headroom..]
    }

    /// The payload so far, to change it in place. Use it to fill in a length or a count that is known only at the end.
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.headroom..]
    }

    /// The length of the payload so far, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.headroom
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the payload and keeps the memory for reuse.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.headroom);
    }

    /// A [`BufMut`] that appends to the payload.
    ///
    /// `PacketMut` itself does not implement `BufMut`: that needs `unsafe`, which this crate forbids.
    ///
    /// ```
    /// use bytes::BufMut;
    /// # use pktconn_codec::PacketMut;
    /// let mut packet = PacketMut::new();
    /// packet.buf_mut().put_u16(0x0102); // `BufMut::put_u16` is big-endian
    /// assert_eq!(packet.payload(), [1, 2]);
    /// ```
    pub fn buf_mut(&mut self) -> impl BufMut + '_ {
        &mut self.bytes
    }

    number_writes! {
        write_u8: u8, "a byte";
        write_u16: u16, "a little-endian `u16`";
        write_i16: i16, "a little-endian `i16`";
        write_u32: u32, "a little-endian `u32`";
        write_i32: i32, "a little-endian `i32`";
        write_u64: u64, "a little-endian `u64`";
        write_i64: i64, "a little-endian `i64`";
        write_f32: f32, "a little-endian IEEE 754 `f32`";
        write_f64: f64, "a little-endian IEEE 754 `f64`";
    }

    /// Appends a boolean: one byte, 0 or 1.
    #[inline]
    pub fn write_bool(&mut self, value: bool) {
        self.write_u8(value.into());
    }

    /// Appends bytes as they are.
    #[inline]
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.put_slice(bytes);
    }

    /// Inserts bytes in front of the payload, for example an id.
    ///
    /// If [`Packet::into_mut`] has copied the packet, 16 bytes are free in front of the payload. If there is not enough
    /// room, this copies the payload once and leaves room to prepend as many bytes again.
    ///
    /// ```
    /// # use pktconn_codec::Packet;
    /// let received = Packet::from("payload");
    /// let mut forwarded = received.into_mut();
    /// forwarded.prepend_bytes(&7_u32.to_le_bytes());
    /// assert_eq!(forwarded.payload(), b"\x07\0\0\0payload");
    /// ```
    pub fn prepend_bytes(&mut self, bytes: &[u8]) {
        if self.headroom < bytes.len() + HeaderFormat::MAX_LEN {
            let mut copy = Self::with_headroom(2 * bytes.len(), self.len());
            copy.write_bytes(self.payload());
            *self = copy;
        }
        self.headroom -= bytes.len();
        self.bytes[self.headroom..][..bytes.len()].copy_from_slice(bytes);
    }

    var_writes! {
        write_var_bytes_u16, write_var_str_u16: u16;
        write_var_bytes_u32, write_var_str_u32: u32;
    }

    /// Finishes the packet in the default format: a little-endian `u32` header and no checksum.
    ///
    /// A connection with another format replaces header and checksum when it sends the packet, without an extra copy of
    /// the payload. To send one packet many times in another format, use [`freeze_for`](Self::freeze_for).
    #[must_use]
    pub fn freeze(self) -> Packet {
        self.freeze_framed(Framing::default())
    }

    /// Finishes the packet in the format of `config`. Use it for a packet that is sent to many connections with this
    /// format: the checksum is computed once, here.
    ///
    /// A payload over the limit of `config` fails when it is sent. A packet from [`Packet::into_mut`] may have no room
    /// for a header in front of its payload: header and checksum are then computed each time it is sent.
    #[must_use]
    pub fn freeze_for(self, config: &CodecConfig) -> Packet {
        self.freeze_framed(config.framing)
    }

    fn freeze_framed(mut self, framing: Framing) -> Packet {
        let header = framing.header.encode_len(self.len());
        match header {
            Some(header) if header.as_slice().len() <= self.headroom => {
                let header = header.as_slice();
                let frame_start = self.headroom - header.len();
                let _ = self.bytes.split_to(frame_start);
                self.bytes[..header.len()].copy_from_slice(header);
                let trailer = framing.checksum.trailer([&self.bytes[..]]);
                self.bytes.put_slice(trailer.as_slice());
                Packet::from_frame(self.bytes.freeze(), framing)
            }
            // Either the headroom is too small for this header: sending then writes the header separately. Or the
            // length field cannot hold the length: sending then returns the error.
            _ => self.bytes.split_off(self.headroom).into(),
        }
    }
}

impl Default for PacketMut {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends to the payload; never fails.
impl io::Write for PacketMut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for PacketMut {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

/// Shows the length and the first 32 bytes of the payload.
impl fmt::Debug for PacketMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketMut")
            .field("len", &self.len())
            .field("payload", &Preview(self.payload()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn frame(packet: PacketMut, config: &CodecConfig) -> (Packet, Vec<u8>) {
        let packet = packet.freeze_for(config);
        let bytes = packet.bytes().to_vec();
        (packet, bytes)
    }

    #[test]
    fn freeze_for_writes_header_and_checksum_in_place_in_any_format() {
        let cases: [(CodecConfig, &[u8]); 4] = [
            (CodecConfig::new(), b"\x03\0\0\0\x3a\xbd\x40"),
            (CodecConfig::new().checksum(Checksum::Crc32), b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2"),
            (CodecConfig::new().header(HeaderFormat::U32Be), b"\0\0\0\x03\x3a\xbd\x40"),
            (CodecConfig::new().header(HeaderFormat::U16Be), b"\0\x03\x3a\xbd\x40"),
        ];
        for (config, expected) in cases {
            // The payload fills the requested capacity: the checksum must still fit.
            let mut packet = PacketMut::with_capacity(3);
            packet.write_bytes(b"\x3a\xbd\x40");
            let address = packet.payload().as_ptr();
            let (packet, bytes) = frame(packet, &config);
            assert_eq!(bytes, expected, "{config:?}");
            assert_eq!(packet.payload(), b"\x3a\xbd\x40");
            assert_eq!(packet.payload().as_ptr(), address, "{config:?} copied the payload");
        }
    }

    #[test]
    fn prepended_bytes_come_first_and_leave_room_for_a_header() {
        let mut made = PacketMut::new();
        made.write_bytes(b"payload");
        // Made here, owned alone in two formats, and shared, so that it is copied.
        let owned = |config: &CodecConfig| made.clone().freeze_for(config).into_mut();
        let shared = made.clone().freeze();
        let packets = [
            made.clone(),
            owned(&CodecConfig::new()),
            owned(&CodecConfig::new().header(HeaderFormat::U16Be).checksum(Checksum::Crc32)),
            shared.clone().into_mut(),
            Packet::from("payload").into_mut(),
        ];
        for mut packet in packets {
            for (number, len) in [0, 8, 8, 1, 1, 300].into_iter().enumerate() {
                let before = packet.payload().to_vec();
                let bytes = vec![number as u8; len];
                packet.prepend_bytes(&bytes);
                assert_eq!(packet.payload(), [bytes, before].concat());
                let (frozen, frame) = frame(packet.clone(), &CodecConfig::new());
                assert_eq!(frame[..4], (packet.len() as u32).to_le_bytes());
                assert_eq!((&frame[4..], frozen.payload()), (packet.payload(), packet.payload()));
            }
        }
        assert_eq!(shared.payload(), b"payload");
    }

    #[test]
    fn a_copy_to_be_changed_has_room_for_two_ids_without_another_copy() {
        let shared = Packet::from("payload");
        let mut packet = shared.clone().into_mut();
        let address = packet.payload().as_ptr();
        packet.prepend_bytes(&[1; 8]);
        packet.prepend_bytes(&[2; 8]);
        assert_eq!(packet.payload()[16..].as_ptr(), address);
    }

    #[test]
    fn a_new_packet_allocates_one_cache_line() {
        assert_eq!(PacketMut::new().bytes.capacity(), 64);
    }

    #[test]
    fn one_reserve_is_enough_for_the_payload_and_its_checksum() {
        let mut packet = PacketMut::new();
        packet.reserve(1000);
        let capacity = packet.bytes.capacity();
        let least = packet.headroom + 1000 + Checksum::MAX_LEN;
        assert!((least..2 * least).contains(&capacity), "{capacity} bytes");
        packet.write_bytes(&[7; 1000]);
        assert_eq!(packet.bytes.capacity(), capacity, "the buffer was allocated again");
    }

    #[test]
    fn each_write_leaves_room_for_the_checksum() {
        let mut packet = PacketMut::with_capacity(0);
        for _ in 0..200 {
            packet.write_u8(7);
            let spare = packet.bytes.capacity() - packet.bytes.len();
            assert!(
                spare >= Checksum::MAX_LEN,
                "{spare} bytes of spare capacity after {} bytes",
                packet.len()
            );
        }
    }

    #[test]
    fn as_a_writer_a_packet_accepts_all_bytes_at_once() {
        let mut packet = PacketMut::new();
        assert_eq!(packet.write(b"abc").unwrap(), 3);
        write!(packet, "{}", 12).unwrap();
        assert_eq!(packet.payload(), b"abc12");
        assert_eq!(packet.as_ref(), b"abc12");
    }

    #[test]
    fn debug_shows_the_length_and_the_first_bytes() {
        let mut packet = PacketMut::new();
        packet.write_bytes(b"\x00a");
        assert_eq!(format!("{packet:?}"), r#"PacketMut { len: 2, payload: b"\x00a" }"#);
    }

    #[test]
    #[should_panic(expected = "capacity overflow")]
    fn a_capacity_that_overflows_panics() {
        let _ = PacketMut::with_capacity(usize::MAX);
    }

    #[test]
    #[should_panic(expected = "capacity overflow")]
    fn a_reserve_that_overflows_panics() {
        PacketMut::new().reserve(usize::MAX);
    }

    #[test]
    fn a_payload_that_exceeds_the_length_field_is_frozen_without_a_header() {
        let mut packet = PacketMut::new();
        packet.write_bytes(&[7; 65_536]);
        let (packet, bytes) = frame(packet, &CodecConfig::new().header(HeaderFormat::U16Le));
        assert_eq!(packet.len(), 65_536);
        assert_eq!(bytes.len(), 65_536, "framed with a truncated length");
    }

    #[test]
    fn a_packet_with_little_headroom_is_frozen_without_a_header() {
        let small = PacketMut::new().freeze_for(&CodecConfig::new().header(HeaderFormat::U16Le));
        let mut grown = small.into_mut();
        grown.write_bytes(b"abc");
        let (packet, bytes) = frame(grown, &CodecConfig::new());
        assert_eq!((packet.payload(), &bytes[..]), (&b"abc"[..], &b"abc"[..]));
    }

    #[test]
    fn a_string_longer_than_its_prefix_can_hold_writes_nothing() {
        let mut packet = PacketMut::new();
        let long = "x".repeat(65_536);
        assert_eq!(packet.write_var_str_u16(&long), Err(WriteError::TooLong { len: 65_536, max: 65_535 }));
        assert!(packet.is_empty());
        packet.write_var_str_u32(&long).unwrap();
        assert_eq!(packet.len(), 4 + 65_536);
    }

    #[test]
    fn a_cleared_packet_can_be_written_again() {
        let mut packet = PacketMut::new();
        write!(packet, "{}", 12).unwrap();
        packet.clear();
        assert!(packet.is_empty());
        packet.write_bool(true);
        assert_eq!(packet.freeze().bytes().as_ref(), b"\x01\0\0\0\x01");
    }
}
