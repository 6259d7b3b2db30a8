//! `banger vm stop`.

use std::process::ExitCode;

use banger_state::lock::VmLock;
use clap::Args;

use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{lifecycle, vmm};

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
        let program = vmm::program_of(&context.config, &lifecycle::document(&row))?;
        let stage =
            if args.force { Stage::new(program, "kill") } else { vmm::stop_stage(&context.config, program) };
        let name = &row.vm.name;
        let line = format!(
            "banger vm show {name} --record | {} | banger-disk detach | banger-netd detach\n",
            stage.shown()
        );
        return Ok(context::print(&line));
    }
    let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm stop")?;
    let document = lifecycle::run_stop(context, &row, &lock, args.force)?;
    if context.json {
        return Ok(context::emit(&document.to_value()));
    }
    Ok(ExitCode::SUCCESS)
}
