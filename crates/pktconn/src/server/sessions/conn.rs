//! A connection of a server with sessions: waits for HELLO, and drives the session that it begins or resumes.
//!
//! ```text
//!   accepted --> HELLO, new -----> session, provisional --> first frame: handler --> until the connection ends
//!            |-> HELLO, id ------> session, found in the table -------------------> until the connection ends
//!            '-> packet, silence -> no session: the handler has the connection
//! ```

use std::fmt::Display;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pktconn_codec::Packet;
use pktconn_session::frame::{ControlFrame, Hello, Reject, RejectReason, Secret, SessionId};
use pktconn_session::{ConnectionId, FrameRefused, ServerSession, check_new};

use super::Sessions;
use super::table::SessionTable;
use crate::connection::conn_core::ConnCore;
use crate::error::Reason;
use crate::server::limits::network::Network;
use crate::server::limits::running_handshakes::{HandshakePlace, MustEnd};
use crate::session::core::{SessionCore, SessionKeeper};
use crate::session::driver::{DriveEnd, SessionConn};
use crate::session::{ControlCodec, Machine, random};
use crate::transport::connect::with_timeout;
use crate::{Error, HandlerResult, PacketConn, Session, SessionMode};

/// How long a client waits before it tries again, if the server takes no new session now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the first frame of a connection says.
enum First {
    Hello(Hello),
    /// The peer has no sessions. It may have sent a packet.
    NoSession(Option<Packet>),
    /// There will be nothing.
    End,
}

/// The place of an unfinished handshake, and the signal that it must end for newer ones.
type Handshake = (HandshakePlace, MustEnd);

/// A connection whose first frame has come, or did not come in time.
enum Opened {
    Session(Box<SessionConn>, Handshake),
    NoSession(Box<PacketConn>, Option<Packet>),
    /// It was refused, or has ended.
    End,
}

impl Sessions {
    /// The handler of each connection. Its phases are boxed: a connection that lives holds none of them.
    pub(super) async fn serve_conn(self: Arc<Self>, conn: PacketConn) -> HandlerResult {
        let (mut conn, handshake) = match Box::pin(self.open(conn)).await? {
            Opened::Session(conn, handshake) => (conn, handshake),
            Opened::NoSession(conn, packet) => {
                return Box::pin(self.serve_without_session(*conn, packet)).await;
            }
            Opened::End => return Ok(()),
        };
        let end = match Box::pin(self.establish(&mut conn, handshake)).await {
            Some(end) => end,
            None => conn.run_until(|_| false).await.unwrap_or(DriveEnd::Over),
        };
        Box::pin(conn.end(&end)).await;
        self.reap_handlers();
        match end {
            DriveEnd::Lost(Some(error)) => Err(error.into()),
            DriveEnd::Refused(fault) => Err(refused(fault).into()),
            DriveEnd::Lost(None) | DriveEnd::Silent | DriveEnd::Replaced | DriveEnd::Over => Ok(()),
        }
    }

    /// Waits for the first frame, and begins or resumes a session.
    async fn open(self: &Arc<Self>, mut conn: PacketConn) -> Result<Opened, Error> {
        let control = ControlCodec::of(&conn.sender()).map_err(refused)?;
        let mut handshake = self.begin_handshake(&conn);
        let hello = match self.first_frame(&mut conn, control, &mut handshake.1).await? {
            First::Hello(hello) => hello,
            First::NoSession(packet) => return Ok(Opened::NoSession(Box::new(conn), packet)),
            First::End => {
                conn.close().await?;
                return Ok(Opened::End);
            }
        };
        let id = self.table.new_connection();
        let begun = if hello.id == SessionId::NEW {
            self.begin(&conn, control, &hello, id)?
        } else {
            self.resume(&conn, control, &hello, id)
        };
        match begun {
            Ok(core) => Ok(Opened::Session(Box::new(SessionConn::new(core, id, conn, 0)), handshake)),
            Err(reject) => {
                let _ = conn.sender().core().push(&[control.encode(&ControlFrame::Reject(reject))]);
                conn.close().await?;
                Ok(Opened::End)
            }
        }
    }

    /// Drives a connection until its session is established, and starts the handler of the session if it has none.
    async fn establish(self: &Arc<Self>, conn: &mut SessionConn, handshake: Handshake) -> Option<DriveEnd> {
        let (place, must_end) = handshake;
        let established = tokio::select! {
            biased;
            established =
                with_timeout(self.handshake_timeout, conn.run_until(SessionCore::is_established)) => established.ok(),
            Ok(_) = must_end => None,
        };
        drop(place);
        let end = established.unwrap_or(Some(DriveEnd::Silent));
        if end.is_none() && conn.core.claim_handler() {
            self.start_handler(&conn.core);
        }
        end
    }

