//! The section `vmm` of a running VM.

use banger_contract::record::{Accel, Vm, Vmm, VmmKind, VmmState};
use banger_state::dir::VmDir;

/// What is known of a VM that runs, beside what follows from its directory.
pub(super) struct Running {
    pub kind: VmmKind,
    pub accel: Accel,
    pub version: String,
    pub supervisor_pid: i32,
    pub pid: i32,
    pub started_at: String,
    pub ready_at: Option<String>,
    pub expires_at: Option<String>,
}

impl Running {
    /// The section, of a VM in `dir`; its limits are those of `vm`, where that is known.
    pub(super) fn section(self, dir: &VmDir, vm: Option<&Vm>) -> Vmm {
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        Vmm {
            kind: self.kind,
            accel: self.accel,
            version: self.version,
            supervisor_pid: self.supervisor_pid,
            pid: self.pid,
            started_at: self.started_at,
            ready_at: self.ready_at,
            api_socket: text(dir.api_socket()),
            agent_socket: text(dir.agent_socket()),
            console_log: text(dir.console_log()),
            vmm_log: text(dir.vmm_log()),
            state: VmmState::Running,
            expires_at: self.expires_at,
            disk_rate_bytes_s: vm.and_then(|vm| vm.disk_rate_bytes_s),
            net_rate_bytes_s: vm.and_then(|vm| vm.net_rate_bytes_s),
            exit: None,
            agent_exec: None,
            agent_reachable: None,
        }
    }
}
