//! What the handles of a session and the driver of its connection share: the state machine behind a lock, and who waits.
//!
//! ```text
//!   handles:  send, recv, close --> lock: state machine --> packets for the connection, wakers
//!   driver:   receive, timers   --> lock: the same
//! ```
//!
//! What the state machine wants to write is given to the connection under the lock, so frames keep their order. Tasks are
//! woken after the lock is released.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::BytesMut;
use pktconn_codec::{FrameError, Packet};
use pktconn_session::frame::{ControlError, ControlFrame, GoAway, Hello, Reject, SessionId};
use pktconn_session::{
    ConnectionId, EndReason, Ended, FrameRefused, PACKET_OVERHEAD, Received, SessionState, Transmit,
};
use tokio::sync::{Notify, TryLockError, watch};

use super::control_codec::ControlCodec;
use super::machine::Machine;
use crate::connection::config::Settings;
use crate::connection::machine::Rules;
use crate::connection::pool::CHUNK;
use crate::error::Reason;
use crate::{PacketSender, SlowConsumer};

/// About so many bytes are given to a connection at once: a full write.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// The memory that small packets share, in bytes. A session keeps so much more than its packets at most.
const SHARED_MEMORY: usize = 16 * 1024;

/// Larger packets have memory of their own, in bytes.
const MAX_SHARED_LEN: usize = SHARED_MEMORY / 4;

thread_local! {
    /// The empty vector of the last batch, for the next batch on this thread.
    static SPARE_BATCH: Cell<Vec<Packet>> = const { Cell::new(Vec::new()) };
}

/// A session, for all of its handles.
pub(crate) struct SessionCore {
    shared: Mutex<Shared>,
    settings: Arc<Settings>,
    recv_bytes: usize,
    /// Who keeps the session while it has no connection. A client's task does so itself.
    keeper: Option<Weak<dyn SessionKeeper>>,
    handles: AtomicUsize,
    /// Made by the first that waits: most sessions need none.
    line: OnceLock<Box<WaitingLine>>,
}

/// Those that wait for room or for the end.
#[derive(Default)]
struct WaitingLine {
    /// Held by the sender that is next: senders are served in order.
    turn: tokio::sync::Mutex<()>,
    /// Notified when there may be room for senders, and at the end.
    changed: Notify,
}

/// Keeps sessions that have no connection.
pub(crate) trait SessionKeeper: Send + Sync {
    /// The timers of a session without a connection are due at `at`, no longer at `before`.
    fn schedule(&self, id: SessionId, before: Option<Instant>, at: Instant);

    /// The session is over: nothing is to be done for it any more.
    fn forget(&self, id: SessionId);
}

struct Shared {
    machine: Machine,
    conn: Option<CurrentConn>,
    /// For copies of small packets. `None` while there is nothing to send or to acknowledge.
    memory: Option<Box<BytesMut>>,
    /// Waits for a packet.
    receiver: Option<Waker>,
    /// Waits for frames, room and timers of the connection.
    driver: Option<Waker>,
    /// When the driver or the keeper looks at the timers next.
    timers_at: Option<Instant>,
    /// How many senders wait for room, and closers for the end.
    waiting: u32,
    /// How many bytes waited without a number when the waiting ones were last told of a change.
    unsent_bytes: usize,
    /// Whether the waiting ones were told that the session has ended.
    is_end_told: bool,
    dropped: u64,
    /// `Some` once somebody watches.
    state: Option<Box<watch::Sender<SessionState>>>,
    has_handler: bool,
    has_control: bool,
    is_forgotten: bool,
}

/// The connection to which frames are written.
struct CurrentConn {
    id: ConnectionId,
    sender: PacketSender,
    control: ControlCodec,
    /// Its send queue is full. The driver waits until it has room.
    is_blocked: bool,
}

/// The limits of a session.
#[derive(Clone, Copy, Debug)]
struct SessionRules {
    payload_limit: usize,
    send_high_water: usize,
    slow_consumer: SlowConsumer,
    recv_bytes: usize,
}

/// Whom to wake when the lock is released.
#[derive(Default)]
struct Wakes {
    receiver: Option<Waker>,
    driver: Option<Waker>,
    changed: bool,
    /// When the timers were due before, and when they are due now.
    schedule: Option<(Option<Instant>, Instant)>,
    forget: bool,
}

