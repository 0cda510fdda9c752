//! The sending side of a connection and its way to the end, as a pure state machine.
//!
//! ```text
//!   events:   a packet is accepted, the transport took bytes or takes no more, bytes were acknowledged,
//!             somebody closes, the peer has closed, time has passed
//!   answers:  what is to be written, who is to be told, when to look again, how the connection ends
//! ```
//!
//! It knows bytes, rules and the time that it is told. It has no transport, task, waker or clock: the driver (`state`) has
//! these, and does what the machine answers. So a simulator can drive it through any order of events.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::ConnConfig;
use crate::connection::stats::{ConnStats, Received};
use crate::error::Reason;

mod accept;

mod end;

mod phase;
use phase::Ending;
pub(crate) use phase::Phase;

mod heartbeat;
use heartbeat::Heartbeat;

mod keyed;

mod lag;
use lag::Lag;

mod latest;
pub(crate) use latest::Encoded;
use latest::Latest;

mod progress;
pub(crate) use progress::WriteOutcome;

mod stall;
use stall::{DroppedBytes, Stall};

mod recv_clock;
use recv_clock::RecvClock;

mod rules;
#[cfg(test)]
mod simulation;
pub use rules::SlowConsumer;
pub(crate) use rules::{Rules, Timeouts};

mod send_queue;
pub(crate) use send_queue::{FULL_WRITE, MAX_SLICES, Outgoing, SendQueue};

mod timing;
pub(crate) use timing::Timing;

// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct Machine {
    packets_sent: u64,
    bytes_accepted: u64,
    bytes_written: u64,
    /// Of the bytes written, those that the transport has let go of; behind `bytes_written` where it buffers.
    bytes_flushed: u64,
    writes: u64,
    phase: Phase,
    /// Whether the transport took no more when it was last offered something. It may have room again by now.
    blocked: bool,
    /// Whether the peer has closed its side.
    remote_closed: bool,
    wakeups: Wakeups,
    /// Whether it matters when a packet is queued: there is a `timing` or a `lag`.
    tracks_queue_time: bool,
    /// Whether keyed packets wait behind the queue.
    has_latest: bool,
    /// While a receiver waits that has a deadline.
    recv_clock: Option<Box<RecvClock>>,
    /// What few connections need at a time, made when one does.
    cold: Option<Box<ColdState>>,
    pub(crate) queue: SendQueue,
    /// Of timed flushing.
    timing: Option<Box<Timing>>,
    /// Where it is limited.
    lag: Option<Box<Lag>>,
    heartbeat: Option<Box<Heartbeat>>,
}

/// What a connection has that had to wait, that ends or begins to.
#[derive(Default)]
struct ColdState {
    /// The senders that wait for room, by their keys, in the order in which they came.
    waiting_senders: VecDeque<u64>,
    /// Since when the transport has taken nothing.
    stall: Option<Stall>,
    /// Packets that the policy for slow consumers dropped, and those that newer ones have replaced.
    packets_dropped: u64,
    latest: Latest,
    dropped_bytes: DroppedBytes,
    /// Why the connection ended, or began to: the first reason wins.
    reason: Option<Reason>,
    /// Why nothing is sent any more: the first reason but the peer's clean close, after which sending may go on.
    stopped: Option<Reason>,
    /// What went wrong first, also where the connection was closing by then.
    failure: Option<Reason>,
    ending: Ending,
}

/// Who is to be told of what has happened, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakeups(u8);

impl Wakeups {
    /// Bytes have left the queue, or the line of senders has moved: those who wait for that may go on.
    pub(crate) const PROGRESS: Self = Self(1);
    /// The connection has ended or begins to: all callers that wait may go on.
    pub(crate) const END: Self = Self(2);
    /// Something is to be written at the end of this turn.
    pub(crate) const SWEEPER: Self = Self(4);
    /// The connection's task is to look at everything.
    pub(crate) const FLUSHER: Self = Self(8);
    /// The receiver is to look again.
    pub(crate) const RECEIVER: Self = Self(16);
    /// What concerns nobody who waits.
    pub(crate) const PROGRESS_OR_SWEEPER: Self = Self(1 | 4);

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is no news but those of `others`.
    pub(crate) fn is_subset_of(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }
}

impl Machine {
    pub(crate) fn new(config: &ConnConfig) -> Self {
        Self {
            queue: SendQueue::default(),
            phase: Phase::Open,
            blocked: false,
            remote_closed: false,
            wakeups: Wakeups::default(),
            has_latest: false,
            tracks_queue_time: config.timing().is_some() || config.send_max_lag.is_some(),
            timing: config.timing().map(Box::new),
            lag: config.send_max_lag.map(|max| Box::new(Lag::new(max))),
            heartbeat: None,
            recv_clock: None,
            cold: None,
            packets_sent: 0,
            bytes_accepted: 0,
            bytes_written: 0,
            bytes_flushed: 0,
            writes: 0,
        }
    }

    fn cold(&mut self) -> &mut ColdState {
        self.cold.get_or_insert_default()
    }

    fn request(&mut self, wakeups: Wakeups) {
        self.wakeups.0 |= wakeups.0;
    }

    pub(crate) fn wakeups(&self) -> Wakeups {
        self.wakeups
    }

