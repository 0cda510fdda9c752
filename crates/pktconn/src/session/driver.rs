//! Drives one connection of a session: gives it what arrives, waits for its timers and for room, until one of both ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use pktconn_codec::Packet;
use pktconn_session::ConnectionId;
use tokio::time::Instant;

use super::core::{SessionCore, SessionFault, Work};
use crate::connection::timer::Timer;
use crate::{Error, PacketConn, PacketReceiver, PacketSender};

/// How many packets are taken from a connection at once.
const MAX_BATCH: usize = 256;

/// Why a connection is driven no longer.
pub(crate) enum DriveEnd {
    /// It has ended. `None`: the peer has closed it between two frames.
    Lost(Option<Error>),
    /// The peer was silent for longer than `ping_timeout`.
    Silent,
    /// The peer has sent what it must not send.
    Refused(SessionFault),
    /// Another connection has taken the session.
    Replaced,
    /// The session is over.
    Over,
}

/// A connection of a session.
pub(crate) struct SessionConn {
    pub(crate) core: Arc<SessionCore>,
    pub(crate) id: ConnectionId,
    sender: PacketSender,
    /// `None` at the end.
    receiver: Option<PacketReceiver>,
    packets: Vec<Packet>,
    timer: Timer,
    /// Registers the task for room in the send queue.
    waiter_key: u64,
    /// How many bytes had arrived when the timers were last looked at.
    received: u64,
    random: u32,
}

impl SessionConn {
    /// `random` chooses the moment of a client's move.
    pub(crate) fn new(core: Arc<SessionCore>, id: ConnectionId, conn: PacketConn, random: u32) -> Self {
        let (sender, receiver) = conn.split();
        let waiter_key = sender.core().next_waiter_key();
        Self {
            core,
            id,
            sender,
            receiver: Some(receiver),
            packets: Vec::new(),
            timer: Timer::default(),
            waiter_key,
            received: 0,
            random,
        }
    }

    /// Runs until the connection or the session ends. Returns `None` when `must_return` is true.
    pub(crate) async fn run_until(&mut self, must_return: impl Fn(&SessionCore) -> bool) -> Option<DriveEnd> {
        if must_return(&self.core) {
            return None;
        }
        poll_fn(|cx| self.poll(&must_return, cx)).await
    }

    fn poll(
        &mut self,
        must_return: &impl Fn(&SessionCore) -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<DriveEnd>> {
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(Some(DriveEnd::Over)) };
        while let Poll::Ready(received) = receiver.poll_recv_many(cx, &mut self.packets, MAX_BATCH) {
            match received {
                Ok(0) => return Poll::Ready(Some(DriveEnd::Lost(None))),
                Ok(_) => {
                    if let Err(fault) = self.core.receive(self.id, &mut self.packets, self.random) {
                        return Poll::Ready(Some(DriveEnd::Refused(fault)));
                    }
                    if must_return(&self.core) {
                        return Poll::Ready(None);
                    }
                }
                Err(error) => return Poll::Ready(Some(DriveEnd::Lost(Some(error)))),
            }
        }
        loop {
            let (is_blocked, until) = match self.core.poll_work(self.id, cx) {
                Work::Wait { is_blocked, until } => (is_blocked, until),
                Work::Replaced => return Poll::Ready(Some(DriveEnd::Replaced)),
                Work::Over => return Poll::Ready(Some(DriveEnd::Over)),
            };
            // An error is that of the connection. The receiver returns it, too.
            if is_blocked && matches!(self.sender.core().poll_room(self.waiter_key, cx), Poll::Ready(Ok(())))
            {
                self.core.unblock(self.id);
                continue;
            }
            let Some(until) = until else { return Poll::Pending };
            if self.timer.poll_until(Instant::from_std(until), cx).is_pending() {
                return Poll::Pending;
            }
            let received = self.sender.core().received.bytes.total();
            if std::mem::replace(&mut self.received, received) != received {
                // A part of a frame is a sign of life, too.
                self.core.heard(self.id);
            }
            if self.core.handle_timeout(self.id) {
                return Poll::Ready(Some(DriveEnd::Silent));
            }
        }
    }

    /// Ends the connection after it was driven: at once if nobody is there any more, else after what is queued is written.
    pub(crate) async fn end(&mut self, end: &DriveEnd) {
        self.core.connection_ended(self.id);
        // A receiver that is kept and not polled would make `close` wait in vain for the peer's close.
        drop(self.receiver.take());
        match end {
            DriveEnd::Lost(_) => {}
            DriveEnd::Silent => drop(self.sender.core().abandon()),
            // Its deadline bounds it, and what it could not write belongs to the session.
            DriveEnd::Refused(_) | DriveEnd::Replaced | DriveEnd::Over => drop(self.sender.close().await),
        }
    }
}

/// Also if its task panics or is dropped.
impl Drop for SessionConn {
    fn drop(&mut self) {
        self.core.connection_ended(self.id);
        self.sender.core().remove_waiter(self.waiter_key);
    }
}
