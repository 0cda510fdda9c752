//! What a client receives, and the state that it is in.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pktconn_codec::Packet;

use crate::Error;

/// What happens to a [`Client`](crate::Client), in its order.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// There is a connection.
    Connected,
    /// A packet was received.
    Packet(Packet),
    /// The connection ended. All that arrived over it came before, unless [`Lost::undelivered`] is set.
    Lost(Lost),
}

/// The end of one of a client's connections. Several in a row that nobody has received may be told as one, where no
/// packet came in between.
#[derive(Debug)]
#[non_exhaustive]
pub struct Lost {
    /// Why it ended.
    pub error: Error,
    /// Numbers of the packets that were fully written to this connection, as [`send`](crate::Client::send) returned
    /// them. Whether the server received them is unknown, and they are never sent again. Later numbers are still
    /// queued.
    pub written: Range<u64>,
    /// Whether packets that had arrived over this connection may be missing before this event. `false` is a promise:
    /// all that arrived was delivered. The packets that are missing are the last of their connection. Where several
    /// losses are told as one, it holds for any of them.
    ///
    /// `true` when packets were dropped because nobody received, beyond the limits of [`Client`](crate::Client#memory).
    /// Also `true` where reading stopped before the end of what had arrived: the peer took nothing until the
    /// [`write_timeout`](crate::ConnConfig::write_timeout), the client or the connection was closed on this side, or
    /// the runtime was shut down. A clean close by the server never sets it.
    pub undelivered: bool,
}

/// What a [`Client`](crate::Client) is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// An attempt to connect is under way.
    Connecting,
    /// There is a connection.
    Connected,
    /// The next attempt is waited for.
    #[non_exhaustive]
    Waiting {
        /// How many attempts in a row have failed.
        failed_tries: u32,
        /// How long after the last one the next follows.
        delay: Duration,
        /// Why the last attempt failed, or the connection ended.
        error: Arc<Error>,
    },
    /// The client has ended: because it was closed or dropped, after [`max_tries`](crate::ClientConfig::max_tries), or
    /// because an attempt failed that can never work ([`is_config`](Error::is_config)). With the error that kept it
    /// from sending everything, or that of the last attempt.
    Ended(Option<Arc<Error>>),
}

impl ClientState {
    /// Whether there is a connection.
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
