//! The figures of the load threads: their CPU time, their wait for a CPU, and how late they send packets.

use hdrhistogram::Histogram;

use super::thread_sampler::ThreadUsage;
use crate::record::histogram::new_histogram;
use crate::record::missed::Missed;
use crate::result::latency::percentile;

/// The counts of one worker, or of several after [`merge`](Self::merge).
#[derive(Clone, Debug)]
pub(crate) struct ClientTally {
    cpu_ns: u64,
    /// The time in which `cpu_ns` was used, added up over the threads.
    time_ns: u64,
    /// The CPU usage of the busiest thread.
    pub(crate) busiest_pct: f64,
    /// For how much of its time a thread waited for a CPU, and how long: of the thread that waited most.
    pub(crate) run_queue_pct: f64,
    pub(crate) run_queue_ns: u64,
    /// Open loop: how late each packet was sent after the warm-up, in ns. Time spent waiting for responses or for the
    /// socket does not count.
    lag: Option<Histogram<u64>>,
    /// Open loop: packets that were due and not sent.
    pub(crate) missed: Missed,
}

impl ClientTally {
    pub(crate) fn new(is_open_loop: bool) -> Self {
        Self {
            cpu_ns: 0,
            time_ns: 0,
            busiest_pct: 0.0,
            run_queue_pct: 0.0,
            run_queue_ns: 0,
            lag: is_open_loop.then(new_histogram),
            missed: Missed::default(),
        }
    }

    /// Counts a packet of an open loop that was sent `lag_ns` late.
    pub(crate) fn record_lag(&mut self, lag_ns: u64) {
        if let Some(lag) = &mut self.lag {
            lag.saturating_record(lag_ns);
        }
    }

    /// Counts what a thread used in the window.
    pub(crate) fn add_thread(&mut self, usage: ThreadUsage) {
        let ThreadUsage { time_ns, cpu_ns, run_queue_ns } = usage;
        self.cpu_ns += cpu_ns;
        self.time_ns += time_ns;
        self.busiest_pct = self.busiest_pct.max(percent(cpu_ns, time_ns));
        self.run_queue_pct = self.run_queue_pct.max(percent(run_queue_ns, time_ns));
        self.run_queue_ns = self.run_queue_ns.max(run_queue_ns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.cpu_ns += other.cpu_ns;
        self.time_ns += other.time_ns;
        self.busiest_pct = self.busiest_pct.max(other.busiest_pct);
        self.run_queue_pct = self.run_queue_pct.max(other.run_queue_pct);
        self.run_queue_ns = self.run_queue_ns.max(other.run_queue_ns);
        if let (Some(lag), Some(other)) = (&mut self.lag, &other.lag) {
            *lag += other;
        }
        self.missed += other.missed;
    }

    /// The CPU usage of all threads, as a percentage of their time.
    pub(crate) fn cpu_pct(&self) -> f64 {
        percent(self.cpu_ns, self.time_ns)
    }

    pub(crate) fn lag_p99_ns(&self) -> Option<u64> {
        self.lag.as_ref().and_then(|lag| percentile(lag, 99.0))
    }

    /// The number of packets in [`lag_p99_ns`](Self::lag_p99_ns).
    pub(crate) fn lag_packets(&self) -> u64 {
        self.lag.as_ref().map_or(0, Histogram::len)
    }
}

fn percent(part_ns: u64, time_ns: u64) -> f64 {
    if time_ns == 0 { 0.0 } else { part_ns as f64 / time_ns as f64 * 100.0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A thread that was busy and waited for a CPU, for these percentages of a second.
    pub(crate) fn thread(busy_pct: u64, waited_pct: u64) -> ClientTally {
        const PERCENT_NS: u64 = 10_000_000;
        let mut tally = ClientTally::new(true);
        tally.add_thread(ThreadUsage {
            time_ns: 100 * PERCENT_NS,
            cpu_ns: busy_pct * PERCENT_NS,
            run_queue_ns: waited_pct * PERCENT_NS,
        });
        tally
    }

    #[test]
    fn a_sum_has_the_mean_cpu_usage_the_busiest_thread_and_the_longest_wait() {
        let mut tally = thread(40, 25);
        tally.merge(&thread(96, 2));
        assert_eq!((tally.cpu_pct(), tally.busiest_pct), (68.0, 96.0));
        assert_eq!((tally.run_queue_pct, tally.run_queue_ns), (25.0, 250_000_000));
    }
}
