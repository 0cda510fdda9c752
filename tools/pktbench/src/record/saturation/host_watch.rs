//! Watches the machine and the process over the window: time that the hypervisor stole, time in which the cgroup was
//! throttled, and gaps of the clock. A figure that the system does not have is `None`.
//!
//! A thread of its own wakes up ten times per second. It does nothing that could wait, so if it wakes up late, the process
//! did not run. The conductor could not tell: it may wait for a slow terminal or a full pipe.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cgroup::{cpu_stat_files, throttled_ns};
use super::clock_gaps::ClockGaps;
use crate::plan::clock::whole_ns;
use crate::plan::schedule::Schedule;

/// What [`HostWatch`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostUsage {
    pub(crate) cpu: Option<CpuTicks>,
    /// Added up over the cgroup of the process and those that contain it.
    pub(crate) throttled_ns: Option<u64>,
    pub(crate) gaps: Option<ClockGaps>,
}

/// CPU time of all cores, in ticks (1/100 s).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    /// Used by programs, the kernel and other virtual machines (`stolen`).
    pub(crate) wanted: u64,
    /// A core of this virtual machine could have run, but the hypervisor ran something else.
    pub(crate) stolen: u64,
}

/// The thread that watches.
pub(crate) struct HostWatch {
    /// The thread ends when it is dropped.
    running: Sender<()>,
    thread: JoinHandle<HostUsage>,
}

/// How often the thread wakes up: often enough to notice a stop that matters (see `reasons`), and too rarely to disturb
/// the load.
const TICK: Duration = Duration::from_millis(100);

impl HostWatch {
    /// `None` if the system has no more threads: the run goes on without these figures.
    pub(crate) fn start(schedule: Schedule) -> Option<Self> {
        let (running, ended) = channel();
        let watch = move || Watch::new(schedule).run(&ended);
        let thread = std::thread::Builder::new().name("host-watch".to_owned()).spawn(watch).ok()?;
        Some(Self { running, thread })
    }

    pub(crate) fn finish(self) -> HostUsage {
        drop(self.running);
        self.thread.join().unwrap_or_default()
    }
}

/// What the thread has seen so far.
#[derive(Debug)]
struct Watch {
    schedule: Schedule,
    files: Vec<PathBuf>,
    start: Option<Sample>,
    end: Option<Sample>,
    gaps: ClockGaps,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    cpu: Option<CpuTicks>,
    throttled_ns: Option<u64>,
    /// How long the machine was suspended since its start.
    suspended_ns: Option<u64>,
}

impl Watch {
    fn new(schedule: Schedule) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let files = cpu_stat_files(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        Self { schedule, files, start: None, end: None, gaps: ClockGaps::default() }
    }

    /// Watches until the sender of `ended` is dropped.
    fn run(mut self, ended: &Receiver<()>) -> HostUsage {
        let clock = self.schedule.clock;
        let mut now_ns = clock.now_ns();
        loop {
            let due_ns = self.next_tick(now_ns);
            let left = Duration::from_nanos(due_ns.saturating_sub(clock.now_ns()));
            let is_over = ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout);
            now_ns = clock.now_ns();
            self.woken(due_ns, now_ns);
            if is_over {
                return self.into_usage();
            }
        }
    }

    /// The next tick after `now_ns`, or the start or end of the window if that comes first.
    fn next_tick(&self, now_ns: u64) -> u64 {
        let ends = [Some(self.schedule.measure_from_ns), self.schedule.stop_at_ns];
        let end_ns = ends.into_iter().flatten().filter(|end_ns| *end_ns > now_ns).min();
        (now_ns + whole_ns(TICK)).min(end_ns.unwrap_or(u64::MAX))
    }

    /// A timer that was due at `due_ns` fired at `now_ns`, or the run ended before.
    fn woken(&mut self, due_ns: u64, now_ns: u64) {
        let Schedule { measure_from_ns, stop_at_ns, .. } = self.schedule;
        self.gaps.add_delay(due_ns, now_ns, measure_from_ns, stop_at_ns.unwrap_or(u64::MAX));
        if self.start.is_none() && now_ns >= measure_from_ns {
            self.start = Some(Sample::read(&self.files));
        }
        if self.schedule.is_stopped(now_ns) {
            self.end();
        }
    }

    /// Takes the last sample, if there is none.
    fn end(&mut self) {
        if let (Some(start), None) = (self.start, self.end) {
            let end = Sample::read(&self.files);
            let suspended_ns = end.suspended_ns.zip(start.suspended_ns);
            self.gaps.add(suspended_ns.map_or(0, |(end, start)| end.saturating_sub(start)));
            self.end = Some(end);
        }
    }

    fn into_usage(mut self) -> HostUsage {
        self.end();
        let (Some(start), Some(end)) = (self.start, self.end) else { return HostUsage::default() };
        HostUsage {
            cpu: end.cpu.zip(start.cpu).map(|(end, start)| CpuTicks {
                wanted: end.wanted.saturating_sub(start.wanted),
                stolen: end.stolen.saturating_sub(start.stolen),
            }),
            throttled_ns: end
                .throttled_ns
                .zip(start.throttled_ns)
                .map(|(end, start)| end.saturating_sub(start)),
            gaps: Some(self.gaps),
        }
    }
}

