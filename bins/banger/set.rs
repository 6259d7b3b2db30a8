//! `banger vm set`: changes what a VM may reach, at once where it runs.

use std::process::ExitCode;

use banger_lib::contract::record::{NetMode, Vm};
use banger_lib::contract::{Coded, Document, ErrorCode};
use banger_lib::net::request::check_policy;
use banger_lib::state::db::VmRow;
use banger_lib::state::dir::VmDir;
use banger_lib::state::handles::Handles;
use banger_lib::state::lock::VmLock;
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
}

impl Coded for SetError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Unsupported
    }
    fn hint(&self) -> Option<String> {
        let Self::User(name) = self;
        Some(format!("stop it first: banger vm stop {name}"))
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
        ..vm.clone()
    }
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
