//! Which VMM runs a VM, and why, in one line.

use banger_lib::contract::Document;
use banger_lib::contract::record::{NetMode, Vm, VmmKind};
use banger_lib::sys::{exec, kvm};

use crate::context::Result;

/// The program that was chosen.
#[derive(Debug)]
pub struct Choice {
    pub program: &'static str,
    /// For people.
    pub line: String,
}

/// Firecracker where its binary is there, KVM works and the network is a tap; else QEMU.
pub fn choose(vm: &Vm) -> Result<Choice> {
    let net = match vm.net_mode {
        NetMode::Tap => "a tap",
        NetMode::User => "user networking (no privilege needed)",
    };
    let kvm = kvm::usable();
    let firecracker = exec::find_program("firecracker".as_ref()).is_some();
    let (program, why) = match (vm.vmm_kind, &kvm) {
        (VmmKind::Firecracker, _) => ("banger-fc", "Firecracker, as asked".to_owned()),
        (VmmKind::Auto, Ok(())) if firecracker && vm.net_mode == NetMode::Tap => {
            ("banger-fc", "Firecracker with KVM".to_owned())
        }
        (_, Ok(())) => ("banger-qemu", "QEMU with KVM".to_owned()),
        (_, Err(reason)) => ("banger-qemu", format!("QEMU in software ({reason})")),
    };
    Ok(Choice { program, line: format!("booting {} from {} on {why}, {net}", vm.name, vm.image) })
}

/// The program that started the VM, or that would.
pub fn program_of(document: &Document) -> Result<&'static str> {
    let vm = document.vm()?;
    match document.vmm()?.map(|vmm| vmm.kind) {
        Some(VmmKind::Firecracker) => Ok("banger-fc"),
        Some(_) => Ok("banger-qemu"),
        None => Ok(choose(&vm)?.program),
    }
}

/// The program that `auto` takes on this host for a VM with a tap.
pub fn default_program() -> &'static str {
    let firecracker = exec::find_program("firecracker".as_ref()).is_some();
    if firecracker && kvm::usable().is_ok() { "banger-fc" } else { "banger-qemu" }
}
