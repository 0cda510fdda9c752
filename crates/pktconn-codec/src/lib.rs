//! Packets to bytes and back: length-prefixed framing with an optional CRC-32, wire-compatible with the Go library
//! `pktconn`.
//!
//! ```text
//! +----------------+---------------------+------------------------+
//! | length: u32 LE | payload: length B   | crc32: u32 LE, if on   |
//! +----------------+---------------------+------------------------+
//! ```
//!
//! - `length` counts the payload alone; 0 is a legal packet.
//! - The checksum is CRC-32 (IEEE, as in zlib) over the length field and the payload. Both sides configure it; nothing
//!   on the wire announces it.
//! - Other length fields ([`HeaderFormat`]) speak to peers that are not Go.
//!
//! This crate knows no socket, no clock and no task. [`PacketCodec`] is a [`Decoder`](tokio_util::codec::Decoder) and
//! an [`Encoder`](tokio_util::codec::Encoder); the crate `pktconn` builds connections on it.
//!
//! # In a `Framed`
//!
//! ```
//! use futures::{SinkExt, StreamExt};
//! use pktconn_codec::{Packet, PacketCodec, PacketMut};
//! use tokio_util::codec::Framed;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = tokio::io::duplex(1024);
//! let mut client = Framed::new(here, PacketCodec::default());
//! let mut server = Framed::new(there, PacketCodec::default());
//!
//! let mut request = PacketMut::new();
//! request.write_u16(7);
//! request.write_var_str_u16("hello")?;
//! client.send(request.freeze()).await?;
//!
//! let mut received: Packet = server.next().await.unwrap()?;
//! assert_eq!(received.read_u16()?, 7);
//! assert_eq!(received.read_var_str_u16()?, "hello");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod wire;
pub use wire::{HeaderFormat, UnknownHeaderFormat};

mod checksum;
pub use checksum::Checksum;

mod config;
pub use config::CodecConfig;

mod packet;
pub use packet::{Packet, PacketMut};

mod frame;
pub use frame::Frame;

mod codec;
pub use codec::PacketCodec;

mod error;
pub use error::{CodecError, FrameError, ReadError, WriteError};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
