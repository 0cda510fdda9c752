//! The load of a slot: one of the `--conns` places, each with at most one connection at a time. It survives its
//! connections: when one has ended, the next one goes on with the next packet.

use crate::plan::clock::{overdue_ages, whole_ns};
use crate::plan::schedule::Schedule;
use crate::plan::{Pace, Plan};
use crate::record::missed::Cause;
use crate::record::recording::Recording;
use crate::record::tally::Tally;
use crate::traffic::arrivals::Arrivals;
use crate::traffic::payload::{PayloadBlock, PayloadSequence};
use crate::traffic::recorded::DueTimes;
use crate::traffic::verify::Verifier;

pub(crate) struct SlotLoad {
    /// The number of the slot in the plan.
    pub(crate) index: usize,
    pub(super) schedule: Schedule,
    pub(super) next: Next,
    pub(super) max_outstanding: usize,
    /// How many measured packets may still be sent; `u64::MAX` if a duration ends the run.
    pub(super) packets_left: u64,
    pub(super) verifier: Verifier<SendTimes>,
    /// Until when something other than the load generator delayed the packets that were due: the peer, or the lack of a
    /// connection.
    pub(super) blocked_until_ns: u64,
    /// Connections in a row that could not be opened, or that ended before an answer.
    pub(super) failures: u32,
    /// Whether it had a connection before.
    pub(super) had_connection: bool,
    /// Since when it has no connection.
    down_since_ns: Option<u64>,
}

/// When the next packet may be sent.
pub(super) enum Next {
    /// From `from_ns` on, when fewer packets than allowed are outstanding.
    Closed { from_ns: u64 },
    /// When it is due.
    Open(DueTimes),
}

/// The times of an outstanding packet, needed when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendTimes {
    pub(super) sent_ns: u64,
    /// In a closed loop the same as `sent_ns`.
    pub(super) due_ns: u64,
}

/// The wait before the second connection in a row that fails is replaced; doubled for each further one.
const FIRST_BACKOFF_NS: u64 = 10_000_000;

const MAX_BACKOFF_NS: u64 = 1_000_000_000;

impl SlotLoad {
    pub(crate) fn new(index: usize, plan: &Plan, block: PayloadBlock, schedule: Schedule) -> Self {
        let packets = PayloadSequence::new(block, plan.sizes.distribution, plan.seed, index, plan.conns);
        let ramp_ns = whole_ns(plan.ramp);
        let next = match plan.pace {
            // During the ramp, one connection after the other starts.
            Pace::Closed => Next::Closed { from_ns: ramp_start_ns(ramp_ns, index, plan.conns) },
            Pace::Open { arrival, .. } => {
                let profile = schedule.profile.expect("an open loop has a profile");
                let arrivals = Arrivals::new(arrival, profile, plan.seed, index, plan.conns);
                Next::Open(DueTimes::Computed(arrivals))
            }
            Pace::Replay { replay, .. } => Next::Open(DueTimes::Recorded(replay.flow(index))),
        };
        Self {
            index,
            schedule,
            next,
            max_outstanding: plan.most_outstanding(),
            packets_left: plan.packets_of(index).unwrap_or(u64::MAX),
            verifier: Verifier::new(packets, plan.verify),
            blocked_until_ns: 0,
            failures: 0,
            had_connection: false,
            down_since_ns: None,
        }
    }

    /// Whether a packet that is due at `due_ns` belongs to the run.
    pub(super) fn may_be_sent(&self, due_ns: u64) -> bool {
        !self.schedule.is_stopped(due_ns) && (self.packets_left > 0 || due_ns < self.schedule.measure_from_ns)
    }

    /// Whether the slot needs another connection at `now_ns`, when one has ended.
    pub(crate) fn needs_connection(&self, now_ns: u64) -> bool {
        !self.schedule.is_stopped(now_ns)
            && match &self.next {
                Next::Closed { from_ns } => self.may_be_sent(now_ns.max(*from_ns)),
                Next::Open(arrivals) => {
                    self.schedule.stop_at_ns.is_some() || self.may_be_sent(arrivals.due_ns())
                }
            }
    }

    /// It has no connection from now on.
    pub(super) fn down(&mut self, now_ns: u64) {
        self.down_since_ns.get_or_insert(now_ns);
    }

