//! `banger vm delete`.

use std::process::ExitCode;

use banger_contract::reply::Collected;
use banger_state::lock::VmLock;
use clap::Args;
use serde_json::json;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};

#[derive(Debug, Args)]
pub struct Delete {
    /// The VM's name or id
    #[arg(value_name = "VM", required = true)]
    pub vms: Vec<String>,
    /// Stop it at once if it runs
    #[arg(long, short)]
    pub force: bool,
}

pub fn delete(context: &Context, args: &Delete) -> Result<ExitCode> {
    let mut removed = Vec::new();
    for name in &args.vms {
        let (mut store, row) = lifecycle::find(context, name)?;
        if context.explain {
            let name = &row.vm.name;
            context::print(&format!(
                "banger vm stop --force {name}; remove {} and its row\n",
                row.vm.paths.dir
            ));
            continue;
        }
        let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm delete")?;
        if lifecycle::runs(&row.vm) && !args.force {
            return Err(LifecycleError::Runs(row.vm.name.to_string()).into());
        }
        lifecycle::run_delete(context, &mut store, &row, &lock)?;
        removed.push(row.vm.name.to_string());
    }
    if context.json && !context.explain {
        return Ok(context::emit(&json!(Collected::new("banger", removed, Vec::new()))));
    }
    Ok(ExitCode::SUCCESS)
}
