//! Measures the load generator itself: the CPU time of its threads, and how late they send packets. Tells whether the
//! load generator is saturated: then the results show its own limit and not that of the server.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::record::histogram::new_histogram;
use crate::record::missed::Missed;
use crate::result::latency::percentile;

/// A thread that is busy for this share of its time or more is saturated.
const SATURATED_CPU_PCT: f64 = 95.0;

/// With fewer packets, the p99 of the lag would be the lag of a single packet.
const MIN_PACKETS: u64 = 100;

/// The longest p99 of the lag that does not count as saturation. The delay until a busy machine runs a thread again is
/// well below.
const MAX_LAG_P99_NS: u64 = 1_000_000;

/// The counts of one worker, or of several after [`merge`](Self::merge).
#[derive(Clone, Debug)]
pub(crate) struct ClientTally {
    cpu_ns: u64,
    /// The time in which `cpu_ns` was used, added up over the threads.
    time_ns: u64,
    /// The CPU usage of the busiest thread.
    busiest_pct: f64,
    /// Open loop: how late each packet was sent after the warm-up, in ns. Time spent waiting for responses or for the
    /// socket does not count.
    lag: Option<Histogram<u64>>,
    /// Open loop: packets that were due and not sent.
    pub(crate) missed: Missed,
}

/// The CPU time that a thread has used up to the time `at_ns` of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    cpu_ns: u64,
    at_ns: u64,
}

impl CpuTime {
    /// The CPU time of the calling thread.
    pub(crate) fn of_this_thread(at_ns: u64) -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self { cpu_ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64, at_ns }
    }
}

impl ClientTally {
    pub(crate) fn new(is_open_loop: bool) -> Self {
        Self {
            cpu_ns: 0,
            time_ns: 0,
            busiest_pct: 0.0,
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

    /// Counts the CPU time that a thread used between two measurements.
    pub(crate) fn add_cpu(&mut self, from: CpuTime, to: CpuTime) {
        let (cpu_ns, time_ns) = (to.cpu_ns.saturating_sub(from.cpu_ns), to.at_ns.saturating_sub(from.at_ns));
        self.cpu_ns += cpu_ns;
        self.time_ns += time_ns;
        self.busiest_pct = self.busiest_pct.max(percent(cpu_ns, time_ns));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.cpu_ns += other.cpu_ns;
        self.time_ns += other.time_ns;
        self.busiest_pct = self.busiest_pct.max(other.busiest_pct);
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

    pub(crate) fn is_saturated(&self) -> bool {
        let packets = self.lag.as_ref().map_or(0, Histogram::len);
        let is_late = self.lag_p99_ns().is_some_and(|ns| ns > MAX_LAG_P99_NS);
        self.busiest_pct >= SATURATED_CPU_PCT || (is_late && packets >= MIN_PACKETS)
    }
}

fn percent(cpu_ns: u64, time_ns: u64) -> f64 {
    if time_ns == 0 { 0.0 } else { cpu_ns as f64 / time_ns as f64 * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(pct: u64) -> ClientTally {
        let mut tally = ClientTally::new(true);
        let times = [(0, 0), (pct, 100)].map(|(cpu_ns, at_ns)| CpuTime { cpu_ns, at_ns });
        tally.add_cpu(times[0], times[1]);
        tally
    }

    #[test]
    fn one_busy_thread_is_enough_to_be_saturated_and_the_mean_is_shown() {
        let mut tally = busy(40);
        assert!(!tally.is_saturated());
        tally.merge(&busy(96));
        assert_eq!(tally.cpu_pct(), 68.0);
        assert!(tally.is_saturated());
    }

    #[test]
    fn a_late_schedule_is_saturated_at_any_cpu_usage() {
        let lag = |late: u64| {
            let mut tally = busy(10);
            let lag = tally.lag.as_mut().unwrap();
            lag.record_n(10_000, 1000 - late).unwrap();
            lag.record_n(2_000_000, late).unwrap();
            tally.is_saturated()
        };
        assert!(!lag(9) && lag(11));
    }
}
