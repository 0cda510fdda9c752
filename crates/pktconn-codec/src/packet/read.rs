//! Typed reads from a `Packet`: little-endian and checked. A read that fails does not move the cursor.

use bytes::{Buf, Bytes};

use super::Packet;
use crate::ReadError;

/// Defines a read method for each number type, with a doctest of its error.
macro_rules! number_reads {
    ($($name:ident: $type:ty, $what:literal;)*) => {$(
        #[doc = concat!("Reads ", $what, ".")]
        ///
        /// # Errors
        ///
        /// [`ReadError::UnexpectedEnd`] if fewer bytes are left; the cursor does not move.
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

/// Defines the read methods for bytes and strings with a length prefix.
macro_rules! var_reads {
    ($($bytes_name:ident, $str_name:ident: $prefix:ty;)*) => {$(
        #[doc = concat!("Reads a `", stringify!($prefix), "` length, then as many bytes. Nothing is copied.")]
        ///
        /// # Errors
        ///
        /// [`ReadError::UnexpectedEnd`] if the packet ends before the last byte; the cursor does not move.
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
            let len = self.peek_var_len(size_of::<$prefix>())?;
            self.position += size_of::<$prefix>();
            Ok(self.copy_to_bytes(len))
        }

        #[doc = concat!("Reads a `", stringify!($prefix), "` length in bytes, then a UTF-8 string of this length.")]
        ///
        /// The string borrows from the packet. Call `to_owned` if you need it after the next read.
        ///
        /// # Errors
        ///
        /// - [`ReadError::UnexpectedEnd`]: the packet ends before the last byte.
        /// - [`ReadError::InvalidUtf8`]: the bytes are not UTF-8.
        ///
        /// The cursor does not move in either case.
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
            let len = self.peek_var_len(size_of::<$prefix>())?;
            let start = self.position + size_of::<$prefix>();
            std::str::from_utf8(&self.payload()[start..start + len]).map_err(ReadError::InvalidUtf8)?;
            self.position = start + len;
            // Checks again, because the first result would still borrow the packet while the cursor moves.
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

    /// Reads a boolean: one byte. 0 is false, any other value is true.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] if no byte is left.
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

    /// Reads `len` bytes. Nothing is copied: they share the memory of the packet.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] if fewer bytes are left; the cursor does not move.
    ///
    /// ```
    /// # use pktconn_codec::{Packet, ReadError};
    /// let mut packet = Packet::from(b"raw");
    /// assert_eq!(packet.read_bytes(4), Err(ReadError::UnexpectedEnd { needed: 4, available: 3 }));
    /// assert_eq!(&packet.read_bytes(3)?[..], b"raw");
    /// # Ok::<(), ReadError>(())
    /// ```
    pub fn read_bytes(&mut self, len: usize) -> Result<Bytes, ReadError> {
        self.check_remaining(len)?;
        Ok(self.copy_to_bytes(len))
    }

    var_reads! {
        read_var_bytes_u16, read_var_str_u16: u16;
        read_var_bytes_u32, read_var_str_u32: u32;
    }

    /// The position of the cursor, in bytes from the start of the payload.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Moves the cursor to `position`, in bytes from the start of the payload.
    ///
    /// # Errors
    ///
    /// [`ReadError::UnexpectedEnd`] if `position` is beyond the end; the cursor does not move.
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

    /// Fails if fewer than `needed` bytes are left.
    fn check_remaining(&self, needed: usize) -> Result<(), ReadError> {
        let available = self.remaining();
        if needed > available { Err(ReadError::UnexpectedEnd { needed, available }) } else { Ok(()) }
    }

    /// The value of the length prefix of `prefix_len` bytes at the cursor. Fails if fewer bytes follow it.
    fn peek_var_len(&self, prefix_len: usize) -> Result<usize, ReadError> {
        self.check_remaining(prefix_len)?;
        let mut prefix = [0; 4];
        prefix[..prefix_len].copy_from_slice(&self.unread()[..prefix_len]);
        let len = u32::from_le_bytes(prefix) as usize;
        self.check_remaining(prefix_len.saturating_add(len))?;
        Ok(len)
    }
}
