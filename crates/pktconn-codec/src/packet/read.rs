//! Typed reads: little-endian, checked, and without effect when they fail.

use bytes::{Buf, Bytes};

use super::Packet;
use crate::ReadError;

/// A read of a number of `size_of::<$type>()` bytes, with a doctest of its failure.
macro_rules! number_reads {
    ($($name:ident: $type:ty, $what:literal;)*) => {$(
        #[doc = concat!("Reads ", $what, ".")]
        ///
        /// # Errors
        ///
        /// [`ReadError::UnexpectedEnd`] when fewer bytes are left than that; the cursor stays.
        ///
        /// ```
        /// # use pktconn_codec::{Packet, ReadError};
        /// let mut packet = Packet::default();
        #[doc = concat!("let needed = size_of::<", stringify!($type), ">();")]
        #[doc = concat!(
            "assert_eq!(packet.", stringify!($name), "(), Err(ReadError::UnexpectedEnd { needed, available: 0 }));"
        )]
        /// ```
        #[inline]
        pub fn $name(&mut self) -> Result<$type, ReadError> {
            let unread = self.unread();
            let Some(bytes) = unread.first_chunk() else {
                return Err(ReadError::UnexpectedEnd { needed: size_of::<$type>(), available: unread.len() });
            };
            let value = <$type>::from_le_bytes(*bytes);
            self.position += size_of::<$type>();
            Ok(value)
        }
    )*};
}

/// A read of what stands behind a length prefix, as bytes and as a string.
macro_rules! variable_reads {
    ($($bytes_name:ident, $str_name:ident: $prefix:ty;)*) => {$(
        #[doc = concat!("Reads bytes behind their `", stringify!($prefix), "` length. They share the packet's memory.")]
        ///
        /// # Errors
        ///
        /// [`ReadError::UnexpectedEnd`] when the length, or as many bytes as it says, are not left; the cursor stays.
        ///
        /// ```
        /// # use pktconn_codec::{PacketMut, ReadError};
        /// let mut packet = PacketMut::new();
        #[doc = concat!("packet.write_", stringify!($prefix), "(5);")]
        /// packet.write_bytes(b"abc");
        /// let mut packet = packet.freeze();
        #[doc = concat!("let needed = size_of::<", stringify!($prefix), ">() + 5;")]
        /// let available = needed - 2;
        #[doc = concat!(
            "assert_eq!(packet.", stringify!($bytes_name), "(), Err(ReadError::UnexpectedEnd { needed, available }));"
        )]
        /// assert_eq!(packet.position(), 0);
        /// ```
        pub fn $bytes_name(&mut self) -> Result<Bytes, ReadError> {
            let len = self.variable_len(size_of::<$prefix>())?;
            self.position += size_of::<$prefix>();
            Ok(self.copy_to_bytes(len))
        }

        #[doc = concat!("Reads a string behind its `", stringify!($prefix), "` length.")]
        ///
        /// The string borrows from the packet: `to_owned` what outlives the next read.
        ///
        /// # Errors
        ///
        /// [`ReadError::UnexpectedEnd`] when the length, or as many bytes as it says, are not left;
        /// [`ReadError::InvalidUtf8`] when the bytes are not UTF-8. The cursor stays.
        ///
        /// ```
        /// # use pktconn_codec::{PacketMut, ReadError};
        /// let mut packet = PacketMut::new();
        #[doc = concat!("packet.write_", stringify!($prefix), "(1);")]
        /// packet.write_u8(0xff);
        /// let mut packet = packet.freeze();
        #[doc = concat!(
            "assert!(matches!(packet.", stringify!($str_name), "(), Err(ReadError::InvalidUtf8(_))));"
        )]
        #[doc = concat!("assert_eq!(&packet.", stringify!($bytes_name), "()?[..], [0xff]);")]
        /// # Ok::<(), ReadError>(())
        /// ```
        pub fn $str_name(&mut self) -> Result<&str, ReadError> {
            let len = self.variable_len(size_of::<$prefix>())?;
            let start = self.position + size_of::<$prefix>();
            std::str::from_utf8(&self.payload()[start..start + len]).map_err(ReadError::InvalidUtf8)?;
            self.position = start + len;
            // Checked a moment ago; to check again is the price of not keeping a borrow across the cursor's move.
            std::str::from_utf8(&self.payload()[start..start + len]).map_err(ReadError::InvalidUtf8)
        }
    )*};
}

