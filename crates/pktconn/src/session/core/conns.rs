//! The operations of connections, of the driver of the current one, and of a session without one.

use std::task::{Context, Waker};
use std::time::Instant;

use pktconn_codec::Packet;
use pktconn_session::ConnectionId;
use pktconn_session::frame::{ControlFrame, Hello, Reject};

use super::shared::SessionFault;
use super::{SessionCore, now};
use crate::PacketSender;
use crate::session::control_codec::ControlCodec;
use crate::session::machine::Machine;

/// What the driver of a connection has to do.
pub(crate) enum Work {
    /// Wait for room in the send queue, if it is full, and for this time.
    Wait { is_blocked: bool, until: Option<Instant> },
    /// Another connection has taken the session.
    Replaced,
    /// The session is over: close the connection.
    Over,
}

impl SessionCore {
    /// Takes a connection for a client's session: HELLO is its first frame.
    pub(crate) fn connect(&self, id: ConnectionId, sender: PacketSender, control: ControlCodec) {
        let (mut shared, now) = (self.lock(), now());
        if let Machine::Client(client) = &mut shared.machine {
            client.connected(id, now);
        }
        shared.has_control = false;
        shared.set_conn(id, sender, control);
        self.release(shared, now);
    }

    /// Whether the handshake over this connection is complete.
    pub(crate) fn has_connection(&self, id: ConnectionId) -> bool {
        self.look(|machine| machine.session().connection() == Some(id))
    }

    /// Whether the peer has sent a control frame over the newest connection.
    pub(crate) fn has_answered(&self) -> bool {
        self.lock().has_control
    }

    /// How many packets were received, and how many of this side are acknowledged.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.look(|machine| {
            let session = machine.session();
            (session.received(), session.acknowledged())
        })
    }

    /// Writes to a connection that the state machine has.
    pub(crate) fn attach(&self, id: ConnectionId, sender: PacketSender, control: ControlCodec) {
        let (mut shared, now) = (self.lock(), now());
        shared.set_conn(id, sender, control);
        self.release(shared, now);
    }

    /// Resumes a server's session over another connection. The older one gets its last frame. Returns when its timers were due
    /// without a connection.
    pub(crate) fn resume(
        &self,
        hello: &Hello,
        id: ConnectionId,
        sender: PacketSender,
        control: ControlCodec,
    ) -> Result<Option<Instant>, Reject> {
        let (mut shared, now) = (self.lock(), now());
        let scheduled = if shared.conn.is_none() { shared.timers_at } else { None };
        let resumed = match &mut shared.machine {
            Machine::Server(server) => server.resume(hello, id, now),
            Machine::Client(_) => Ok(None),
        };
        if resumed.is_ok() {
            if let Some(older) = shared.set_conn(id, sender, control) {
                let superseded = ControlFrame::Reject(Reject::superseded());
                let _ = older.sender.core().push(&[older.control.encode(&superseded)]);
            }
        }
        let older_driver = shared.driver.take_if(|_| resumed.is_ok());
        self.release(shared, now);
        older_driver.into_iter().for_each(Waker::wake);
        resumed.map(|_| scheduled)
    }

    /// Takes what has arrived over a connection.
    pub(crate) fn receive(
        &self,
        id: ConnectionId,
        packets: &mut Vec<Packet>,
        random: u32,
    ) -> Result<(), SessionFault> {
        let (mut shared, now) = (self.lock(), now());
        let received = shared.receive(id, packets, random, self.rules(), now);
        packets.clear();
        self.release(shared, now);
        received
    }

    /// A connection has ended, in whatever way.
    pub(crate) fn connection_ended(&self, id: ConnectionId) {
        let (mut shared, now) = (self.lock(), now());
        shared.machine.connection_ended(id, now);
        shared.drop_conn(id);
        self.release(shared, now);
    }

    /// What the driver of a connection has to do next. It is woken when that changes.
    pub(crate) fn poll_work(&self, id: ConnectionId, cx: &Context<'_>) -> Work {
        let mut shared = self.lock();
        let Some(is_blocked) = shared.conn.as_ref().filter(|conn| conn.id == id).map(|conn| conn.is_blocked)
        else {
            return Work::Replaced;
        };
        // A refused HELLO leaves a client without a connection.
        if shared.machine.session().is_over() || shared.machine.wants_connection() {
            return Work::Over;
        }
        let until = shared.machine.timeout();
        shared.timers_at = until;
        if !shared.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            shared.driver = Some(cx.waker().clone());
        }
        Work::Wait { is_blocked, until }
    }

    /// Bytes have arrived, also if no frame is complete.
    pub(crate) fn heard(&self, id: ConnectionId) {
        self.change(|machine, now| machine.session_mut().heard(id, now));
    }

    /// The send queue of a connection has room again.
    pub(crate) fn unblock(&self, id: ConnectionId) {
        let (mut shared, now) = (self.lock(), now());
        if let Some(conn) = shared.conn.as_mut().filter(|conn| conn.id == id) {
            conn.is_blocked = false;
        }
        self.release(shared, now);
    }

    /// Lets time pass for a connection. Returns whether it is lost.
    pub(crate) fn handle_timeout(&self, id: ConnectionId) -> bool {
        let (mut shared, now) = (self.lock(), now());
        let lost = shared.machine.handle_timeout(now);
        if let Some(lost) = lost {
            shared.drop_conn(lost);
        }
        self.release(shared, now);
        lost == Some(id)
    }

    /// Lets time pass for a session that has no connection, and schedules its timers again.
    pub(crate) fn handle_timeout_detached(&self) {
        let (mut shared, now) = (self.lock(), now());
        if shared.conn.is_some() {
            return;
        }
        shared.timers_at = None;
        shared.machine.handle_timeout(now);
        self.release(shared, now);
    }

    /// Schedules the timers of a session that may have lost its connection.
    pub(crate) fn schedule_detached(&self) {
        let (mut shared, now) = (self.lock(), now());
        if shared.conn.is_none() {
            shared.timers_at = None;
            self.release(shared, now);
        }
    }

    /// Ends the session if it has no connection.
    pub(crate) fn expire_detached(&self) {
        // One lock for the look and the end: it may be resumed at any time.
        let mut shared = self.lock();
        if shared.conn.is_none() {
            shared.machine.expire();
            self.release(shared, now());
        }
    }

    /// Ends the session without the peer.
    pub(crate) fn expire(&self) {
        self.change(|machine, _| machine.expire());
    }

    /// Whether a server's session has, or had, a client that knows it.
    pub(crate) fn is_established(&self) -> bool {
        self.look(|machine| matches!(machine, Machine::Server(server) if server.is_established()))
    }

    /// Whether the caller is to start the handler of a server's session.
    pub(crate) fn claim_handler(&self) -> bool {
        !std::mem::replace(&mut self.lock().has_handler, true)
    }
}
