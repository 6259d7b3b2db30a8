//! `banger vm set`: changes what a VM may reach, at once where it runs, and how large its disks are.

use std::process::ExitCode;

use banger_lib::contract::record::{NetMode, Vm};
use banger_lib::contract::{Coded, Document, ErrorCode};
use banger_lib::net::request::check_policy;
use banger_lib::state::db::VmRow;
use banger_lib::state::dir::VmDir;
use banger_lib::state::handles::Handles;
use banger_lib::state::lock::VmLock;
use banger_lib::types::Size;
use thiserror::Error;

use crate::args::{Change, Set};
use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{dns, lifecycle, list};

/// A change that cannot be made.
#[derive(Debug, Error)]
pub enum SetError {
    #[error("VM {0} runs with user networking, which cannot be changed while it runs")]
    User(String),
    #[error("the {what} of VM {vm} has {now}, and {wanted} is less: disks grow and never shrink")]
    Shrink { vm: String, what: &'static str, now: Size, wanted: Size },
    #[error("VM {0} runs, and its disks grow only while it does not")]
    Runs(String),
}

impl Coded for SetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::User(_) | Self::Runs(_) => ErrorCode::Unsupported,
            Self::Shrink { .. } => ErrorCode::Usage,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::User(name) | Self::Runs(name) => Some(format!("stop it first: banger vm stop {name}")),
            Self::Shrink { .. } => None,
        }
    }
}

pub fn set(context: &Context, args: &Set) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let text = match lifecycle::runs(&row.vm) {
            true => format!("banger vm show {} --record | {}\n", row.vm.name, update_stage(&row.vm).shown()),
            false => "banger vm set runs no other program where the VM does not run\n".to_owned(),
        };
        return Ok(context::print(&text));
    }
    let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm set")?;
    // Read again: now nobody else changes it.
    let (mut store, row) = lifecycle::find(context, row.vm.id.as_str())?;
    let vm = wanted(&row.vm, &args.change);
    check_policy(&vm)?;
    check_sizes(&row.vm, &vm)?;
    let mut document = list::current(&row)?;
    document.set_vm(&vm);
    if vm != row.vm && lifecycle::runs(&row.vm) {
        document = update(context, &document, &lock)?;
    }
    store.set_vm(&vm)?;
    if vm != row.vm {
        dns::refresh(context, &vm);
    }
    if document.net()?.is_some() {
        Handles::of(&document)?.save(&VmDir::at(&vm.paths.dir))?;
    }
    if context.json {
        let row = VmRow { vm, ..row };
        return Ok(context::emit(&list::current(&row)?.to_value()));
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(vm: &Vm, change: &Change) -> Vm {
    Vm {
        nat: change.nat.map_or(vm.nat, Into::into),
        egress: change.egress.clone().unwrap_or_else(|| vm.egress.clone()),
        peer: change.peer.map_or(vm.peer, Into::into),
        rootfs_size_bytes: change.disk_size.unwrap_or(vm.rootfs_size_bytes),
        work_size_bytes: change.work_size.unwrap_or(vm.work_size_bytes),
        ..vm.clone()
    }
}

/// Disks grow, when the VM starts: the stage that attaches them lengthens their files, the guest their filesystems.
fn check_sizes(now: &Vm, wanted: &Vm) -> std::result::Result<(), SetError> {
    let disks = [
        ("root filesystem", now.rootfs_size_bytes, wanted.rootfs_size_bytes),
        ("work disk", now.work_size_bytes, wanted.work_size_bytes),
    ];
    for (what, now_bytes, wanted_bytes) in disks {
        if wanted_bytes < now_bytes {
            let (now_size, wanted) = (Size::from_bytes(now_bytes), Size::from_bytes(wanted_bytes));
            return Err(SetError::Shrink { vm: now.name.to_string(), what, now: now_size, wanted });
        }
        if wanted_bytes > now_bytes && lifecycle::runs(now) {
            return Err(SetError::Runs(now.name.to_string()));
        }
    }
    Ok(())
}

fn update_stage(vm: &Vm) -> Stage {
    Stage::new("banger-netd", "update").privileged(vm.net_mode == NetMode::Tap)
}

/// Changes the rules of a running VM: before the database, so that what it says of a running VM is true.
fn update(context: &Context, document: &Document, lock: &VmLock) -> Result<Document> {
    let vm = document.vm()?;
    if vm.net_mode == NetMode::User {
        return Err(SetError::User(vm.name.to_string()).into());
    }
    update_stage(&vm).run_record(context, document, lock)
}
