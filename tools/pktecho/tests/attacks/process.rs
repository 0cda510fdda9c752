//! What the server's process uses: memory, files and CPU time.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::Server;
use crate::limits::HANG_GUARD;

fn proc_file(server: &Server, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{name}", server.child.id())).unwrap()
}

/// A line of `/proc/PID/status` that is a size, in bytes.
fn status_bytes(server: &Server, name: &str) -> u64 {
    let status = proc_file(server, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

pub(crate) fn resident_bytes(server: &Server) -> u64 {
    status_bytes(server, "VmRSS:")
}

/// The most memory that the server has used since it started. The kernel records it, so that no peak is missed.
pub(crate) fn peak_resident_bytes(server: &Server) -> u64 {
    status_bytes(server, "VmHWM:")
}

pub(crate) fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count()
}

/// Waits until the server has exactly `files` open files.
pub(crate) fn wait_for_files(server: &Server, files: usize) {
    let give_up_at = Instant::now() + HANG_GUARD;
    while open_files(server) != files {
        assert!(Instant::now() < give_up_at, "{} files instead of {files}", open_files(server));
        thread::sleep(Duration::from_millis(1));
    }
}

/// The CPU time that the server has used so far.
pub(crate) fn cpu_time(server: &Server) -> Duration {
    let stat = proc_file(server, "stat");
    // The fields from the third on, which follow the name. The name may contain spaces and parentheses.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}
