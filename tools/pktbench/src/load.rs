//! The hot loop: keeps the packets of one connection outstanding, and has each judged when it comes back.
//!
//! ```text
//!   fill the pipeline -> recv -> judge, record -> send the next one -> recv -> ...
//! ```
//!
//! The clock is read once for each packet that comes back: that moment is the end of its latency, the beginning of the
//! next one's, and tells whether the time is over.

use std::sync::Arc;
use std::time::Instant;

use pktconn::{Error, Packet, PacketConn};

use crate::account::{Account, Ending, Judgement};
use crate::payload::Packets;
use crate::plan::Schedule;
use crate::tally::Traffic;
use crate::worker::{Shared, Stop};

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
        while self.account.outstanding() < self.pipeline && self.may_send(now) {
            self.send(now).await?;
        }
        while self.account.outstanding() > 0 {
            let Some(packet) = self.conn.recv().await? else { return Err(None) };
            now = Instant::now();
            if !self.take(&packet, now) {
                // However many of these come: the runtime, and who stops the run, have their turn.
                tokio::task::consume_budget().await;
            } else if self.may_send(now) {
                self.send(now).await?;
            }
        }
        self.take_surplus(now).await;
        Ok(())
    }

    fn may_send(&self, now: Instant) -> bool {
        let in_time = self.schedule.stop_at.is_none_or(|stop_at| now < stop_at);
        in_time && (self.left > 0 || now < self.schedule.measure_from)
    }

    async fn send(&mut self, now: Instant) -> Result<(), Error> {
        let payload = self.account.upcoming();
        self.conn.send(payload).await?;
        self.account.sent(payload, now);
        if now >= self.schedule.measure_from {
            self.left -= 1;
            self.traffic.sent_packets += 1;
            self.traffic.sent_bytes += payload.len() as u64;
        } else {
            self.traffic.warmup_packets += 1;
        }
        Ok(())
    }

    /// Counts a packet, and tells whether it answers one that was outstanding.
    fn take(&mut self, packet: &Packet, now: Instant) -> bool {
        let judgement = self.account.receive(packet.payload());
        let sent_at = judgement.note();
        let counts = sent_at.unwrap_or(now) >= self.schedule.measure_from;
        if counts {
            self.traffic.received_packets += 1;
            self.traffic.received_bytes += packet.len() as u64;
        }
        let Some(sent_at) = sent_at else { return false };
        let is_sample = counts && matches!(judgement, Judgement::Verified(_));
        self.shared.tally().answered(now, is_sample.then(|| now - sent_at));
        true
    }

    /// Takes packets that nothing asked for and that are here already, without waiting for them. A server that sends
    /// them without end is not listened to without end.
    async fn take_surplus(&mut self, now: Instant) {
        for _ in 0..MAX_SURPLUS {
            let received = tokio::select! {
                biased;
                received = self.conn.recv() => received,
                () = std::future::ready(()) => return,
            };
            let Ok(Some(packet)) = received else { return };
            self.take(&packet, now);
        }
    }

    /// Settles the account, and gives the connection back.
    pub(crate) fn finish(self, end: End) -> PacketConn {
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
