//! `banger vm apply`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banger_contract::record::Applied;

use crate::context::{self, Context, Result};
use crate::stage::{self, Stage};
use crate::{changes, lifecycle, review};

#[derive(Debug, clap::Args)]
pub struct Apply {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// A directory in the checkout to apply to [default: the one that was copied]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Apply what changed in the submodule at PATH, to that of the checkout
    #[arg(long, value_name = "PATH")]
    pub submodule: Option<String>,
    /// Say whether it would apply, and change nothing
    #[arg(long)]
    pub check: bool,
}

/// The apply, to `home` or below where nothing else was asked for.
fn stage(args: &Apply, home: &str) -> Stage {
    let mut stage = Stage::new("banger-ws", "apply");
    let submodule = args.submodule.as_ref().map(|path| Path::new(home).join(path));
    if let Some(dir) = args.to.clone().or(submodule) {
        stage = stage.arg("--to").arg(dir);
    }
    if args.check { stage.arg("--check") } else { stage }
}

/// `banger vm apply`. Asks nothing: who wants to look first has `vm diff`.
pub fn apply(context: &Context, args: &Apply) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let options: Vec<&str> = changes::of_submodule(args.submodule.as_deref()).collect();
    if context.explain {
        let export = options.iter().fold(Stage::new("banger-ws", "export"), Stage::arg);
        let export = export.arg("--output").arg("FILE");
        let apply = stage(args, "CHECKOUT").arg("--patch").arg("FILE");
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&export, &apply])));
    }
    let document = changes::workspace_of(&row)?;
    let home = document.required_workspace()?.host_path;
    let (patch, document) = changes::take(context, &document, &options, &[])?;
    let status = changes::status_of(&document)?;
    let apply = stage(args, &home).arg("--patch").arg(patch.path());
    let value = apply.run(context, document.to_value().to_string().as_bytes(), None)?;
    let document = changes::without_file(&value)?;
    if context.json {
        context::emit(&document.to_value());
        return Ok(status);
    }
    let outcome = document.outcome()?.unwrap_or_default();
    let summary = |advice| review::summary(&outcome, advice);
    context.say(match outcome.applied {
        Some(Applied::Applied) => format!("applied: {}", summary(review::AFTER)),
        Some(Applied::Applies) => format!("it applies: {}", summary(review::BEFORE)),
        Some(Applied::Already) => format!("the checkout has it already: {}", summary(review::AFTER)),
        Some(Applied::Nothing) | None => "no changes".to_owned(),
    });
    Ok(status)
}
