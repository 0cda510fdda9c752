//! The hot loop: keeps the packets of one connection outstanding, and has each judged when it comes back.
//!
//! ```text
//!   fill the pipeline -> receive what has come -> judge, record -> fill the pipeline -> receive ...
//! ```
//!
//! The clock is read once for all packets that come back together: that moment is the end of their latency, the beginning
//! of that of the packets that follow them, and tells whether the time is over.

use std::sync::Arc;
use std::time::Instant;

use pktconn::{Error, Packet, PacketConn};

use crate::account::{Account, Ending, Judgement};
use crate::payload::Packets;
use crate::plan::Schedule;
use crate::tally::Traffic;
use crate::worker::{Shared, Stop};

/// Packets that are sent or received at a time, if there are so many.
const BATCH: usize = 64;

/// Each of them is one too many; so many are told from a few.
const MAX_SURPLUS: usize = 1024;

pub(crate) struct Load {
    index: usize,
    shared: Arc<Shared>,
    conn: PacketConn,
    schedule: Schedule,
    /// Packets outstanding at most.
    pipeline: usize,
    /// Packets that may still be sent after the warm-up.
    left: u64,
    /// The note of a packet is when it was sent.
    account: Account<Instant>,
    traffic: Traffic,
    sending: Sending,
    received: Vec<Packet>,
}

/// Packets on their way to the connection. What it has not accepted yet is still here when the load is stopped.
struct Sending {
    packets: Vec<Packet>,
    /// How many there were at first.
    count: usize,
    since: Instant,
}

/// How the load of a connection ended.
pub(crate) enum End {
    /// All was sent, and all came back.
    Complete,
    /// The connection ended before; without an error, the server closed it between two packets.
    Failed(Option<Error>),
    Stopped(Stop),
}

impl Load {
    pub(crate) fn new(index: usize, conn: PacketConn, shared: &Arc<Shared>, schedule: Schedule) -> Self {
        let plan = &shared.plan;
        let packets = Packets::new(shared.block, plan.sizes, plan.seed, index);
        Self {
            index,
            conn,
            schedule,
            pipeline: plan.pipeline,
            left: plan.packets_of(index).unwrap_or(u64::MAX),
            account: Account::new(packets, plan.pipeline),
            traffic: Traffic::default(),
            sending: Sending { packets: Vec::new(), count: 0, since: Instant::now() },
            received: Vec::new(),
            shared: Arc::clone(shared),
        }
    }

    /// Sends and receives until the plan is done. It can be dropped at any await: [`finish`](Self::finish) then counts
    /// what was outstanding.
    pub(crate) async fn run(&mut self) -> End {
        match self.send_and_receive().await {
            Ok(()) => End::Complete,
            Err(failure) => End::Failed(failure),
        }
    }

    async fn send_and_receive(&mut self) -> Result<(), Option<Error>> {
        let mut now = Instant::now();
        self.fill_pipeline(now).await?;
        while self.account.outstanding() > 0 {
            if self.conn.recv_many(&mut self.received, BATCH).await? == 0 {
                return Err(None);
            }
            now = Instant::now();
            if self.take_received(now) == 0 {
                // However many of these come: the runtime, and who stops the run, have their turn.
                tokio::task::consume_budget().await;
            } else {
                self.fill_pipeline(now).await?;
            }
        }
        self.take_surplus(now).await;
        Ok(())
    }

    /// Sends as many packets as may be outstanding.
    async fn fill_pipeline(&mut self, now: Instant) -> Result<(), Error> {
        loop {
            let count = self.may_send(now).min(BATCH);
            if count == 0 {
                return Ok(());
            }
            let upcoming = (0..count).map(|ahead| Packet::from(self.account.upcoming(ahead)));
            self.sending.packets.extend(upcoming);
            (self.sending.count, self.sending.since) = (count, now);
            let sent = self.conn.send_many(&mut self.sending.packets).await;
            self.note_sent();
            sent?;
        }
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

    /// Counts what the connection has accepted.
    fn note_sent(&mut self) {
        let Sending { packets, count, since } = &mut self.sending;
        let accepted = std::mem::take(count) - packets.len();
        packets.clear();
        for _ in 0..accepted {
            let payload = self.account.sent(*since);
            if *since >= self.schedule.measure_from {
                self.left -= 1;
                self.traffic.sent_packets += 1;
                self.traffic.sent_bytes += payload.len() as u64;
            } else {
                self.traffic.warmup_packets += 1;
            }
        }
    }

    /// Counts the packets that have come at `now`, and tells how many answer one that was outstanding.
    fn take_received(&mut self, now: Instant) -> usize {
        let mut answers = 0;
        let mut tally = self.shared.tally();
        for packet in self.received.drain(..) {
            let judgement = self.account.receive(packet.payload());
            let sent_at = judgement.note();
            let counts = sent_at.unwrap_or(now) >= self.schedule.measure_from;
            if counts {
                self.traffic.received_packets += 1;
                self.traffic.received_bytes += packet.len() as u64;
            }
            let Some(sent_at) = sent_at else { continue };
            let is_sample = counts && matches!(judgement, Judgement::Verified(_));
            tally.answered(now, is_sample.then(|| now - sent_at));
            answers += 1;
        }
        answers
    }

    /// Takes packets that nothing asked for and that are here already, without waiting for them. A server that sends
    /// them without end is not listened to without end.
    async fn take_surplus(&mut self, now: Instant) {
        let mut taken = 0;
        while taken < MAX_SURPLUS {
            let received = tokio::select! {
                biased;
                received = self.conn.recv_many(&mut self.received, BATCH) => received,
                () = std::future::ready(()) => return,
            };
            match received {
                Ok(count @ 1..) => taken += count,
                _ => return,
            }
            self.take_received(now);
        }
    }

    /// Settles the account, and gives the connection back.
    pub(crate) fn finish(mut self, end: End) -> PacketConn {
        self.note_sent();
        let ending = match end {
            End::Complete | End::Stopped(Stop::GaveUp) => Ending::Waited,
            End::Failed(_) | End::Stopped(Stop::Interrupted) => Ending::Cut,
        };
        let integrity = self.account.settle(ending);
        let mut tally = self.shared.tally();
        tally.traffic += self.traffic;
        tally.integrity += integrity;
        if let End::Failed(error) = end {
            tally.failures.add(self.index, error.as_ref(), integrity.unanswered);
        }
        self.conn
    }
}
