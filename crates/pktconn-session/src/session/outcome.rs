//! How a session ends, and what becomes of its packets.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use pktconn_codec::Packet;

use crate::direction::OutOfBounds;
use crate::frame::{ByeReason, RejectReason};

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Both sides have said BYE, and each knows which packets were handed over.
    Settled {
        /// The reason of the own BYE.
        own: ByeReason,
        /// The reason of the peer's BYE.
        peer: ByeReason,
    },
    /// It had no connection for longer than its time to live.
    Expired,
    /// The close timeout has passed without an answer from the peer.
    CloseTimeout,
    /// The server has refused to resume it, or the peer has found a counter of this side out of its bounds.
    Rejected(RejectReason),
    /// A counter of the peer was out of its bounds.
    Diverged(OutOfBounds),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled { .. } => "both sides have closed the session",
            Self::Expired => "the session had no connection for longer than its ttl",
            Self::CloseTimeout => "the peer did not confirm the end of the session within close_timeout",
            Self::Rejected(reason) => return write!(f, "the peer has ended the session: {reason}"),
            Self::Diverged(error) => return write!(f, "the two sides disagree about the session: {error}"),
        })
    }
}

/// The end of a session, and what became of the packets of this side.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// Packets with a lower number were handed to the application of the peer.
    pub handed_over: u64,
    /// It is unknown whether the packets with these numbers were handed over. Empty if the fate of all packets is known.
    pub in_doubt: Range<u64>,
    /// The packets from `handed_over` on that have a number: in doubt, or certainly not handed over.
    pub not_acknowledged: Vec<Packet>,
    /// The packets without a number. They were not sent.
    pub unsent: Vec<Packet>,
    /// How many packets of the peer were handed to the application of this side.
    pub received: u64,
}

/// This side has ended its direction, or will when its packets are written.
pub(super) struct Closing {
    pub(super) reason: ByeReason,
    /// Whether packets without a number are sent before BYE.
    pub(super) sends_unsent: bool,
    /// When to stop waiting for the peer.
    pub(super) deadline: Option<Instant>,
    /// Whether packets without a number wait for the next session.
    pub(super) is_move: bool,
}

/// When a client that was asked to move does so.
pub(super) struct Departure {
    pub(super) move_at: Instant,
    pub(super) deadline: Instant,
}
