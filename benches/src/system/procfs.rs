//! What the kernel reports about processes and cores: CPU time, memory, open files.

use std::fs;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Clock ticks per second, the unit of [`cpu_ticks`].
pub fn clock_ticks_per_s() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// User and system time of all threads of a process so far, in clock ticks.
///
/// # Errors
///
/// The process does not exist, or its entry cannot be read.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_ticks(&stat).with_context(|| format!("{path} has no CPU times"))
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

/// The sum of `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    // Field 2 is the program's name in parentheses, which may itself contain spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut from_utime = after_name.split_ascii_whitespace().skip(11);
    let utime: u64 = from_utime.next()?.parse().ok()?;
    let stime: u64 = from_utime.next()?.parse().ok()?;
    Some(utime + stime)
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
    fn cpu_ticks_are_user_and_system_time() {
        let stat = "1234 (bare_epoll_serv) S 1 1234 1 0 -1 4194560 90 0 0 0 120 345 7 8 20 0 1 0 5 1 2 3";
        assert_eq!(parse_cpu_ticks(stat), Some(465));
    }

    #[test]
    fn a_program_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "1 (a) b (c) R 1 1 1 0 -1 4194560 90 0 0 0 1 2 7 8 20 0 1 0";
        assert_eq!(parse_cpu_ticks(stat), Some(3));
    }

    #[test]
    fn a_truncated_stat_line_is_refused() {
        assert_eq!(parse_cpu_ticks("1 (a) R 1 1 1 0 -1 4194560 90 0 0 0 1"), None);
        assert_eq!(parse_cpu_ticks(""), None);
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
        assert!(cpu_ticks(pid).is_ok());
        assert!(peak_rss_bytes(pid).unwrap() > 0);
        assert!(rss_bytes(pid).unwrap() > 0);
        assert!(open_files(pid).unwrap() > 0);
        assert!(clock_ticks_per_s() > 0);
    }
}
