//! Encodes and decodes length-prefixed packets with an optional CRC-32. Wire-compatible with the Go library `pktconn`.
//!
//! ```text
//! +----------------+---------------------+------------------------+
//! | length: u32 LE | payload: length B   | crc32: u32 LE, if on   |
//! +----------------+---------------------+------------------------+
//! ```
//!
//! - `length` is the length of the payload only. Empty packets are valid.
//! - The checksum is CRC-32 (IEEE, as in zlib) of the length field and the payload. It is off by default. Both sides
//!   must use the same setting: nothing on the wire announces it.
//! - [`HeaderFormat`] selects other length fields, for example for Erlang peers.
//!
//! The crate opens no sockets and starts no tasks. Use it in one of three ways:
//!
//! - With tokio: [`PacketCodec`] in a `tokio_util::codec::Framed`, as below. This needs the feature `tokio-util`, which
//!   is on by default.
//! - With blocking streams: [`blocking::read_packet`] and [`blocking::write_packet`].
//! - With other runtimes: [`PacketCodec::decode_frame`] and [`PacketCodec::encode_frame`]. See `examples/smol.rs`.
//!
//! Without default features, no part of tokio is compiled. The crate `pktconn` adds connections, servers and clients.
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

mod control;
#[doc(hidden)]
pub use control::{CONTROL_PREFIX_LEN, FIRST_CONTROL_LEN, MAX_CONTROL_BODY_LEN};

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

/// Compiles the examples of the README as doctests.
#[cfg(all(doctest, feature = "tokio-util"))]
#[doc = include_str!("../README.md")]
struct Readme;
