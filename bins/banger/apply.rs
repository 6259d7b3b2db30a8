//! `banger vm apply`: what changed in the workspace goes to the checkout.

use std::path::PathBuf;
use std::process::ExitCode;

use banger_lib::contract::record::Applied;

use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{diff, lifecycle, review};

#[derive(Debug, clap::Args)]
pub struct Apply {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// A directory in the checkout to apply to [default: the one that was copied]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Say whether it would apply, and change nothing
    #[arg(long)]
    pub check: bool,
}

fn stage(args: &Apply) -> Stage {
    let mut stage = Stage::new("banger-ws", "apply");
    if let Some(dir) = &args.to {
        stage = stage.arg("--to").arg(dir);
    }
    if args.check { stage.arg("--check") } else { stage }
}

/// `banger vm apply`. Asks nothing: who wants to look first has `vm diff`.
pub fn apply(context: &Context, args: &Apply) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let apply = stage(args).arg("--patch").arg("FILE").shown();
        return Ok(context::print(&format!(
            "banger vm show {} --record | banger-ws export --output FILE | {apply}\n",
            row.vm.name
        )));
    }
    let document = diff::workspace_of(&row)?;
    let (patch, document) = diff::take(context, &document, &[], &[])?;
    let apply = stage(args).arg("--patch").arg(patch.path());
    let value = apply.run(context, document.to_value().to_string().as_bytes(), None)?;
    let document = diff::without_file(&value)?;
    if context.json {
        return Ok(context::emit(&document.to_value()));
    }
    let outcome = document.outcome()?.unwrap_or_default();
    let summary = review::summary(&outcome);
    context.say(match outcome.applied {
        Some(Applied::Applied) => format!("applied: {summary}"),
        Some(Applied::Applies) => format!("it applies: {summary}"),
        Some(Applied::Already) => format!("the checkout has it already: {summary}"),
        Some(Applied::Nothing) | None => "no changes".to_owned(),
    });
    Ok(ExitCode::SUCCESS)
}
