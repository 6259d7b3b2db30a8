//! The copy of the checkout: what of it travels, and how it gets into a VM again.

use std::io::{self, Write};
use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::error::escape_controls;
use banger_contract::record::Workspace;
use banger_contract::reply::CheckoutReply;
use banger_contract::{Coded, Document, ErrorCode};
use banger_ws::cli::summary;
use serde_json::Value;
use thiserror::Error;

use crate::context::{self, Context, Result};
use crate::stage::Stage;

/// What banger-ws says of a checkout cannot be understood.
#[derive(Debug, Error)]
#[error("banger-ws answered something else than what travels")]
pub struct CopyError(#[source] serde_json::Error);

impl Coded for CopyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Bug
    }
}

/// The stage that looks at a checkout or copies it, with what was chosen of it.
pub fn chosen(verb: &str, mode: Option<&str>, include_untracked: bool) -> Stage {
    let mut stage = Stage::new("banger-ws", verb);
    if let Some(mode) = mode {
        stage = stage.arg("--mode").arg(mode);
    }
    if include_untracked { stage.arg("--include-untracked") } else { stage }
}

/// The stage that sends the checkout of `workspace` as it was sent before, to where it went.
pub fn again(workspace: &Workspace) -> Stage {
    let stage = chosen("prepare", Some(workspace.mode.as_str()), workspace.include_untracked);
    stage.arg("--repo").arg(&workspace.host_path).arg("--guest-path").arg(&workspace.guest_path)
}

/// Runs the stage. Where it has completed a copy that had been cut off it is run once more, to send what is new since.
pub fn send(context: &Context, stage: &Stage, document: &Document) -> Result<Value> {
    let input = document.to_value().to_string();
    match stage.run(context, input.as_bytes(), None) {
        Err(Failure::Passed(fault)) if fault.details.get("completed") == Some(&Value::Bool(true)) => {
            stage.run(context, input.as_bytes(), None)
        }
        other => other,
    }
}

pub fn checkout_reply(value: Value) -> Result<CheckoutReply> {
    Ok(serde_json::from_value(value).map_err(CopyError)?)
}

/// Lists what would travel, as `stage` finds it.
pub fn dry_run(context: &Context, stage: Stage) -> Result<ExitCode> {
    let travels = stage.run(context, b"", None)?;
    if context.json {
        return Ok(context::emit(&travels));
    }
    let reply = checkout_reply(travels)?;
    let lines = reply.files.iter().flatten().map(|file| escape_controls(file) + "\n");
    let printed = context::print(&lines.collect::<String>());
    // After the list, so that it stands above the next prompt; on stderr, so that a pipe gets the list alone.
    drop(write!(io::stderr(), "{}", summary::text(&reply)));
    Ok(printed)
}
