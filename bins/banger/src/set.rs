//! `banger vm set`: changes a VM, at once where it runs: what it may reach, its disks, limits and time to live.

use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::record::{NetMode, Vm};
use banger_contract::types::Size;
use banger_contract::{Coded, Document, ErrorCode};
use banger_netd::request::Policy;
use banger_state::db::{Store, VmRow};
use banger_state::dir::VmDir;
use banger_state::handles::Handles;
use banger_state::lock::VmLock;
use thiserror::Error;

use crate::args::{Change, Set};
use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{dns, lifecycle, list, vmm};

/// A change that cannot be made.
#[derive(Debug, Error)]
pub enum SetError {
    #[error("VM {0} runs with user networking, which cannot be changed while it runs")]
    User(String),
    #[error("VM {vm} runs, and its {what} cannot be changed while it does")]
    Stopped { vm: String, what: &'static str },
    #[error("the {what} of VM {vm} has {have}, and {wanted} is less: disks grow and never shrink")]
    Shrinks { vm: String, what: &'static str, have: Size, wanted: Size },
}

impl Coded for SetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::User(_) | Self::Stopped { .. } => ErrorCode::Unsupported,
            Self::Shrinks { .. } => ErrorCode::Usage,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::User(vm) | Self::Stopped { vm, .. } => Some(format!("stop it first: banger vm stop {vm}")),
            Self::Shrinks { .. } => None,
        }
    }
}

