//! A client and a server, frame by frame.

use std::time::{Duration, Instant};

use pktconn_codec::Packet;
use pktconn_session::frame::{ControlFrame, Hello, Reject, Secret, SessionId};
use pktconn_session::{
    ClientSession, ConnectionId, FrameRefused, Received, ServerSession, Session, SessionConfig, Transmit,
};

pub(crate) const ID: SessionId = SessionId([7; 16]);
pub(crate) const SECRET: Secret = Secret([9; 16]);

pub(crate) struct Pair {
    pub(crate) client: ClientSession,
    pub(crate) server: Option<ServerSession>,
    pub(crate) now: Instant,
    pub(crate) conn: ConnectionId,
    config: SessionConfig,
}

pub(crate) fn packet(number: u8) -> Packet {
    vec![number; 100].into()
}

pub(crate) fn packets(session: &mut Session, now: Instant) -> Vec<u8> {
    let mut numbers = Vec::new();
    while let Received::Packet(packet) = session.recv(now) {
        numbers.push(packet.payload()[0]);
    }
    numbers
}

impl Pair {
    /// Nothing has happened yet.
    pub(crate) fn new(config: SessionConfig) -> Self {
        let client = ClientSession::new(config);
        Self { client, server: None, now: Instant::now(), conn: ConnectionId(0), config }
    }

    /// Both sides are attached, and both know it.
    pub(crate) fn established() -> Self {
        Self::established_with(SessionConfig::new())
    }

    pub(crate) fn established_with(config: SessionConfig) -> Self {
        let mut pair = Self::new(config);
        pair.connect().unwrap();
        pair.exchange();
        assert!(pair.server().is_established());
        pair
    }

    pub(crate) fn server(&mut self) -> &mut ServerSession {
        self.server.as_mut().unwrap()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        if let Some(server) = &mut self.server {
            server.handle_timeout(self.now);
        }
    }

    /// The next HELLO, on a new connection.
    pub(crate) fn hello(&mut self) -> Hello {
        self.conn = ConnectionId(self.conn.0 + 1);
        self.client.connected(self.conn, self.now);
        match self.client.transmit(self.conn, self.now) {
            Some(Transmit::Control(ControlFrame::Hello(hello))) => hello,
            other => panic!("not a HELLO: {other:?}"),
        }
    }

    pub(crate) fn answer(&mut self, hello: &Hello) -> Result<Option<ConnectionId>, Reject> {
        match &mut self.server {
            Some(server) if hello.id != SessionId::NEW => server.resume(hello, self.conn, self.now),
            server => {
                let (identity, resume_at) = ((ID, SECRET), String::new());
                *server = Some(ServerSession::accept(
                    hello,
                    identity,
                    resume_at,
                    self.config,
                    self.conn,
                    self.now,
                )?);
                Ok(None)
            }
        }
    }

    /// A handshake. WELCOME is not read yet.
    pub(crate) fn connect(&mut self) -> Result<Option<ConnectionId>, Reject> {
        let hello = self.hello();
        self.answer(&hello)
    }

    pub(crate) fn lose_connection(&mut self) {
        self.client.connection_ended(self.conn, self.now);
        self.server.as_mut().unwrap().connection_ended(self.conn, self.now);
    }

    pub(crate) fn resume(&mut self) {
        self.connect().unwrap();
        self.exchange();
    }

    pub(crate) fn client_reads(&mut self, frame: &ControlFrame) -> Result<(), FrameRefused> {
        self.client.receive_control(self.conn, frame, 0, self.now)
    }

    pub(crate) fn server_reads(&mut self, frame: &ControlFrame) -> Result<(), FrameRefused> {
        let (conn, now) = (self.conn, self.now);
        self.server().receive_control(conn, frame, now)
    }

    pub(crate) fn client_writes(&mut self) -> Option<Transmit> {
        self.client.transmit(self.conn, self.now)
    }

    pub(crate) fn server_writes(&mut self) -> Option<Transmit> {
        let (conn, now) = (self.conn, self.now);
        self.server().transmit(conn, now)
    }

    /// Moves all frames between the sides. Returns their names: `>` is written by the client, `<` by the server.
    pub(crate) fn exchange(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let before = names.len();
            while let Some(transmit) = self.client_writes() {
                names.push(format!("> {}", name(&transmit)));
                let (conn, now) = (self.conn, self.now);
                let server = self.server();
                match transmit {
                    Transmit::Data(packet) => server.receive_data(conn, packet).unwrap(),
                    Transmit::Control(frame) => server.receive_control(conn, &frame, now).unwrap(),
                }
            }
            while let Some(transmit) = self.server_writes() {
                names.push(format!("< {}", name(&transmit)));
                match transmit {
                    Transmit::Data(packet) => self.client.receive_data(self.conn, packet).unwrap(),
                    Transmit::Control(frame) => self.client_reads(&frame).unwrap(),
                }
            }
            if names.len() == before {
                return names;
            }
        }
    }
}

pub(crate) fn name(transmit: &Transmit) -> String {
    match transmit {
        Transmit::Data(packet) => format!("data {}", packet.payload()[0]),
        Transmit::Control(frame) => frame.name().into(),
    }
}
