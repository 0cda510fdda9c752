//! The hot loop: keeps the packets of one connection outstanding, and has each judged when it comes back.
//!
//! ```text
//!   fill the pipeline -> read what has come -> judge, record -> fill the pipeline -> read ...
//! ```
//!
//! The clock is read once for all packets that come back together: that moment is the end of their latency, the beginning
//! of that of the packets that follow them, and tells whether the time is over.

use std::time::Instant;

use bytes::BytesMut;

use crate::account::{Account, Ending, Judgement};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::payload::{Block, Packets};
use crate::plan::{Plan, Schedule};
use crate::stream::Got;
use crate::tally::{Tally, Traffic};
use crate::worker::Stop;

/// The size of a read, and of a write, but for its last packet. With 16 KiB, 32 packets of 0 to 2048 B would take three.
const CHUNK: usize = 64 * 1024;

/// Reads of one connection before the others have their turn.
const READS_A_TURN: usize = 16;

/// What the loads of a worker share.
pub(crate) struct Tools {
    pub(crate) tally: Tally,
    pub(crate) buffer: Vec<u8>,
    frames: BytesMut,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self { tally: Tally::new(), buffer: vec![0; CHUNK], frames: BytesMut::new() }
    }
}

pub(crate) struct Load {
    index: usize,
    connection: Connection,
    schedule: Schedule,
    /// Packets outstanding at most.
    pipeline: usize,
    /// Packets that may still be sent after the warm-up.
    left: u64,
    /// The note of a packet is when it was sent.
    account: Account<Instant>,
    traffic: Traffic,
}

/// Packets of one latency.
struct Alike {
    sent_at: Instant,
    now: Instant,
    count: u64,
}

impl Alike {
    fn record(self, tally: &mut Tally) {
        tally.record(self.now - self.sent_at, self.count);
    }
}

/// How far a load is after a turn.
pub(crate) enum Turn {
    /// It goes on when the socket is ready for it.
    Waits,
    /// It goes on after the others.
    Again,
    Ended(End),
}

/// How the load of a connection ended.
pub(crate) enum End {
    /// All was sent, and all came back.
    Complete,
    Failed(Failure),
    Stopped(Stop),
}