impl Packet {
    number_reads! {
        read_u8: u8, "a byte";
        read_u16: u16, "a little-endian `u16`";
        read_i16: i16, "a little-endian `i16`";
        read_u32: u32, "a little-endian `u32`";
        read_i32: i32, "a little-endian `i32`";
        read_u64: u64, "a little-endian `u64`";
        read_i64: i64, "a little-endian `i64`";
        read_f32: f32, "a little-endian IEEE 754 `f32`";
        read_f64: f64, "a little-endian IEEE 754 `f64`";
    }

    /// Reads a boolean: one byte, of which any but 0 is true.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] when no byte is left.
    ///
    /// ```
    /// # use pktconn_codec::{Packet, ReadError};
    /// let mut packet = Packet::from(b"\x02");
    /// assert_eq!(packet.read_bool(), Ok(true));
    /// assert_eq!(packet.read_bool(), Err(ReadError::UnexpectedEnd { needed: 1, available: 0 }));
    /// ```
    #[inline]
    pub fn read_bool(&mut self) -> Result<bool, ReadError> {
        self.read_u8().map(|byte| byte != 0)
    }

    /// Reads `len` bytes. They share the packet's memory.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] when fewer are left; the cursor stays.
    ///
    /// ```
    /// # use pktconn_codec::{Packet, ReadError};
    /// let mut packet = Packet::from(b"raw");
    /// assert_eq!(packet.read_bytes(4), Err(ReadError::UnexpectedEnd { needed: 4, available: 3 }));
    /// assert_eq!(&packet.read_bytes(3)?[..], b"raw");
    /// # Ok::<(), ReadError>(())
    /// ```
    pub fn read_bytes(&mut self, len: usize) -> Result<Bytes, ReadError> {
        self.check(len)?;
        Ok(self.copy_to_bytes(len))
    }

    variable_reads! {
        read_var_bytes_u16, read_var_str_u16: u16;
        read_var_bytes_u32, read_var_str_u32: u32;
    }

    /// Where the cursor stands, in bytes from the start of the payload.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Moves the cursor to `position`, in bytes from the start of the payload.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] when that is beyond the end; the cursor stays.
    ///
    /// ```
    /// # use pktconn_codec::{Packet, ReadError};
    /// let mut packet = Packet::from(b"raw");
    /// packet.seek(3)?;
    /// assert_eq!(packet.seek(4), Err(ReadError::UnexpectedEnd { needed: 4, available: 3 }));
    /// assert_eq!(packet.position(), 3);
    /// # Ok::<(), ReadError>(())
    /// ```
    pub fn seek(&mut self, position: usize) -> Result<(), ReadError> {
        if position > self.len() {
            return Err(ReadError::UnexpectedEnd { needed: position, available: self.len() });
        }
        self.position = position;
        Ok(())
    }

    fn check(&self, needed: usize) -> Result<(), ReadError> {
        let available = self.remaining();
        if needed > available { Err(ReadError::UnexpectedEnd { needed, available }) } else { Ok(()) }
    }

    /// What the little-endian length prefix of `prefix_len` bytes at the cursor says, once as many bytes follow it.
    fn variable_len(&self, prefix_len: usize) -> Result<usize, ReadError> {
        self.check(prefix_len)?;
        let mut prefix = [0; 4];
        prefix[..prefix_len].copy_from_slice(&self.unread()[..prefix_len]);
        let len = u32::from_le_bytes(prefix) as usize;
        self.check(prefix_len.saturating_add(len))?;
        Ok(len)
    }
}
