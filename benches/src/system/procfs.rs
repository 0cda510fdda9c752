//! What the kernel reports about processes and cores: CPU time, memory, open files.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

/// Clock ticks per second, the unit of [`core_busy_ticks`].
pub fn clock_ticks_per_s() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// The CPU time of the threads of a process so far: user and system time.
#[derive(Debug)]
pub struct CpuTime {
    /// By thread id, in nanoseconds.
    threads: HashMap<u32, u64>,
}

impl CpuTime {
    /// Reads the CPU time of a process. That of a running thread may be some milliseconds old.
    ///
    /// # Errors
    ///
    /// The process does not exist, or the kernel reports no scheduler statistics.
    pub fn of(pid: u32) -> Result<Self> {
        let dir = format!("/proc/{pid}/task");
        let mut threads = HashMap::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
            let path = entry?.path();
            let thread = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            // A thread may end in the meantime.
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else { continue };
            if let (Some(thread), Some(ns)) = (thread, parse_run_ns(&stat)) {
                threads.insert(thread, ns);
            }
        }
        ensure!(!threads.is_empty(), "{dir} has no scheduler statistics");
        Ok(Self { threads })
    }

    /// The CPU time since `before`, in nanoseconds, without that of threads that have ended.
    #[must_use]
    pub fn ns_since(&self, before: &Self) -> u64 {
        let since = |(thread, ns): (&u32, &u64)| {
            ns.saturating_sub(before.threads.get(thread).copied().unwrap_or_default())
        };
        self.threads.iter().map(since).sum()
    }
}

/// User and system time of the calling thread so far, in nanoseconds: more precise than the ticks in `/proc`.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative: the clock of a thread starts at zero.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Time that a core was busy so far, in clock ticks.
///
/// # Errors
///
/// The core does not exist, or `/proc/stat` cannot be read.
pub fn core_busy_ticks(core: usize) -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_core_busy_ticks(&stat, core).with_context(|| format!("/proc/stat has no core {core}"))
}

/// Peak resident memory of a process, in bytes.
///
/// # Errors
///
/// The process does not exist, or its entry cannot be read.
pub fn peak_rss_bytes(pid: u32) -> Result<u64> {
    let (path, status) = read_status(pid)?;
    parse_peak_rss_bytes(&status).with_context(|| format!("{path} has no VmHWM"))
}

/// Current resident memory of a process, in bytes.
///
/// # Errors
///
/// The process does not exist, or its entry cannot be read.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let (path, status) = read_status(pid)?;
    parse_rss_bytes(&status).with_context(|| format!("{path} has no VmRSS"))
}

fn read_status(pid: u32) -> Result<(String, String)> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok((path, status))
}

/// Number of open files of a process, sockets included.
///
/// # Errors
///
/// The process does not exist, or belongs to another user.
pub fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    let files = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(files.count())
}

/// The first field of `/proc/PID/task/TID/schedstat`: the time that the thread has run, in nanoseconds.
fn parse_run_ns(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().next()?.parse().ok()
}

/// The sum of a core's line in `/proc/stat`, without idle time and waits for a disk. Time that the host gave to another
/// virtual machine (`steal`) counts as busy, because the server could not use it.
fn parse_core_busy_ticks(stat: &str, core: usize) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the fields after these are already part of user and nice.
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else {
        return None;
    };
    Some(user + nice + system + irq + softirq + steal)
}

/// `VmHWM` of `/proc/PID/status`, in bytes.
fn parse_peak_rss_bytes(status: &str) -> Option<u64> {
    parse_kib(status, "VmHWM:")
}

/// `VmRSS` of `/proc/PID/status`, in bytes.
fn parse_rss_bytes(status: &str) -> Option<u64> {
    parse_kib(status, "VmRSS:")
}

fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_that_of_the_threads_that_still_run() {
        assert_eq!(parse_run_ns("12345 678 9\n"), Some(12_345));
        assert_eq!(parse_run_ns(""), None);
        let threads = |threads: &[(u32, u64)]| CpuTime { threads: threads.iter().copied().collect() };
        let (before, after) = (threads(&[(1, 100), (2, 500)]), threads(&[(1, 140), (3, 7)]));
        assert_eq!(after.ns_since(&before), 47);
    }

    #[test]
    fn a_core_is_busy_when_it_is_not_idle() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 1 2 4 800 900 8 16 32 5 5\ncpu10 7 0 0 0 0 0 0 0 0 0\nintr 1\n";
        assert_eq!(parse_core_busy_ticks(stat, 1), Some(63));
        assert_eq!(parse_core_busy_ticks(stat, 10), Some(7));
        assert_eq!(parse_core_busy_ticks(stat, 2), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  9000 kB\nVmHWM:\t    2052 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_peak_rss_bytes(status), Some(2052 * 1024));
        assert_eq!(parse_rss_bytes(status), Some(1024));
        assert_eq!(parse_peak_rss_bytes("Name:\tx\n"), None);
        assert_eq!(parse_rss_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn the_clock_of_a_thread_advances_while_it_works() {
        let before = thread_cpu_ns();
        while thread_cpu_ns() == before {}
        assert!(thread_cpu_ns() > before);
    }

    #[test]
    fn the_kernel_reports_about_this_process() {
        let pid = std::process::id();
        assert!(CpuTime::of(pid).is_ok());
        assert!(peak_rss_bytes(pid).unwrap() > 0);
        assert!(rss_bytes(pid).unwrap() > 0);
        assert!(open_files(pid).unwrap() > 0);
        assert!(clock_ticks_per_s() > 0);
    }
}
