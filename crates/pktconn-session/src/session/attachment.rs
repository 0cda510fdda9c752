//! What a session keeps for its current connection.

use crate::liveness::Liveness;

/// A connection, as its owner names it. Frames of another connection than the newest one have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The counters of the peer in HELLO or WELCOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerCounters {
    /// How many packets the peer has handed over.
    pub(crate) received: u64,
    /// The lowest number that the peer holds.
    pub(crate) first_held: u64,
    /// How many bytes the peer can hold.
    pub(crate) replay_bytes: u32,
}

/// The state of the current connection. All of it starts anew with the next one.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) liveness: Liveness,
    pub(super) pong: Option<[u8; 8]>,
    /// An ACK is due: its time has come, or it confirms the session.
    pub(super) owes_ack: bool,
    pub(super) owes_go_away: bool,
    pub(super) is_bye_written: bool,
    pub(super) is_stop_written: bool,
    /// The peer's BYE has come on this connection.
    pub(super) has_peer_bye: bool,
    pub(super) is_done_written: bool,
    pub(super) has_peer_done: bool,
}
