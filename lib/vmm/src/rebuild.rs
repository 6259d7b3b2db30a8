//! The section `vmm` of a running VM whose note of it is lost, from the processes that hold its run lock.

use std::time::SystemTime;

use super::monitor::Monitor;
use super::section::Running;
use super::start::SUPERVISOR;
use banger_contract::record::{Accel, Vmm, VmmKind};
use banger_host::fs::holders;
use banger_state::dir::VmDir;

/// The section as far as the kernel knows it, or `None` where the VM does not run. When the guest was ready nobody knows any more;
/// which version its VMM has `monitor_of` tells.
pub fn rebuild(dir: &VmDir, monitor_of: impl Fn(VmmKind) -> Box<dyn Monitor>) -> Option<Vmm> {
    let holders = holders::of(&dir.run_lock(), None).ok()?;
    let processes: Vec<(i32, String)> =
        holders.iter().map(|holder| (holder.pid(), command_line(holder.pid()))).collect();
    let (supervisors, vmms): (Vec<_>, Vec<_>) =
        processes.into_iter().partition(|(_, line)| line.starts_with(SUPERVISOR));
    let (supervisor_pid, _) = supervisors.first()?;
    let (pid, line) = vmms.first()?;
    // Its program may have any name.
    let kind =
        if line.split('\0').any(|word| word == "--api-sock") { VmmKind::Firecracker } else { VmmKind::Qemu };
    let version = monitor_of(kind).version();
    let software = kind == VmmKind::Qemu && line.split('\0').any(|word| word.starts_with("tcg"));
    // The lock's file is written when the lock is taken, which is the first thing that a supervisor does.
    let started =
        dir.run_lock().metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let started = jiff::Timestamp::try_from(started).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let running = Running {
        kind,
        accel: if software { Accel::Tcg } else { Accel::Kvm },
        version: version.unwrap_or_else(|_| "unknown".to_owned()),
        supervisor_pid: *supervisor_pid,
        pid: *pid,
        started_at: format!("{started:.3}"),
        ready_at: None,
        // Its supervisor knows; nobody asked it.
        expires_at: None,
    };
    Some(running.section(dir, None))
}

/// A process's arguments, each with a NUL behind it; empty where it is gone.
fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
