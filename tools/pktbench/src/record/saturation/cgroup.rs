//! Where a process finds the `cpu.stat` files of its cgroups, and what they say about throttling: the time in which the
//! processes of the group had used up their CPU limit and were not run. Pure functions of the text of files.

use std::path::{Path, PathBuf};

/// The `cpu.stat` files of the CPU cgroup of this process and of the groups that contain it, as each of them can have a
/// limit. `cgroup` is the text of `/proc/self/cgroup`, `mountinfo` that of `/proc/self/mountinfo`. Version 1, version 2,
/// and systems that have both; of those, only version 1 has the limit.
pub(super) fn cpu_stat_files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
    let mut files = Vec::new();
    for line in cgroup.lines() {
        // `4:cpu,cpuacct:/system.slice`, and for version 2 `0::/system.slice`.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_cpu = |name: &str| name == "cpu";
        let mount = match controllers {
            "" => mounts.iter().find(|mount| mount.kind == "cgroup2"),
            _ if controllers.split(',').any(is_cpu) => {
                mounts.iter().find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(is_cpu))
            }
            _ => continue,
        };
        files.extend(mount.into_iter().flat_map(|mount| mount.groups(path)));
    }
    files
}

/// The throttled time in ns: `throttled_time` of version 1 is in ns, `throttled_usec` of version 2 in µs. `None` if
/// there is no such line, as in the root of version 2.
pub(super) fn throttled_ns(cpu_stat: &str) -> Option<u64> {
    cpu_stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let unit_ns = match name {
            "throttled_time" => 1,
            "throttled_usec" => 1000,
            _ => return None,
        };
        value.trim().parse::<u64>().ok().map(|value| value.saturating_mul(unit_ns))
    })
}

/// A line of `mountinfo`.
struct Mount<'a> {
    /// The part of the file system that is mounted: in a container, often its own cgroup.
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`. The number of fields before the
    /// dash varies.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        Some(Self {
            root: unescaped(mount.next()?),
            point: unescaped(mount.next()?),
            kind: file_system.next()?,
            options: file_system.nth(1)?,
        })
    }

    /// The files of the group `path` and of those that contain it, as far as they are mounted.
    fn groups(&self, path: &str) -> Vec<PathBuf> {
        // A group that is not below the mounted root is not visible; the mounted one is then the best guess.
        let below = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(""));
        below.ancestors().map(|group| self.point.join(group).join("cpu.stat")).collect()
    }
}

/// `mountinfo` writes a space as `\040`, and so on.
fn unescaped(field: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.into_iter().fold(field.to_owned(), |field, (escape, text)| field.replace(escape, text)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(cgroup: &str, mountinfo: &str) -> Vec<String> {
        cpu_stat_files(cgroup, mountinfo).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn version_2_has_one_hierarchy_and_every_group_above_counts() {
        let cgroup = "0::/user.slice/run-7.scope\n";
        let mountinfo = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
        let expected = [
            "/sys/fs/cgroup/user.slice/run-7.scope/cpu.stat",
            "/sys/fs/cgroup/user.slice/cpu.stat",
            "/sys/fs/cgroup/cpu.stat",
        ];
        assert_eq!(files(cgroup, mountinfo), expected);
        assert_eq!(files("0::/\n", mountinfo), ["/sys/fs/cgroup/cpu.stat"], "in a container");
    }

    #[test]
    fn version_1_has_the_cpu_controller_in_a_hierarchy_of_its_own() {
        let cgroup = "11:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n";
        let mount = |root: &str| {
            format!(
                "36 31 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                 37 31 0:34 {root} /sys/fs/cgroup/cpu,cpuacct rw master:9 - cgroup cgroup rw,cpu,cpuacct\n"
            )
        };
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.stat",
            "/sys/fs/cgroup/cpu,cpuacct/docker/cpu.stat",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.stat",
        ];
        assert_eq!(files(cgroup, &mount("/")), expected);
        // In a container, the own group is mounted at the top.
        assert_eq!(files(cgroup, &mount("/docker/abc")), ["/sys/fs/cgroup/cpu,cpuacct/cpu.stat"]);
        assert_eq!(files(cgroup, &mount("/elsewhere")), ["/sys/fs/cgroup/cpu,cpuacct/cpu.stat"]);
    }

    #[test]
    fn a_system_with_both_versions_has_files_of_both() {
        let cgroup = "9:name=systemd:/\n4:memory:/a/b\n1:cpu:/\n0::/\n";
        let mountinfo = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        assert_eq!(
            files(cgroup, mountinfo),
            ["/sys/fs/cgroup/cpu/cpu.stat", "/sys/fs/cgroup/unified/cpu.stat"]
        );
    }

    #[test]
    fn a_system_without_cgroups_or_with_odd_lines_has_no_files() {
        for (cgroup, mountinfo) in
            [("", ""), ("0::/\n", ""), ("cpu", "1 2 3 - cgroup2"), ("\n:\n", "\n - \n")]
        {
            assert_eq!(files(cgroup, mountinfo), [] as [&str; 0]);
        }
        let mountinfo = "30 23 0:26 / /with\\040space rw - cgroup2 cgroup2 rw\n";
        assert_eq!(files("0::/\n", mountinfo), ["/with space/cpu.stat"]);
    }

    #[test]
    fn the_throttled_time_has_another_unit_in_each_version() {
        let one = "nr_periods 71\nnr_throttled 5\nthrottled_time 123456789\nnr_bursts 0\nburst_time 0\n";
        let two = "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 71\nnr_throttled 5\nthrottled_usec 123456\n";
        assert_eq!(throttled_ns(one), Some(123_456_789));
        assert_eq!(throttled_ns(two), Some(123_456_000));
        for text in ["usage_usec 9\nuser_usec 5\nsystem_usec 4\n", "", "throttled_usec x", "throttled_time"] {
            assert_eq!(throttled_ns(text), None, "{text}");
        }
    }
}
