//! The client's side: its handshakes, from the first HELLO to the last resume.
//!
//! ```text
//!   connected() --> HELLO --> WELCOME: attached --> connection_ended(): detached --> connected() ...
//!                         --> REJECT: ended, or another try
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use pktconn_codec::Packet;

use crate::frame::{
    Bye, ByeReason, ControlFrame, GoAway, Hello, Reject, RejectReason, Secret, SessionId, VERSION, Welcome,
};
use crate::session::{EndReason, FrameRefused, PeerCounters, Transmit};
use crate::{ConnectionId, Session, SessionConfig};

/// How long to wait for an answer to HELLO, unless it is set.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The client's side of a session.
///
/// The owner connects while [`wants_connection`](Self::wants_connection) is true, gives it each connection, frame, timeout and
/// end, and writes what [`transmit`](Self::transmit) returns.
pub struct ClientSession {
    session: Session,
    hello_timeout: Duration,
    /// The interval and the timeout of PING as configured. WELCOME can ask for longer ones.
    ping: (Duration, Duration),
    identity: Option<(SessionId, Secret)>,
    /// The number of HELLOs of this session.
    attempt: u32,
    /// The connection on which HELLO was sent, until WELCOME or REJECT.
    handshake: Option<Box<Handshake>>,
    resume_at: String,
    retry_at: Option<Instant>,
    go_away: Option<Box<GoAway>>,
    /// Tells the server that its WELCOME contradicts this side.
    farewell: Option<(ConnectionId, Bye)>,
}

struct Handshake {
    id: ConnectionId,
    hello: Hello,
    is_written: bool,
    give_up_at: Instant,
}

impl ClientSession {
    /// A session that does not exist yet.
    #[must_use]
    pub fn new(config: impl Into<Arc<SessionConfig>>) -> Self {
        let config = config.into();
        let ping = (config.ping_interval, config.ping_timeout);
        Self {
            session: Session::new(config),
            hello_timeout: HELLO_TIMEOUT,
            ping,
            identity: None,
            attempt: 0,
            handshake: None,
            resume_at: String::new(),
            retry_at: None,
            go_away: None,
            farewell: None,
        }
    }

    /// Sets how long to wait for an answer to HELLO. Default: 5 s.
    #[must_use]
    pub fn hello_timeout(mut self, timeout: Duration) -> Self {
        self.hello_timeout = timeout;
        self
    }

