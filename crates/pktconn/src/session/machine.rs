//! A client's or a server's state machine, with what drivers need of both.

use std::time::Instant;

use pktconn_codec::Packet;
use pktconn_session::frame::{ControlFrame, SessionId};
use pktconn_session::{ClientSession, ConnectionId, FrameRefused, ServerSession, Session, Transmit};

#[expect(clippy::large_enum_variant, reason = "a server has many sessions, and a client one")]
pub(crate) enum Machine {
    Client(Box<ClientSession>),
    Server(ServerSession),
}

impl Machine {
    pub(crate) fn session(&self) -> &Session {
        match self {
            Self::Client(client) => client.session(),
            Self::Server(server) => server.session(),
        }
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        match self {
            Self::Client(client) => client.session_mut(),
            Self::Server(server) => server.session_mut(),
        }
    }

    pub(crate) fn id(&self) -> Option<SessionId> {
        match self {
            Self::Client(client) => client.id(),
            Self::Server(server) => Some(server.id()),
        }
    }

    pub(crate) fn receive_data(&mut self, id: ConnectionId, packet: Packet) -> Result<(), FrameRefused> {
        match self {
            Self::Client(client) => client.receive_data(id, packet),
            Self::Server(server) => server.receive_data(id, packet),
        }
    }

    /// `random` chooses the moment of a client's move.
    pub(crate) fn receive_control(
        &mut self,
        id: ConnectionId,
        frame: &ControlFrame,
        random: u32,
        now: Instant,
    ) -> Result<(), FrameRefused> {
        match self {
            Self::Client(client) => client.receive_control(id, frame, random, now),
            Self::Server(server) => server.receive_control(id, frame, now),
        }
    }

    pub(crate) fn connection_ended(&mut self, id: ConnectionId, now: Instant) {
        match self {
            Self::Client(client) => client.connection_ended(id, now),
            Self::Server(server) => server.connection_ended(id, now),
        }
    }

    pub(crate) fn transmit(&mut self, id: ConnectionId, now: Instant) -> Option<Transmit> {
        match self {
            Self::Client(client) => client.transmit(id, now),
            Self::Server(server) => server.transmit(id, now),
        }
    }

    /// Whether this is a client without a connection.
    pub(crate) fn wants_connection(&self) -> bool {
        matches!(self, Self::Client(client) if client.wants_connection())
    }

    /// Ends the session without the peer.
    pub(crate) fn expire(&mut self) {
        match self {
            Self::Client(client) => client.expire(),
            Self::Server(server) => server.expire(),
        }
    }

    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Client(client) => client.timeout(),
            Self::Server(server) => server.timeout(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<ConnectionId> {
        match self {
            Self::Client(client) => client.handle_timeout(now),
            Self::Server(server) => server.handle_timeout(now),
        }
    }
}
