//! VMs as they are: the record brought up to date.

use banger_contract::Document;
use banger_contract::record::{Vmm, VmmExit, VmmState};
use banger_host::net::listen;
use banger_state::db::VmRow;
use banger_state::dir::VmDir;

use crate::context::Result;
use crate::{lifecycle, vmm};

/// The record brought up to date: only a held run lock makes a VM a running one, and only its tap a network an attached one
/// (banger-netd is privileged and does not write the file that says so).
pub fn current(row: &VmRow) -> Result<Document> {
    let mut document = lifecycle::document(row);
    let attached = match document.net()? {
        Some(net) => match net.tap {
            Some(tap) => nix::net::if_::if_nametoindex(tap.as_str()).is_ok(),
            None => document.disk()?.is_some(),
        },
        None => false,
    };
    if !attached {
        document.set_net(None);
    }
    if let Some(vmm) = document.vmm()? {
        document.set_vmm(Some(&observed(row, vmm)));
    }
    if lifecycle::runs(&row.vm) && (document.vmm()?.is_none() || document.net()?.is_none()) {
        rebuild(row, &mut document)?;
    }
    Ok(document)
}

/// Finds in the kernel what the lost or corrupt handles.json of a running VM said of its VMM and its network.
fn rebuild(row: &VmRow, document: &mut Document) -> Result<()> {
    let vmm = match document.vmm()? {
        Some(vmm) => Some(vmm),
        None => banger_vmm::rebuild::rebuild(&VmDir::at(&row.vm.paths.dir), vmm::monitor),
    };
    if document.net()?.is_none() {
        let ports = vmm.as_ref().map(|vmm| listen::loopback_ports(vmm.pid)).unwrap_or_default();
        document.set_net(banger_netd::rebuild::rebuild(&row.vm, &ports).as_ref());
    }
    document.set_vmm(vmm.as_ref());
    Ok(())
}

/// How the VM ended; `None` while it runs and where it was never started.
pub fn ended(row: &VmRow) -> Option<VmmExit> {
    current(row).ok()?.vmm().ok()??.exit
}

fn observed(row: &VmRow, vmm: Vmm) -> Vmm {
    if lifecycle::runs(&row.vm) {
        return Vmm { state: VmmState::Running, exit: None, ..vmm };
    }
    let recorded = std::fs::read(VmDir::at(&row.vm.paths.dir).exit()).ok();
    let exit = recorded.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_else(|| VmmExit {
        at: vmm.started_at.clone(),
        status: None,
        signal: None,
        reason: "lost".into(),
        message: "the VM ended and nobody saw how: its supervisor was killed or the host went down".into(),
    });
    Vmm { state: VmmState::Exited, exit: Some(exit), ..vmm }
}
