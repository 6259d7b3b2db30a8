//! Which VMM runs a VM, and why, in one line.

use std::path::{Path, PathBuf};

use banger_contract::Document;
use banger_contract::config::Config;
use banger_contract::record::{NetMode, Vm, VmmKind};
use banger_host::kvm;
use banger_host::process::exec;
use banger_vmm::monitor::Monitor;

use crate::context::Result;
use crate::stage::Stage;

/// The program that was chosen.
#[derive(Debug)]
pub struct Choice {
    pub program: &'static str,
    /// For people.
    pub line: String,
}

/// Firecracker where its binary is there, KVM works and the network is a tap; else QEMU.
pub fn choose(config: &Config, vm: &Vm) -> Result<Choice> {
    let net = match vm.net_mode {
        NetMode::Tap => "a tap",
        NetMode::User => "user networking (no privilege needed)",
    };
    let (program, why) = match (vm.vmm_kind, kvm_usable(config)) {
        (VmmKind::Firecracker, _) => ("banger-fc", "Firecracker, as asked".to_owned()),
        (VmmKind::Auto, Ok(())) if firecracker(config).is_some() && vm.net_mode == NetMode::Tap => {
            ("banger-fc", "Firecracker with KVM".to_owned())
        }
        (_, Ok(())) => ("banger-qemu", "QEMU with KVM".to_owned()),
        (_, Err(reason)) => ("banger-qemu", format!("QEMU in software ({reason})")),
    };
    Ok(Choice { program, line: format!("booting {} from {} on {why}, {net}", vm.name, vm.image) })
}

/// Where Firecracker is: where the configuration says, else in PATH.
pub fn firecracker(config: &Config) -> Option<PathBuf> {
    let named = config.firecracker_bin.as_deref().unwrap_or(Path::new("firecracker"));
    exec::find_program(named.as_os_str())
}

/// Whether KVM is to be used, and if not, why not.
pub fn kvm_usable(config: &Config) -> std::result::Result<(), String> {
    if config.force_kvm { Ok(()) } else { kvm::usable() }
}

/// What `start` of the VMM's program is told.
pub fn start_stage(config: &Config, program: &'static str) -> Stage {
    let mut stage = with_timeouts(config, Stage::new(program, "start"));
    if config.force_kvm {
        stage = stage.arg("--accel").arg("kvm");
    }
    if let Some(seconds) = config.ready_timeout_s {
        stage = stage.arg("--ready-timeout").arg(seconds.to_string());
    }
    match &config.firecracker_bin {
        Some(path) if program == "banger-fc" => stage.arg("--firecracker-bin").arg(path),
        _ => stage,
    }
}

/// What `stop` of the VMM's program is told.
pub fn stop_stage(config: &Config, program: &'static str) -> Stage {
    with_timeouts(config, Stage::new(program, "stop"))
}

fn with_timeouts(config: &Config, stage: Stage) -> Stage {
    let timeouts = [
        ("--deadline", config.shutdown_timeout_s),
        ("--button-deadline", config.button_timeout_s),
        ("--term-deadline", config.term_timeout_s),
    ];
    timeouts.into_iter().fold(stage, |stage, (option, seconds)| match seconds {
        Some(seconds) => stage.arg(option).arg(seconds.to_string()),
        None => stage,
    })
}

/// The program that started the VM, or that would.
pub fn program_of(config: &Config, document: &Document) -> Result<&'static str> {
    let vm = document.vm()?;
    match document.vmm()?.map(|vmm| vmm.kind) {
        Some(VmmKind::Firecracker) => Ok("banger-fc"),
        Some(_) => Ok("banger-qemu"),
        None => Ok(choose(config, &vm)?.program),
    }
}

/// The VMM of a kind, by its program in PATH: for its version.
pub fn monitor(kind: VmmKind) -> Box<dyn Monitor> {
    match kind {
        VmmKind::Firecracker => Box::new(banger_fc::Firecracker::default()),
        VmmKind::Auto | VmmKind::Qemu => Box::new(banger_qemu::Qemu),
    }
}

/// The program that would run a new VM with a tap on this host.
pub fn default_program(config: &Config) -> &'static str {
    let wanted = config.vmm_kind;
    let works = wanted == VmmKind::Auto && firecracker(config).is_some() && kvm_usable(config).is_ok();
    if wanted == VmmKind::Firecracker || works { "banger-fc" } else { "banger-qemu" }
}
