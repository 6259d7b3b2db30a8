//! `banger vm set`.

use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::policy::Egress;
use banger_contract::record::{NetMode, Vm};
use banger_contract::types::Size;
use banger_contract::{Coded, Document, ErrorCode};
use banger_netd::request::Policy;
use banger_state::db::{Store, VmRow};
use banger_state::dir::VmDir;
use banger_state::handles::Handles;
use banger_state::lock::VmLock;
use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::context::{self, Context, Result};
use crate::options::reach::{Rate, parse_rate};
use crate::options::spec::{parse_disk_size, parse_memory, parse_seconds};
use crate::stage::{self, Stage};
use crate::{lifecycle, observed, resolver, vmm};

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

impl From<Switch> for bool {
    fn from(switch: Switch) -> Self {
        switch == Switch::On
    }
}

/// Seconds; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(pub Option<u64>);

fn parse_ttl(text: &str) -> std::result::Result<Ttl, String> {
    if text == "never" { Ok(Ttl(None)) } else { parse_seconds(text).map(|seconds| Ttl(Some(seconds))) }
}

/// What is to be another; one at least. Disks grow and never shrink.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// Whether the guest gets out of its subnet, masqueraded (tap only)
    #[arg(long, value_enum, value_name = "SWITCH")]
    pub nat: Option<Switch>,
    /// What the guest may reach outside: "open", "none", or "allow=" and addresses or networks with or without a port
    #[arg(long, value_name = "POLICY")]
    pub egress: Option<Egress>,
    /// Whether the VM and others of which this holds reach each other (tap only)
    #[arg(long, value_enum, value_name = "SWITCH")]
    pub peer: Option<Switch>,
    /// Size of the root filesystem, such as 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub disk_size: Option<u64>,
    /// Size of the work disk, the guest's /root
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub work_size: Option<u64>,
    /// Virtual CPUs, 1 to 32 (only while the VM does not run)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: Option<u8>,
    /// Memory, such as 512M or 2G (only while the VM does not run)
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u32>,
    /// How much may go through each disk in a second, such as 50M, or "none"
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub disk_rate: Option<Rate>,
    /// How much the guest may receive and how much it may send in a second, such as 10M, or "none" (Firecracker only)
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub net_rate: Option<Rate>,
    /// Stop the VM after this time, counted from now, such as 90s or 2h, or "never"
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: Option<Ttl>,
}

#[derive(Debug, Args)]
pub struct Set {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    #[command(flatten)]
    pub change: Change,
}

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
    let mut document = observed::current(&row)?;
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
        resolver::refresh(context, &vm);
    }
    if context.json {
        let row = VmRow { vm, ..row };
        return Ok(context::emit(&observed::current(&row)?.to_value()));
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
    resolver::refresh(context, now);
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
    let mut document = observed::current(row)?;
    document.set_vm(&wanted(&row.vm, change));
    let stages = stages(context, &document, &row.vm, change)?;
    Ok(stage::pipeline(&row.vm.name, stages.iter().map(|(_, stage)| stage)))
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