    /// Until the session is established, the connection counts as an unfinished handshake.
    fn begin_handshake(&self, conn: &PacketConn) -> Handshake {
        let network = conn.peer_addr().map(|peer| Network::of(peer.ip()));
        self.server.registry.handshakes.begin(network)
    }

    async fn first_frame(
        &self,
        conn: &mut PacketConn,
        control: ControlCodec,
        must_end: &mut MustEnd,
    ) -> Result<First, Error> {
        let received = tokio::select! {
            biased;
            received = tokio::time::timeout(self.table.config.hello_wait, conn.recv()) => received,
            Ok(_) = must_end => return Ok(First::End),
        };
        let Ok(received) = received else { return Ok(First::NoSession(None)) };
        let Some(packet) = received? else { return Ok(First::End) };
        if !packet.is_control() {
            return Ok(First::NoSession(Some(packet)));
        }
        match control.decode(&packet).map_err(refused)? {
            Some(ControlFrame::Hello(hello)) => Ok(First::Hello(hello)),
            Some(frame) => Err(refused(FrameRefused::Unexpected { name: frame.name() })),
            None => Err(refused(FrameRefused::Unexpected { name: "a frame of an unknown type" })),
        }
    }

    async fn serve_without_session(
        self: Arc<Self>,
        mut conn: PacketConn,
        first: Option<Packet>,
    ) -> HandlerResult {
        let is_draining = self.server.registry.shutdown.is_triggered();
        if self.table.config.mode == SessionMode::Required || is_draining {
            return Ok(conn.close().await?);
        }
        let core = Arc::clone(conn.core());
        let mut handler = (self.handler)(Session::of_conn(conn, first));
        tokio::select! {
            result = &mut handler => return result,
            () = self.server.registry.shutdown.triggered() => {}
        }
        if self.server.registry.drain_on_shutdown {
            ConnCore::drain(&core);
        }
        drop(core);
        handler.await
    }

    fn begin(
        self: &Arc<Self>,
        conn: &PacketConn,
        control: ControlCodec,
        hello: &Hello,
        connection: ConnectionId,
    ) -> Result<Result<Arc<SessionCore>, Reject>, Error> {
        check_new(hello).map_err(refused)?;
        if self.server.registry.shutdown.is_triggered() {
            return Ok(Err(retry_later(RejectReason::Draining)));
        }
        let identity = (SessionId(random()?), Secret(random()?));
        let config = &self.table.config;
        let now = tokio::time::Instant::now().into_std();
        let accepted = ServerSession::accept(
            hello,
            identity,
            config.resume_at.clone(),
            Arc::clone(&self.table.machine_config),
            connection,
            now,
        );
        let machine = match accepted {
            Ok(session) => Machine::Server(session),
            Err(reject) => return Ok(Err(reject)),
        };
        let keeper: Arc<SessionTable> = Arc::clone(&self.table);
        let keeper: Arc<dyn SessionKeeper> = keeper;
        let keeper: Weak<dyn SessionKeeper> = Arc::downgrade(&keeper);
        let settings = Arc::clone(&conn.core().settings);
        let core = SessionCore::new(machine, settings, config.recv_bytes, Some(keeper));
        if !self.table.insert(identity.0, &core) {
            return Ok(Err(retry_later(RejectReason::Busy)));
        }
        core.attach(connection, conn.sender(), control);
        Ok(Ok(core))
    }

    fn resume(
        &self,
        conn: &PacketConn,
        control: ControlCodec,
        hello: &Hello,
        connection: ConnectionId,
    ) -> Result<Arc<SessionCore>, Reject> {
        let unknown = Reject { reason: RejectReason::Unknown, retry_after_ms: 0 };
        let core = self.table.find(hello.id).ok_or(unknown)?;
        if conn.core().settings.rules.codec.config().payload_limit() < core.payload_limit() {
            // Packets of the session would not fit.
            return Err(retry_later(RejectReason::Busy));
        }
        let scheduled = core.resume(hello, connection, conn.sender(), control)?;
        self.table.attached(hello.id, scheduled);
        // It may have lost the connection already.
        core.schedule_detached();
        Ok(core)
    }
}

/// The error of a frame that is refused.
fn refused(fault: impl Display) -> Error {
    Reason::Control(fault.to_string().into()).into()
}

fn retry_later(reason: RejectReason) -> Reject {
    Reject { reason, retry_after_ms: RETRY_AFTER.as_millis() as u32 }
}
