//! `banger vm workspace`: the copy of the checkout in a running VM.

use std::path::PathBuf;
use std::process::ExitCode;

use banger_contract::Document;
use banger_contract::error::escape_controls;
use banger_contract::record::Workspace;
use banger_state::db::VmRow;
use banger_ws::cli::ModeChoice;
use banger_ws::transfer::check_guest_path;
use clap::Subcommand;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::stage::{self, Stage};
use crate::{copy, observed};

#[derive(Debug, clap::Args)]
pub struct Verbs {
    #[command(subcommand)]
    command: WorkspaceCommand,
}

#[derive(Debug, Subcommand)]
enum WorkspaceCommand {
    /// Copy the checkout into the VM, or what changed in it since the last copy
    Prepare(Prepare),
    /// List what changed in the VM since the last copy
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct Prepare {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    vm: String,
    /// The checkout [default: the one that was copied before, else the current directory]
    #[arg(value_name = "REPO")]
    repo: Option<PathBuf>,
    /// Throw away what the guest has changed, but for ignored files, and replace what cannot be compared
    #[arg(long)]
    force: bool,
    /// Copy untracked files as well, as the last copy does if it did; ignored ones never travel
    #[arg(long, overrides_with = "no_include_untracked")]
    include_untracked: bool,
    /// Leave untracked files behind, though the last copy took them along
    #[arg(long)]
    no_include_untracked: bool,
    /// How much of git travels with the files [default: that of the last copy, else full]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeChoice>,
    /// Where the checkout goes in the guest [default: the place of the last copy, else /root/<its name>]
    #[arg(long, value_name = "PATH")]
    guest_path: Option<String>,
    /// Say what would travel of a first copy, and do nothing: the files on stdout, a summary on stderr
    #[arg(long)]
    dry_run: bool,
}

impl Prepare {
    /// The stage, but for the record: what was chosen for the last copy holds until something else is.
    fn stage(&self, verb: &str, before: Option<&Workspace>) -> Stage {
        let mode = self.mode.map(ModeChoice::as_str).or_else(|| before.map(|w| w.mode.as_str()));
        let untracked = before.is_some_and(|w| w.include_untracked) && !self.no_include_untracked;
        copy::chosen(verb, mode, self.include_untracked || untracked)
    }
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    vm: String,
}

/// `banger vm workspace …`.
pub fn dispatch(context: &Context, args: &Verbs) -> Result<ExitCode> {
    match &args.command {
        WorkspaceCommand::Prepare(args) => prepare(context, args),
        WorkspaceCommand::Status(args) => status(context, args),
    }
}

/// The record of a VM that runs.
fn running(row: &VmRow) -> Result<Document> {
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    observed::current(row)
}

fn prepare(context: &Context, args: &Prepare) -> Result<ExitCode> {
    if let Some(path) = &args.guest_path {
        check_guest_path(path)?;
    }
    let (mut store, row) = lifecycle::find(context, &args.vm)?;
    let only_read = context.explain || args.dry_run;
    let document = if only_read { lifecycle::document(&row) } else { running(&row)? };
    let before = document.workspace()?;
    let repo = args.repo.clone().or_else(|| before.as_ref().map(|w| PathBuf::from(&w.host_path)));
    let repo = repo.unwrap_or_else(|| ".".into());
    if args.dry_run && !context.explain {
        return copy::dry_run(context, args.stage("inspect", before.as_ref()).arg("--files").arg(repo));
    }
    let mut stage = args.stage("prepare", before.as_ref()).arg("--repo").arg(repo);
    if let Some(path) = args.guest_path.as_ref().or(before.as_ref().map(|w| &w.guest_path)) {
        stage = stage.arg("--guest-path").arg(path);
    }
    for (is_given, option) in [(args.force, "--force"), (args.dry_run, "--dry-run")] {
        stage = if is_given { stage.arg(option) } else { stage };
    }
    if context.explain {
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&stage])));
    }
    let value = copy::send(context, &stage, &document)?;
    let after = Document::parse(value.to_string().as_bytes())?;
    if let Some(workspace) = after.workspace()? {
        store.set_workspace(&row.vm.id, &workspace)?;
    }
    if context.json {
        return Ok(context::emit(&value));
    }
    let changed = after.outcome()?.is_some_and(|outcome| outcome.changed);
    context.say(if changed {
        "the workspace is as the checkout is"
    } else {
        "nothing changed since the last copy"
    });
    Ok(ExitCode::SUCCESS)
}

fn status(context: &Context, args: &Status) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let stage = Stage::new("banger-ws", "status");
    if context.explain {
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&stage])));
    }
    let document = running(&row)?;
    if document.workspace()?.is_none() {
        return Err(LifecycleError::NoWorkspace(row.vm.name.to_string()).into());
    }
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    if context.json {
        return Ok(context::emit(&value));
    }
    let outcome = Document::parse(value.to_string().as_bytes())?.outcome()?.unwrap_or_default();
    let lines = outcome.files.unwrap_or_default().into_iter().map(|file| escape_controls(&file) + "\n");
    Ok(context::print(&lines.collect::<String>()))
}
