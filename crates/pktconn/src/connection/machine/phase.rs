//! How a connection comes to its end.
//!
//! ```text
//!   Open ----------> Closing ----------> Finished ----------> Ended
//!    |   close()         all written,          the peer closed too, or
//!    |                   FIN sent              has everything and a grace passed
//!    |
//!    +-----------> Aborting ---------------------------------> Ended, with a reset where bytes of the peer's
//!    |   dropped, cut,   at most 1 s for what is queued to      or of ours did not get through
//!    |   a bad frame     be written and acknowledged
//!    +-------------------------------------------------------> Ended
//!        the transport failed, or the peer takes nothing
//! ```
//!
//! A clean end, by FIN, says that everything was delivered. So a connection that ends without a close, while something
//! of the peer's is undelivered, ends with a reset.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// What was accepted is being written.
    Closing,
    /// FIN is out.
    Finished,
    /// It ends without a close.
    Aborting,
    Ended,
}

/// What is known of an end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// When it is given up.
    pub(super) deadline: Option<Instant>,
    /// Whether the receiver has told the end of the stream.
    pub(super) end_delivered: bool,
    /// Since when the peer's kernel has everything.
    pub(super) all_acked: Option<Instant>,
    /// When to look at that again, and the pause after it.
    pub(super) next_ack_check: Option<Instant>,
    pub(super) pause: Duration,
    /// Whether the transport is to be reset.
    pub(super) reset: bool,
    /// Whether a receiver may find more that has arrived: after a failed write.
    pub(super) can_still_read: bool,
}