/// Why the frames of a connection are refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SessionFault {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Frame(#[from] FrameRefused),
    #[error("{waiting} bytes wait to be received, more than recv_bytes ({limit})")]
    TooMuch { waiting: usize, limit: usize },
}

/// What the driver of a connection has to do.
pub(crate) enum Work {
    /// Wait for room in the send queue, if it is full, and for this time.
    Wait { is_blocked: bool, until: Option<Instant> },
    /// Another connection has taken the session.
    Replaced,
    /// The session is over: close the connection.
    Over,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl SessionCore {
    /// A session without handles.
    pub(crate) fn new(
        machine: Machine,
        settings: Arc<Settings>,
        recv_bytes: usize,
        keeper: Option<Weak<dyn SessionKeeper>>,
    ) -> Arc<Self> {
        let shared = Shared {
            machine,
            conn: None,
            memory: None,
            receiver: None,
            driver: None,
            timers_at: None,
            waiting: 0,
            unsent_bytes: 0,
            is_end_told: false,
            dropped: 0,
            state: None,
            has_handler: false,
            has_control: false,
            is_forgotten: false,
        };
        Arc::new(Self {
            shared: Mutex::new(shared),
            settings,
            recv_bytes,
            keeper,
            handles: AtomicUsize::new(0),
            line: OnceLock::new(),
        })
    }

    fn rules(&self) -> SessionRules {
        let Rules { codec, send_high_water, slow_consumer, .. } = &self.settings.rules;
        SessionRules {
            payload_limit: codec.config().payload_limit(),
            send_high_water: *send_high_water,
            slow_consumer: *slow_consumer,
            recv_bytes: self.recv_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the state machine wants to write, releases the lock and wakes who waits for that.
    fn release(&self, mut shared: MutexGuard<'_, Shared>, now: Instant) {
        let wakes = shared.settle(self.rules(), now);
        let id = shared.machine.id();
        drop(shared);
        wakes.receiver.into_iter().chain(wakes.driver).for_each(Waker::wake);
        if let Some(line) = self.line.get().filter(|_| wakes.changed) {
            line.changed.notify_waiters();
        }
        if let (Some(keeper), Some(id)) = (self.keeper.as_ref().and_then(Weak::upgrade), id) {
            if wakes.forget {
                keeper.forget(id);
            } else if let Some((before, at)) = wakes.schedule {
                keeper.schedule(id, before, at);
            }
        }
    }

    /// Changes the state machine.
    fn change<T>(&self, change: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let (mut shared, now) = (self.lock(), now());
        let result = change(&mut shared.machine, now);
        self.release(shared, now);
        result
    }

    /// Looks at the state machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.lock().machine)
    }

    // ---- handles

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Without handles the session ends: closed if the peer has ended its direction and all was received, else failed.
    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.change(|machine, now| {
            let session = machine.session_mut();
            if session.peer_bye().is_some() && session.inbox_bytes() == 0 {
                session.close(now);
            } else {
                session.fail(now);
            }
        });
    }

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

    /// The turn to send, if nobody waits for room.
    fn try_turn(&self) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, TryLockError> {
        self.line.get().map(|line| line.turn.try_lock()).transpose()
    }

    /// Queues a packet if there is room, and nobody waits for room.
    pub(crate) fn try_send(&self, packet: &Packet) -> Result<(), Reason> {
        let Ok(_turn) = self.try_turn() else { return Err(Reason::Full) };
        match self.offer(std::slice::from_ref(packet)) {
            (_, Err(reason)) => Err(reason),
            (0, _) => Err(Reason::Full),
            _ => Ok(()),
        }
    }

    /// Like [`try_send`](Self::try_send), as far as there is room. Adds to `sent` those that are queued, and returns whether
    /// these are all.
    pub(crate) fn try_send_many(&self, packets: &[Packet], sent: &mut usize) -> Result<bool, Reason> {
        let Ok(_turn) = self.try_turn() else { return Ok(packets.is_empty()) };
        let (count, result) = self.offer(packets);
        *sent += count;
        result.map(|()| count == packets.len())
    }

    /// Queues the packets after the first `sent` ones, in turn, as soon as there is room. Adds to `sent` those that are
    /// queued.
    pub(crate) async fn send_in_turn(&self, packets: &[Packet], sent: &mut usize) -> Result<(), Reason> {
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

    // ---- connections

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
        if shared.machine.session().is_over() {
            return Work::Over;
        }
        let until = shared.machine.timeout();
        shared.timers_at = until;
        if !shared.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            shared.driver = Some(cx.waker().clone());
        }
        Work::Wait { is_blocked, until }
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

    // ---- without a connection

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
        let (mut shared, now) = (self.lock(), now());
        if shared.conn.is_some() {
            return;
        }
        match &mut shared.machine {
            Machine::Client(client) => client.expire(),
            Machine::Server(server) => server.expire(),
        }
        self.release(shared, now);
    }

