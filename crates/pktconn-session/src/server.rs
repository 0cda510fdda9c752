//! The server's side of one session. The owner keeps all sessions by their ids.
//!
//! ```text
//!   HELLO, new: accept() --> WELCOME: provisional --> first frame: established --> connection_ended(): detached
//!   HELLO, id: resume() --> WELCOME, the older connection is fenced
//! ```

use std::sync::Arc;
use std::time::Instant;

use pktconn_codec::Packet;

use crate::config::millis;
use crate::frame::{ControlFrame, Hello, Reject, RejectReason, Secret, SessionId, VERSION, Welcome};
use crate::session::{EndReason, FrameRefused, PeerCounters, Transmit};
use crate::{ConnectionId, Session, SessionConfig};

/// The server's side of a session.
pub struct ServerSession {
    session: Session,
    id: SessionId,
    secret: Secret,
    /// The highest attempt that a HELLO with the right secret has stated.
    attempt: u32,
    resume_at: String,
    /// WELCOME, until it is written. Boxed, because it is rare.
    welcome: Option<Box<(ConnectionId, Welcome)>>,
}

/// Checks a HELLO that begins a session.
///
/// # Errors
///
/// If a field is not that of a new session. Close the connection then.
pub fn check_new(hello: &Hello) -> Result<(), FrameRefused> {
    let field = if hello.secret != Secret::default() {
        "secret"
    } else if hello.attempt != 1 {
        "attempt"
    } else if hello.received != 0 {
        "received"
    } else if hello.first_held != 0 {
        "first_held"
    } else {
        return Ok(());
    };
    Err(FrameRefused::Unfit { name: "HELLO", field })
}

impl ServerSession {
    /// A session for a HELLO that [`check_new`] has accepted. WELCOME is its first frame to write.
    ///
    /// `id` and `secret` must be random; the id must not be zero. `resume_at` is the address at which to resume, or empty.
    ///
    /// # Errors
    ///
    /// The REJECT to send if there is no common version.
    pub fn accept(
        hello: &Hello,
        (id, secret): (SessionId, Secret),
        resume_at: String,
        config: impl Into<Arc<SessionConfig>>,
        connection: ConnectionId,
        now: Instant,
    ) -> Result<Self, Reject> {
        if hello.version == 0 {
            return Err(reject(RejectReason::Version));
        }
        let session = Session::new(config.into());
        let mut accepted = Self { session, id, secret, attempt: 0, resume_at, welcome: None };
        accepted.attach(hello, connection, now);
        Ok(accepted)
    }

    /// A HELLO with this session's id. If it is accepted, WELCOME is the first frame to write on `connection`, and the connection
    /// that is returned, if there is one, gets [`Reject::superseded`] as its last frame.
    ///
    /// # Errors
    ///
    /// The REJECT to send on `connection`.
    pub fn resume(
        &mut self,
        hello: &Hello,
        connection: ConnectionId,
        now: Instant,
    ) -> Result<Option<ConnectionId>, Reject> {
        if self.secret != hello.secret || self.session.is_over() {
            return Err(reject(RejectReason::Unknown));
        }
        if hello.attempt <= self.attempt {
            return Err(reject(RejectReason::Superseded));
        }
        self.attempt = hello.attempt;
        if hello.version == 0 {
            return Err(reject(RejectReason::Version));
        }
        if let Err(error) = self.session.check_resume(counters(hello)) {
            self.session.end(EndReason::Diverged(error));
            self.session.forget();
            return Err(reject(RejectReason::Diverged));
        }
        let fenced = self.session.connection();
        self.session.detach(now);
        // The client has the secret, so it has had WELCOME.
        self.session.confirm();
        self.attach(hello, connection, now);
        Ok(fenced)
    }

    fn attach(&mut self, hello: &Hello, connection: ConnectionId, now: Instant) {
        let resumed = hello.id != SessionId::NEW;
        self.attempt = hello.attempt;
        self.session.attach(connection, counters(hello), now);
        let welcome = Welcome {
            version: hello.version.min(VERSION),
            features: 0,
            id: self.id,
            secret: self.secret,
            resumed,
            received: self.session.restart_incoming(),
            first_held: self.session.first_held(),
            replay_bytes: self.session.config.replay_bytes,
            ttl_ms: millis(self.session.config.ttl),
            min_ping_ms: millis(self.session.config.min_ping_interval),
            resume_at: self.resume_at.clone(),
        };
        self.welcome = Some(Box::new((connection, welcome)));
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

    /// The id of the session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether the client has confirmed the session. Before, it must have no handler, and counts as an unfinished handshake.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.session.is_confirmed()
    }

    /// Bytes arrived on a connection, of any kind.
    pub fn heard(&mut self, id: ConnectionId, now: Instant) {
        self.session.heard(id, now);
    }

    /// A data frame arrived.
    ///
    /// # Errors
    ///
    /// If the peer must not send it. Write what [`transmit`](Self::transmit) returns, and close the connection.
    pub fn receive_data(&mut self, id: ConnectionId, packet: Packet) -> Result<(), FrameRefused> {
        if self.session.connection() != Some(id) {
            return Ok(());
        }
        self.establish();
        self.session.receive_data(packet)
    }

    /// A control frame arrived.
    ///
    /// # Errors
    ///
    /// If the peer must not send it. Write what [`transmit`](Self::transmit) returns, and close the connection.
    pub fn receive_control(
        &mut self,
        id: ConnectionId,
        frame: &ControlFrame,
        now: Instant,
    ) -> Result<(), FrameRefused> {
        if self.session.connection() != Some(id) {
            return Ok(());
        }
        self.session.receive_control(frame, now)?;
        if self.session.ended().is_none() {
            self.establish();
        }
        Ok(())
    }

    /// The client's first frame after WELCOME is answered at once.
    fn establish(&mut self) {
        if !self.session.is_confirmed() {
            self.session.confirm();
            self.session.owe_ack();
        }
    }

    /// Ends the session before its time, because the server needs room.
    pub fn expire(&mut self) {
        self.session.end(EndReason::Expired);
        self.session.forget();
    }

    /// A connection has ended, in whatever way.
    pub fn connection_ended(&mut self, id: ConnectionId, now: Instant) {
        if self.session.connection() == Some(id) && !self.session.is_confirmed() {
            self.session.end(EndReason::Expired);
        }
        self.session.connection_ended(id, now);
    }

    /// The next frame to write to a connection.
    pub fn transmit(&mut self, id: ConnectionId, now: Instant) -> Option<Transmit> {
        if let Some(welcome) = self.welcome.take_if(|welcome| welcome.0 == id) {
            return Some(Transmit::Control(ControlFrame::Welcome(welcome.1)));
        }
        // Any other frame than a last BYE would tell the client that the session is established.
        if self.session.is_confirmed() || self.session.ended().is_some() {
            self.session.transmit(id, now)
        } else {
            None
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        self.session.timeout()
    }

    /// Lets time pass. Returns a connection that is lost and must be closed.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<ConnectionId> {
        self.session.handle_timeout(now)
    }
}

impl Reject {
    /// The last frame on a connection whose session has a newer one.
    #[must_use]
    pub fn superseded() -> Self {
        reject(RejectReason::Superseded)
    }
}

fn reject(reason: RejectReason) -> Reject {
    Reject { reason, retry_after_ms: 0 }
}

fn counters(hello: &Hello) -> PeerCounters {
    PeerCounters { received: hello.received, first_held: hello.first_held, replay_bytes: hello.replay_bytes }
}
