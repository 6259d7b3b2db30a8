//! `banger vm start`.

use std::path::Path;
use std::process::ExitCode;

use banger_contract::Document;
use banger_disk::seed;
use banger_state::lock::VmLock;
use clap::Args;

use crate::context::{self, Context, Result};
use crate::{lifecycle, plan, stage, sweep, timings, vmm};

#[derive(Debug, Args)]
pub struct Start {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Print what every step cost
    #[arg(long)]
    pub timings: bool,
    /// If a stage fails, leave everything as it stands
    #[arg(long)]
    pub keep: bool,
}

pub fn start(context: &Context, args: &Start) -> Result<ExitCode> {
    let (mut store, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let choice = vmm::choose(&context.config, &row.vm)?;
        let stages = lifecycle::start_stages(&context.config, &row.vm, choice.program)?;
        let stages = stages.iter().map(|(stage, _)| stage);
        return Ok(context::print(&stage::pipeline(&row.vm.name, stages)));
    }
    sweep::sweep(context, &mut store)?;
    let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm start")?;
    // It may have been deleted until now.
    let row = store.vm(row.vm.id.as_str())?;
    if lifecycle::runs(&row.vm) {
        return finish_start(context, args, &lifecycle::document(&row), false);
    }
    if !Path::new(&row.vm.paths.dir).exists() {
        lifecycle::end_without_files(context, &row, &lock)?;
    }
    // Whoever made the VM may have been killed before it had them.
    plan::make_files(&context.state, &row.vm)?;
    seed::heal(&context.state, &row.vm.image)?;
    let mut fresh = Document::new(&row.vm);
    fresh.set_workspace(lifecycle::document(&row).workspace()?.as_ref());
    let document = lifecycle::run_start(context, fresh, &lock, args.keep)?;
    finish_start(context, args, &document, true)
}

fn finish_start(context: &Context, args: &Start, document: &Document, changed: bool) -> Result<ExitCode> {
    if args.timings {
        timings::print(document)?;
    }
    if context.json {
        return Ok(context::emit(&document.to_value()));
    }
    let name = document.vm()?.name;
    context.say(if changed { format!("{name} runs") } else { format!("{name} runs already") });
    Ok(ExitCode::SUCCESS)
}
