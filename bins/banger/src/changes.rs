//! What changed in a VM's workspace, taken by banger-ws.

use std::io;
use std::process::ExitCode;

use banger_contract::Document;
use banger_contract::record::Outcome;
use banger_state::db::VmRow;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::observed;
use crate::stage::{Stage, StageError};

/// The record of a VM that a patch can be taken from. Where it does not run or has no workspace that is said before anything is tried.
pub fn workspace_of(row: &VmRow) -> Result<Document> {
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let document = observed::current(row)?;
    if document.workspace()?.is_none() {
        return Err(LifecycleError::NoWorkspace(row.vm.name.to_string()).into());
    }
    Ok(document)
}

/// Has banger-ws export to a file of ours, with `options` and of `paths` alone; gives the file and the record.
pub fn take(
    context: &Context,
    document: &Document,
    options: &[&str],
    paths: &[String],
) -> Result<(NamedTempFile, Document)> {
    let dir = document.vm()?.paths.dir;
    let temp = tempfile::Builder::new().prefix(".patch-").tempfile_in(dir).map_err(talk)?;
    let stage = stage(options, &temp.path().to_string_lossy(), paths);
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    Ok((temp, without_file(&value)?))
}

/// The record `value`, without the name of a file of ours that is gone before anybody reads it.
pub fn without_file(value: &Value) -> Result<Document> {
    let mut document = Document::parse(value.to_string().as_bytes())?;
    let outcome = document.outcome()?.unwrap_or_default();
    document.set_outcome(&Outcome { patch_file: None, ..outcome });
    Ok(document)
}

/// The options for a submodule's own patch.
pub fn of_submodule(path: Option<&str>) -> impl Iterator<Item = &str> {
    path.into_iter().flat_map(|path| ["--submodule", path])
}

pub fn talk(source: io::Error) -> StageError {
    StageError::Talk { program: "banger-ws".to_owned(), source }
}

pub fn stage(options: &[&str], output: &str, paths: &[String]) -> Stage {
    let stage =
        options.iter().fold(Stage::new("banger-ws", "export").arg("--output").arg(output), Stage::arg);
    if paths.is_empty() { stage } else { paths.iter().fold(stage.arg("--"), Stage::arg) }
}

/// The status of what took a patch: 125 where that lacks something.
pub fn status_of(record: &Document) -> Result<ExitCode> {
    let is_lossy = record.outcome()?.is_some_and(|outcome| outcome.is_lossy());
    Ok(if is_lossy { ExitCode::from(context::OWN_FAILURE) } else { ExitCode::SUCCESS })
}
