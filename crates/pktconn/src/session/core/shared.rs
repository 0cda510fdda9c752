//! What the lock of a session protects, and whom to wake after it.

use std::cell::Cell;
use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;
use pktconn_codec::{FrameError, Packet};
use pktconn_session::frame::ControlError;
use pktconn_session::{ConnectionId, EndReason, FrameRefused, PACKET_OVERHEAD, SessionState, Transmit};
use tokio::sync::watch;

use crate::connection::pool::CHUNK;
use crate::error::Reason;
use crate::session::control_codec::ControlCodec;
use crate::session::end_reason::end_reason;
use crate::session::machine::Machine;
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

pub(super) struct Shared {
    pub(super) machine: Machine,
    pub(super) conn: Option<CurrentConn>,
    /// For copies of small packets. `None` while there is nothing to send or to acknowledge.
    pub(super) memory: Option<Box<BytesMut>>,
    /// Waits for a packet.
    pub(super) receiver: Option<Waker>,
    /// Waits for frames, room and timers of the connection.
    pub(super) driver: Option<Waker>,
    /// When the driver or the keeper looks at the timers next.
    pub(super) timers_at: Option<Instant>,
    /// How many senders wait for room, and closers for the end.
    pub(super) waiting: u32,
    /// How many bytes waited without a number when the waiting ones were last told of a change.
    pub(super) unsent_bytes: usize,
    /// Whether the waiting ones were told that the session has ended.
    pub(super) is_end_told: bool,
    /// Whether packets could be sent when they were last told of a change.
    pub(super) can_send: bool,
    pub(super) dropped: u64,
    /// `Some` once somebody watches.
    pub(super) state: Option<Box<watch::Sender<SessionState>>>,
    pub(super) has_handler: bool,
    pub(super) has_control: bool,
    pub(super) is_forgotten: bool,
}

/// The connection to which frames are written.
pub(super) struct CurrentConn {
    pub(super) id: ConnectionId,
    pub(super) sender: PacketSender,
    pub(super) control: ControlCodec,
    /// Its send queue is full. The driver waits until it has room.
    pub(super) is_blocked: bool,
}

/// The limits of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionRules {
    pub(super) payload_limit: usize,
    pub(super) send_high_water: usize,
    pub(super) slow_consumer: SlowConsumer,
    pub(super) recv_bytes: usize,
}

/// Whom to wake when the lock is released.
#[derive(Default)]
pub(super) struct Wakes {
    pub(super) receiver: Option<Waker>,
    pub(super) driver: Option<Waker>,
    pub(super) changed: bool,
    /// When the timers were due before, and when they are due now.
    pub(super) schedule: Option<(Option<Instant>, Instant)>,
    pub(super) forget: bool,
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

impl Shared {
    /// Returns the connection before.
    pub(super) fn set_conn(
        &mut self,
        id: ConnectionId,
        sender: PacketSender,
        control: ControlCodec,
    ) -> Option<CurrentConn> {
        self.conn.replace(CurrentConn { id, sender, control, is_blocked: false })
    }

    pub(super) fn drop_conn(&mut self, id: ConnectionId) {
        if self.conn.take_if(|conn| conn.id == id).is_some() {
            self.timers_at = None;
        }
    }

    /// Queues a packet. `Ok(false)`: there is no room, and the policy is to wait.
    pub(super) fn offer(
        &mut self,
        packet: &Packet,
        rules: SessionRules,
        now: Instant,
    ) -> Result<bool, Reason> {
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

    pub(super) fn receive(
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
    pub(super) fn write(&mut self, rules: SessionRules, now: Instant) {
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

    pub(super) fn settle(&mut self, rules: SessionRules, now: Instant) -> Wakes {
        let was_blocked = self.conn.as_ref().is_some_and(|conn| conn.is_blocked);
        self.write(rules, now);
        let session = self.machine.session();
        let (has_ended, is_over) = (session.ended().is_some(), session.is_over());
        let mut wakes = Wakes::default();
        if has_ended || session.is_stopped() || session.peer_bye().is_some() || session.inbox_bytes() > 0 {
            wakes.receiver = self.receiver.take();
        }
        let unsent_before = std::mem::replace(&mut self.unsent_bytes, session.unsent_bytes());
        let was_end_told = std::mem::replace(&mut self.is_end_told, has_ended);
        let could_send = std::mem::replace(&mut self.can_send, session.can_send());
        let has_changed = session.unsent_bytes() < unsent_before
            || (could_send && !session.can_send())
            || (has_ended && !was_end_told);
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
    pub(super) fn end_of_receiving(&self) -> Result<(), Reason> {
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
            Some(ended) if !matches!(ended.reason, EndReason::Settled { .. }) => end_reason(ended.reason),
            _ if session.is_stopped() => Reason::LocalClose,
            _ => Reason::RemoteClose,
        }
    }
}

/// Whether a packet has to wait behind `queued` bytes. An empty queue takes any packet.
fn is_full(queued: usize, packet: &Packet, high_water: usize) -> bool {
    queued > 0 && queued + packet.len() > high_water
}
