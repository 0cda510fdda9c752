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

use std::time::Duration;

use bytes::BytesMut;

use crate::load::connection::Connection;
use crate::load::control::StopReason;
use crate::load::slot::{Next, SendTimes, SlotLoad};
use crate::load::stream::ReadOutcome;
use crate::plan::Plan;
use crate::plan::clock::whole_ns;
use crate::record::failure::Failure;
use crate::record::missed::Cause;
use crate::record::recording::Recording;
use crate::record::tally::{Tally, timeout_text};
use crate::traffic::verify::Judgement;

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
}

impl WorkerState {
    pub(crate) fn new(is_open_loop: bool, targets: usize) -> Self {
        Self {
            tally: Tally::new(is_open_loop, targets),
            recording: Recording::new(is_open_loop),
            buffer: vec![0; CHUNK],
            frames: BytesMut::new(),
        }
    }
}

/// A connection, and the load of its slot.
pub(crate) struct ConnectionDriver {
    connection: Connection,
    /// The index of its address.
    target: usize,
    pub(crate) load: SlotLoad,
    /// How many packets may still be sent on this connection.
    packets_left: u64,
    /// From when on this connection sends nothing more, so that another one takes its place.
    retire_at_ns: u64,
    /// How long an answer may take.
    packet_timeout_ns: u64,
    /// Whether no packet can be sent before a response comes or the socket accepts more.
    is_blocked: bool,
    /// Whether the time to send was over at the last call of `send`.
    is_stopped: bool,
}

/// Packets with the same latency.
struct LatencyBatch {
    sent: SendTimes,
    now_ns: u64,
    count: u64,
}

