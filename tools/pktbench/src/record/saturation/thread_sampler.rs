//! Samples the CPU time of a load thread, and how long it waited for a CPU, at the start of the window and at the end of
//! sending.
//!
//! Linux counts the wait (`/proc/thread-self/schedstat`). Elsewhere it is estimated: the time in which the thread was
//! working by the wall clock, less the CPU time that it used.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use crate::plan::clock::Clock;

/// What a thread has used up to the time `at_ns` of the run.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: u64,
    cpu_ns: u64,
    /// The time in which the thread could run and had no CPU. `None` if the system does not tell.
    run_queue_ns: Option<u64>,
}

/// What a thread used in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadUsage {
    pub(crate) time_ns: u64,
    pub(crate) cpu_ns: u64,
    /// The time in which the thread waited for a CPU.
    pub(crate) run_queue_ns: u64,
}

/// Belongs to one thread, which calls all methods.
#[derive(Debug, Default)]
pub(crate) struct LoadSampler {
    start: Option<Sample>,
    end: Option<Sample>,
    /// When the current work began. Only where `run_queue_ns` is not measured.
    working_since_ns: Option<u64>,
    /// The time from each return of `poll` to its next call.
    worked_ns: u64,
}

impl LoadSampler {
    /// Takes the sample at the start, if there is none, and `at_end` the one at the end. Both may be the same moment.
    pub(crate) fn sample(&mut self, now_ns: u64, at_end: bool) {
        self.start.get_or_insert_with(|| Sample::of_this_thread(now_ns));
        if at_end {
            self.end.get_or_insert_with(|| Sample::of_this_thread(now_ns));
        }
    }

    /// The thread has waited for events and begins to work. Reads the clock only if the wait for a CPU must be
    /// estimated.
    pub(crate) fn begin_work(&mut self, clock: Clock) {
        if self.estimates() {
            self.working_since_ns = Some(clock.now_ns());
        }
    }

    /// The thread has done its work and waits for events.
    pub(crate) fn end_work(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.working_since_ns.take() {
            self.worked_ns += now_ns.saturating_sub(since_ns);
        }
    }

    fn estimates(&self) -> bool {
        self.end.is_none() && self.start.is_some_and(|start| start.run_queue_ns.is_none())
    }

    /// `None` if the window did not begin.
    pub(crate) fn usage(&self) -> Option<ThreadUsage> {
        let (start, end) = (self.start?, self.end?);
        let time_ns = end.at_ns.saturating_sub(start.at_ns);
        let cpu_ns = end.cpu_ns.saturating_sub(start.cpu_ns);
        let run_queue_ns = match (start.run_queue_ns, end.run_queue_ns) {
            (Some(start_ns), Some(end_ns)) => end_ns.saturating_sub(start_ns),
            // A lower bound, as the CPU time includes that of `poll`.
            _ => self.worked_ns.min(time_ns).saturating_sub(cpu_ns),
        };
        Some(ThreadUsage { time_ns, cpu_ns, run_queue_ns })
    }
}

impl Sample {
    fn of_this_thread(at_ns: u64) -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").ok();
        Self {
            at_ns,
            cpu_ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
            run_queue_ns: schedstat.as_deref().and_then(run_queue_ns),
        }
    }
}

/// The second number of `schedstat`: the time spent waiting for a CPU, in ns. `None` for other text, and if all three
/// numbers are 0: a kernel that does not count prints zeros, and a thread that reads its own file has run at least once.
fn run_queue_ns(schedstat: &str) -> Option<u64> {
    let numbers: Vec<u64> =
        schedstat.split_whitespace().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [0, 0, 0] => None,
        [_ran_ns, waited_ns, _times] => Some(waited_ns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sampler(samples: [Sample; 2]) -> LoadSampler {
        LoadSampler { start: Some(samples[0]), end: Some(samples[1]), ..LoadSampler::default() }
    }

    #[test]
    fn the_wait_for_a_cpu_is_the_second_number_and_zeros_are_not_measured() {
        assert_eq!(run_queue_ns("371187535 666026 76\n"), Some(666_026));
        assert_eq!(run_queue_ns("0 0 1\n"), Some(0), "a thread that has just started");
        for text in ["0 0 0\n", "", "1 2", "1 2 3 4", "a b c"] {
            assert_eq!(run_queue_ns(text), None, "{text}");
        }
    }

    #[test]
    fn the_usage_is_the_difference_of_the_samples() {
        let sample = |at_ns, cpu_ns, waited_ns| Sample { at_ns, cpu_ns, run_queue_ns: Some(waited_ns) };
        let usage = sampler([sample(1000, 500, 70), sample(2000, 900, 170)]).usage();
        assert_eq!(usage, Some(ThreadUsage { time_ns: 1000, cpu_ns: 400, run_queue_ns: 100 }));
    }

    #[test]
    fn without_a_count_the_wait_is_the_working_time_less_the_cpu_time() {
        let sample = |at_ns, cpu_ns| Sample { at_ns, cpu_ns, run_queue_ns: None };
        let usage = |worked_ns| {
            let sampler = LoadSampler { worked_ns, ..sampler([sample(0, 0), sample(1000, 330)]) };
            sampler.usage().unwrap().run_queue_ns
        };
        assert_eq!([usage(930), usage(330), usage(100), usage(5000)], [600, 0, 0, 670]);
    }

    #[test]
    fn the_working_time_is_counted_only_in_the_window_and_only_if_it_is_needed() {
        let clock = Clock::new(Instant::now());
        let counted = |run_queue_ns, is_over: bool| {
            let sample = Sample { at_ns: 0, cpu_ns: 0, run_queue_ns };
            let end = is_over.then_some(sample);
            let mut sampler = LoadSampler { start: Some(sample), end, ..LoadSampler::default() };
            sampler.begin_work(clock);
            sampler.end_work(u64::MAX);
            sampler.worked_ns > 0
        };
        assert_eq!(
            [counted(None, false), counted(None, true), counted(Some(7), false)],
            [true, false, false]
        );
        let mut before = LoadSampler::default();
        before.begin_work(clock);
        before.end_work(u64::MAX);
        assert_eq!((before.worked_ns, before.usage()), (0, None));
    }

    #[test]
    fn a_thread_that_runs_has_cpu_time() {
        let mut sampler = LoadSampler::default();
        sampler.sample(0, false);
        let until = Instant::now() + std::time::Duration::from_millis(5);
        while Instant::now() < until {}
        sampler.sample(5_000_000, true);
        sampler.sample(9_000_000, true);
        let usage = sampler.usage().unwrap();
        assert!(usage.cpu_ns > 0 && usage.time_ns == 5_000_000, "{usage:?}");
    }
}
