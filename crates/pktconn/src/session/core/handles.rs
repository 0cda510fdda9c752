//! The operations of handles: send, receive, close.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use pktconn_codec::Packet;
use pktconn_session::frame::GoAway;
use pktconn_session::{Ended, Received, SessionState};
use tokio::sync::watch;

use super::line::WaitingLine;
use super::{SessionCore, now};
use crate::error::Reason;

impl SessionCore {
    pub(crate) fn poll_recv(&self, cx: &Context<'_>) -> Poll<Result<Option<Packet>, Reason>> {
        let mut received = None;
        let count = ready!(self.poll_recv_each(cx, 1, |packet| received = Some(packet)))?;
        debug_assert_eq!(count, usize::from(received.is_some()));
        Poll::Ready(Ok(received))
    }

    /// Hands up to `limit` packets to `take`. Returns their number: 0 at the end.
    pub(crate) fn poll_recv_each(
        &self,
        cx: &Context<'_>,
        limit: usize,
        mut take: impl FnMut(Packet),
    ) -> Poll<Result<usize, Reason>> {
        let (mut shared, now) = (self.lock(), now());
        let mut count = 0;
        while count < limit {
            match shared.machine.session_mut().recv(now) {
                Received::Packet(packet) => take(packet),
                Received::Nothing | Received::End if count > 0 => break,
                Received::Nothing => {
                    if !shared.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                        shared.receiver = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                Received::End => return Poll::Ready(shared.end_of_receiving().map(|()| 0)),
            }
            count += 1;
        }
        self.release(shared, now);
        Poll::Ready(Ok(count))
    }

    /// Queues packets as far as there is room, if the policy is to wait. Returns how many it took.
    fn offer(&self, packets: &[Packet]) -> (usize, Result<(), Reason>) {
        let (mut shared, now) = (self.lock(), now());
        let (mut count, mut result) = (0, Ok(()));
        for packet in packets {
            match shared.offer(packet, self.rules(), now) {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(reason) => {
                    result = Err(reason);
                    break;
                }
            }
        }
        self.release(shared, now);
        (count, result)
    }

    fn line(&self) -> &WaitingLine {
        self.line.get_or_init(Box::default)
    }

    /// Whether senders wait for room.
    fn has_waiting_senders(&self) -> bool {
        self.line.get().is_some_and(|line| line.senders.load(Ordering::Acquire) > 0)
    }

    /// Queues a packet if there is room, and nobody waits for room.
    pub(crate) fn try_send(&self, packet: &Packet) -> Result<(), Reason> {
        if self.has_waiting_senders() {
            return Err(Reason::Full);
        }
        match self.offer(std::slice::from_ref(packet)) {
            (_, Err(reason)) => Err(reason),
            (0, _) => Err(Reason::Full),
            _ => Ok(()),
        }
    }

    /// Like [`try_send`](Self::try_send), as far as there is room. Adds to `sent` those that are queued, and returns whether
    /// these are all.
    pub(crate) fn try_send_many(&self, packets: &[Packet], sent: &mut usize) -> Result<bool, Reason> {
        if self.has_waiting_senders() {
            return Ok(packets.is_empty());
        }
        let (count, result) = self.offer(packets);
        *sent += count;
        result.map(|()| count == packets.len())
    }

    /// Queues the packets after the first `sent` ones, in turn, as soon as there is room. Adds to `sent` those that are
    /// queued.
    pub(crate) async fn send_in_turn(&self, packets: &[Packet], sent: &mut usize) -> Result<(), Reason> {
        let _waiting = WaitingSender::new(self.line());
        let _turn = self.line().turn.lock().await;
        self.until(|core| {
            let (count, result) = core.offer(&packets[*sent..]);
            *sent += count;
            (result.is_err() || *sent == packets.len()).then_some(result)
        })
        .await
    }

    /// Tries again at each change until there is a result.
    async fn until<T>(&self, mut attempt: impl FnMut(&Self) -> Option<T>) -> T {
        let _waiting = Waiting::new(self);
        loop {
            let mut changed = pin!(self.line().changed.notified());
            // Before the attempt, so that no notification is missed.
            changed.as_mut().enable();
            if let Some(result) = attempt(self) {
                return result;
            }
            changed.await;
        }
    }

    /// Begins to close the session: what was sent is delivered, and nothing more is received.
    pub(crate) fn begin_close(&self) {
        self.change(|machine, now| machine.session_mut().close(now));
    }

    /// Waits for the end of the session.
    pub(crate) async fn ended(&self) -> Ended {
        self.until(|core| core.look(|machine| machine.session().ended().cloned())).await
    }

    /// Asks a client to move. At the deadline the session is closed.
    pub(crate) fn go_away(&self, go_away: GoAway) {
        self.change(|machine, now| machine.session_mut().go_away(go_away, now));
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.lock().conn.as_ref()?.sender.peer_addr()
    }

    /// How many packets the policy has dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    pub(crate) fn watch_state(&self) -> watch::Receiver<SessionState> {
        let mut shared = self.lock();
        let state = shared.machine.session().state();
        shared.state.get_or_insert_with(|| Box::new(watch::Sender::new(state))).subscribe()
    }
}

/// A sender or a closer that waits for a change.
struct Waiting<'a>(&'a SessionCore);

impl<'a> Waiting<'a> {
    fn new(core: &'a SessionCore) -> Self {
        core.lock().waiting += 1;
        Self(core)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// A sender that waits for its turn, or for room.
struct WaitingSender<'a>(&'a WaitingLine);

impl<'a> WaitingSender<'a> {
    fn new(line: &'a WaitingLine) -> Self {
        line.senders.fetch_add(1, Ordering::AcqRel);
        Self(line)
    }
}

impl Drop for WaitingSender<'_> {
    fn drop(&mut self) {
        self.0.senders.fetch_sub(1, Ordering::AcqRel);
    }
}
