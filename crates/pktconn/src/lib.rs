//! Whole, ordered packets over TCP, or over any byte stream: fast, bounded in memory, and never losing one silently.
//! The wire format is that of the Go library `pktconn`.
//!
//! ```text
//! +----------------+---------------------+------------------------+
//! | length: u32 LE | payload: length B   | crc32: u32 LE, if on   |
//! +----------------+---------------------+------------------------+
//! ```
//!
//! # A server and a client
//!
//! ```
//! use pktconn::{PacketConn, PacketMut, PacketServer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = PacketServer::bind("127.0.0.1:0").await?;
//! let addr = server.local_addr();
//! tokio::spawn(server.serve(|mut conn| async move {
//!     while let Some(packet) = conn.recv().await? {
//!         conn.send(packet).await?;
//!     }
//!     Ok(conn.close().await?)
//! }));
//!
//! let mut conn = PacketConn::connect(addr).await?;
//! let mut request = PacketMut::new();
//! request.write_u16(7);
//! request.write_var_str_u16("hello")?;
//! conn.send(request).await?;
//!
//! let mut reply = conn.recv().await?.ok_or("the server closed the connection")?;
//! assert_eq!(reply.read_u16()?, 7);
//! assert_eq!(reply.read_var_str_u16()?, "hello");
//! conn.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] keeps its connection up: it connects again when that is lost. A [`Group`] sends a packet to many.
//!
//! # The data path
//!
//! ```text
//! socket -> read buffer -> PacketCodec -> Packet -> recv()            receive
//! send() -> outbox (encoded once, in order, bounded) -> one large write -> socket     outbox, shared, flush
//! ```
//!
//! - Reading is pulled by [`recv`](PacketConn::recv): there is no task and no channel between the socket and the caller,
//!   so a caller that does not read slows the peer down by TCP's own means.
//! - [`send`](PacketConn::send) puts a packet into the outbox. It leaves at the end of the current turn of the scheduler,
//!   or sooner: when the receiving side is about to wait, or when a large write's worth has gathered. So single packets
//!   are not delayed, and many go out in one write. Nothing more need be called for that. A batch, by
//!   [`send_many`](PacketConn::send_many), leaves at its end. Under
//!   [`flush_delay`](ConnConfig::flush_delay) they wait for others to follow.
//! - What holds of every connection: the packets received are a prefix of those that the peer sent; a failure is one
//!   [`Error`], and every handle can read the first; memory follows bytes that arrived or were queued, never what a header claims;
//!   any future can be dropped at any time without tearing a packet.
//!
//! # Runtime
//!
//! Both of tokio's runtimes do, with their I/O and time drivers on (as `#[tokio::main]` has them). A connection must be
//! made inside of one.
//!
//! Where a thousand connections are often ready at once, a current-thread runtime that looks at 64 sockets a turn
//! (`max_io_events_per_tick`) finds their tasks still in the cache; `pktecho` has one.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls` | TLS by rustls: `TlsServerConfig`, `TlsClientConfig`, `TlsInfo` |
//! | `proxy-protocol` | the PROXY protocol for servers: `ServerConfig::proxy_protocol` |
//!
//! All are off by default, and change nothing for who does not use them.

#![forbid(unsafe_code)]

mod config;
pub use config::ConnConfig;

mod conn;
pub use conn::PacketConn;

mod addr;
pub use addr::Addr;

mod byte_stream;

mod connect;

mod tcp;
pub use tcp::TcpConfig;

mod read;

mod deadlines;

mod receive;
pub use receive::PacketReceiver;

mod send;
pub use send::PacketSender;

mod transport;

mod ends;

mod outbox;

mod slow;
pub use slow::SlowConsumer;

mod pool;

mod flush;

mod timer;

mod sweep;

mod shared;

mod state;

mod close;

mod wait;

mod turn;

mod later;

mod stop;

mod server;
pub use server::PacketServer;

mod entry;

#[cfg(feature = "proxy-protocol")]
mod proxy;
#[cfg(feature = "proxy-protocol")]
pub use ipnet::IpNet;

#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
pub use tls::{TlsClientConfig, TlsInfo, TlsServerConfig};

mod listener;
pub use listener::Listener;

#[cfg(unix)]
mod socket_file;

mod server_config;
pub use server_config::ServerConfig;

mod budget;

mod control;
pub use control::{CutConn, ServerHandle, ServerStats, ShutdownReport};

mod census;

mod client;
pub use client::{Client, ClientConfig, ClientEvent, ClientSender, ClientState, Lost};

mod group;
pub use group::{Broadcast, Group};

mod stats;
pub use stats::ConnStats;

mod error;
pub use error::{Error, Timeout};

pub use pktconn_codec::{
    Checksum, CodecConfig, CodecError, Frame, FrameError, HeaderFormat, Packet, PacketCodec, PacketMut,
    ReadError, UnknownHeaderFormat, WriteError,
};

/// The examples of the READMEs compile.
#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../README.md")]
    struct OfTheCrate;

    #[doc = include_str!("../../../README.md")]
    struct OfTheRepository;
}