impl Sample {
    fn read(cpu_stat_files: &[PathBuf]) -> Self {
        let texts = cpu_stat_files.iter().filter_map(|file| fs::read_to_string(file).ok());
        Self {
            cpu: fs::read_to_string("/proc/stat").ok().as_deref().and_then(cpu_ticks),
            throttled_ns: texts.filter_map(|text| throttled_ns(&text)).reduce(u64::saturating_add),
            suspended_ns: suspended_ns(),
        }
    }
}

/// The first line of `/proc/stat`: the ticks of all cores for user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_ticks(stat: &str) -> Option<CpuTicks> {
    let mut fields = stat.lines().next()?.split_whitespace();
    (fields.next()? == "cpu").then_some(())?;
    let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else { return None };
    // Guests are counted in `user` and `nice`, too.
    let wanted = [user, nice, system, irq, softirq, stolen].into_iter().fold(0, u64::saturating_add);
    // A sandbox that emulates the file has only zeros.
    (wanted > 0).then_some(CpuTicks { wanted, stolen })
}

/// `CLOCK_MONOTONIC`, the clock of a run, stands still while the machine is suspended; `CLOCK_BOOTTIME` goes on.
#[cfg(target_os = "linux")]
fn suspended_ns() -> Option<u64> {
    use rustix::time::{ClockId, clock_gettime};

    let [monotonic, boot] = [ClockId::Monotonic, ClockId::Boottime].map(|clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    });
    Some(boot.saturating_sub(monotonic))
}

#[cfg(not(target_os = "linux"))]
fn suspended_ns() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::clock::Clock;
    use crate::plan::schedule::Grid;
    use std::time::Instant;

    #[test]
    fn stolen_ticks_are_the_eighth_number_of_the_first_line() {
        let stat =
            "cpu  5375617 757697 1302806 2008501 59067 0 273228 11055 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let wanted = 5_375_617 + 757_697 + 1_302_806 + 273_228 + 11_055;
        assert_eq!(cpu_ticks(stat), Some(CpuTicks { wanted, stolen: 11_055 }));
        for text in ["", "cpu  1 2 3 4\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu  0 0 0 0 0 0 0 0 0 0\n", "cpu a b"]
        {
            assert_eq!(cpu_ticks(text), None, "{text}");
        }
    }

    #[test]
    fn the_window_has_the_gaps_and_a_run_that_did_not_reach_it_has_no_figures() {
        let s = |seconds: u64| seconds * 1_000_000_000;
        let schedule = Schedule {
            clock: Clock::new(Instant::now()),
            measure_from_ns: s(1),
            stop_at_ns: Some(s(10)),
            grid: Grid::new(s(1), std::iter::empty()),
            profile: None,
        };
        let mut watch = Watch::new(schedule);
        let ticks = [0, s(1) - 5, s(1), s(10) - 5, s(10)].map(|now_ns| watch.next_tick(now_ns));
        assert_eq!(ticks, [s(1) / 10, s(1), s(11) / 10, s(10), s(101) / 10]);
        watch.woken(0, 1);
        assert!(watch.start.is_none());
        watch.woken(s(1), s(1));
        watch.woken(s(2), s(4));
        assert!(watch.start.is_some() && watch.end.is_none());
        watch.woken(s(9), s(12));
        assert!(watch.end.is_some());
        watch.woken(s(13), s(19));
        let gaps = watch.into_usage().gaps.unwrap();
        assert!(gaps.total_ns >= s(3) && gaps.longest_ns >= s(2), "{gaps:?}");
        assert_eq!(Watch::new(schedule).into_usage(), HostUsage::default());
    }
    #[test]
    fn the_thread_ends_when_it_is_told_to() {
        let clock = Clock::new(Instant::now());
        let schedule = Schedule {
            clock,
            measure_from_ns: 0,
            stop_at_ns: None,
            grid: Grid::new(1, std::iter::empty()),
            profile: None,
        };
        let usage = HostWatch::start(schedule).unwrap().finish();
        assert!(usage.gaps.is_some(), "{usage:?}");
    }
}
