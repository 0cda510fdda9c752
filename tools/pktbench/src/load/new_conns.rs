//! The open loop of connections (`--conns-per-second`): when each connection is due, and which slot gets it.

use std::time::Duration;

use crate::plan::Plan;
use crate::plan::clock::overdue_ages;
use crate::plan::schedule::Schedule;
use crate::record::dials::Dials;
use crate::traffic::arrivals::{Arrival, Arrivals};

pub(crate) struct NewConns {
    arrivals: Arrivals,
    schedule: Schedule,
    /// The number of the next connection, over all workers.
    conn: usize,
    workers: usize,
    /// Slots without a connection.
    pub(crate) free: Vec<usize>,
    /// Connections that were due in the window and were started.
    started: u64,
}

/// A connection to open now.
pub(crate) struct NewConn {
    pub(crate) slot: usize,
    /// Its number, over all workers.
    pub(crate) conn: usize,
    pub(crate) due_ns: u64,
}

impl NewConns {
    /// The connections of a worker; `None` if the plan has no open loop of connections.
    pub(crate) fn new(plan: &Plan, worker: usize, schedule: Schedule) -> Option<Self> {
        let profile = schedule.profile.filter(|_| plan.conns_per_second.is_some())?;
        let arrivals = Arrivals::new(Arrival::Constant, profile, plan.seed, worker, plan.threads);
        Some(Self { arrivals, schedule, conn: worker, workers: plan.threads, free: Vec::new(), started: 0 })
    }

    /// When the next connection is to be opened. `None` if it has to wait for a slot, or if there is none.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let due_ns = self.arrivals.due_ns();
        (!self.free.is_empty() && !self.schedule.is_stopped(due_ns)).then_some(due_ns)
    }

    /// The next connection, if it is due at `now_ns` and a slot is free. At the end of the run, those that only the load
    /// generator has delayed are still opened: no slot becomes free after it, so those that waited for one are missed.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<NewConn> {
        let due_ns = self.next_ns().filter(|due_ns| *due_ns <= now_ns)?;
        let (slot, conn) = (self.free.pop()?, self.conn);
        self.conn += self.workers;
        self.started += u64::from(self.schedule.is_in_window(due_ns));
        self.arrivals.advance();
        Some(NewConn { slot, conn, due_ns })
    }

    /// Counts the connections that were due in the window until `now_ns`: those that were started, and with their age those
    /// that were not.
    pub(crate) fn end(&self, now_ns: u64, dials: &mut Dials) {
        let end_ns = self.schedule.stop_at_ns.unwrap_or(u64::MAX).min(now_ns);
        let from_ns = self.schedule.measure_from_ns.max(self.arrivals.due_ns()).min(end_ns);
        dials.started += self.started;
        for (age_ns, conns) in overdue_ages(from_ns, end_ns, |ns| self.arrivals.count_until(ns)) {
            dials.missed += conns;
            dials.record_not_opened(Duration::from_nanos(age_ns), conns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Amount;
    use crate::plan::tests::plan;
    use std::time::Instant;

    const MS: u64 = 1_000_000;

    /// Ten connections per second for one second, on the second of two workers, after a warm-up of 200 ms.
    fn new_conns(free: &[usize]) -> NewConns {
        let (warmup, amount) = (Duration::from_millis(200), Amount::Time(Duration::from_secs(1)));
        let plan = Plan { conns_per_second: Some(20.0), threads: 2, warmup, amount, ..plan() };
        let mut new = NewConns::new(&plan, 1, plan.schedule(Instant::now())).unwrap();
        new.free = free.to_vec();
        new
    }

    fn ended(new: &NewConns, now_ns: u64) -> (u64, u64) {
        let mut dials = Dials::default();
        new.end(now_ns, &mut dials);
        assert_eq!(dials.missed, dials.not_opened.map_or(0, |ages| ages.len()));
        (dials.started, dials.missed)
    }

    #[test]
    fn connections_are_due_at_a_constant_rate_and_numbered_over_all_workers() {
        let mut new = new_conns(&[5, 6, 7]);
        assert_eq!(new.next_ns(), Some(50 * MS));
        assert!(new.next(49 * MS).is_none());
        let conns: Vec<_> =
            std::iter::from_fn(|| new.next(260 * MS)).map(|new| (new.conn, new.due_ns / MS)).collect();
        assert_eq!(conns, [(1, 50), (3, 150), (5, 250)]);
        assert_eq!(ended(&new, 5000 * MS), (1, 9), "one in the window was started");
    }

    #[test]
    fn a_connection_that_waited_for_a_slot_counts_from_its_time() {
        let mut new = new_conns(&[0]);
        assert!(new.next(60 * MS).is_some());
        assert_eq!(new.next_ns(), None, "no slot is free");
        assert!(new.next(900 * MS).is_none());
        new.free.push(0);
        assert_eq!(new.next(900 * MS).map(|new| new.due_ns), Some(150 * MS));
    }

    #[test]
    fn after_the_end_only_those_are_opened_that_had_a_slot() {
        let mut new = new_conns(&[0, 1]);
        let late: Vec<_> = std::iter::from_fn(|| new.next(1300 * MS)).map(|new| new.due_ns / MS).collect();
        assert_eq!(late, [50, 150]);
        assert_eq!(ended(&new, 1300 * MS), (0, 10));

        let mut all = new_conns(&[7; 20]);
        assert_eq!(std::iter::from_fn(|| all.next(1300 * MS)).count(), 12, "until 1.2 s");
        assert_eq!(all.next_ns(), None, "the loop would wake up for it again and again");
        assert_eq!(ended(&all, 1300 * MS), (10, 0));
    }
}
