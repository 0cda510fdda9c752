//! One side of a session, after its first handshake: the same for clients and servers.
//!
//! ```text
//!   send() --> outgoing --> poll_transmit() --> connection --> receive_*() --> incoming --> recv()
//! ```
//!
//! `attachment` and `outcome` are data. `connection` attaches and detaches connections and takes their frames; `transmit` chooses
//! what to write; `end` closes the session; `timers` lets time pass.

mod attachment;
pub use attachment::ConnectionId;
pub(crate) use attachment::PeerCounters;

mod refused;
pub use refused::FrameRefused;

mod outcome;
pub use outcome::{EndReason, Ended};

mod connection;

mod end;

mod timers;

mod transmit;
pub use transmit::Transmit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pktconn_codec::Packet;

use self::attachment::Connection;
use self::outcome::{Closing, Departure};
use crate::direction::{Incoming, Outgoing};
use crate::frame::{Bye, ByeReason, GoAway};
use crate::{SessionConfig, liveness::Liveness};

/// What [`Session::recv`] returns.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet. It counts as handed over.
    Packet(Packet),
    /// No packet has arrived yet.
    Nothing,
    /// There will be no more packets.
    End,
}

/// Whether a session has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// It has a connection.
    Attached,
    /// It has none.
    Detached {
        /// When the connection was lost; `None` if the peer is not known to have the session yet.
        since: Option<Instant>,
    },
    /// It has ended.
    Ended,
}

/// One side of a session.
///
/// It takes the frames of its connection, the packets of its application and the time, and says what to write.
pub struct Session {
    pub(crate) config: Arc<SessionConfig>,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Whether packets can get a number: the peer is known to have the session.
    is_confirmed: bool,
    /// Boxed, as is what is rare: a session without a connection is small.
    connection: Option<Box<Connection>>,
    /// Since when a session that both sides know has no connection.
    detached_since: Option<Instant>,
    /// This side sends no more packets, or will not after those that are queued.
    /// This side sends no more packets, or will not after those that are queued.
    closing: Option<Box<Closing>>,
    /// This side hands no more packets over.
    is_stopped: bool,
    peer_bye: Option<Bye>,
    /// The peer hands no more packets over than this many.
    peer_stop: Option<u64>,
    /// Of a server: the GOAWAY to send on each connection.
    go_away: Option<Box<(GoAway, Instant)>>,
    /// Of a client: when to move.
    departure: Option<Box<Departure>>,
    rtt: Option<Duration>,
    ended: Option<Box<Ended>>,
    /// A last BYE is due: the sides diverge.
    owes_farewell: bool,
    /// Nobody needs it any more.
    is_over: bool,
}

impl Session {
    /// A session without a connection.
    pub(crate) fn new(config: Arc<SessionConfig>) -> Self {
        Self {
            outgoing: Outgoing::new(config.replay_bytes as usize),
            config,
            incoming: Incoming::default(),
            is_confirmed: false,
            connection: None,
            detached_since: None,
            closing: None,
            is_stopped: false,
            peer_bye: None,
            peer_stop: None,
            go_away: None,
            departure: None,
            rtt: None,
            ended: None,
            owes_farewell: false,
            is_over: false,
        }
    }

    /// Queues a packet. It gets a number when it is written.
    ///
    /// A packet is held until the peer acknowledges it, so give one that does not pin a larger buffer
    /// ([`Packet::detach`](pktconn_codec::Packet::detach)).
    ///
    /// # Errors
    ///
    /// Returns the packet if the session is closed on this side, or the peer takes no more packets.
    pub fn send(&mut self, packet: Packet) -> Result<(), Packet> {
        if !self.can_send() {
            return Err(packet);
        }
        self.outgoing.push(packet);
        Ok(())
    }

    /// Whether [`send`](Self::send) takes a packet. After the start of a move it does: the packet waits for the next session.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.ended.is_none()
            && self.closing.as_ref().is_none_or(|closing| closing.is_move)
            && self.peer_stop.is_none()
    }

    /// Whether this side hands no more packets over.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Takes the next packet, which is handed to the application then.
    pub fn recv(&mut self, now: Instant) -> Received {
        if self.ended.is_none() && !self.is_stopped {
            if let Some(packet) = self.incoming.pop(now) {
                return Received::Packet(packet);
            }
            if self.peer_bye.is_none() {
                return Received::Nothing;
            }
        }
        Received::End
    }

    /// Removes the oldest packet without a number, for a policy that drops packets.
    pub fn drop_oldest_unsent(&mut self) -> Option<Packet> {
        let len = self.outgoing.unsent_len().min(1);
        self.outgoing.drain_unsent(0..len).pop()
    }

    /// Whether the session has a connection.
    #[must_use]
    pub fn state(&self) -> SessionState {
        match (&self.ended, &self.connection) {
            (Some(_), _) => SessionState::Ended,
            (None, Some(_)) => SessionState::Attached,
            (None, None) => SessionState::Detached { since: self.detached_since },
        }
    }

    /// The last measured round-trip time, from PING to PONG.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Why the peer sends no more packets, once it has said so.
    #[must_use]
    pub fn peer_bye(&self) -> Option<ByeReason> {
        self.peer_bye.map(|bye| bye.reason)
    }

    /// Whether the session has ended and nothing more is to be done for the peer, so that it can be forgotten.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many bytes wait for an acknowledgement.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.outgoing.held_bytes()
    }

    /// How many bytes wait without a number.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.outgoing.unsent_bytes()
    }

    /// How many bytes have arrived and wait for the application.
    ///
    /// Read the connection also while the application is slow: ACK and PING wait behind data otherwise. A peer that keeps to the
    /// specification never lets this exceed its `replay_bytes` by more than one packet.
    #[must_use]
    pub fn inbox_bytes(&self) -> usize {
        self.incoming.inbox_bytes()
    }

    /// How many packets have arrived and wait for the application.
    #[must_use]
    pub fn inbox_len(&self) -> usize {
        self.incoming.inbox_len()
    }

    /// How many packets have a number.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.outgoing.sent()
    }

    /// How many packets of this side the peer has acknowledged: its application has them.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.outgoing.first_held()
    }

    /// How many packets were handed to the application.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.incoming.received()
    }

    fn new_liveness(&self, now: Instant) -> Liveness {
        Liveness::new(self.config.ping_interval, self.config.ping_timeout, now)
    }
}
