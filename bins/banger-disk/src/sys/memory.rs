//! How this process takes memory from the kernel, and how much of it there is.

use std::fs;
use std::path::Path;

/// From which size on a block of memory is a mapping of its own, bytes.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 1 << 20;

/// Sees to it that large blocks are mappings of their own for as long as this process lives: they grow in place, and go back to the
/// kernel when they are dropped. By itself glibc takes blocks up to the size of the largest that was ever dropped from its heap
/// (mallopt(3), M_MMAP_THRESHOLD), where what grows is copied and leaves holes behind.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt may be called at any time and by any thread; it takes no pointers. A refusal leaves things as they are.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// How much memory this process and its children may still take without anything being pushed out for it, bytes: what the host has
/// (proc_meminfo(5), MemAvailable), or less where a control group sets a limit. What such a group has in the page cache counts as
/// taken.
pub fn available_bytes() -> u64 {
    let of_host = meminfo_bytes(&read("/proc/meminfo"), "MemAvailable:").unwrap_or(0);
    in_groups(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")).min(of_host)
}

/// The value of a line of /proc/meminfo, bytes.
fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the groups of /proc/self/cgroup (cgroups(7)) and those above them leave, below the mount point `root`, bytes.
fn in_groups(groups: &str, root: &Path) -> u64 {
    let mut left = u64::MAX;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, limit, usage) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            // Without a limit there is no number.
            let number = |name: &str| read(root.join(group).join(name)).trim().parse::<u64>();
            if let Ok(limit) = number(limit) {
                left = left.min(limit.saturating_sub(number(usage).unwrap_or(0)));
            }
        }
    }
    left
}

/// A small file's text; nothing where there is none.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_decides() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(root.path().join(group)).unwrap();
            for (name, text) in files {
                fs::write(root.path().join(group).join(name), format!("{text}\n")).unwrap();
            }
        };
        write("user.slice", &[("memory.max", "5000"), ("memory.current", "1000")]);
        write("user.slice/mine", &[("memory.max", "max"), ("memory.current", "900")]);
        write("memory", &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "7")]);
        write("memory/box", &[("memory.limit_in_bytes", "3000"), ("memory.usage_in_bytes", "3001")]);
        let left = |groups: &str| in_groups(groups, root.path());
        assert_eq!(left("0::/user.slice/mine\n"), 4000);
        assert_eq!(left("0::/\n"), u64::MAX);
        assert_eq!(left("12:cpu,memory:/box\n0::/user.slice\n"), 0);
        assert_eq!(left("5:memory:/\n"), 9_223_372_036_854_771_705);
        assert_eq!(left("1:name=systemd:/box\n"), u64::MAX);
        assert_eq!(
            meminfo_bytes("MemTotal:  9 kB\nMemAvailable:   23220 kB\n", "MemAvailable:"),
            Some(23220 << 10)
        );
        assert!(available_bytes() > 0);
    }
}
