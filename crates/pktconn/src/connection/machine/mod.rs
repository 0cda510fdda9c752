//! The sending side and the end of a connection, as a pure state machine.
//!
//! ```text
//!   input:    a packet was accepted, the transport accepted bytes or blocked, the peer acknowledged bytes,
//!             one side closed, time has passed
//!   output:   bytes to write, tasks to wake, the time of the next deadline check, how the connection ends
//! ```
//!
//! The machine has no transport, task, waker or clock. Its driver (`state`) has these, passes in the current time, and
//! acts on the output. So a simulation can run the machine through any order of events.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::ConnConfig;
use crate::connection::stats::{ConnStats, Received};
use crate::error::Reason;

mod accept;

mod age;
use age::Age;
pub(crate) use age::{AgeEvent, MaxAge};

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

mod min_rate;
pub(crate) use min_rate::MinRate;
use min_rate::SendRate;

mod progress;
pub(crate) use progress::WriteOutcome;

mod stall;
use stall::{DroppedBytes, Stall};

mod recv_clock;
use recv_clock::RecvClock;
pub(crate) use recv_clock::{FramePart, TimedWait};

mod rules;
#[cfg(test)]
mod simulation;
pub use rules::SlowConsumer;
pub(crate) use rules::{Limits, Rules, Timeouts};

mod schedule;
use schedule::Schedule;

mod send_queue;
pub(crate) use send_queue::{FULL_WRITE, MAX_SLICES, Outgoing, SendQueue};

mod send_rate;

mod timing;
pub(crate) use timing::Timing;

// `repr(C)` keeps this order in memory: first the fields that each packet uses, then the rest.
#[repr(C)]
pub(crate) struct Machine {
    packets_sent: u64,
    bytes_accepted: u64,
    bytes_written: u64,
    /// Written bytes that have left the transport's own buffer. Less than `bytes_written` while the transport buffers.
    bytes_flushed: u64,
    writes: u64,
    phase: Phase,
    /// Whether the last write left bytes unwritten because the transport had no room. It may have room again by now.
    blocked: bool,
    /// Whether the peer has closed its side.
    remote_closed: bool,
    wakeups: Wakeups,
    /// Whether each packet needs its queue time recorded: there is a `timing` or a `lag`.
    tracks_queue_time: bool,
    /// Whether keyed packets wait behind the queue.
    has_latest: bool,
    /// Deadlines of the receiver. `None` if it has not waited with a deadline lately.
    recv_clock: Option<Box<RecvClock>>,
    /// State that few connections need. Allocated on first use.
    cold: Option<Box<ColdState>>,
    pub(crate) queue: SendQueue,
    /// `None` unless timed flushing is configured.
    timing: Option<Box<Timing>>,
    /// `None` unless `send_max_lag` is configured.
    lag: Option<Box<Lag>>,
    /// `None` unless heartbeats or a maximum age are configured.
    schedule: Option<Box<Schedule>>,
}

/// State of a connection that has had to wait, has dropped packets, or is ending.
#[derive(Default)]
struct ColdState {
    /// Keys of the senders that wait for room, oldest first.
    waiting_senders: VecDeque<u64>,
    /// How long the transport has been blocked without progress.
    stall: Option<Stall>,
    /// How fast the peer takes bytes while the transport is blocked. `None` unless `min_send_rate` is configured.
    send_rate: Option<Box<SendRate>>,
    /// Packets that the slow-consumer policy dropped, plus keyed packets that newer ones replaced.
    packets_dropped: u64,
    latest: Latest,
    dropped_bytes: DroppedBytes,
    /// Why the connection ended or started to end. The first reason wins.
    reason: Option<Reason>,
    /// Why sending stopped. The first reason wins. A clean close by the peer counts only if it stops sending.
    stopped: Option<Reason>,
    /// The first failure, including one while the connection was already closing.
    failure: Option<Reason>,
    ending: Ending,
}

/// The tasks that the driver must wake, as a set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakeups(u8);

impl Wakeups {
    /// Bytes have left the queue, or the first waiting sender has changed. Wakes flushes and senders.
    pub(crate) const PROGRESS: Self = Self(1);
    /// The connection has ended or started to end. Wakes all waiting callers.
    pub(crate) const END: Self = Self(2);
    /// Queued bytes must be written after the running tasks have yielded.
    pub(crate) const SWEEPER: Self = Self(4);
    /// The flusher must check everything: output, deadlines, the end.
    pub(crate) const FLUSHER: Self = Self(8);
    /// The receiver must check the connection again.
    pub(crate) const RECEIVER: Self = Self(16);
    /// The flags that a successful write causes. They wake no caller if none waits.
    pub(crate) const PROGRESS_OR_SWEEPER: Self = Self(1 | 4);

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all flags of `self` are also in `others`.
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
            schedule: None,
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

    /// Cancels wakeups whose work the caller has already done.
    pub(crate) fn clear_wakeups(&mut self, wakeups: Wakeups) {
        self.wakeups.0 &= !wakeups.0;
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether packets are written at a set time, not as soon as the running tasks have yielded.
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

    /// Accepted bytes that are not yet written to the transport.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.len() + self.latest_len()
    }

