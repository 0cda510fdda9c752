//! What the machine allows this process: memory and open files. Limits of a server follow from that.

use std::path::Path;

/// What the machine allows this process: memory and open files.
///
/// Use it for limits that suit any machine. [`ServerConfig::edge`](crate::ServerConfig::edge) does.
///
/// ```
/// use pktconn::{MachineLimits, ServerConfig};
///
/// let machine = MachineLimits::detect();
/// let config = ServerConfig::new().memory_budget(machine.memory_budget()).max_conns(machine.max_conns());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineLimits {
    /// The memory that the process may use, in bytes: that of the machine, or the limit of its cgroup if that is less.
    /// `None` if it is not known. Only Linux reports it.
    pub memory_bytes: Option<u64>,
    /// How many files the process may have open (`ulimit -n`). `None` if there is no limit.
    pub open_files: Option<u64>,
}

impl MachineLimits {
    /// Enough for most servers, if the memory of the machine is not known.
    const DEFAULT_BUDGET: usize = 512 * 1024 * 1024;

    /// Three quarters of the memory are left for the handlers, the kernel's buffers, the state of connections and what
    /// the allocator keeps.
    const MEMORY_SHARE: u64 = 4;

    /// The smallest budget that a server accepts.
    const MIN_BUDGET: usize = 1024 * 1024;

    /// Files for listeners, logs, certificates, and connections to other servers. At most half of the limit, if that is
    /// small.
    const OTHER_FILES: u64 = 64;

    /// Asks the system. Reads a few files below `/proc` and `/sys` on Linux.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(unix)]
        let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        #[cfg(not(unix))]
        let open_files = None;
        Self { memory_bytes: memory_bytes(Path::new("/")), open_files }
    }

    /// A [`memory_budget`](crate::ServerConfig::memory_budget) for this machine, in bytes: a quarter of the memory; or
    /// 512 MiB if that is not known. At least 1 MiB.
    #[must_use]
    pub fn memory_budget(&self) -> usize {
        let Some(bytes) = self.memory_bytes else { return Self::DEFAULT_BUDGET };
        usize::try_from(bytes / Self::MEMORY_SHARE).unwrap_or(usize::MAX).max(Self::MIN_BUDGET)
    }

    /// A [`max_process_memory`](crate::ServerConfig::max_process_memory) for this machine, in bytes: three quarters of the
    /// memory, or `None` if that is not known. The last quarter is for the kernel's buffers. At least 1 MiB.
    #[must_use]
    pub fn max_process_memory(&self) -> Option<usize> {
        let bytes = self.memory_bytes?;
        Some(usize::try_from(bytes - bytes / 4).unwrap_or(usize::MAX).max(Self::MIN_BUDGET))
    }

    /// The [`max_conns`](crate::ServerConfig::max_conns) for this machine: the limit on open files, less 64 files for
    /// other uses, or less half of them if it is below 128. At least 1. `None` if there is no limit on open files.
    #[must_use]
    pub fn max_conns(&self) -> Option<usize> {
        let files = self.open_files?;
        let conns = (files - Self::OTHER_FILES.min(files / 2)).max(1);
        Some(usize::try_from(conns).unwrap_or(usize::MAX))
    }
}

/// The memory that the process may use, in bytes. `root` is the root of the file system.
fn memory_bytes(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| total_of_meminfo(&text));
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(limit_files).flatten();
    // A file without a limit contains "max", or a number larger than any memory.
    let of_groups = limits.filter_map(|file| read(&file)?.trim().parse().ok());
    of_groups.chain(machine).min()
}

/// The line of `/proc/meminfo` is `MemTotal:       16384256 kB`.
fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The files with the memory limits of a cgroup and its parents, from a line of `/proc/self/cgroup`. `None` if the line
/// is about something else than memory.
///
/// Version 2 is `0::/path`, version 1 is `4:memory:/path`. In a container, the path may not exist, or be that of the
/// host: then only the root of the mount has limits.
fn limit_files(line: &str) -> Option<Vec<String>> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    Some(groups.map(|group| format!("{mount}/{}/{file}", group.display())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MEMINFO: &str = "MemTotal:       16384256 kB\nMemFree:         1000 kB\n";
    const TOTAL: u64 = 16_384_256 * 1024;

    /// The memory with these files, by their paths.
    fn memory_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory_bytes(root.path())
    }

    #[test]
    fn without_a_limit_the_process_may_use_the_memory_of_the_machine() {
        assert_eq!(memory_with(&[("proc/meminfo", MEMINFO)]), Some(TOTAL));
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ];
        assert_eq!(memory_with(&unlimited), Some(TOTAL));
        assert_eq!(memory_with(&[("proc/meminfo", "MemTotal: many kB\n")]), None);
        assert_eq!(memory_with(&[]), None);
    }

    #[test]
    fn the_smallest_limit_of_a_cgroup_and_its_parents_counts() {
        let group = ("proc/self/cgroup", "0::/parent/child\n");
        let parent = ("sys/fs/cgroup/parent/memory.max", "1000000\n");
        for child in ["max\n", "2000000\n"] {
            let child = ("sys/fs/cgroup/parent/child/memory.max", child);
            assert_eq!(memory_with(&[("proc/meminfo", MEMINFO), group, parent, child]), Some(1_000_000));
        }
        // In a container, the path of the host does not exist.
        let root = ("sys/fs/cgroup/memory.max", "3000000\n");
        assert_eq!(memory_with(&[("proc/meminfo", MEMINFO), group, root]), Some(3_000_000));
    }

    #[test]
    fn a_limit_of_version_1_counts() {
        let groups = "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n";
        let files = |limit| {
            [
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", groups),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", limit),
            ]
        };
        assert_eq!(memory_with(&files("4000000\n")), Some(4_000_000));
        assert_eq!(memory_with(&files("9223372036854771712\n")), Some(TOTAL));
    }

    #[test]
    fn the_limits_of_a_server_leave_room_for_the_rest_of_the_process() {
        let limits = MachineLimits { memory_bytes: Some(4 << 30), open_files: Some(1024) };
        assert_eq!((limits.memory_budget(), limits.max_conns()), (1 << 30, Some(960)));
        assert_eq!(limits.max_process_memory(), Some(3 << 30));
        let small = MachineLimits { memory_bytes: Some(1000), open_files: Some(10) };
        assert_eq!((small.memory_budget(), small.max_conns()), (1 << 20, Some(5)));
        assert_eq!(small.max_process_memory(), Some(1 << 20));
        let unknown = MachineLimits { memory_bytes: None, open_files: None };
        assert_eq!((unknown.memory_budget(), unknown.max_conns()), (512 << 20, None));
        assert_eq!(unknown.max_process_memory(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_limits_of_this_machine_are_found() {
        let limits = MachineLimits::detect();
        assert!(limits.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{limits:?}");
        assert!(limits.open_files.is_none_or(|files| files > 10), "{limits:?}");
    }
}
