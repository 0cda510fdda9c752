//! What the kernel tells about a process: CPU time, memory and open files; and the one limit that the programs raise.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

/// Room for what a process opens beside its connections; `pktecho` has 12 files open before the first.
const OTHER_FILES: u64 = 100;

/// Clock ticks a second, the unit of [`cpu_ticks`].
pub fn clock_ticks_per_s() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// User and system time that all threads of a process used so far, in clock ticks.
///
/// # Errors
///
/// When there is no such process, or its entry cannot be read.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_ticks(&stat).with_context(|| format!("{path} has no CPU times"))
}

/// User and system time that the calling thread used so far, in nanoseconds: a clock that is finer than the ticks under
/// /proc.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative: a thread begins at zero.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Time that a core spent on anything at all so far, in clock ticks.
///
/// # Errors
///
/// When there is no such core, or `/proc/stat` cannot be read.
pub fn core_busy_ticks(core: usize) -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_core_busy_ticks(&stat, core).with_context(|| format!("/proc/stat has no core {core}"))
}

/// The most memory that a process held so far, in bytes.
///
/// # Errors
///
/// When there is no such process, or its entry cannot be read.
pub fn peak_rss_bytes(pid: u32) -> Result<u64> {
    let (path, status) = read_status(pid)?;
    parse_peak_rss_bytes(&status).with_context(|| format!("{path} has no VmHWM"))
}

/// The memory that a process holds now, in bytes.
///
/// # Errors
///
/// When there is no such process, or its entry cannot be read.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let (path, status) = read_status(pid)?;
    parse_rss_bytes(&status).with_context(|| format!("{path} has no VmRSS"))
}

fn read_status(pid: u32) -> Result<(String, String)> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok((path, status))
}

/// How many files a process has open, sockets included.
///
/// # Errors
///
/// When there is no such process, or it belongs to someone else.
pub fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    let files = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(files.count())
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`, added.
pub fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    // Field 2 is the program's name in parentheses, and may hold blanks and parentheses itself.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut from_utime = after_name.split_ascii_whitespace().skip(11);
    let utime: u64 = from_utime.next()?.parse().ok()?;
    let stime: u64 = from_utime.next()?.parse().ok()?;
    Some(utime + stime)
}

/// All of the line of a core in `/proc/stat` but the time in which it idles or waits for a disk. Time that the host
/// gave to another guest (`steal`) counts as busy: it was not there for the server.
pub fn parse_core_busy_ticks(stat: &str, core: usize) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice already.
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else {
        return None;
    };
    Some(user + nice + system + irq + softirq + steal)
}

/// `VmHWM` of `/proc/PID/status`, in bytes.
pub fn parse_peak_rss_bytes(status: &str) -> Option<u64> {
    parse_kib(status, "VmHWM:")
}

/// `VmRSS` of `/proc/PID/status`, in bytes.
pub fn parse_rss_bytes(status: &str) -> Option<u64> {
    parse_kib(status, "VmRSS:")
}

fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

/// Raises the soft limit of open files to the hard one: 1024, a common default, is too close to 1000 connections.
pub fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, the run itself tells, when it opens one file too many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Fails when `conns` connections need more than the limit on open files, `files_each` for each of them.
///
/// # Errors
///
/// Says what to do about it.
pub fn check_open_file_limit(conns: usize, files_each: usize) -> Result<()> {
    check_limit(conns, files_each, getrlimit(Resource::Nofile).current)
}

/// `limit` is `None` where there is none.
fn check_limit(conns: usize, files_each: usize, limit: Option<u64>) -> Result<()> {
    let needed = (conns as u64).saturating_mul(files_each as u64).saturating_add(OTHER_FILES);
    let limit = limit.unwrap_or(u64::MAX);
    ensure!(
        needed <= limit,
        "{conns} connections need {needed} open files, and the limit is {limit}: raise the hard limit \
         (ulimit -Hn {needed}, as root) or choose fewer with --conns"
    );
    Ok(())
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
    fn a_program_name_with_blanks_and_parentheses_shifts_nothing() {
        let stat = "1 (a) b (c) R 1 1 1 0 -1 4194560 90 0 0 0 1 2 7 8 20 0 1 0";
        assert_eq!(parse_cpu_ticks(stat), Some(3));
    }

    #[test]
    fn a_stat_line_that_is_cut_gives_nothing() {
        assert_eq!(parse_cpu_ticks("1 (a) R 1 1 1 0 -1 4194560 90 0 0 0 1"), None);
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn a_core_is_busy_whenever_it_is_not_idle() {
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
    fn a_limit_that_is_too_low_says_what_is_needed() {
        assert!(check_limit(900, 1, Some(1000)).is_ok());
        assert!(check_limit(usize::MAX, 4, None).is_ok());
        let error = check_limit(901, 1, Some(1000)).unwrap_err().to_string();
        assert!(
            error.starts_with("901 connections need 1001 open files, and the limit is 1000: "),
            "{error}"
        );
        assert!(check_limit(226, 4, Some(1000)).is_err());
    }

    #[test]
    fn the_clock_of_a_thread_runs_while_it_works() {
        let before = thread_cpu_ns();
        while thread_cpu_ns() == before {}
        assert!(thread_cpu_ns() > before);
    }

    #[test]
    fn the_kernel_tells_about_this_process() {
        let pid = std::process::id();
        assert!(cpu_ticks(pid).is_ok());
        assert!(peak_rss_bytes(pid).unwrap() > 0);
        assert!(rss_bytes(pid).unwrap() > 0);
        assert!(open_files(pid).unwrap() > 0);
        assert!(clock_ticks_per_s() > 0);
    }
}
