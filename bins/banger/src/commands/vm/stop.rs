//! `banger vm stop`.

use std::process::ExitCode;

use banger_state::lock::VmLock;
use clap::Args;

use crate::context::{self, Context, Result};
use crate::{lifecycle, stage};

#[derive(Debug, Args)]
pub struct Stop {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// End the VM at once, as if its power were cut
    #[arg(long)]
    pub force: bool,
}

pub fn stop(context: &Context, args: &Stop) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let stages = lifecycle::stop_stages(context, &row.vm, &lifecycle::document(&row), args.force)?;
        return Ok(context::print(&stage::pipeline(&row.vm.name, &stages)));
    }
    let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm stop")?;
    let document = lifecycle::run_stop(context, &row, &lock, args.force)?;
    if context.json {
        return Ok(context::emit(&document.to_value()));
    }
    Ok(ExitCode::SUCCESS)
}
