//! Drives the load of one connection: sends the packets that may be sent, and checks and records the responses. This is
//! the hot loop of the load generator.
//!
//! ```text
//!   closed loop:   fill the pipeline -> read responses -> check, record -> fill the pipeline -> read ...
//!   open loop:     send what is due     read responses -> check, record -> send what was blocked
//! ```
//!
//! The clock is read once for all packets that are read together. That time ends their latency, and it is the send time
//! of the packets that are sent because of them.

use bytes::BytesMut;

use crate::load::connection::Connection;
use crate::load::control::StopReason;
use crate::load::stream::ReadOutcome;
use crate::plan::clock::whole_ns;
use crate::plan::schedule::Schedule;
use crate::plan::{Pace, Plan};
use crate::record::failure::Failure;
use crate::record::missed::Cause;
use crate::record::recording::Recording;
use crate::record::tally::Tally;
use crate::traffic::arrivals::Arrivals;
use crate::traffic::payload::{PayloadBlock, PayloadSequence};
use crate::traffic::verify::{Judgement, Verifier};

/// The size of a read, and of a write without its last packet. With 16 KiB, 32 packets of 0 to 2048 B would need three
/// reads.
const CHUNK: usize = 64 * 1024;

/// Maximum number of reads from a connection before other connections are served.
const MAX_READS_PER_TURN: usize = 16;

/// What the connections of a worker share.
pub(crate) struct WorkerState {
    pub(crate) tally: Tally,
    /// The recording of the current interval.
    pub(crate) recording: Recording,
    /// The buffer of a read.
    pub(crate) buffer: Vec<u8>,
    /// The frames of a write. Empty between writes.
    frames: BytesMut,
    /// The measured packets of connections that have ended, which were not answered. Their age is known at the end.
    unanswered: Vec<SendTimes>,
}

impl WorkerState {
    pub(crate) fn new(is_open_loop: bool) -> Self {
        Self {
            tally: Tally::new(is_open_loop),
            recording: Recording::new(is_open_loop),
            buffer: vec![0; CHUNK],
            frames: BytesMut::new(),
            unanswered: Vec::new(),
        }
    }

    /// Records the ages of the packets that were not answered, at the end of the load.
    pub(crate) fn record_unanswered(&mut self, ended_at_ns: u64) {
        for SendTimes { sent_ns, due_ns } in self.unanswered.drain(..) {
            let age_ns = |since_ns: u64| ended_at_ns.saturating_sub(since_ns);
            self.recording.record_unanswered(age_ns(sent_ns), age_ns(due_ns));
        }
    }
}

pub(crate) struct ConnectionDriver {
    index: usize,
    connection: Connection,
    schedule: Schedule,
    next: Next,
    max_outstanding: usize,
    /// How many measured packets may still be sent; `u64::MAX` if a duration ends the run.
    packets_left: u64,
    verifier: Verifier<SendTimes>,
    /// Whether no packet can be sent before a response comes or the socket accepts more.
    is_blocked: bool,
    /// Until when the peer delayed the packets that were due: the last call of `send` while `is_blocked` was set.
    blocked_until_ns: u64,
    /// Whether the time to send was over at the last call of `send`.
    is_stopped: bool,
}

/// When the next packet may be sent.
enum Next {
    /// From `from_ns` on, when fewer packets than allowed are outstanding.
    Closed { from_ns: u64 },
    /// When it is due.
    Open(Arrivals),
}

/// The times of an outstanding packet, needed when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SendTimes {
    sent_ns: u64,
    /// In a closed loop the same as `sent_ns`.
    due_ns: u64,
}

/// Packets with the same latency.
struct LatencyBatch {
    sent: SendTimes,
    now_ns: u64,
    count: u64,
}

impl LatencyBatch {
    fn record(self, recording: &mut Recording) {
        recording.record(self.now_ns - self.sent.sent_ns, self.now_ns - self.sent.due_ns, self.count);
    }
}