    /// The application's side.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The application's side.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The id of the session, once the server has chosen it.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.identity.map(|(id, _)| id)
    }

    /// Where to resume, if the server has named an address.
    #[must_use]
    pub fn resume_at(&self) -> Option<&str> {
        Some(self.resume_at.as_str()).filter(|address| !address.is_empty())
    }

    /// When to try again, if the server has said so.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The newest GOAWAY of the server: another address for the next session, if it names one.
    #[must_use]
    pub fn go_away(&self) -> Option<&GoAway> {
        self.go_away.as_deref()
    }

    /// Whether a new connection is needed.
    #[must_use]
    pub fn wants_connection(&self) -> bool {
        !self.session.is_over() && self.handshake.is_none() && self.session.connection().is_none()
    }

    /// A connection was made: HELLO is the first frame to write. The connection before it has no effect any more.
    ///
    /// What older connections have brought and the application has not taken is forgotten; the server sends it again.
    pub fn connected(&mut self, id: ConnectionId, now: Instant) {
        self.session.detach(now);
        self.retry_at = None;
        let (session_id, secret) = self.identity.unwrap_or((SessionId::NEW, Secret::default()));
        let attempt = if self.identity.is_some() { self.attempt.checked_add(1) } else { Some(1) };
        let Some(attempt) = attempt else {
            self.session.end(EndReason::Expired);
            self.session.forget();
            return;
        };
        self.attempt = attempt;
        let hello = Hello {
            version: VERSION,
            features: 0,
            id: session_id,
            secret,
            attempt,
            received: self.session.restart_incoming(),
            first_held: self.session.first_held(),
            replay_bytes: self.session.config.replay_bytes,
        };
        self.handshake =
            Some(Box::new(Handshake { id, hello, is_written: false, give_up_at: now + self.hello_timeout }));
    }

    /// Bytes arrived on a connection, of any kind.
    pub fn heard(&mut self, id: ConnectionId, now: Instant) {
        self.session.heard(id, now);
    }

    /// A data frame arrived. Before WELCOME it is discarded.
    ///
    /// # Errors
    ///
    /// If the peer must not send it. Write what [`transmit`](Self::transmit) returns, and close the connection.
    pub fn receive_data(&mut self, id: ConnectionId, packet: Packet) -> Result<(), FrameRefused> {
        if self.session.connection() != Some(id) {
            return Ok(());
        }
        self.session.confirm();
        self.session.receive_data(packet)
    }

    /// A control frame arrived. `random` chooses the moment of a move.
    ///
    /// # Errors
    ///
    /// If the peer must not send it. Write what [`transmit`](Self::transmit) returns, and close the connection.
    pub fn receive_control(
        &mut self,
        id: ConnectionId,
        frame: &ControlFrame,
        random: u32,
        now: Instant,
    ) -> Result<(), FrameRefused> {
        if self.handshake.as_ref().is_some_and(|handshake| handshake.id == id) {
            return self.receive_answer(frame, now);
        }
        if self.session.connection() != Some(id) {
            return Ok(());
        }
        match frame {
            ControlFrame::Reject(Reject { reason: RejectReason::Superseded, .. }) => {
                self.session.reject(RejectReason::Superseded, now);
                return Ok(());
            }
            ControlFrame::GoAway(go_away) => {
                self.session.depart(go_away, random, now);
                self.go_away = Some(Box::new(go_away.clone()));
            }
            frame => self.session.receive_control(frame, now)?,
        }
        self.session.confirm();
        Ok(())
    }

    /// The first control frame after HELLO.
    fn receive_answer(&mut self, frame: &ControlFrame, now: Instant) -> Result<(), FrameRefused> {
        let name = match frame {
            ControlFrame::Welcome(welcome) => return self.receive_welcome(welcome, now),
            ControlFrame::Reject(reject) => {
                self.receive_reject(*reject, now);
                return Ok(());
            }
            frame => frame.name(),
        };
        self.handshake = None;
        Err(FrameRefused::Unexpected { name })
    }

    fn receive_welcome(&mut self, welcome: &Welcome, now: Instant) -> Result<(), FrameRefused> {
        let Some(handshake) = self.handshake.take() else { return Ok(()) };
        let Handshake { id, hello, .. } = *handshake;
        let unfit = |field| Err(FrameRefused::Unfit { name: "WELCOME", field });
        let is_new = hello.id == SessionId::NEW;
        if welcome.version == 0 || welcome.version > hello.version {
            return unfit("version");
        }
        if welcome.resumed == is_new {
            return unfit("resumed");
        }
        if welcome.id == SessionId::NEW || (!is_new && welcome.id != hello.id) {
            return unfit("id");
        }
        if !is_new && welcome.secret != hello.secret {
            return unfit("secret");
        }
        if is_new && (welcome.received, welcome.first_held) != (0, 0) {
            return unfit("received");
        }
        let peer = PeerCounters {
            received: welcome.received,
            first_held: welcome.first_held,
            replay_bytes: welcome.replay_bytes,
        };
        if let Err(error) = self.session.check_resume(peer) {
            self.session.end(EndReason::Diverged(error));
            self.session.forget();
            self.farewell = Some((id, Bye { reason: ByeReason::Diverged, sent: 0 }));
            return Err(error.into());
        }
        self.identity = Some((welcome.id, welcome.secret));
        self.resume_at.clone_from(&welcome.resume_at);
        let min_ping = Duration::from_millis(welcome.min_ping_ms.into());
        let (interval, timeout) = self.ping;
        // A longer interval needs a longer timeout: a PING can be lost only with its connection, but it can be late.
        let ping =
            if interval < min_ping { (min_ping, timeout.max(min_ping * 3)) } else { (interval, timeout) };
        self.session.set_times(Duration::from_millis(welcome.ttl_ms.into()), ping.0, ping.1);
        self.session.attach(id, peer, now);
        if is_new {
            // The first frame after WELCOME establishes the session.
            self.session.owe_ack();
        } else {
            self.session.confirm();
        }
        Ok(())
    }

    fn receive_reject(&mut self, reject: Reject, now: Instant) {
        self.handshake = None;
        let is_new = self.identity.is_none();
        match reject.reason {
            RejectReason::Unknown if !self.session.is_confirmed() => {
                // No packet had a number: the next HELLO begins another session.
                self.identity = None;
                self.resume_at.clear();
            }
            RejectReason::Unknown | RejectReason::Diverged | RejectReason::Superseded => {
                self.session.reject(reject.reason, now);
            }
            RejectReason::Version if is_new => self.session.reject(reject.reason, now),
            _ => {
                self.retry_at = Some(now + Duration::from_millis(reject.retry_after_ms.into()));
            }
        }
    }

    /// Ends the session before its time, because the client ends.
    pub fn expire(&mut self) {
        self.session.end(EndReason::Expired);
        self.session.forget();
    }

    /// A connection has ended, in whatever way.
    pub fn connection_ended(&mut self, id: ConnectionId, now: Instant) {
        self.handshake.take_if(|handshake| handshake.id == id);
        self.session.connection_ended(id, now);
    }

    /// The next frame to write to a connection.
    pub fn transmit(&mut self, id: ConnectionId, now: Instant) -> Option<Transmit> {
        if let Some(handshake) = &mut self.handshake {
            let is_due = handshake.id == id && !std::mem::replace(&mut handshake.is_written, true);
            return is_due.then(|| Transmit::Control(ControlFrame::Hello(handshake.hello.clone())));
        }
        if let Some((_, bye)) = self.farewell.take_if(|(connection, _)| *connection == id) {
            return Some(Transmit::Control(ControlFrame::Bye(bye)));
        }
        self.session.transmit(id, now)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        let handshake = self.handshake.as_ref().map(|handshake| handshake.give_up_at);
        handshake.into_iter().chain(self.session.timeout()).min()
    }

    /// Lets time pass. Returns a connection that is lost and must be closed.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<ConnectionId> {
        let lost = self.session.handle_timeout(now);
        let given_up = self.handshake.take_if(|handshake| handshake.give_up_at <= now);
        given_up.map(|handshake| handshake.id).or(lost)
    }
}
