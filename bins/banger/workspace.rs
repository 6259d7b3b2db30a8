//! `banger vm workspace`: the copy of the checkout in a running VM.

use std::path::PathBuf;
use std::process::ExitCode;

use banger_lib::cli::Failure;
use banger_lib::contract::error::escape_controls;
use banger_lib::contract::{Document, ErrorCode};
use banger_lib::state::db::VmRow;
use clap::Subcommand;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::list;
use crate::stage::Stage;

#[derive(Debug, clap::Args)]
pub struct Workspace {
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
    /// Take the checkout's where the guest has changed the same, and replace what cannot be compared
    #[arg(long)]
    force: bool,
    /// Copy untracked files as well; ignored ones never travel
    #[arg(long)]
    include_untracked: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    vm: String,
}

/// `banger vm workspace …`.
pub fn dispatch(context: &Context, args: &Workspace) -> Result<ExitCode> {
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
    list::current(row)
}

fn prepare(context: &Context, args: &Prepare) -> Result<ExitCode> {
    let (mut store, row) = lifecycle::find(context, &args.vm)?;
    let document = if context.explain { lifecycle::document(&row) } else { running(&row)? };
    let before = document.workspace()?;
    let repo = args.repo.clone().or_else(|| before.as_ref().map(|w| PathBuf::from(&w.host_path)));
    let mut stage = Stage::new("banger-ws", "prepare").arg("--repo").arg(repo.unwrap_or_else(|| ".".into()));
    if let Some(workspace) = &before {
        stage = stage.arg("--guest-path").arg(&workspace.guest_path);
        stage = stage.arg("--mode").arg(workspace.mode.as_str());
    }
    for (is_given, option) in [(args.force, "--force"), (args.include_untracked, "--include-untracked")] {
        stage = if is_given { stage.arg(option) } else { stage };
    }
    if context.explain {
        return Ok(context::print(&format!("banger vm show {} --record | {}\n", row.vm.name, stage.shown())));
    }
    let value = send(context, &stage, &document)?;
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

/// Runs the stage. Where it has completed a copy that had been cut off it is run once more, to send what is new since.
pub fn send(context: &Context, stage: &Stage, document: &Document) -> Result<serde_json::Value> {
    let input = document.to_value().to_string();
    match stage.run(context, input.as_bytes(), None) {
        Err(Failure::Passed(fault)) if fault.code == ErrorCode::Busy && fault.message.contains("cut off") => {
            stage.run(context, input.as_bytes(), None)
        }
        other => other,
    }
}

fn status(context: &Context, args: &Status) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let stage = Stage::new("banger-ws", "status");
    if context.explain {
        return Ok(context::print(&format!("banger vm show {} --record | {}\n", row.vm.name, stage.shown())));
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