    pub(crate) fn take_wakeups(&mut self) -> Wakeups {
        std::mem::take(&mut self.wakeups)
    }

    /// Of one who has seen to it himself.
    pub(crate) fn clear_wakeups(&mut self, wakeups: Wakeups) {
        self.wakeups.0 &= !wakeups.0;
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether packets wait for a time and not for the end of the turn.
    pub(crate) fn has_timed_flush(&self) -> bool {
        self.tracks_queue_time && self.timing.is_some()
    }

    pub(crate) fn bytes_accepted(&self) -> u64 {
        self.bytes_accepted
    }

    pub(crate) fn stats(&self, received: &Received) -> ConnStats {
        ConnStats {
            packets_received: received.packets.total(),
            bytes_received: received.bytes.total(),
            reads: received.reads.total(),
            packets_sent: self.packets_sent,
            bytes_sent: self.bytes_written,
            writes: self.writes,
            queued_bytes: self.queued_bytes() as u64,
            packets_dropped: self.cold.as_ref().map_or(0, |cold| cold.packets_dropped),
        }
    }

    /// The bytes that were accepted and not yet taken by the transport.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.len() + self.latest_len()
    }

    /// Puts a packet into the queue. Whether somebody is to see to it: it is the first in the queue, or so much is queued that
    /// waiting for more gains nothing.
    #[inline]
    pub(crate) fn push(&mut self, frame: &impl Outgoing, mut now: impl FnMut() -> Instant) -> bool {
        if self.has_latest && !self.blocked {
            // They were accepted before.
            self.queue_due_latest(&mut now);
        }
        self.packets_sent += 1;
        self.enqueue(frame, now)
    }

    #[inline]
    fn enqueue(&mut self, frame: &impl Outgoing, now: impl FnOnce() -> Instant) -> bool {
        let was_empty = self.queue.is_empty();
        self.queue.push(frame, self.blocked);
        self.bytes_accepted += frame.len() as u64;
        if self.tracks_queue_time {
            self.note_pushed(frame.len(), now());
        }
        (was_empty || self.has_full_write()) && !self.blocked
    }

    /// Whether so much is queued that waiting for more gains nothing.
    #[inline]
    pub(crate) fn has_full_write(&self) -> bool {
        self.queue.len() >= FULL_WRITE
    }

    #[cold]
    fn note_pushed(&mut self, len: usize, now: Instant) {
        if let Some(timing) = &mut self.timing {
            timing.packet_queued(now);
        }
        let position = self.bytes_written + (self.queue.len() - len) as u64;
        self.note_queue_time(position, now);
    }

    fn note_queue_time(&mut self, position: u64, now: Instant) {
        if self.lag.as_mut().is_some_and(|lag| lag.queued(position, now)) {
            // Its deadline passes also when nothing more is sent.
            self.request(Wakeups::FLUSHER);
        }
    }

    /// Has the connection's task look at everything.
    pub(crate) fn request_flusher(&mut self) {
        self.request(Wakeups::FLUSHER);
    }

    /// Begins to keep the time for heartbeats.
    pub(crate) fn start_heartbeat(&mut self, interval: Duration, now: Instant) {
        self.heartbeat = Some(Box::new(Heartbeat::new(interval, now)));
        self.request(Wakeups::FLUSHER);
    }

    /// Whether to send an empty packet now, because nothing else was sent. Not while bytes wait: the peer gets these first.
    pub(crate) fn heartbeat_is_due(&mut self, now: Instant) -> bool {
        let Some(heartbeat) = self.heartbeat.as_mut().filter(|_| self.phase == Phase::Open) else {
            return false;
        };
        if self.queue.is_empty() && !self.has_latest {
            heartbeat.check(self.packets_sent, now)
        } else {
            heartbeat.skip(now)
        }
    }

    /// When to ask for it again.
    pub(crate) fn next_heartbeat_check(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.as_ref().filter(|_| self.phase == Phase::Open)?;
        Some(heartbeat.next_check())
    }

    /// Has the receiver look again.
    pub(crate) fn wake_receiver(&mut self) {
        self.request(Wakeups::RECEIVER);
    }

    /// When packets that gather are to be written.
    pub(crate) fn flush_due(&self) -> Option<Instant> {
        self.timing.as_ref().filter(|_| self.phase == Phase::Open && !self.blocked)?.due()
    }

    /// Whether there is nothing to wait for, apart from what others begin.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.phase {
            Phase::Open => !self.has_output() && self.heartbeat.is_none(),
            Phase::Closing | Phase::Finished | Phase::Aborting => false,
            Phase::Ended => true,
        }
    }

    /// Has what stands in the queue written: at the end of this turn, or when it is due.
    pub(crate) fn request_write(&mut self) {
        if (!self.queue.is_empty() || self.has_latest) && !self.blocked {
            self.request(if self.has_timed_flush() { Wakeups::FLUSHER } else { Wakeups::SWEEPER });
        }
    }

    /// Counts a packet that is written from its own memory, past the queue.
    pub(crate) fn count_direct_packet(&mut self, len: usize) {
        self.packets_sent += 1;
        self.bytes_accepted += len as u64;
    }

    /// Whether it matters when a packet is sent.
    pub(crate) fn tracks_queue_time(&self) -> bool {
        self.tracks_queue_time
    }
}
