//! `banger vm diff`.

use std::fs::File;
use std::process::ExitCode;

use crate::context::{self, Context, Result};
use crate::{changes, lifecycle, pager, stage};

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Show how much changed in each file
    #[arg(long)]
    pub stat: bool,
    /// Show the names of the changed files
    #[arg(long, conflicts_with = "stat")]
    pub name_only: bool,
    /// Show what changed in the submodule at PATH
    #[arg(long, value_name = "PATH")]
    pub submodule: Option<String>,
    /// Show what changed since this commit of the guest's instead of since the last copy
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
    /// Show what changed since the first copy, also what is in the checkout by now
    #[arg(long, conflicts_with = "base_commit")]
    pub all: bool,
    /// Do not page
    #[arg(long)]
    pub no_pager: bool,
    /// Only these files and directories, named from the root of the checkout
    #[arg(last = true, value_name = "PATH")]
    pub paths: Vec<String>,
}

impl Diff {
    fn options(&self) -> Vec<&str> {
        let options = [(self.stat, "--stat"), (self.name_only, "--name-only"), (self.all, "--all")];
        let options = options.into_iter().filter_map(|(wanted, option)| wanted.then_some(option));
        let base = self.base_commit.iter().flat_map(|commit| ["--base-commit", commit]);
        options.chain(base).chain(changes::of_submodule(self.submodule.as_deref())).collect()
    }
}

/// `banger vm diff`.
pub fn diff(context: &Context, args: &Diff) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let export = changes::stage(&args.options(), "-", &args.paths);
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&export])));
    }
    let document = changes::workspace_of(&row)?;
    let (patch, record) = changes::take(context, &document, &args.options(), &args.paths)?;
    let status = changes::status_of(&record)?;
    if context.json {
        context::emit(&record.to_value());
        return Ok(status);
    }
    let mut file = File::open(patch.path()).map_err(changes::talk)?;
    let written = pager::pass_on(context, &document, &mut file, args.no_pager);
    // The reader went away, as a pager that is quit does: that is its business.
    context::arrived(written).map(|_| status)
}
