//! `banger vm reset`.

use std::process::ExitCode;

use banger_contract::Document;
use banger_contract::error::escape_controls;

use crate::context::{self, Context, Result};
use crate::stage::{self, Stage};
use crate::{changes, lifecycle};

/// How many paths are named.
const MAX_NAMED: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Reset {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Throw away ignored files as well, such as what was built
    #[arg(long)]
    pub clean: bool,
    /// Only these files and directories, named from the root of the checkout; without any, commits and what is staged as well
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,
}

/// `banger vm reset`.
pub fn reset(context: &Context, args: &Reset) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let stage = Stage::new("banger-ws", "reset");
    let stage = if args.clean { stage.arg("--clean") } else { stage };
    let stage =
        if args.paths.is_empty() { stage } else { args.paths.iter().fold(stage.arg("--"), Stage::arg) };
    if context.explain {
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&stage])));
    }
    let document = changes::workspace_of(&row)?;
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    if context.json {
        return Ok(context::emit(&value));
    }
    let outcome = Document::parse(value.to_string().as_bytes())?.outcome()?.unwrap_or_default();
    let (paths, count) = (outcome.files.unwrap_or_default(), outcome.change_count.unwrap_or(0));
    if count == 0 {
        context.say("no changes");
        return Ok(ExitCode::SUCCESS);
    }
    for path in paths.iter().take(MAX_NAMED) {
        context.say(escape_controls(path));
    }
    let more = count.saturating_sub(MAX_NAMED as u64);
    if more > 0 {
        context.say(format!("and {more} more"));
    }
    context.say(format!("thrown away: {count} {}", if count == 1 { "change" } else { "changes" }));
    Ok(ExitCode::SUCCESS)
}
