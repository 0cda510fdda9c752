//! A client and a server against peers that send any frame with any counter at any moment: no panic, and bounded memory.

use std::time::{Duration, Instant};

use pktconn_session::frame::{Bye, ControlFrame, GoAway, Hello, Reject, Secret, SessionId, Welcome};
use pktconn_session::{
    ClientSession, ConnectionId, FrameRefused, ServerSession, SessionConfig, Transmit, check_new,
};

use crate::random::Random;

const ID: SessionId = SessionId([7; 16]);
const SECRET: Secret = Secret([9; 16]);

/// Small numbers are often within the bounds, large ones never.
fn counter(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => u64::MAX - random.below(2),
        1 => random.next(),
        _ => random.below(6),
    }
}

fn frame(random: &mut Random) -> ControlFrame {
    let id = if random.one_in(5) { SessionId::NEW } else { ID };
    let secret = if random.one_in(8) { Secret::default() } else { SECRET };
    let code = random.below(9) as u8;
    let (received, first_held, sent) = (counter(random), counter(random), counter(random));
    let replay_bytes = counter(random) as u32;
    let millis = (counter(random) as u32, counter(random) as u32);
    match random.below(12) {
        0 => ControlFrame::Hello(Hello {
            version: random.below(3) as u8,
            features: random.next() as u32,
            id,
            secret,
            attempt: counter(random) as u32,
            received,
            first_held,
            replay_bytes,
        }),
        1 => ControlFrame::Welcome(Welcome {
            version: random.below(3) as u8,
            features: random.next() as u32,
            id,
            secret,
            resumed: random.one_in(2),
            received,
            first_held,
            replay_bytes,
            ttl_ms: millis.0,
            min_ping_ms: millis.1,
            resume_at: "somewhere".into(),
        }),
        2 => ControlFrame::Reject(Reject { reason: code.into(), retry_after_ms: millis.0 }),
        3 => ControlFrame::Ping { data: random.next().to_le_bytes() },
        4 => ControlFrame::Pong { data: random.below(4).to_le_bytes() },
        5 => ControlFrame::GoAway(GoAway {
            reason: code.into(),
            deadline_ms: millis.0,
            spread_ms: millis.1,
            address: String::new(),
        }),
        6 => ControlFrame::Bye(Bye { reason: code.into(), sent }),
        7 => ControlFrame::Stop { received },
        8 => ControlFrame::Done,
        _ => ControlFrame::Ack { received },
    }
}

/// One of the two sides, so that both meet the same peer.
enum Side {
    Client(ClientSession),
    Server(Option<ServerSession>),
}

struct Attacked {
    random: Random,
    side: Side,
    now: Instant,
    connection: ConnectionId,
}

pub(crate) fn run(seed: u64) {
    let mut random = Random::new(seed);
    let config = SessionConfig::new().replay_bytes(1000).ttl(Duration::from_secs(5));
    let side = if random.one_in(2) { Side::Client(ClientSession::new(config)) } else { Side::Server(None) };
    let mut attacked = Attacked { random, side, now: Instant::now(), connection: ConnectionId(0) };
    for _ in 0..200 {
        attacked.step(config);
    }
}

impl Attacked {
    fn step(&mut self, config: SessionConfig) {
        self.now += Duration::from_millis([0, 0, 1, 20, 2000][self.random.below(5) as usize]);
        let received = match self.random.below(6) {
            0 => self.application(),
            1 => self.peer_connects(config),
            2 => self.time_passes(),
            3 => self.peer_sends_data(),
            _ => self.peer_sends_a_frame(),
        };
        if received.is_err() {
            while self.write().is_some() {}
            self.connection_ends();
        }
        self.write();
        self.check();
    }

    fn application(&mut self) -> Result<(), FrameRefused> {
        let (now, choice) = (self.now, self.random.below(40));
        let session = match &mut self.side {
            Side::Client(client) => client.session_mut(),
            Side::Server(Some(server)) => server.session_mut(),
            Side::Server(None) => return Ok(()),
        };
        match choice {
            0 => session.finish(now),
            1 => session.close(now),
            2 => session.fail(now),
            3 => drop(session.drop_oldest_unsent()),
            4..=20 => drop(session.recv(now)),
            _ if session.unsent_bytes() < 2000 => drop(session.send(vec![1; 100].into())),
            _ => {}
        }
        Ok(())
    }

