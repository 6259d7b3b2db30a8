//! Processes: what they may do, how they are started and waited for ([`exec`]), what they are called and cost.

pub mod caller;
pub mod child;
pub mod exec;
pub mod landlock;
pub mod poll;
pub mod privilege;
pub mod sealed;
pub mod signal;

use std::ffi::CString;
use std::fs;
use std::io;

/// Gives this process the name that the kernel shows, its first 15 bytes: one that was started by way of /proc/self/exe is called
/// `exe`. Threads that it starts from now on have it, too.
pub fn set_name(name: &str) {
    // A name is for people: without one it works as well.
    drop(CString::new(name).map(|name| rustix::thread::set_name(&name)));
}

/// Processor time and memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, microseconds.
    pub cpu_time_us: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// Of the process `pid`.
///
/// # Errors
/// There is no such process, or /proc is not to be read.
pub fn usage(pid: i32) -> io::Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A process that has ended and waits to be reaped has no such line.
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    Ok(Usage { cpu_time_us: cpu_time_us(&format!("/proc/{pid}/stat"))?, rss_bytes: kib * 1024 })
}

/// The processor time of the threads of `pid` whose name starts with `prefix`, microseconds.
///
/// # Errors
/// There is no such process.
pub fn threads_cpu_time_us(pid: i32, prefix: &str) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path();
        // A thread that ends meanwhile costs nothing any more.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            sum += cpu_time_us(&path.join("stat").to_string_lossy()).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// utime and stime of a `stat` file (proc_pid_stat(5)). The name in it may hold anything, so fields count from its last parenthesis.
fn cpu_time_us(path: &str) -> io::Result<u64> {
    let text = fs::read(path)?;
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks: Option<u64> = fields.and_then(|fields| fields.map(|word| word.parse::<u64>().ok()).sum());
    let ticks = ticks.ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks * 1_000_000 / u64::try_from(per_second).unwrap_or(100).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let pid = std::process::id().cast_signed();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while usage(pid).unwrap().cpu_time_us == 0 {
            assert!(std::time::Instant::now() < until, "working costs no time");
        }
        assert!(usage(pid).unwrap().rss_bytes > 100 << 10);
        assert_eq!(threads_cpu_time_us(pid, "no such thread").unwrap(), 0);
        assert!(usage(i32::MAX).is_err());
    }
}
