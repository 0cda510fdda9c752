//! The hot loop: sends the packets of one connection that may be sent, and has each judged when it comes back.
//!
//! ```text
//!   closed loop:   fill the pipeline -> read what has come -> judge, record -> fill the pipeline -> read ...
//!   open loop:     send what is due        read what has come -> judge, record -> send what had to wait for it
//! ```
//!
//! The clock is read once for all packets that come back together: that moment is the end of their latency, and the
//! moment of sending of the packets that follow them at once.

use bytes::BytesMut;

use crate::load::connection::Connection;
use crate::load::control::Stop;
use crate::load::stream::ReadOutcome;
use crate::plan::clock::whole_ns;
use crate::plan::schedule::Schedule;
use crate::plan::{Pace, Plan};
use crate::record::failure::Failure;
use crate::record::recording::Recording;
use crate::record::tally::Tally;
use crate::traffic::arrivals::Arrivals;
use crate::traffic::payload::{PayloadBlock, PayloadSequence};
use crate::traffic::verify::{Judgement, Unreceived, Verifier};

/// The size of a read, and of a write, but for its last packet. With 16 KiB, 32 packets of 0 to 2048 B would take
/// three.
const CHUNK: usize = 64 * 1024;

/// Reads of one connection before the others have their turn.
const MAX_READS_PER_TURN: usize = 16;

/// What the loads of a worker share.
pub(crate) struct WorkerState {
    pub(crate) tally: Tally,
    /// Of the interval.
    pub(crate) recording: Recording,
    pub(crate) buffer: Vec<u8>,
    frames: BytesMut,
}

impl WorkerState {
    pub(crate) fn new(is_open: bool) -> Self {
        Self {
            tally: Tally::new(is_open),
            recording: Recording::new(is_open),
            buffer: vec![0; CHUNK],
            frames: BytesMut::new(),
        }
    }
}

pub(crate) struct ConnectionDriver {
    index: usize,
    connection: Connection,
    schedule: Schedule,
    next: Next,
    /// Packets outstanding at most.
    max_outstanding: usize,
    /// Packets that may still be sent after the warm-up.
    packets_left: u64,
    verifier: Verifier<SendTimes>,
    /// Whether sending waits for answers or for the socket.
    is_blocked: bool,
    /// When it last did.
    blocked_until_ns: u64,
    /// Whether the time to send is over, as far as this connection has noticed.
    is_stopped: bool,
}

/// When the next packet may be sent.
enum Next {
    /// As soon as there is room, from here on.
    Closed {
        from_ns: u64,
    },
    Open(Arrivals),
}

/// What is to be known of a packet when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SendTimes {
    sent_ns: u64,
    /// In a closed loop when it was sent.
    due_ns: u64,
}

/// Packets of one latency.
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

/// How far a load is after a turn.
pub(crate) enum DriveResult {
    /// It goes on when the socket is ready for it.
    WaitForSocket,
    /// It goes on after the others.
    RunAgain,
    Ended(End),
}

/// How the load of a connection ended.
pub(crate) enum End {
    /// All was sent, and all came back.
    Complete,
    Failed(Failure),
    Stopped(Stop),
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
            // One connection after the other joins in.
            Pace::Closed => Next::Closed { from_ns: share(ramp_ns, index, plan.conns) },
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

    /// Sends what may be sent, without a look at what has come.
    pub(crate) fn send_due(&mut self, state: &mut WorkerState) -> DriveResult {
        match self.send(self.schedule.clock.now_ns(), state) {
            Ok(()) if self.is_complete() => DriveResult::Ended(End::Complete),
            Ok(()) => DriveResult::WaitForSocket,
            Err(failure) => DriveResult::Ended(End::Failed(failure)),
        }
    }

    /// When to [wake](Self::wake) it, if its socket tells of nothing before.
    pub(crate) fn next_send_ns(&self) -> Option<u64> {
        match &self.next {
            Next::Closed { from_ns } => (self.verifier.is_unused()).then_some(*from_ns),
            Next::Open(_) if self.is_blocked => None,
            Next::Open(arrivals) if self.may_be_sent(arrivals.due_ns()) => Some(arrivals.due_ns()),
            // It is open to the end of the run.
            Next::Open(_) => self.schedule.stop_at_ns.filter(|_| !self.is_stopped),
        }
    }

    /// Whether something of it has to be waited for.
    pub(crate) fn awaits_peer(&self) -> bool {
        self.verifier.outstanding() > 0 || !self.connection.is_flushed()
    }

