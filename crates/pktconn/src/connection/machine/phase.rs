//! The phases of a connection, from open to ended.
//!
//! ```text
//!   Open ----------> Closing ----------> Finished ----------> Ended
//!    |   close()         all written,          the peer closed too, or
//!    |                   FIN sent              has acknowledged all, for `close_grace`
//!    |
//!    +-----------> Aborting ---------------------------------> Ended, with a reset if packets of either side
//!    |   dropped, cut,   up to 1 s to write the queue and       were lost
//!    |   a bad frame     have it acknowledged
//!    +-------------------------------------------------------> Ended
//!        the transport failed, or the peer does not read
//! ```
//!
//! An end by FIN tells the peer that everything was delivered. So a connection that ends without a close, and loses
//! packets of the peer, ends with a reset.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// No more packets are accepted. The queue is being written.
    Closing,
    /// FIN was sent.
    Finished,
    /// The connection ends without a close.
    Aborting,
    Ended,
}

/// The state of an ending connection.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// When the connection ends even if bytes are still queued or not acknowledged.
    pub(super) deadline: Option<Instant>,
    /// Whether the application has received the end of the stream.
    pub(super) end_delivered: bool,
    /// When everything was first seen as acknowledged by the peer's kernel.
    pub(super) all_acked: Option<Instant>,
    /// When to check acknowledgements again, and the pause before that check.
    pub(super) next_ack_check: Option<Instant>,
    pub(super) pause: Duration,
    /// Whether to reset the transport.
    pub(super) reset: bool,
    /// Whether bytes that have arrived can still be received, after a failed write.
    pub(super) can_still_read: bool,
}
