//! Judges whether the load generator was saturated, and why. All limits are here.

use super::client_tally::ClientTally;
use super::clock_gaps::ClockGaps;
use super::host_watch::{CpuTicks, HostUsage};
use crate::result::saturation::Reason;

/// A thread that is busy for this share of its time or more has no time left for more packets.
const MAX_BUSY_PCT: f64 = 95.0;

/// The longest p99 of the schedule lag. The delay until a machine with idle cores runs a thread again is well below.
const MAX_LAG_P99_NS: u64 = 1_000_000;

/// With fewer packets, the p99 of the lag would be the lag of a single packet.
const MIN_LAG_PACKETS: u64 = 100;

/// The largest share of its time for which a thread may wait for a CPU. On a virtual machine with two cores, one for
/// each side and not delayed by other programs, a thread waited for 0.2 to 2.2 % of the time, in closed and open loops
/// from 300 to 60,000 packets/s; beside two busy loops on its core, for 20 to 60 %. From 10 % on, the wait changes rates
/// by more than the 7 % that `compare` calls a regression.
const MAX_RUN_QUEUE_PCT: f64 = 10.0;

/// A shorter wait is not judged. In a run of some milliseconds, a single time slice of another program (3 to 10 ms on
/// Linux) would be a large share.
const MIN_RUN_QUEUE_NS: u64 = 30_000_000;

/// The largest share of the CPU time that the machine wanted and the hypervisor gave to others. Up to 2 % is common on
/// shared hosts. It does not depend on the number of idle cores.
const MAX_STEAL_PCT: f64 = 10.0;

/// The kernel counts in ticks of 10 ms, so fewer of them say little.
const MIN_STOLEN_TICKS: u64 = 10;

/// The largest share of the window in which the cgroup may be throttled. A group that stays below its limit is never
/// throttled; one that was is stopped for up to 100 ms each time, and 1 % of the packets wait for that.
const MAX_THROTTLED_PCT: f64 = 1.0;

/// The largest share of the window for which the process may stand still. Tools that limit a program by stopping it
/// again and again are above.
const MAX_GAP_PCT: f64 = 5.0;

/// The longest single gap. A scheduler delays a program by some milliseconds for each program that shares its core, so
/// the process was stopped or the machine was suspended. The highest latencies are then those of the gap.
const MAX_SINGLE_GAP_NS: u64 = 250_000_000;

/// Why the load generator was saturated in a window of `window_ns`. Empty if it was not. What was not measured is no
/// reason.
pub(crate) fn reasons(client: &ClientTally, host: &HostUsage, window_ns: u64) -> Vec<Reason> {
    let share_pct = |ns: u64| if window_ns == 0 { 0.0 } else { ns as f64 / window_ns as f64 * 100.0 };
    let is_late = |ns: u64| ns > MAX_LAG_P99_NS && client.lag_packets() >= MIN_LAG_PACKETS;
    let is_throttled = |ns: u64| ns > 0 && share_pct(ns) >= MAX_THROTTLED_PCT;
    let has_gaps = |gaps: ClockGaps| {
        gaps.longest_ns >= MAX_SINGLE_GAP_NS || (gaps.total_ns > 0 && share_pct(gaps.total_ns) >= MAX_GAP_PCT)
    };
    let waits = client.run_queue_ns >= MIN_RUN_QUEUE_NS && client.run_queue_pct >= MAX_RUN_QUEUE_PCT;
    let is_stolen = |cpu: CpuTicks| cpu.stolen >= MIN_STOLEN_TICKS && steal_pct(cpu) >= MAX_STEAL_PCT;
    let found = [
        (Reason::BusyThread, client.busiest_pct >= MAX_BUSY_PCT),
        (Reason::ScheduleLag, client.lag_p99_ns().is_some_and(is_late)),
        (Reason::RunQueue, waits),
        (Reason::Steal, host.cpu.is_some_and(is_stolen)),
        (Reason::Throttled, host.throttled_ns.is_some_and(is_throttled)),
        (Reason::ClockGap, host.gaps.is_some_and(has_gaps)),
    ];
    found.into_iter().filter(|(_, is_reason)| *is_reason).map(|(reason, _)| reason).collect()
}

/// Stolen time as a share of the time that the machine wanted.
pub(crate) fn steal_pct(cpu: CpuTicks) -> f64 {
    if cpu.wanted == 0 { 0.0 } else { cpu.stolen as f64 / cpu.wanted as f64 * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::super::client_tally::tests::thread;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn of_threads(client: &ClientTally) -> Vec<Reason> {
        reasons(client, &HostUsage::default(), SECOND)
    }

    #[test]
    fn one_busy_thread_is_enough() {
        let mut tally = thread(40, 0);
        assert_eq!(of_threads(&tally), []);
        tally.merge(&thread(96, 0));
        assert_eq!(of_threads(&tally), [Reason::BusyThread]);
    }

    #[test]
    fn a_late_schedule_is_a_reason_at_any_cpu_usage() {
        let late = |packets: u64, late: u64| {
            let mut tally = thread(10, 0);
            (0..packets).for_each(|packet| tally.record_lag(if packet < late { 2_000_000 } else { 10_000 }));
            of_threads(&tally)
        };
        assert_eq!(late(1000, 9), []);
        assert_eq!(late(1000, 11), [Reason::ScheduleLag]);
        assert_eq!(late(99, 99), [], "too few packets");
    }

    #[test]
    fn a_thread_that_waits_for_a_cpu_is_starved_however_little_it_works() {
        assert_eq!(of_threads(&thread(7, 9)), []);
        assert_eq!(of_threads(&thread(7, 60)), [Reason::RunQueue], "two busy loops on its core");
        // The same share of a run of 1 ms.
        let mut short = ClientTally::new(false);
        let (time_ns, cpu_ns, run_queue_ns) = (1_000_000, 70_000, 600_000);
        short.add_thread(super::super::thread_sampler::ThreadUsage { time_ns, cpu_ns, run_queue_ns });
        assert_eq!(of_threads(&short), []);
    }

    #[test]
    fn the_machine_can_be_the_reason() {
        let steal = |stolen| HostUsage {
            cpu: Some(CpuTicks { wanted: 100 * stolen / 20, stolen }),
            ..HostUsage::default()
        };
        let throttled = |ns| HostUsage { throttled_ns: Some(ns), ..HostUsage::default() };
        let gaps = |total_ns, longest_ns| HostUsage {
            gaps: Some(ClockGaps { total_ns, longest_ns }),
            ..HostUsage::default()
        };
        let ms = 1_000_000;
        let cases = [
            (HostUsage::default(), vec![]),
            (steal(9), vec![]),
            (steal(20), vec![Reason::Steal]),
            (throttled(0), vec![]),
            (throttled(90 * ms), vec![]),
            (throttled(100 * ms), vec![Reason::Throttled]),
            (gaps(0, 0), vec![]),
            (gaps(240 * ms, 240 * ms), vec![]),
            (gaps(260 * ms, 260 * ms), vec![Reason::ClockGap]),
            (gaps(500 * ms, 20 * ms), vec![Reason::ClockGap]),
        ];
        for (host, expected) in cases {
            assert_eq!(reasons(&thread(10, 0), &host, 10 * SECOND), expected, "{host:?}");
        }
    }

    #[test]
    fn a_run_without_a_window_has_no_reasons() {
        let host = HostUsage {
            cpu: Some(CpuTicks::default()),
            throttled_ns: Some(0),
            gaps: Some(ClockGaps::default()),
        };
        assert_eq!(reasons(&ClientTally::new(true), &host, 0), []);
    }
}