    /// It has a connection again. Returns for how long it had none.
    pub(super) fn up(&mut self, now_ns: u64) -> u64 {
        let down_ns = self.down_ns(now_ns);
        self.down_since_ns = None;
        down_ns
    }

    /// For how long it has no connection, as far as that is in the window.
    pub(super) fn down_ns(&self, now_ns: u64) -> u64 {
        let until_ns = self.schedule.stop_at_ns.unwrap_or(u64::MAX).min(now_ns);
        let since_ns = self.down_since_ns.map(|since_ns| since_ns.max(self.schedule.measure_from_ns));
        since_ns.map_or(0, |since_ns| until_ns.saturating_sub(since_ns))
    }

    /// Counts a connection that could not be opened, or that ended before an answer. Returns when to open the next one.
    pub(crate) fn failed(&mut self, now_ns: u64) -> u64 {
        // A server that refuses everything must not be flooded.
        let doublings = self.failures.saturating_sub(1).min(10);
        let wait_ns =
            if self.failures == 0 { 0 } else { (FIRST_BACKOFF_NS << doublings).min(MAX_BACKOFF_NS) };
        self.failures = self.failures.saturating_add(1);
        now_ns.saturating_add(wait_ns)
    }

    /// Counts the missed packets: due after the warm-up and before the end of the run, but not sent. They have no answer, so
    /// they are in the response times with their age, as a lower bound.
    pub(super) fn count_missed(&self, cause: Cause, tally: &mut Tally, recording: &mut Recording) {
        let Next::Open(due_times) = &self.next else { return };
        let Schedule { clock, measure_from_ns, stop_at_ns, .. } = self.schedule;
        let end_ns = stop_at_ns.unwrap_or(u64::MAX).min(clock.now_ns());
        let mut left = self.packets_left;
        let from_ns = measure_from_ns.max(due_times.due_ns()).min(end_ns);
        for (age_ns, packets) in overdue_ages(from_ns, end_ns, |ns| due_times.count_until(ns)) {
            let packets = packets.min(left);
            left -= packets;
            tally.client.missed.add(cause, packets);
            recording.record_missed(age_ns, packets);
        }
    }
}

/// When slot `index` of `conns` starts, so that their starts are spread evenly over the ramp.
fn ramp_start_ns(ramp_ns: u64, index: usize, conns: usize) -> u64 {
    (u128::from(ramp_ns) * index as u128 / conns as u128) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use std::sync::OnceLock;
    use std::time::Instant;

    fn load(stop_at_ns: Option<u64>) -> SlotLoad {
        static BLOCK: OnceLock<PayloadBlock> = OnceLock::new();
        let block = *BLOCK.get_or_init(|| PayloadBlock::new(2048, 1));
        let schedule = Schedule { stop_at_ns, ..plan().schedule(Instant::now()) };
        SlotLoad::new(0, &plan(), block, schedule)
    }

    #[test]
    fn the_first_failure_is_replaced_at_once_and_further_ones_more_and_more_slowly() {
        let mut load = load(None);
        let waits: Vec<_> = (0..9).map(|_| load.failed(7) - 7).map(|ns| ns / 1_000_000).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 640, 1000]);
        load.failures = u32::MAX;
        assert_eq!(load.failed(0), MAX_BACKOFF_NS);
    }

    #[test]
    fn the_time_without_a_connection_counts_in_the_window() {
        let mut load = load(Some(100));
        load.schedule.measure_from_ns = 20;
        assert_eq!(load.down_ns(90), 0);
        load.down(10);
        load.down(50);
        assert_eq!((load.down_ns(15), load.down_ns(60), load.down_ns(500)), (0, 40, 80));
        assert_eq!((load.up(70), load.down_ns(90)), (50, 0));
    }

    #[test]
    fn a_slot_needs_a_connection_until_its_packets_are_sent_or_the_time_is_over() {
        let mut counted = load(None);
        assert!(counted.needs_connection(u64::MAX));
        counted.packets_left = 0;
        assert!(!counted.needs_connection(5));
        let timed = load(Some(100));
        assert!(timed.needs_connection(99) && !timed.needs_connection(100));
    }
}
