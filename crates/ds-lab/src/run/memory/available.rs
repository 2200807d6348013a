//! How much memory a process can still have.

/// Bytes that this process can still take without swapping: the least of what the system has and what the limits of its control
/// groups and address space leave. `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub fn available() -> Option<u64> {
    linux::available(std::path::Path::new("/"))
}

/// Bytes that this process can still take; this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn available() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::read_to_string;
    use std::path::Path;

    /// The same with `/proc` and `/sys` in another directory.
    pub(super) fn available(root: &Path) -> Option<u64> {
        let system = kibibytes(&root.join("proc/meminfo"), "MemAvailable:");
        let groups = root.join("proc/self/cgroup");
        let groups = read_to_string(groups).unwrap_or_default();
        let in_groups = groups.lines().filter_map(|line| left_in_groups(root, line)).min();
        [system, in_groups, left_of_address_space(root)].into_iter().flatten().min()
    }

    /// What the limits of a control group and of those above it leave; `line` is one of `/proc/self/cgroup`.
    fn left_in_groups(root: &Path, line: &str) -> Option<u64> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, [limit, usage, cache]) = if controllers.is_empty() {
            ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
            ("sys/fs/cgroup/memory", names)
        } else {
            return None;
        };
        let left = |group: &Path| {
            let limit = number(&group.join(limit))?;
            let usage = number(&group.join(usage))?;
            // Pages of files that nobody uses are given up first.
            let cached = field(&group.join("memory.stat"), cache).unwrap_or(0);
            Some(limit.saturating_sub(usage.saturating_sub(cached)))
        };
        let mount = root.join(mount);
        // In a container the path may be that of the host, of which only the part from the mount on is there.
        let group = mount.join(path.trim_start_matches('/'));
        group.ancestors().take_while(|group| group.starts_with(&mount)).filter_map(left).min()
    }

    /// What `ulimit -v` leaves.
    fn left_of_address_space(root: &Path) -> Option<u64> {
        let limits = read_to_string(root.join("proc/self/limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
        let used = kibibytes(&root.join("proc/self/status"), "VmSize:")?;
        Some(limit.saturating_sub(used))
    }

    fn number(path: &Path) -> Option<u64> {
        read_to_string(path).ok()?.trim().parse().ok()
    }

    /// The number behind a name at the start of a line.
    fn field(path: &Path, name: &str) -> Option<u64> {
        let text = read_to_string(path).ok()?;
        let mut lines = text.lines().map(str::split_whitespace);
        lines.find_map(|mut words| if words.next() == Some(name) { words.next()?.parse().ok() } else { None })
    }

    fn kibibytes(path: &Path, name: &str) -> Option<u64> {
        field(path, name).map(|kibibytes: u64| kibibytes.saturating_mul(1024))
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        fn system(files: &[(&str, &str)]) -> Option<u64> {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            available(root.path())
        }

        const MEMORY: (&str, &str) =
            ("proc/meminfo", "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n");

        #[test]
        fn the_least_of_system_and_limits_is_available() {
            assert_eq!(system(&[]), None);
            assert_eq!(system(&[MEMORY]), Some(20_480_000_000));
            let limits = |text| ("proc/self/limits", text);
            let unlimited =
                limits("Max data size unlimited unlimited bytes\nMax address space unlimited unlimited bytes\n");
            assert_eq!(system(&[MEMORY, unlimited]), Some(20_480_000_000));
            let limited = limits("Max address space         5000000000           unlimited            bytes\n");
            let status = ("proc/self/status", "Name:\ta\nVmSize:\t 1000000 kB\n");
            assert_eq!(system(&[MEMORY, limited, status]), Some(3_976_000_000));
        }

        #[test]
        fn limits_of_control_groups_count_those_above_too() {
            let group = ("proc/self/cgroup", "0::/user/run\n");
            let files = [
                MEMORY,
                group,
                ("sys/fs/cgroup/user/run/memory.max", "max\n"),
                ("sys/fs/cgroup/user/run/memory.current", "5\n"),
                ("sys/fs/cgroup/user/memory.max", "8000000000\n"),
                ("sys/fs/cgroup/user/memory.current", "3000000000\n"),
                ("sys/fs/cgroup/user/memory.stat", "anon 1\ninactive_file 1000000000\nactive_file 7\n"),
            ];
            assert_eq!(system(&files), Some(6_000_000_000));
            // A container sees its own group at the mount, and the host's path.
            let files = [
                MEMORY,
                ("proc/self/cgroup", "3:cpu,cpuacct:/docker/ab\n2:hugetlb,memory:/docker/ab\n0::/docker/ab\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000000"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000000"),
                ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 2000000000\n"),
            ];
            assert_eq!(system(&files), Some(1_000_000_000));
        }

        #[test]
        fn this_system_has_memory() {
            assert!(super::super::available().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
