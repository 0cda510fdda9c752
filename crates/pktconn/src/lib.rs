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
//! send() -> send queue (encoded once, in order, bounded) -> one large write -> socket     connection
//! ```
//!
//! - Reading is pulled by [`recv`](PacketConn::recv): there is no task and no channel between the socket and the caller,
//!   so a caller that does not read slows the peer down by TCP's own means.
//! - [`send`](PacketConn::send) puts a packet into the send queue. It leaves at the end of the current turn of the scheduler,
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
//! | `metrics` | figures for the recorder of the [`metrics`](https://docs.rs/metrics) crate |
//!
//! All are off by default, and change nothing for who does not use them.
//!
//! # Metrics
//!
//! With the feature `metrics`, all servers and clients of a process add to these, for Prometheus or what else the program
//! has a recorder for. Install that before the first server. A server that [serves](PacketServer::serve) brings its figures
//! up to date once a second and at its end: nothing is counted there for a packet. For one server alone there are
//! [`ServerHandle::stats`] and [`ServerHandle::traffic`], without the feature.
//!
//! | name | what it is | |
//! |---|---|---|
//! | `pktconn_connections_accepted_total` | counter | connections that servers have accepted |
//! | `pktconn_connections_refused_total` | counter | those that were closed at once, because there were too many |
//! | `pktconn_handshakes_failed_total` | counter | those that never came to their first packet, because of TLS or the PROXY protocol |
//! | `pktconn_connections_over_budget_total` | counter | those that were closed for the memory budget |
//! | `pktconn_connections_ended_total` | counter | those that were opened and are gone; label `reason`: `local_close`, `remote_close`, `truncated`, `protocol`, `io`, `timeout`, `slow_consumer`, `over_budget` |
//! | `pktconn_connections_open` | gauge | those that are there |
//! | `pktconn_packets_received_total`, `pktconn_packets_sent_total`, `pktconn_packets_dropped_total` | counters | packets of servers' connections, as [`ConnStats`] counts them |
//! | `pktconn_received_bytes_total`, `pktconn_sent_bytes_total` | counters | bytes of the same |
//! | `pktconn_reads_total`, `pktconn_writes_total` | counters | reads from their transports and writes to them |
//! | `pktconn_queued_bytes` | gauge | bytes that wait for peers to take them |
//! | `pktconn_held_bytes` | gauge | what connections hold in memory, where there is a budget |
//! | `pktconn_connection_duration_seconds` | histogram | from the accept to the end of a connection that was opened |
//! | `pktconn_handshake_duration_seconds` | histogram | from the accept to the first packet that could be |
//! | `pktconn_client_connections_total` | counter | connections that a [`Client`] has made |
//! | `pktconn_client_failed_tries_total` | counter | its attempts that failed |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
pub use error::{Error, Timeout};

mod transport;
pub use transport::{Addr, Listener, TcpConfig};
#[cfg(feature = "tls")]
pub use transport::{TlsClientConfig, TlsInfo, TlsServerConfig};

mod connection;
pub use connection::{
    ConnConfig, ConnId, ConnStats, CutConn, PacketConn, PacketReceiver, PacketSender, PacketSink, SendPermit,
    SinkSource, SlowConsumer,
};

mod server;
pub use server::{
    BoxError, ConnHandler, HandlerResult, PacketServer, ServerConfig, ServerHandle, ServerStats,
    ShutdownReport,
};

mod client;
pub use client::{Client, ClientConfig, ClientEvent, ClientPermit, ClientSender, ClientState, Lost};

mod group;
pub use group::{Broadcast, Group};

pub mod guide;

#[cfg(feature = "proxy-protocol")]
pub use ipnet::IpNet;

pub use pktconn_codec::{
    Checksum, CodecConfig, CodecError, FrameError, HeaderFormat, Packet, PacketCodec, PacketMut, ReadError,
    UnknownHeaderFormat, WriteError,
};

/// The examples of the READMEs compile.
#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../README.md")]
    struct OfTheCrate;

    #[doc = include_str!("../../../README.md")]
    struct OfTheRepository;
}

/// Mistakes that must not compile, because they would do something else than they say.
///
/// A connection that receives in one arm of a `select!` and sends in another needs a `sender`:
///
/// ```compile_fail,E0502
/// # async fn trap(mut conn: pktconn::PacketConn) {
/// tokio::select! {
///     _ = conn.recv() => {}
///     _ = conn.send("hello") => {}
/// }
/// # }
/// ```
///
/// ```
/// # async fn works(mut conn: pktconn::PacketConn) {
/// let sender = conn.sender();
/// tokio::select! {
///     _ = conn.recv() => {}
///     _ = sender.send("hello") => {}
/// }
/// # }
/// ```
///
/// Neither a connection nor a sender is a `Sink`: `SinkExt::send` would take the place of `send`.
///
/// ```compile_fail,E0277
/// fn needs_sink(_: impl futures::Sink<pktconn::Packet>) {}
/// # fn trap(conn: pktconn::PacketConn) {
/// needs_sink(conn);
/// # }
/// ```
///
/// ```
/// fn needs_sink(_: impl futures::Sink<pktconn::Packet>) {}
/// # fn works(conn: pktconn::PacketConn) {
/// needs_sink(conn.sender().into_sink());
/// needs_sink(conn.into_sink());
/// # }
/// ```
#[cfg(doctest)]
struct Traps;
