//! `banger vm exec`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use banger_contract::Document;
use banger_contract::record::Workspace;
use banger_host::git::{self, Git};
use banger_state::db::VmRow;
use banger_ws::cli::command::CommandOptions;
use clap::Args;

use crate::context::{self, Context, ContextError, Result};
use crate::guest_command::{self, Wanted};
use crate::lifecycle::{self, LifecycleError};
use crate::options::patches::{self, Patches};
use crate::stage::Stage;
use crate::{copy, observed, review, ssh};

/// How long git may take to say where HEAD stands.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Exec {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    #[command(flatten)]
    pub patches: Patches,
    /// Give the command a terminal: this one
    #[arg(long, short, conflicts_with_all = ["patch", "patch_dir", "no_stdin"])]
    pub tty: bool,
    /// Send the checkout again before, as it stands now
    #[arg(long)]
    pub auto_prepare: bool,
    #[command(flatten)]
    pub options: CommandOptions,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `banger vm exec`.
pub fn exec(context: &Context, args: &Exec) -> Result<ExitCode> {
    let wanted = Wanted { options: &args.options, words: &args.command };
    guest_command::check_command(&wanted)?;
    patches::patch_to_stdout(context, args.patches.patch.as_deref())?;
    let (mut store, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return explain(args, &wanted, &row);
    }
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let mut document = observed::current(&row)?;
    let no_workspace = || LifecycleError::NoWorkspace(row.vm.name.to_string());
    let mut workspace = document.workspace()?.ok_or_else(no_workspace)?;
    if args.auto_prepare {
        document = prepare_again(context, &document, &workspace)?;
        workspace = document.workspace()?.ok_or_else(no_workspace)?;
        store.set_workspace(&row.vm.id, &workspace)?;
    } else if let Some(head) = moved_head(&workspace) {
        context.say(format!(
            "HEAD of {} is at {head} now, not where it was when the checkout was copied into {}; --auto-prepare copies it again",
            workspace.host_path, row.vm.name
        ));
    }
    if args.tty {
        return ssh::exec(context, &row, &document, &wanted, &workspace);
    }
    let ran = guest_command::run_in_guest(context, stage_of(args), &wanted, &document, None)?;
    if context.json {
        context::emit(&ran.document.to_value());
    }
    if let Some(patch) = args.patches.place() {
        review::tell(context, patch, &ran.document)?;
    }
    Ok(ExitCode::from(ran.status))
}

fn stage_of(args: &Exec) -> Stage {
    args.patches.wanted_of(Stage::new("banger-ws", "exec"))
}

fn explain(args: &Exec, wanted: &Wanted<'_>, row: &VmRow) -> Result<ExitCode> {
    let name = &row.vm.name;
    let before = lifecycle::document(row).workspace()?.filter(|_| args.auto_prepare);
    let prepare = before.map_or_else(String::new, |w| format!(" | {}", copy::again(&w).shown()));
    if args.tty {
        return Err(ContextError::NoPipeline("--tty").into());
    }
    Ok(context::print(&format!(
        "banger vm show {name} --record{prepare} | {}\n",
        wanted.shown(stage_of(args))
    )))
}

/// The checkout as it stands now goes where it went before.
fn prepare_again(context: &Context, document: &Document, workspace: &Workspace) -> Result<Document> {
    let stage = copy::again(workspace);
    let record = copy::send(context, &stage, document)?;
    Ok(Document::parse(record.to_string().as_bytes())?)
}

/// Where HEAD of the checkout stands, if that is not where it stood when it was copied. `None` as well where git cannot say.
fn moved_head(workspace: &Workspace) -> Option<String> {
    let path = Path::new(&workspace.host_path);
    let exec = Git::at(path).exec(["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]);
    let head = git::line(&exec.deadline(HEAD_DEADLINE).run().ok()?);
    (workspace.head_commit.as_ref() != Some(&head)).then(|| head.chars().take(12).collect())
}