impl Load {
    pub(crate) fn new(
        index: usize,
        connection: Connection,
        plan: &Plan,
        block: Block,
        schedule: Schedule,
    ) -> Self {
        let packets = Packets::new(block, plan.sizes, plan.seed, index);
        Self {
            index,
            connection,
            schedule,
            pipeline: plan.pipeline,
            left: plan.packets_of(index).unwrap_or(u64::MAX),
            account: Account::new(packets, plan.pipeline),
            traffic: Traffic::default(),
        }
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Sends the first packets.
    pub(crate) fn start(&mut self, tools: &mut Tools) -> Turn {
        match self.fill_pipeline(Instant::now(), tools) {
            Ok(()) if self.account.outstanding() == 0 => Turn::Ended(End::Complete),
            Ok(()) => Turn::Waits,
            Err(failure) => Turn::Ended(End::Failed(failure)),
        }
    }

    /// Sends and receives what can be without waiting. A short read empties the socket, unless there is an end of the
    /// stream to find behind it, which was told once: `read_closed`.
    pub(crate) fn turn(&mut self, tools: &mut Tools, read_closed: bool) -> Turn {
        self.send_and_receive(tools, read_closed).unwrap_or_else(|failure| Turn::Ended(End::Failed(failure)))
    }

    fn send_and_receive(&mut self, tools: &mut Tools, read_closed: bool) -> Result<Turn, Failure> {
        if !self.connection.is_flushed() {
            self.connection.flush()?;
            self.fill_pipeline(Instant::now(), tools)?;
        }
        for _ in 0..READS_A_TURN {
            let answers_before = tools.tally.answers;
            let got = self.receive(tools)?;
            if tools.tally.answers > answers_before {
                let now = tools.tally.last_answer.unwrap_or_else(Instant::now);
                self.fill_pipeline(now, tools)?;
            }
            // One that is answered before all of it is sent is not done: others may follow it.
            if self.account.outstanding() == 0 && self.connection.is_flushed() {
                self.take_surplus(tools);
                return Ok(Turn::Ended(End::Complete));
            }
            if got == Got::Nothing || (got == Got::Short && !read_closed) {
                return Ok(Turn::Waits);
            }
        }
        Ok(Turn::Again)
    }

    /// Reads once, and judges the packets that have come.
    fn receive(&mut self, tools: &mut Tools) -> Result<Got, Failure> {
        let Self { connection, schedule, account, traffic, .. } = self;
        let Tools { tally, buffer, .. } = tools;
        // Those that were sent together come back together, mostly: one latency, recorded once.
        let mut alike: Option<Alike> = None;
        let got = connection.read(buffer, |now, payload| {
            let judgement = account.receive(payload);
            let sent_at = judgement.note();
            let counts = sent_at.unwrap_or(now) >= schedule.measure_from;
            if counts {
                traffic.received_packets += 1;
                traffic.received_bytes += payload.len() as u64;
            }
            let Some(sent_at) = sent_at else { return };
            tally.answered(now);
            if !counts || !matches!(judgement, Judgement::Verified(_)) {
                return;
            }
            match &mut alike {
                Some(alike) if alike.sent_at == sent_at => alike.count += 1,
                _ => {
                    if let Some(done) = alike.replace(Alike { sent_at, now, count: 1 }) {
                        done.record(tally);
                    }
                }
            }
        });
        if let Some(last) = alike {
            last.record(tally);
        }
        got
    }

    /// Sends as many packets as may be outstanding, as long as the socket takes them.
    fn fill_pipeline(&mut self, now: Instant, tools: &mut Tools) -> Result<(), Failure> {
        while self.connection.is_flushed() {
            let count = self.may_send(now);
            if count == 0 {
                break;
            }
            // Of a connection that failed, something may be left.
            tools.frames.clear();
            let (mut sent, mut sent_bytes) = (0, 0);
            while sent < count && tools.frames.len() < CHUNK {
                let payload = self.account.sent(now);
                self.connection.encode(payload, &mut tools.frames)?;
                sent += 1;
                sent_bytes += payload.len() as u64;
            }
            if now >= self.schedule.measure_from {
                self.left -= sent as u64;
                self.traffic.sent_packets += sent as u64;
                self.traffic.sent_bytes += sent_bytes;
            } else {
                self.traffic.warmup_packets += sent as u64;
            }
            self.connection.write(&mut tools.frames)?;
        }
        Ok(())
    }

    /// How many packets may be sent at `now`.
    fn may_send(&self, now: Instant) -> usize {
        let room = self.pipeline - self.account.outstanding();
        if self.schedule.stop_at.is_some_and(|stop_at| now >= stop_at) {
            0
        } else if now < self.schedule.measure_from {
            room
        } else {
            room.min(usize::try_from(self.left).unwrap_or(usize::MAX))
        }
    }

    /// Takes packets that nothing asked for and that are here already, without waiting for them. A server that sends
    /// them without end is not listened to without end.
    fn take_surplus(&mut self, tools: &mut Tools) {
        for _ in 0..READS_A_TURN {
            // The failure of a connection that is done is of no matter.
            if matches!(self.receive(tools), Ok(Got::Nothing) | Err(_)) {
                return;
            }
        }
    }

    /// Settles the account, and gives the connection back where it is well.
    pub(crate) fn finish(self, end: End, tally: &mut Tally) -> Option<Connection> {
        let ending = match end {
            End::Complete | End::Stopped(Stop::GaveUp) => Ending::Waited,
            End::Failed(_) | End::Stopped(Stop::Interrupted) => Ending::Cut,
        };
        let integrity = self.account.settle(ending);
        tally.traffic += self.traffic;
        tally.integrity += integrity;
        match end {
            End::Failed(failure) => {
                tally.errors.add(self.index, &failure, integrity.unanswered);
                None
            }
            End::Stopped(Stop::GaveUp) if integrity.lost > 0 => {
                tally.errors.add_timeout(self.index, integrity.lost);
                Some(self.connection)
            }
            End::Complete | End::Stopped(_) => Some(self.connection),
        }
    }
}