/// What the event loop must do with the connection next.
pub(crate) enum DriveResult {
    /// Run it when its socket is ready.
    WaitForSocket,
    /// Run it again after the other connections.
    RunAgain,
    Ended(End),
}

/// How the load of a connection ended.
pub(crate) enum End {
    /// Everything was sent and answered.
    Complete,
    Failed(Failure),
    Stopped(StopReason),
}

impl ConnectionDriver {
    pub(crate) fn new(
        index: usize,
        connection: Connection,
        plan: &Plan,
        block: PayloadBlock,
        schedule: Schedule,
    ) -> Self {
        let packets = PayloadSequence::new(block, plan.sizes.distribution, plan.seed, index, plan.conns);
        let ramp_ns = whole_ns(plan.ramp);
        let next = match plan.pace {
            // During the ramp, one connection after the other starts.
            Pace::Closed => Next::Closed { from_ns: ramp_start_ns(ramp_ns, index, plan.conns) },
            Pace::Open { rate, arrival, .. } => {
                Next::Open(Arrivals::new(arrival, rate, ramp_ns, plan.seed, index, plan.conns))
            }
        };
        Self {
            index,
            connection,
            schedule,
            next,
            max_outstanding: plan.most_outstanding(),
            packets_left: plan.packets_of(index).unwrap_or(u64::MAX),
            verifier: Verifier::new(packets, plan.verify),
            is_blocked: false,
            blocked_until_ns: 0,
            is_stopped: false,
        }
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Sends what may be sent, without reading.
    pub(crate) fn send_due(&mut self, state: &mut WorkerState) -> DriveResult {
        match self.send(self.schedule.clock.now_ns(), state) {
            Ok(()) if self.is_complete() => DriveResult::Ended(End::Complete),
            Ok(()) => DriveResult::WaitForSocket,
            Err(failure) => DriveResult::Ended(End::Failed(failure)),
        }
    }

    /// When to call [`send_due`](Self::send_due) if there is no event before. `None` if there is nothing to send before
    /// an event.
    pub(crate) fn next_send_ns(&self) -> Option<u64> {
        match &self.next {
            Next::Closed { from_ns } => (self.verifier.is_unused()).then_some(*from_ns),
            Next::Open(_) if self.is_blocked => None,
            Next::Open(arrivals) if self.may_be_sent(arrivals.due_ns()) => Some(arrivals.due_ns()),
            // Nothing more to send: the connection stays open until the end of the run.
            Next::Open(_) => self.schedule.stop_at_ns.filter(|_| !self.is_stopped),
        }
    }

    /// Whether it has outstanding packets or unsent bytes. It may still send more packets.
    pub(crate) fn is_awaiting_peer(&self) -> bool {
        self.verifier.outstanding() > 0 || !self.connection.is_flushed()
    }

    /// Sends and receives what is possible without waiting. A read that does not fill the buffer has emptied the
    /// socket. Exception: with `read_closed`, the end of the stream may follow, and no further event announces it.
    pub(crate) fn drive(&mut self, state: &mut WorkerState, read_closed: bool) -> DriveResult {
        self.send_and_receive(state, read_closed)
            .unwrap_or_else(|failure| DriveResult::Ended(End::Failed(failure)))
    }

    fn send_and_receive(
        &mut self,
        state: &mut WorkerState,
        read_closed: bool,
    ) -> Result<DriveResult, Failure> {
        if !self.connection.is_flushed() {
            self.connection.flush()?;
            self.send(self.schedule.clock.now_ns(), state)?;
        }
        for _ in 0..MAX_READS_PER_TURN {
            let answers_before = state.tally.answers;
            let outcome = self.receive(state)?;
            if state.tally.answers > answers_before {
                let now_ns = state.tally.last_answer_ns.unwrap_or_default();
                self.send(now_ns, state)?;
            }
            if self.is_complete() {
                self.read_unrequested(state);
                return Ok(DriveResult::Ended(End::Complete));
            }
            if outcome == ReadOutcome::WouldBlock || (outcome == ReadOutcome::Drained && !read_closed) {
                return Ok(DriveResult::WaitForSocket);
            }
        }
        Ok(DriveResult::RunAgain)
    }

    /// Reads once, and checks and records the packets.
    fn receive(&mut self, state: &mut WorkerState) -> Result<ReadOutcome, Failure> {
        let Self { connection, schedule, verifier, .. } = self;
        let WorkerState { tally, recording, buffer, .. } = state;
        // Packets that were sent together mostly come back together. Their common latency is recorded once.
        let mut batch: Option<LatencyBatch> = None;
        let outcome = connection.read(buffer, schedule.clock, |now_ns, payload| {
            let judgement = verifier.receive(payload);
            let sent = judgement.context();
            let Some(sent) = sent else { return };
            let is_measured = sent.due_ns >= schedule.measure_from_ns;
            if schedule.is_in_window(now_ns) {
                recording.traffic.received_packets += 1;
                recording.traffic.received_bytes += payload.len() as u64;
            } else if schedule.is_stopped(now_ns) {
                recording.traffic.drained_packets += 1;
            }
            tally.answered(now_ns);
            if !is_measured || !matches!(judgement, Judgement::Verified(_)) {
                return;
            }
            tally.sizes.count(payload.len());
            match &mut batch {
                Some(batch) if batch.sent == sent => batch.count += 1,
                _ => {
                    let done = batch.replace(LatencyBatch { sent, now_ns, count: 1 });
                    match done {
                        Some(done) => done.record(recording),
                        // One packet per read is enough for the latency by size.
                        None => tally.sizes.record(payload.len(), now_ns - sent.sent_ns),
                    }
                }
            }
        });
        if let Some(last) = batch {
            last.record(recording);
        }
        outcome
    }

    /// Sends what may be sent at `now_ns`, until the socket is full. After the end of the run it still sends packets
    /// that only the load generator has delayed.
    fn send(&mut self, now_ns: u64, state: &mut WorkerState) -> Result<(), Failure> {
        self.is_stopped = self.schedule.is_stopped(now_ns);
        if self.is_blocked {
            if self.is_stopped {
                return Ok(());
            }
            self.blocked_until_ns = now_ns;
        }
        while self.connection.is_flushed() {
            // The buffer is shared: a connection that failed may have left frames.
            state.frames.clear();
            while state.frames.len() < CHUNK {
                let Some(due_ns) = self.due_by(now_ns) else { break };
                let payload = self.verifier.sent(SendTimes { sent_ns: now_ns, due_ns });
                self.connection.encode(payload, &mut state.frames)?;
                self.count_sent(now_ns, due_ns, payload.len(), state);
            }
            if state.frames.is_empty() {
                break;
            }
            self.connection.write(&mut state.frames)?;
        }
        self.is_blocked =
            !self.connection.is_flushed() || self.verifier.outstanding() >= self.max_outstanding;
        Ok(())
    }

    /// The due time of the next packet, if it may be sent at `now_ns`.
    fn due_by(&self, now_ns: u64) -> Option<u64> {
        if self.verifier.outstanding() >= self.max_outstanding {
            return None;
        }
        let due_ns = match &self.next {
            Next::Closed { from_ns } if now_ns < *from_ns => return None,
            Next::Closed { .. } => now_ns,
            Next::Open(arrivals) if arrivals.due_ns() > now_ns => return None,
            Next::Open(arrivals) => arrivals.due_ns(),
        };
        self.may_be_sent(due_ns).then_some(due_ns)
    }

    /// Whether a packet that is due at `due_ns` belongs to the run.
    fn may_be_sent(&self, due_ns: u64) -> bool {
        !self.schedule.is_stopped(due_ns) && (self.packets_left > 0 || due_ns < self.schedule.measure_from_ns)
    }

    fn count_sent(&mut self, now_ns: u64, due_ns: u64, len: usize, state: &mut WorkerState) {
        let WorkerState { tally, recording, .. } = state;
        let is_measured = due_ns >= self.schedule.measure_from_ns;
        tally.sent += 1;
        if is_measured {
            self.packets_left -= 1;
            recording.traffic.sent_packets += 1;
            recording.traffic.sent_bytes += len as u64;
        } else {
            recording.traffic.warmup_packets += 1;
        }
        if let Next::Open(arrivals) = &mut self.next {
            arrivals.advance();
            if is_measured {
                tally.client.record_lag(now_ns - due_ns.max(self.blocked_until_ns));
            }
        }
    }

    /// Whether everything was sent and answered. A packet that is answered before it was completely sent does not
    /// complete the load, because others may follow it.
    fn is_complete(&self) -> bool {
        self.verifier.outstanding() == 0 && self.connection.is_flushed() && !self.has_more()
    }

    /// Whether more packets may follow. In an open loop with a duration, always true until its end: the connection stays
    /// open even if none of its packets is due before.
    fn has_more(&self) -> bool {
        let now_ns = self.schedule.clock.now_ns();
        let is_stopped = self.schedule.is_stopped(now_ns);
        match &self.next {
            Next::Closed { from_ns } => self.may_be_sent(now_ns.max(*from_ns)),
            Next::Open(arrivals) if is_stopped => !self.is_blocked && self.may_be_sent(arrivals.due_ns()),
            Next::Open(arrivals) => self.schedule.stop_at_ns.is_some() || self.may_be_sent(arrivals.due_ns()),
        }
    }

    /// Reads packets that have arrived although none is outstanding, to count them as duplicates. The number of reads
    /// is limited, because a server might send without end.
    fn read_unrequested(&mut self, state: &mut WorkerState) {
        for _ in 0..MAX_READS_PER_TURN {
            // A failure no longer matters: the load of this connection is complete.
            if matches!(self.receive(state), Ok(ReadOutcome::WouldBlock) | Err(_)) {
                return;
            }
        }
    }

    /// Adds the integrity, the missed packets and the failure to the tally. Returns the connection if it is still open.
    pub(crate) fn finish(self, end: End, state: &mut WorkerState) -> Option<Connection> {
        let WorkerState { tally, unanswered, .. } = state;
        let measured = self.verifier.outstanding_contexts();
        unanswered.extend(measured.filter(|times| times.due_ns >= self.schedule.measure_from_ns));
        tally.client.missed.add(self.missed_cause(&end), self.missed(&end));
        let integrity = self.verifier.settle();
        tally.integrity += integrity;
        match end {
            End::Failed(failure) => {
                tally.errors.add(self.index, &failure, integrity.unanswered);
                return None;
            }
            End::Stopped(StopReason::TimedOut) if integrity.unanswered > 0 => {
                tally.errors.add_timeout(self.index, integrity.unanswered);
            }
            End::Complete | End::Stopped(_) => {}
        }
        Some(self.connection)
    }

    /// Why the packets are missed that were due at the end.
    fn missed_cause(&self, end: &End) -> Cause {
        match end {
            End::Failed(_) => Cause::Failed,
            _ if !self.connection.is_flushed() => Cause::Socket,
            _ if self.is_blocked => Cause::Window,
            _ => Cause::Late,
        }
    }

    /// The number of missed packets: due after the warm-up and before the end of the run, but not sent. On a failed
    /// connection, all packets until the planned end are missed.
    fn missed(&self, end: &End) -> u64 {
        let Next::Open(arrivals) = &self.next else { return 0 };
        let Schedule { clock, measure_from_ns, stop_at_ns, .. } = self.schedule;
        let end_ns = match end {
            End::Failed(_) => stop_at_ns.unwrap_or(u64::MAX),
            _ => stop_at_ns.unwrap_or(u64::MAX).min(clock.now_ns()),
        };
        (arrivals.count_until(end_ns) - arrivals.count_until(measure_from_ns.min(end_ns)))
            .min(self.packets_left)
    }
}

/// When connection `index` of `conns` starts, so that their starts are spread evenly over the ramp.
fn ramp_start_ns(ramp_ns: u64, index: usize, conns: usize) -> u64 {
    (u128::from(ramp_ns) * index as u128 / conns as u128) as u64
}