    fn peer_connects(&mut self, config: SessionConfig) -> Result<(), FrameRefused> {
        self.connection.0 += 1;
        let (connection, now) = (self.connection, self.now);
        match &mut self.side {
            Side::Client(client) if client.session().is_over() => *client = ClientSession::new(config),
            Side::Client(client) => client.connected(connection, now),
            Side::Server(server) => {
                let ControlFrame::Hello(hello) = frame(&mut self.random) else { return Ok(()) };
                if server.as_ref().is_some_and(|server| server.session().is_over()) {
                    *server = None;
                }
                match server {
                    Some(server) => drop(server.resume(&hello, connection, now)),
                    None => {
                        let hello = Hello { id: SessionId::NEW, ..hello };
                        let mut hello = Hello { secret: Secret::default(), ..hello };
                        if self.random.one_in(2) {
                            (hello.attempt, hello.received, hello.first_held) = (1, 0, 0);
                        }
                        check_new(&hello)?;
                        let identity = (ID, SECRET);
                        *server =
                            ServerSession::accept(&hello, identity, String::new(), config, connection, now)
                                .ok();
                    }
                }
            }
        }
        Ok(())
    }

    fn time_passes(&mut self) -> Result<(), FrameRefused> {
        let now = self.now;
        let (timeout, _) = match &mut self.side {
            Side::Client(client) => (client.handle_timeout(now), client.timeout()),
            Side::Server(Some(server)) => (server.handle_timeout(now), server.timeout()),
            Side::Server(None) => (None, None),
        };
        if timeout.is_some() {
            self.connection_ends();
        }
        Ok(())
    }

    fn peer_sends_data(&mut self) -> Result<(), FrameRefused> {
        let (connection, packet) = (self.any_connection(), vec![2; 50].into());
        match &mut self.side {
            Side::Client(client) => client.receive_data(connection, packet),
            Side::Server(Some(server)) => server.receive_data(connection, packet),
            Side::Server(None) => Ok(()),
        }
    }

    fn peer_sends_a_frame(&mut self) -> Result<(), FrameRefused> {
        let (connection, now, frame) = (self.any_connection(), self.now, frame(&mut self.random));
        match &mut self.side {
            Side::Client(client) => client.receive_control(connection, &frame, 1 << 31, now),
            Side::Server(Some(server)) => server.receive_control(connection, &frame, now),
            Side::Server(None) => Ok(()),
        }
    }

    /// Mostly the newest one.
    fn any_connection(&mut self) -> ConnectionId {
        let older = u64::from(self.random.one_in(10));
        ConnectionId(self.connection.0.saturating_sub(older))
    }

    fn write(&mut self) -> Option<Transmit> {
        match &mut self.side {
            Side::Client(client) => client.transmit(self.connection, self.now),
            Side::Server(Some(server)) => server.transmit(self.connection, self.now),
            Side::Server(None) => None,
        }
    }

    fn connection_ends(&mut self) {
        match &mut self.side {
            Side::Client(client) => client.connection_ended(self.connection, self.now),
            Side::Server(Some(server)) => server.connection_ended(self.connection, self.now),
            Side::Server(None) => {}
        }
    }

    fn check(&self) {
        let session = match &self.side {
            Side::Client(client) => client.session(),
            Side::Server(Some(server)) => server.session(),
            Side::Server(None) => return,
        };
        assert!(session.held_bytes() <= 1000, "{} bytes are held", session.held_bytes());
        if let Some(ended) = session.ended() {
            let held = session.sent() - ended.handed_over;
            assert_eq!(ended.not_acknowledged.len() as u64, held);
            assert!(ended.in_doubt.is_empty() || ended.in_doubt == (ended.handed_over..session.sent()));
        }
    }
}