impl LatencyBatch {
    /// Records the batch, and again for its address if there are several.
    fn record(self, recording: &mut Recording, of_target: Option<&mut Recording>) {
        let (service_ns, response_ns) = (self.now_ns - self.sent.sent_ns, self.now_ns - self.sent.due_ns);
        recording.record(service_ns, response_ns, self.count);
        if let Some(of_target) = of_target {
            of_target.record(service_ns, response_ns, self.count);
        }
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

/// How a connection ended.
pub(crate) enum End {
    /// Everything was answered, and nothing more is sent on it.
    Complete,
    Failed(Failure),
    Stopped(StopReason),
}

impl ConnectionDriver {
    /// Goes on with `load` on a connection to address `target`, which is open since `now_ns`.
    pub(crate) fn new(
        mut load: SlotLoad,
        connection: Connection,
        target: usize,
        plan: &Plan,
        now_ns: u64,
    ) -> Self {
        load.blocked_until_ns = now_ns;
        let after =
            |time: Option<Duration>| time.map_or(u64::MAX, |time| now_ns.saturating_add(whole_ns(time)));
        Self {
            connection,
            target,
            load,
            packets_left: plan.conn_packets.unwrap_or(u64::MAX),
            retire_at_ns: after(plan.conn_lifetime),
            packet_timeout_ns: plan.packet_timeout.map_or(u64::MAX, whole_ns),
            is_blocked: false,
            is_stopped: false,
        }
    }

    /// Sends what may be sent, without reading.
    pub(crate) fn send_due(&mut self, state: &mut WorkerState) -> DriveResult {
        match self.send(self.load.schedule.clock.now_ns(), state) {
            Ok(()) if self.is_complete() => DriveResult::Ended(End::Complete),
            Ok(()) => DriveResult::WaitForSocket,
            Err(failure) => DriveResult::Ended(End::Failed(failure)),
        }
    }

    /// When to call [`send_due`](Self::send_due) if there is no event before. `None` if there is nothing to send before
    /// an event.
    pub(crate) fn next_send_ns(&self) -> Option<u64> {
        let load = &self.load;
        match &load.next {
            Next::Closed { from_ns } => (load.verifier.is_unused()).then_some(*from_ns),
            Next::Open(_) if self.is_blocked || self.packets_left == 0 => None,
            Next::Open(arrivals) if load.may_be_sent(arrivals.due_ns()) => Some(arrivals.due_ns()),
            // Nothing more to send: the connection stays open until the end of the run.
            Next::Open(_) => load.schedule.stop_at_ns.filter(|_| !self.is_stopped),
        }
    }

    /// What no event announces: that the time of the connection is over, or that of a packet.
    pub(crate) fn check_times(&self, now_ns: u64) -> Option<End> {
        let oldest = self.load.verifier.oldest();
        if oldest.is_some_and(|times| times.sent_ns.saturating_add(self.packet_timeout_ns) <= now_ns) {
            return Some(End::Failed(Failure::TimedOut));
        }
        (now_ns >= self.retire_at_ns && !self.is_awaiting_peer()).then_some(End::Complete)
    }

    /// Whether it has outstanding packets or unsent bytes. It may still send more packets.
    pub(crate) fn is_awaiting_peer(&self) -> bool {
        self.load.verifier.outstanding() > 0 || !self.connection.is_flushed()
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
            self.send(self.load.schedule.clock.now_ns(), state)?;
        }
        for _ in 0..MAX_READS_PER_TURN {
            let answers_before = state.tally.answers;
            let outcome = self.receive(state)?;
            if state.tally.answers > answers_before {
                self.load.failures = 0;
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
        let Self { connection, target, load: SlotLoad { schedule, verifier, .. }, .. } = self;
        let WorkerState { tally, recording, buffer, .. } = state;
        let before = recording.traffic;
        // Only with several addresses.
        let mut of_target = tally.targets[*target].recording.take();
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
            if !is_measured {
                let service_ns = now_ns - sent.sent_ns;
                tally.fastest_ns =
                    Some(tally.fastest_ns.map_or(service_ns, |fastest| fastest.min(service_ns)));
            }
            if !is_measured || !matches!(judgement, Judgement::Verified(_)) {
                return;
            }
            tally.sizes.count(payload.len());
            match &mut batch {
                Some(batch) if batch.sent == sent => batch.count += 1,
                _ => {
                    let done = batch.replace(LatencyBatch { sent, now_ns, count: 1 });
                    match done {
                        Some(done) => done.record(recording, of_target.as_deref_mut()),
                        // One packet per read is enough for the latency by size.
                        None => tally.sizes.record(payload.len(), now_ns - sent.sent_ns),
                    }
                }
            }
        });
        if let Some(last) = batch {
            last.record(recording, of_target.as_deref_mut());
        }
        if let Some(of_target) = &mut of_target {
            of_target.traffic += recording.traffic - before;
        }
        tally.targets[*target].recording = of_target;
        outcome
    }

    /// Sends what may be sent at `now_ns`, until the socket is full. After the end of the run it still sends packets
    /// that only the load generator has delayed.
    fn send(&mut self, now_ns: u64, state: &mut WorkerState) -> Result<(), Failure> {
        self.is_stopped = self.load.schedule.is_stopped(now_ns);
        if self.is_blocked {
            if self.is_stopped {
                return Ok(());
            }
            self.load.blocked_until_ns = now_ns;
        }
        while self.connection.is_flushed() {
            // The buffer is shared: a connection that failed may have left frames.
            state.frames.clear();
            while state.frames.len() < CHUNK {
                let Some(due_ns) = self.due_by(now_ns) else { break };
                let payload = self.load.verifier.sent(SendTimes { sent_ns: now_ns, due_ns });
                self.connection.encode(payload, &mut state.frames)?;
                self.count_sent(now_ns, due_ns, payload.len(), state);
            }
            if state.frames.is_empty() {
                break;
            }
            self.connection.write(&mut state.frames)?;
        }
        self.is_blocked =
            !self.connection.is_flushed() || self.load.verifier.outstanding() >= self.load.max_outstanding;
        Ok(())
    }

    /// The due time of the next packet, if it may be sent at `now_ns`.
    fn due_by(&self, now_ns: u64) -> Option<u64> {
        let load = &self.load;
        if load.verifier.outstanding() >= load.max_outstanding || self.is_retired(now_ns) {
            return None;
        }
        let due_ns = match &load.next {
            Next::Closed { from_ns } if now_ns < *from_ns => return None,
            Next::Closed { .. } => now_ns,
            Next::Open(arrivals) if arrivals.due_ns() > now_ns => return None,
            Next::Open(arrivals) => arrivals.due_ns(),
        };
        load.may_be_sent(due_ns).then_some(due_ns)
    }

    /// Whether this connection sends nothing more, though its slot may.
    fn is_retired(&self, now_ns: u64) -> bool {
        self.packets_left == 0 || now_ns >= self.retire_at_ns
    }

    fn count_sent(&mut self, now_ns: u64, due_ns: u64, len: usize, state: &mut WorkerState) {
        let WorkerState { tally, recording, .. } = state;
        let load = &mut self.load;
        let is_measured = due_ns >= load.schedule.measure_from_ns;
        tally.sent += 1;
        tally.last_sent_ns = now_ns;
        self.packets_left -= 1;
        load.packets_left -= u64::from(is_measured);
        recording.traffic.sent(len, is_measured);
        if let Some(of_target) = &mut tally.targets[self.target].recording {
            of_target.traffic.sent(len, is_measured);
        }
        if let Next::Open(arrivals) = &mut load.next {
            arrivals.advance();
            if is_measured {
                tally.client.record_lag(now_ns - due_ns.max(load.blocked_until_ns));
            }
        }
    }

    /// Whether everything was answered, and nothing more is sent on this connection. A packet that is answered before it
    /// was completely sent does not complete it, because others may follow it.
    fn is_complete(&self) -> bool {
        self.load.verifier.outstanding() == 0 && self.connection.is_flushed() && !self.has_more()
    }

    /// Whether more packets may follow. In an open loop with a duration, always true until its end: the connection stays
    /// open even if none of its packets is due before.
    fn has_more(&self) -> bool {
        let load = &self.load;
        let now_ns = load.schedule.clock.now_ns();
        let is_stopped = load.schedule.is_stopped(now_ns);
        !self.is_retired(now_ns)
            && match &load.next {
                Next::Closed { from_ns } => load.may_be_sent(now_ns.max(*from_ns)),
                Next::Open(arrivals) if is_stopped => !self.is_blocked && load.may_be_sent(arrivals.due_ns()),
                Next::Open(arrivals) => {
                    load.schedule.stop_at_ns.is_some() || load.may_be_sent(arrivals.due_ns())
                }
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

    /// Records the ages of the outstanding packets, for `--abort-on`. Of many, only some are recorded, for all of them:
    /// the work must not delay packets.
    pub(crate) fn record_outstanding(&self, now_ns: u64, recording: &mut Recording) {
        const MOST: usize = 1024;
        let verifier = &self.load.verifier;
        let step = verifier.outstanding().div_ceil(MOST).max(1);
        let age_ns = |since_ns: u64| now_ns.saturating_sub(since_ns);
        for SendTimes { sent_ns, due_ns } in verifier.outstanding_contexts().step_by(step) {
            recording.record_outstanding(age_ns(*sent_ns), age_ns(*due_ns), step as u64);
        }
    }

    /// Ends the connection at `now_ns`: adds its integrity and its failure to the tally. Returns the load of its slot, and
    /// the connection if it is still open.
    pub(crate) fn end(
        mut self,
        end: &End,
        state: &mut WorkerState,
        now_ns: u64,
    ) -> (SlotLoad, Option<Connection>) {
        let WorkerState { tally, recording, .. } = state;
        let load = &mut self.load;
        // Those of the warm-up, too, if they were outstanding in the window: a connection that stalls before it has no other.
        let measured = load.verifier.outstanding_contexts();
        for times in measured.filter(|_| now_ns >= load.schedule.measure_from_ns) {
            let age_ns = |since_ns: u64| now_ns.saturating_sub(since_ns);
            let of_target = tally.targets[self.target].recording.as_deref_mut();
            for recording in [&mut *recording].into_iter().chain(of_target) {
                recording.record_unanswered(age_ns(times.sent_ns), age_ns(times.due_ns));
            }
        }
        let integrity = load.verifier.settle();
        tally.integrity += integrity;
        match end {
            End::Failed(failure) => {
                recording.failed += 1;
                recording.failed_packets += integrity.unanswered;
                let problem = tally.errors.add(load.index, failure, integrity.unanswered);
                tally.targets[self.target].failed(&problem);
                recording.note_failure(now_ns, || problem);
                return (self.load, None);
            }
            End::Stopped(StopReason::TimedOut) if integrity.unanswered > 0 => {
                tally.errors.add_timeout(load.index, integrity.unanswered);
                recording.note_failure(now_ns, || timeout_text(load.index, integrity.unanswered));
            }
            End::Complete | End::Stopped(_) => {}
        }
        (self.load, Some(self.connection))
    }

    /// Why packets are missed that were due at the end of this connection.
    pub(crate) fn missed_cause(&self, end: &End) -> Cause {
        match end {
            End::Failed(_) => Cause::Failed,
            _ if !self.connection.is_flushed() => Cause::Socket,
            _ if self.is_blocked => Cause::Window,
            _ => Cause::Late,
        }
    }
}