    /// Sends and receives what can be without waiting. A short read empties the socket, unless there is an end of the
    /// stream to find behind it, which was told once: `read_closed`.
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
            let got = self.receive(state)?;
            if state.tally.answers > answers_before {
                let now_ns = state.tally.last_answer_ns.unwrap_or_default();
                self.send(now_ns, state)?;
            }
            if self.is_complete() {
                self.read_unrequested(state);
                return Ok(DriveResult::Ended(End::Complete));
            }
            if got == ReadOutcome::WouldBlock || (got == ReadOutcome::Drained && !read_closed) {
                return Ok(DriveResult::WaitForSocket);
            }
        }
        Ok(DriveResult::RunAgain)
    }

    /// Reads once, and judges the packets that have come.
    fn receive(&mut self, state: &mut WorkerState) -> Result<ReadOutcome, Failure> {
        let Self { connection, schedule, verifier, .. } = self;
        let WorkerState { tally, recording, buffer, .. } = state;
        // Those that were sent together come back together, mostly: one latency, recorded once.
        let mut batch: Option<LatencyBatch> = None;
        let got = connection.read(buffer, schedule.clock, |now_ns, payload| {
            let judgement = verifier.receive(payload);
            let sent = judgement.context();
            let counts = sent.map_or(now_ns, |sent| sent.due_ns) >= schedule.measure_from_ns;
            if counts {
                recording.traffic.received_packets += 1;
                recording.traffic.received_bytes += payload.len() as u64;
            }
            let Some(sent) = sent else { return };
            tally.answered(now_ns);
            if !counts || !matches!(judgement, Judgement::Verified(_)) {
                return;
            }
            match &mut batch {
                Some(batch) if batch.sent == sent => batch.count += 1,
                _ => {
                    let done = batch.replace(LatencyBatch { sent, now_ns, count: 1 });
                    match done {
                        Some(done) => done.record(recording),
                        // One of each read is enough to see what a size takes.
                        None => tally.sizes.record(payload.len(), now_ns - sent.sent_ns),
                    }
                }
            }
        });
        if let Some(last) = batch {
            last.record(recording);
        }
        got
    }

    /// Sends what may be sent at `now_ns`, as long as the socket takes it. After the end this is what nothing but this
    /// program has held up.
    fn send(&mut self, now_ns: u64, state: &mut WorkerState) -> Result<(), Failure> {
        self.is_stopped = self.schedule.is_stopped(now_ns);
        if self.is_blocked {
            if self.is_stopped {
                return Ok(());
            }
            self.blocked_until_ns = now_ns;
        }
        while self.connection.is_flushed() {
            // Of a connection that failed, something may be left.
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

    /// When the packet was due that may be sent at `now_ns`, if one may.
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

    /// Whether a packet that is due then is one of those that the run is to send.
    fn may_be_sent(&self, due_ns: u64) -> bool {
        !self.schedule.is_stopped(due_ns) && (self.packets_left > 0 || due_ns < self.schedule.measure_from_ns)
    }

    fn count_sent(&mut self, now_ns: u64, due_ns: u64, len: usize, state: &mut WorkerState) {
        let WorkerState { tally, recording, .. } = state;
        let counts = due_ns >= self.schedule.measure_from_ns;
        tally.sent += 1;
        if counts {
            self.packets_left -= 1;
            recording.traffic.sent_packets += 1;
            recording.traffic.sent_bytes += len as u64;
        } else {
            recording.traffic.warmup_packets += 1;
        }
        if let Next::Open(arrivals) = &mut self.next {
            arrivals.advance();
            if counts {
                tally.client.record_lag(now_ns - due_ns.max(self.blocked_until_ns));
            }
        }
    }

    /// Whether all was sent and has come back. One that is answered before all of it is sent is not done: others may
    /// follow it.
    fn is_complete(&self) -> bool {
        self.verifier.outstanding() == 0 && self.connection.is_flushed() && !self.has_more()
    }

    fn has_more(&self) -> bool {
        let now_ns = self.schedule.clock.now_ns();
        let is_stopped = self.schedule.is_stopped(now_ns);
        match &self.next {
            Next::Closed { from_ns } => self.may_be_sent(now_ns.max(*from_ns)),
            Next::Open(arrivals) if is_stopped => !self.is_blocked && self.may_be_sent(arrivals.due_ns()),
            Next::Open(arrivals) => self.schedule.stop_at_ns.is_some() || self.may_be_sent(arrivals.due_ns()),
        }
    }

    /// Takes packets that nothing asked for and that are here already, without waiting for them. A server that sends
    /// them without end is not listened to without end.
    fn read_unrequested(&mut self, state: &mut WorkerState) {
        for _ in 0..MAX_READS_PER_TURN {
            // The failure of a connection that is done is of no matter.
            if matches!(self.receive(state), Ok(ReadOutcome::WouldBlock) | Err(_)) {
                return;
            }
        }
    }

    /// Settles the verifier, and gives the connection back where it is well.
    pub(crate) fn finish(self, end: End, tally: &mut Tally) -> Option<Connection> {
        let unreceived = match end {
            End::Complete | End::Stopped(Stop::GaveUp) => Unreceived::Lost,
            End::Failed(_) | End::Stopped(Stop::Interrupted) => Unreceived::Unanswered,
        };
        tally.client.not_sent += self.not_sent(&end);
        let integrity = self.verifier.settle(unreceived);
        tally.integrity += integrity;
        match end {
            End::Failed(failure) => {
                tally.errors.add(self.index, &failure, integrity.unanswered);
                return None;
            }
            End::Stopped(Stop::GaveUp) if integrity.lost > 0 => {
                tally.errors.add_timeout(self.index, integrity.lost);
            }
            End::Complete | End::Stopped(_) => {}
        }
        Some(self.connection)
    }

    /// How many packets that count are due by the end of the run, and are not sent. A connection that failed sends none
    /// of those that would have been due.
    fn not_sent(&self, end: &End) -> u64 {
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

/// The part of `time_ns` that `index` of `count` is at.
fn share(time_ns: u64, index: usize, count: usize) -> u64 {
    (u128::from(time_ns) * index as u128 / count as u128) as u64
}
