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
//! The crate does no I/O and has no clock and no task. Use it in one of these ways:
//!
//! - [`PacketCodec`] in a `tokio_util::codec::Framed`, as below (feature `tokio-util`, on by default);
//! - [`blocking::read_packet`] and [`blocking::write_packet`] over `std::io` streams;
//! - [`PacketCodec::decode_frame`] and [`PacketCodec::encode_frame`] with any other I/O. The example `smol` does that.
//!
//! Without the feature `tokio-util` no part of tokio is compiled. The crate `pktconn` has connections, servers and clients.
//!
//! # In a `Framed`
//!
#![cfg_attr(feature = "tokio-util", doc = "```")]
#![cfg_attr(not(feature = "tokio-util"), doc = "```ignore")]
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
#![cfg_attr(docsrs, feature(doc_cfg))]

mod wire;
pub use wire::{HeaderFormat, UnknownHeaderFormat};

mod checksum;
pub use checksum::Checksum;

mod config;
pub use config::CodecConfig;

mod packet;
pub use packet::{Packet, PacketMut};

mod frame;
#[doc(hidden)]
pub use frame::{Frame, PartsFrame};

mod codec;
pub use codec::PacketCodec;

#[cfg(feature = "tokio-util")]
mod framed;

pub mod blocking;

mod error;
pub use error::{CodecError, FrameError, ReadError, WriteError};

/// The example of the README compiles.
#[cfg(all(doctest, feature = "tokio-util"))]
#[doc = include_str!("../README.md")]
struct Readme;