pub fn set(context: &Context, args: &Set) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return Ok(context::print(&explain(context, &row, &args.change)?));
    }
    let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm set")?;
    // Read again: now nobody else changes it.
    let (mut store, row) = lifecycle::find(context, row.vm.id.as_str())?;
    let vm = wanted(&row.vm, &args.change);
    Policy::of(&vm).check()?;
    check_sizes(&row.vm, &vm)?;
    let mut document = list::current(&row)?;
    document.set_vm(&vm);
    if lifecycle::runs(&row.vm) {
        check_running(&row.vm, &vm)?;
        let mut known = row.vm.clone();
        for (part, stage) in stages(context, &document, &row.vm, &args.change)? {
            match stage.run_record(context, &document, &lock) {
                Ok(next) => document = next,
                Err(failure) => return Err(after(context, failure, &row.vm, &known)),
            }
            // At once, so that what is recorded of a VM that runs is true whatever becomes of the next.
            known = part.of(&vm, known);
            record(&mut store, &known, &document)?;
        }
    }
    record(&mut store, &vm, &document)?;
    if vm != row.vm {
        dns::refresh(context, &vm);
    }
    if context.json {
        let row = VmRow { vm, ..row };
        return Ok(context::emit(&list::current(&row)?.to_value()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps what the VM is now, and what is attached to it.
fn record(store: &mut Store, vm: &Vm, document: &Document) -> Result<()> {
    store.set_vm(vm)?;
    if document.net()?.is_some() {
        Handles::of(document)?.save(&VmDir::at(&vm.paths.dir))?;
    }
    Ok(())
}

/// `failure` of a stage, with what the stages before it have made of `before`: `now`.
fn after(context: &Context, failure: Failure, before: &Vm, now: &Vm) -> Failure {
    let changed = changed(before, now);
    if changed.is_empty() {
        return failure;
    }
    dns::refresh(context, now);
    let text = format!("{} took effect before that and stays", changed.join(", "));
    let mut fault = context::tell(failure, "vm set");
    context.say(&text);
    fault.details.insert("changed".into(), changed.into());
    fault.causes.push(text);
    Failure::Passed(Box::new(fault))
}

/// The options for what differs between the two.
fn changed(before: &Vm, now: &Vm) -> Vec<&'static str> {
    let options = [
        ("--nat", before.nat != now.nat),
        ("--egress", before.egress != now.egress),
        ("--peer", before.peer != now.peer),
        ("--disk-size", before.rootfs_size_bytes != now.rootfs_size_bytes),
        ("--work-size", before.work_size_bytes != now.work_size_bytes),
        ("--disk-rate", before.disk_rate_bytes_s != now.disk_rate_bytes_s),
        ("--net-rate", before.net_rate_bytes_s != now.net_rate_bytes_s),
        ("--ttl", before.ttl_s != now.ttl_s),
    ];
    options.into_iter().filter_map(|(option, differs)| differs.then_some(option)).collect()
}

/// What of a VM one stage makes so.
#[derive(Debug, Clone, Copy)]
enum Part {
    Network,
    Disks,
    Machine,
}

impl Part {
    /// `vm` with this part of `wanted`.
    fn of(self, wanted: &Vm, vm: Vm) -> Vm {
        match self {
            Self::Network => Vm { nat: wanted.nat, egress: wanted.egress.clone(), peer: wanted.peer, ..vm },
            Self::Disks => Vm {
                rootfs_size_bytes: wanted.rootfs_size_bytes,
                work_size_bytes: wanted.work_size_bytes,
                ..vm
            },
            Self::Machine => Vm {
                disk_rate_bytes_s: wanted.disk_rate_bytes_s,
                net_rate_bytes_s: wanted.net_rate_bytes_s,
                ttl_s: wanted.ttl_s,
                ..vm
            },
        }
    }
}

fn explain(context: &Context, row: &VmRow, change: &Change) -> Result<String> {
    if !lifecycle::runs(&row.vm) {
        return Ok("banger vm set runs no other program where the VM does not run\n".to_owned());
    }
    let mut document = list::current(row)?;
    document.set_vm(&wanted(&row.vm, change));
    let stages = stages(context, &document, &row.vm, change)?;
    let shown: Vec<String> = stages.iter().map(|(_, stage)| stage.shown()).collect();
    Ok(format!("banger vm show {} --record | {}\n", row.vm.name, shown.join(" | ")))
}

fn wanted(vm: &Vm, change: &Change) -> Vm {
    Vm {
        nat: change.nat.map_or(vm.nat, Into::into),
        egress: change.egress.clone().unwrap_or_else(|| vm.egress.clone()),
        peer: change.peer.map_or(vm.peer, Into::into),
        rootfs_size_bytes: change.disk_size.unwrap_or(vm.rootfs_size_bytes),
        work_size_bytes: change.work_size.unwrap_or(vm.work_size_bytes),
        vcpus: change.vcpus.unwrap_or(vm.vcpus),
        memory_mib: change.memory.unwrap_or(vm.memory_mib),
        disk_rate_bytes_s: change.disk_rate.map_or(vm.disk_rate_bytes_s, |rate| rate.0),
        net_rate_bytes_s: change.net_rate.map_or(vm.net_rate_bytes_s, |rate| rate.0),
        ttl_s: change.ttl.map_or(vm.ttl_s, |ttl| ttl.0),
        ..vm.clone()
    }
}

fn check_sizes(before: &Vm, now: &Vm) -> Result<()> {
    let disks = [
        ("root filesystem", before.rootfs_size_bytes, now.rootfs_size_bytes),
        ("work disk", before.work_size_bytes, now.work_size_bytes),
    ];
    match disks.into_iter().find(|(_, before, now)| now < before) {
        Some((what, before, wanted)) => {
            let (have, wanted) = (Size::from_bytes(before), Size::from_bytes(wanted));
            Err(SetError::Shrinks { vm: now.name.to_string(), what, have, wanted }.into())
        }
        None => Ok(()),
    }
}

/// What a VM that runs cannot be given.
fn check_running(before: &Vm, now: &Vm) -> Result<()> {
    let stopped = |what| SetError::Stopped { vm: now.name.to_string(), what };
    if before.vcpus != now.vcpus {
        return Err(stopped("number of virtual CPUs").into());
    }
    if before.memory_mib != now.memory_mib {
        return Err(stopped("memory").into());
    }
    Ok(())
}

/// The programs that change a VM which runs, each only where it has something to change.
fn stages(
    context: &Context,
    document: &Document,
    before: &Vm,
    change: &Change,
) -> Result<Vec<(Part, Stage)>> {
    let now = document.vm()?;
    let mut stages = Vec::new();
    if (&now.nat, &now.egress, &now.peer) != (&before.nat, &before.egress, &before.peer) {
        if now.net_mode == NetMode::User {
            return Err(SetError::User(now.name.to_string()).into());
        }
        stages.push((Part::Network, Stage::new("banger-netd", "update").privileged(true)));
    }
    let sizes = |vm: &Vm| (vm.rootfs_size_bytes, vm.work_size_bytes);
    let rates = |vm: &Vm| (vm.disk_rate_bytes_s, vm.net_rate_bytes_s);
    let grows = sizes(&now) != sizes(before);
    if grows {
        stages.push((Part::Disks, Stage::new("banger-disk", "update")));
    }
    let ttl = change.ttl;
    if grows || rates(&now) != rates(before) || ttl.is_some() {
        let stage = Stage::new(vmm::program_of(&context.config, document)?, "update");
        let stage = match ttl {
            Some(ttl) => stage.arg("--ttl").arg(ttl.0.map_or("never".to_owned(), |s| s.to_string())),
            None => stage,
        };
        stages.push((Part::Machine, stage));
    }
    Ok(stages)
}