    /// Queues a packet. Returns whether the caller must write or schedule a write: the packet is the first in the
    /// queue, or enough bytes are queued for a full write.
    #[inline(always)]
    pub(crate) fn push(&mut self, frame: &impl Outgoing, mut now: impl FnMut() -> Instant) -> bool {
        if self.has_latest && !self.blocked {
            // These packets were accepted earlier, so they go first.
            self.queue_due_latest(&mut now);
        }
        self.packets_sent += 1;
        self.enqueue(frame, now)
    }

    #[inline(always)]
    fn enqueue(&mut self, frame: &impl Outgoing, now: impl FnOnce() -> Instant) -> bool {
        let was_empty = self.queue.is_empty();
        self.queue.push(frame, self.blocked);
        self.bytes_accepted += frame.len() as u64;
        if self.tracks_queue_time {
            self.note_pushed(frame.len(), now());
        }
        (was_empty || self.has_full_write()) && !self.blocked
    }

    /// Whether enough bytes are queued for a full write. Waiting for more gains nothing then.
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
            // The flusher must watch the lag deadline, because it can pass without another `send`.
            self.request(Wakeups::FLUSHER);
        }
    }

    /// Wakes the flusher, or spawns it. It then checks everything.
    pub(crate) fn request_flusher(&mut self) {
        self.request(Wakeups::FLUSHER);
    }

    /// Starts sending heartbeats: at most `interval` without a packet.
    pub(crate) fn start_heartbeat(&mut self, interval: Duration, now: Instant) {
        self.schedule.get_or_insert_default().heartbeat = Some(Heartbeat::new(interval, now));
        self.request(Wakeups::FLUSHER);
    }

    /// Whether to send an empty packet now because nothing else was sent. Never while bytes are queued, since they
    /// reach the peer first.
    pub(crate) fn heartbeat_is_due(&mut self, now: Instant) -> bool {
        let Some(schedule) = self.schedule.as_mut().filter(|_| self.phase == Phase::Open) else {
            return false;
        };
        let Some(heartbeat) = &mut schedule.heartbeat else { return false };
        if self.queue.is_empty() && !self.has_latest {
            heartbeat.check(self.packets_sent, now)
        } else {
            heartbeat.skip(now)
        }
    }

    /// Starts to count the age of the connection. `seed` selects its jitter.
    pub(crate) fn start_age(&mut self, max: MaxAge, seed: u64, now: Instant) {
        self.schedule.get_or_insert_default().age = Some(Age::new(max, seed, now));
        self.request(Wakeups::FLUSHER);
    }

    pub(crate) fn has_age(&self) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.age.is_some())
    }

    /// The grace, if the connection has reached its maximum age.
    pub(crate) fn aged(&self) -> Option<Duration> {
        self.schedule.as_ref()?.age.as_ref()?.reached()
    }

    /// What the age of the connection requires now. A connection that is closing has its own deadline.
    pub(crate) fn check_age(&mut self, now: Instant) -> Option<AgeEvent> {
        let schedule = self.schedule.as_mut().filter(|_| self.phase == Phase::Open)?;
        schedule.age.as_mut()?.check(now)
    }

    /// When to call [`heartbeat_is_due`](Self::heartbeat_is_due) and [`check_age`](Self::check_age) again.
    pub(crate) fn next_scheduled(&self) -> Option<Instant> {
        self.schedule.as_ref().filter(|_| self.phase == Phase::Open)?.next_check()
    }

    /// Wakes the receiver, which then checks the connection again.
    pub(crate) fn wake_receiver(&mut self) {
        self.request(Wakeups::RECEIVER);
    }

    /// When timed flushing must write the queued packets.
    pub(crate) fn flush_due(&self) -> Option<Instant> {
        self.timing.as_ref().filter(|_| self.phase == Phase::Open && !self.blocked)?.due()
    }

    /// Whether the flusher can end: no output, set time or end of the connection is pending.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.phase {
            Phase::Open => !self.has_output() && self.next_scheduled().is_none(),
            Phase::Closing | Phase::Finished | Phase::Aborting => false,
            Phase::Ended => true,
        }
    }

    /// Schedules a write of the queue: by the sweeper, or by the flusher under timed flushing.
    pub(crate) fn request_write(&mut self) {
        if (!self.queue.is_empty() || self.has_latest) && !self.blocked {
            self.request(if self.has_timed_flush() { Wakeups::FLUSHER } else { Wakeups::SWEEPER });
        }
    }

    /// Counts a packet that is written from its own memory without passing through the queue.
    pub(crate) fn count_direct_packet(&mut self, len: usize) {
        self.packets_sent += 1;
        self.bytes_accepted += len as u64;
    }

    /// Whether each packet needs its queue time recorded.
    pub(crate) fn tracks_queue_time(&self) -> bool {
        self.tracks_queue_time
    }
}
