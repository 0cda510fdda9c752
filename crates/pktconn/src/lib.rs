//! Whole, ordered packets over TCP, TLS, Unix sockets or any byte stream: fast, bounded in memory, and no packet is
//! lost silently. The wire format is that of the Go library `pktconn`.
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
//! A [`Client`] connects again when its connection is lost. A [`Group`] sends a packet to many connections. The
//! [`guide`] has a chapter for each task.
//!
//! # The data path
//!
//! ```text
//! receive:  socket -> read buffer -> PacketCodec -> Packet -> recv()
//! send:     send() -> send queue (encoded once, in order, bounded) -> one large write -> socket
//! ```
//!
//! - [`recv`](PacketConn::recv) reads from the socket. There is no task and no channel between the socket and the
//!   caller, so the flow control of TCP slows down a peer whose packets are not received.
//! - [`send`](PacketConn::send) puts a packet into the send queue. The queue is written when the receiving side is
//!   about to wait, when it contains 64 KiB, or at the end of the current turn of the scheduler, whichever is first. So
//!   a single packet is not delayed, many packets are written together, and there is nothing to flush.
//!   [`send_many`](PacketConn::send_many) writes its batch at its end. With [`flush_delay`](ConnConfig::flush_delay),
//!   packets wait for others.
//!
//! # Guarantees
//!
//! - The received packets are a prefix of those that the peer sent: whole, in order, none twice.
//! - A connection fails with one [`Error`], which each of its handles can read.
//! - Memory grows with bytes that have arrived or are queued, never with the length that a header announces.
//! - Every future can be dropped at any time without tearing a packet.
//!
//! # Runtime
//!
//! A connection must be made inside a tokio runtime, current-thread or multi-thread, with its I/O and time drivers
//! enabled, as with `#[tokio::main]`.
//!
//! If a thousand connections are often ready at the same time, a current-thread runtime with
//! `max_io_events_per_tick(64)` finds their tasks still in the CPU cache. `pktecho --threads 1` does this.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls` | TLS with rustls: `TlsServerConfig`, `TlsVersion`, `TlsClientConfig`, `TlsInfo` |
//! | `proxy-protocol` | the PROXY protocol for servers: `ServerConfig::proxy_protocol`, `PacketConn::proxy_header` |
//! | `session` | packets that arrive exactly once over any number of lost connections: `Session`, `SessionConfig`, `PacketServer::serve_sessions`, `ClientConfig::session` |
//! | `metrics` | figures for the recorder of the [`metrics`](https://docs.rs/metrics) crate |
//!
//! All features are off by default.
//!
//! # Metrics
//!
//! With the feature `metrics`, all servers and clients of a process add to the figures below. Install the recorder of
//! the program, for example one for Prometheus, before the first server. A server that is
//! [serving](PacketServer::serve) updates its figures once per second and at its end; no packet causes a call of the
//! recorder. For one server alone, without the feature, see [`ServerHandle::stats`] and [`ServerHandle::traffic`].
//!
//! | name | type | value |
//! |---|---|---|
//! | `pktconn_connections_accepted_total` | counter | connections that servers accepted |
//! | `pktconn_connections_refused_total` | counter | connections closed at once because a limit was reached |
//! | `pktconn_connections_over_rate_total` | counter | refused connections whose client network exceeded `conn_rate_per_ip` |
//! | `pktconn_connections_over_process_memory_total` | counter | refused connections that came while the process held more than `max_process_memory` |
//! | `pktconn_process_memory_exceeded_total` | counter | how often the memory of the process has come over `max_process_memory` |
//! | `pktconn_handshakes_failed_total` | counter | connections whose TLS handshake or PROXY header failed |
//! | `pktconn_budget_pauses_total` | counter | how often the memory budget was three quarters used, so that the heaviest networks were paused |
//! | `pktconn_idle_connections_over_budget_total` | counter | idle connections closed because of the memory budget |
//! | `pktconn_connections_over_budget_total` | counter | connections closed because of the memory budget, idle ones included |
//! | `pktconn_connections_ended_total` | counter | connections that have ended; label `reason`: `local_close`, `remote_close`, `truncated`, `protocol`, `io`, `timeout`, `too_slow`, `max_age`, `slow_consumer`, `over_budget` |
//! | `pktconn_connections_open` | gauge | open connections |
//! | `pktconn_handshakes_running` | gauge | handshakes that are running |
//! | `pktconn_packets_received_total`, `pktconn_packets_sent_total`, `pktconn_packets_dropped_total` | counters | packets of servers' connections, as [`ConnStats`] counts them |
//! | `pktconn_received_bytes_total`, `pktconn_sent_bytes_total` | counters | bytes of servers' connections, with headers and checksums |
//! | `pktconn_reads_total`, `pktconn_writes_total` | counters | reads from and writes to the transports |
//! | `pktconn_queued_bytes` | gauge | bytes in the send queues |
//! | `pktconn_held_bytes` | gauge | memory that connections hold, of servers with a memory budget |
//! | `pktconn_connection_duration_seconds` | histogram | time from accept to the end of a connection |
//! | `pktconn_handshake_duration_seconds` | histogram | time from accept to the end of a successful handshake |
//! | `pktconn_client_connections_total` | counter | connections that a [`Client`] made |
//! | `pktconn_client_failed_tries_total` | counter | failed connection attempts of a [`Client`] |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
pub use error::{Error, Timeout};

mod transport;
pub use transport::{Addr, ConnStream, PeerCredentials, TcpConfig};
#[cfg(feature = "proxy-protocol")]
pub use transport::{ProxyHeader, ProxySsl, ProxyTlv};
#[cfg(feature = "tls")]
pub use transport::{TlsClientConfig, TlsInfo, TlsServerConfig, TlsVersion};

mod connection;
pub use connection::{
    ConnConfig, ConnId, ConnStats, CutConn, PacketConn, PacketReceiver, PacketSender, PacketSink, SendPermit,
    SinkSource, SlowConsumer,
};

#[cfg(feature = "session")]
mod session;
#[cfg(feature = "session")]
pub use session::{
    Session, SessionConfig, SessionEnd, SessionEndReason, SessionId, SessionMode, SessionReceiver,
    SessionSender, SessionState,
};

mod server;
pub use server::{
    BoxError, ConnHandler, ConnRate, HandlerResult, Listener, MachineLimits, PacketServer, ServerConfig,
    ServerHandle, ServerStats, ShutdownReport,
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