    /// Asks a client to move. At the deadline the session is closed.
    pub(crate) fn go_away(&self, go_away: GoAway) {
        self.change(|machine, now| machine.session_mut().go_away(go_away, now));
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

impl Shared {
    /// Returns the connection before.
    fn set_conn(
        &mut self,
        id: ConnectionId,
        sender: PacketSender,
        control: ControlCodec,
    ) -> Option<CurrentConn> {
        self.conn.replace(CurrentConn { id, sender, control, is_blocked: false })
    }

    fn drop_conn(&mut self, id: ConnectionId) {
        if self.conn.take_if(|conn| conn.id == id).is_some() {
            self.timers_at = None;
        }
    }

    /// Queues a packet. `Ok(false)`: there is no room, and the policy is to wait.
    fn offer(&mut self, packet: &Packet, rules: SessionRules, now: Instant) -> Result<bool, Reason> {
        let (len, max) = (packet.len(), rules.payload_limit);
        if len > max {
            return Err(Reason::TooLarge(FrameError::PayloadTooLarge { len, max }));
        }
        let session = self.machine.session_mut();
        if !session.can_send() {
            return Err(self.end_of_sending());
        }
        if is_full(session.unsent_bytes(), packet, rules.send_high_water) {
            // The connection may have room.
            self.write(rules, now);
        }
        let session = self.machine.session_mut();
        while is_full(session.unsent_bytes(), packet, rules.send_high_water) {
            match rules.slow_consumer {
                SlowConsumer::DropOldest if session.drop_oldest_unsent().is_some() => self.dropped += 1,
                SlowConsumer::DropNewest => {
                    self.dropped += 1;
                    return Ok(true);
                }
                SlowConsumer::Disconnect => {
                    let queued = session.unsent_bytes();
                    session.fail(now);
                    return Err(Reason::SlowConsumer { queued });
                }
                _ => return Ok(false),
            }
        }
        let kept = self.keep(packet);
        let sent = self.machine.session_mut().send(kept);
        if sent.is_err() { Err(self.end_of_sending()) } else { Ok(true) }
    }

    fn receive(
        &mut self,
        id: ConnectionId,
        packets: &mut Vec<Packet>,
        random: u32,
        rules: SessionRules,
        now: Instant,
    ) -> Result<(), SessionFault> {
        let Some(control) = self.conn.as_ref().filter(|conn| conn.id == id).map(|conn| conn.control) else {
            return Ok(());
        };
        self.machine.session_mut().heard(id, now);
        // Few bytes that wait for long must not keep the whole chunk that they were read into. They do not wait if somebody
        // waits for them.
        let copies = self.receiver.is_none() && packets.iter().map(Packet::len).sum::<usize>() < CHUNK / 2;
        for packet in packets.drain(..) {
            if packet.is_control() {
                self.has_control = true;
                if let Some(frame) = control.decode(&packet)? {
                    self.machine.receive_control(id, &frame, random, now)?;
                }
                continue;
            }
            let packet = if copies { packet.detach() } else { packet };
            self.machine.receive_data(id, packet)?;
        }
        let session = self.machine.session();
        let waiting = session.inbox_bytes();
        // One packet may be larger.
        if waiting > rules.recv_bytes && session.inbox_len() > 1 {
            self.machine.session_mut().fail(now);
            return Err(SessionFault::TooMuch { waiting, limit: rules.recv_bytes });
        }
        Ok(())
    }

    /// Gives the connection what the state machine wants to write, as far as there is room.
    fn write(&mut self, rules: SessionRules, now: Instant) {
        let Some(conn) = &mut self.conn else { return };
        let mut batch = SPARE_BATCH.take();
        while !conn.is_blocked {
            let mut bytes = 0;
            while bytes < MAX_BATCH_BYTES {
                let Some(transmit) = self.machine.transmit(conn.id, now) else { break };
                let packet = match transmit {
                    Transmit::Data(packet) => packet,
                    Transmit::Control(frame) => conn.control.encode(&frame),
                };
                bytes += packet.len() + PACKET_OVERHEAD;
                batch.push(packet);
            }
            if batch.is_empty() {
                break;
            }
            let pushed = conn.sender.core().push(&batch);
            batch.clear();
            match pushed {
                Ok(queued) => conn.is_blocked = queued >= rules.send_high_water,
                // It has ended. Its driver finds that out.
                Err(_) => break,
            }
        }
        SPARE_BATCH.set(batch);
    }

    /// A copy of a packet to be sent, because it may wait for long: it must not keep a read buffer or memory of the
    /// application. Small packets share memory that only this session uses.
    fn keep(&mut self, packet: &Packet) -> Packet {
        if packet.len() > MAX_SHARED_LEN {
            return packet.detach();
        }
        let memory = self.memory.get_or_insert_default();
        if let Some(kept) = packet.detach_into(memory) {
            return kept;
        }
        **memory = BytesMut::with_capacity(SHARED_MEMORY);
        packet.detach_into(memory).unwrap_or_else(|| packet.detach())
    }

    fn settle(&mut self, rules: SessionRules, now: Instant) -> Wakes {
        let was_blocked = self.conn.as_ref().is_some_and(|conn| conn.is_blocked);
        self.write(rules, now);
        let session = self.machine.session();
        let (has_ended, is_over) = (session.ended().is_some(), session.is_over());
        let mut wakes = Wakes::default();
        if has_ended || session.peer_bye().is_some() || session.inbox_bytes() > 0 {
            wakes.receiver = self.receiver.take();
        }
        let unsent_before = std::mem::replace(&mut self.unsent_bytes, session.unsent_bytes());
        let was_end_told = std::mem::replace(&mut self.is_end_told, has_ended);
        let has_changed = session.unsent_bytes() < unsent_before || (has_ended && !was_end_told);
        wakes.changed = self.waiting > 0 && has_changed;
        if let Some(state) = &self.state {
            let current = session.state();
            state.send_if_modified(|state| std::mem::replace(state, current) != current);
        }
        let is_blocked = self.conn.as_ref().is_some_and(|conn| conn.is_blocked);
        let timeout = self.machine.timeout();
        let is_earlier = timeout.is_some_and(|at| self.timers_at.is_none_or(|timers_at| at < timers_at));
        if is_over || is_earlier || (is_blocked && !was_blocked) {
            wakes.driver = self.driver.take();
        }
        if let Some(at) = timeout.filter(|_| self.conn.is_none() && is_earlier) {
            wakes.schedule = Some((self.timers_at.replace(at), at));
        }
        if session.held_bytes() + session.unsent_bytes() == 0 {
            self.memory = None;
        }
        wakes.forget = is_over && !std::mem::replace(&mut self.is_forgotten, is_over);
        wakes
    }

    /// What `recv` returns when nothing more is received.
    fn end_of_receiving(&self) -> Result<(), Reason> {
        let session = self.machine.session();
        match session.ended() {
            Some(ended) if !matches!(ended.reason, EndReason::Settled { .. }) => {
                Err(end_reason(ended.reason))
            }
            _ if session.peer_bye().is_some() => Ok(()),
            _ => Err(Reason::LocalClose),
        }
    }

    /// Why `send` fails.
    fn end_of_sending(&self) -> Reason {
        let session = self.machine.session();
        match session.ended() {
            Some(ended) => end_reason(ended.reason),
            None if session.is_closed() => Reason::LocalClose,
            None => Reason::RemoteClose,
        }
    }
}

/// Whether a packet has to wait behind `queued` bytes. An empty queue takes any packet.
fn is_full(queued: usize, packet: &Packet, high_water: usize) -> bool {
    queued > 0 && queued + packet.len() > high_water
}

/// The error of a session that has ended.
pub(crate) fn end_reason(reason: EndReason) -> Reason {
    match reason {
        EndReason::Settled { .. } => Reason::LocalClose,
        reason => Reason::Session(reason.to_string().into()),
    }
}
