//! The public events and states of a client.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pktconn_codec::Packet;

use crate::Error;

/// An event of a [`Client`](crate::Client). [`Client::recv`](crate::Client::recv) returns them in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A connection was made.
    Connected,
    /// A packet was received.
    Packet(Packet),
    /// The session has moved to another server, because its server has asked for that. Nothing is lost or in doubt.
    #[cfg(feature = "session")]
    Moved,
    /// The server has no sessions, so the next connections are without: what they carry can be lost with them.
    #[cfg(feature = "session")]
    WithoutSession,
    /// The connection ended. All packets that arrived over it came before this event, unless [`Lost::may_miss_packets`]
    /// is set.
    Lost(Lost),
}

/// The end of a client's connection.
///
/// If the application does not receive, several connections that ended one after the other without a packet in between
/// can be reported as one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Lost {
    /// Why the connection ended. If this event reports several connections, the reason of the last one.
    pub error: Error,
    /// Numbers of the packets that were completely written to this connection, as [`send`](crate::Client::send)
    /// returned them.
    ///
    /// It is unknown whether the server received them. They are never sent again. Packets with later numbers are sent
    /// over the next connection, or returned by [`close`](crate::Client::close).
    pub delivery_unknown: Range<u64>,
    /// Whether packets that arrived over this connection may be missing from the events before this one.
    ///
    /// `false` guarantees that all packets that arrived were delivered. If packets are missing, they are the last ones
    /// of the connection. If this event reports several connections, `true` means that at least one of them may have
    /// missing packets.
    ///
    /// It is `true` in these cases:
    ///
    /// - The application did not receive, and the [memory limit](crate::Client#memory) of the client was reached.
    /// - Reading stopped early: [`write_timeout`](crate::ConnConfig::write_timeout) passed, the client or the
    ///   connection was closed on this side, or the runtime was shut down.
    ///
    /// A clean close by the server never sets it.
    pub may_miss_packets: bool,
}

/// The state of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// An attempt to connect is running.
    Connecting,
    /// A connection is open.
    Connected,
    /// The client waits before the next attempt.
    #[non_exhaustive]
    Waiting {
        /// How many attempts in a row have failed. A connection that ended before the backoff was reset counts as
        /// failed; see [`max_backoff`](crate::ClientConfig::max_backoff).
        failed_tries: u32,
        /// How long the client waits in this state.
        delay: Duration,
        /// Why the last attempt failed, or the connection ended.
        error: Arc<Error>,
    },
    /// The client has ended: it was closed or dropped, [`max_tries`](crate::ClientConfig::max_tries) was reached, or an
    /// attempt failed with [`is_config`](Error::is_config).
    ///
    /// The error is why not everything was sent, or that of the last attempt. `None` if everything was sent.
    Ended(Option<Arc<Error>>),
}

impl ClientState {
    /// Whether a connection is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }

    /// Whether the client has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}
