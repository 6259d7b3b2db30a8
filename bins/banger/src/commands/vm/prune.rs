//! `banger vm prune`.

use std::process::ExitCode;

use banger_contract::record::VmmState;
use banger_contract::reply::Collected;
use banger_state::db::{Store, VmRow};
use banger_state::lock::VmLock;
use clap::Args;
use serde_json::json;

use crate::context::{self, Context, Result};
use crate::{lifecycle, observed};

#[derive(Debug, Args)]
pub struct Prune {
    /// Those that do not run (the default)
    #[arg(long)]
    pub stopped: bool,
    /// Only those that ended because their time was over
    #[arg(long)]
    pub expired: bool,
}

/// Whether `row` is meant: it does not run, is not being made, and ended as it was asked for.
fn is_meant(args: &Prune, row: &VmRow) -> Result<bool> {
    if row.life.creating || lifecycle::runs(&row.vm) {
        return Ok(false);
    }
    if !args.expired || args.stopped {
        return Ok(true);
    }
    let vmm = observed::current(row)?.vmm()?.filter(|vmm| vmm.state == VmmState::Exited);
    Ok(vmm.and_then(|vmm| vmm.exit).is_some_and(|exit| exit.reason == "ttl"))
}

pub fn prune(context: &Context, args: &Prune) -> Result<ExitCode> {
    let rows = match Store::open_existing(&context.state)? {
        Some(store) => store.vms()?,
        None => Vec::new(),
    };
    let mut removed = Vec::new();
    let mut printed = ExitCode::SUCCESS;
    for row in rows {
        if !is_meant(args, &row)? {
            continue;
        }
        let name = row.vm.name.to_string();
        if context.explain {
            context::print(&format!("banger vm delete {name}\n"));
            continue;
        }
        let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm prune")?;
        // Under the lock it may have been started, or deleted, by somebody else.
        let mut store = Store::open(&context.state)?;
        let Ok(row) = store.vm(row.vm.id.as_str()) else { continue };
        if !is_meant(args, &row)? {
            continue;
        }
        lifecycle::run_delete(context, &mut store, &row, &lock)?;
        if !context.json {
            printed = context::print(&format!("{name}\n"));
        }
        removed.push(name);
    }
    if context.json && !context.explain {
        printed = context::emit(&json!(Collected::new("banger", removed, Vec::new())));
    }
    Ok(printed)
}
