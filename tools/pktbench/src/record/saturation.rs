//! How this program itself fares: whether the figures are those of the server, or its own.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::record::histogram::new_histogram;
use crate::result::latency::percentile;

/// A thread that is busy for so much of its time has none to spare: what it waits for is itself.
const SATURATED_CPU_PCT: f64 = 95.0;

/// Of fewer packets, one that was late says nothing.
const MIN_PACKETS: u64 = 100;

/// A schedule that is kept by and large. What a busy machine takes to run a thread again is well below.
const MAX_LAG_P99_NS: u64 = 1_000_000;

/// Counted by a worker, and merged.
#[derive(Clone, Debug)]
pub(crate) struct ClientTally {
    cpu_ns: u64,
    time_ns: u64,
    busiest_pct: f64,
    /// Open loop: how late each packet was sent that nothing but this program held up.
    lag: Option<Histogram<u64>>,
    pub(crate) not_sent: u64,
}

/// CPU time of a thread, and the time of the run at which it was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    cpu_ns: u64,
    at_ns: u64,
}

impl CpuTime {
    /// That of the thread that asks.
    pub(crate) fn of_this_thread(at_ns: u64) -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self { cpu_ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64, at_ns }
    }
}

impl ClientTally {
    pub(crate) fn new(is_open: bool) -> Self {
        Self { cpu_ns: 0, time_ns: 0, busiest_pct: 0.0, lag: is_open.then(new_histogram), not_sent: 0 }
    }

    /// Counts a packet of an open loop that was sent so late.
    pub(crate) fn record_lag(&mut self, lag_ns: u64) {
        if let Some(lag) = &mut self.lag {
            lag.saturating_record(lag_ns);
        }
    }

    /// Counts the CPU time of a thread between these two.
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
        self.not_sent += other.not_sent;
    }

    /// Of all threads, in percent of the time that they had.
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
    fn one_busy_thread_of_two_saturates_and_the_mean_is_shown() {
        let mut tally = busy(40);
        assert!(!tally.is_saturated());
        tally.merge(&busy(96));
        assert_eq!(tally.cpu_pct(), 68.0);
        assert!(tally.is_saturated());
    }

    #[test]
    fn a_schedule_that_runs_late_saturates_whatever_the_cpu_time() {
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
