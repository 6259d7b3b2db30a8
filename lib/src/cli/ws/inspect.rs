//! The verbs that need no guest: `inspect`, `--dry-run`, `gc`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;
use thiserror::Error;

use super::TOOL;
use super::args::{Choice, GcArgs, InspectArgs};
use crate::cli::{Failure, plumbing};
use crate::contract::reply::{CHECKOUT_SCHEMA, CheckoutReply, Collected};
use crate::contract::{Coded, ErrorCode};
use crate::state::dir::StateDir;
use crate::state::lock::WorkspaceLock;
use crate::types::VmId;
use crate::workspace::checkout::Checkout;
use crate::workspace::staging::{Selection, Staging};

/// `inspect`.
pub(super) fn inspect(args: &InspectArgs) -> ExitCode {
    list("inspect", &args.dir, &args.choice, args.files)
}

/// Prints what of the checkout at `dir` would travel.
pub(super) fn list(verb: &str, dir: &Path, choice: &Choice, files: bool) -> ExitCode {
    let looked = || -> Result<(Checkout, Selection), Failure> {
        let checkout = Checkout::open(dir)?;
        let staging = Staging::new(&std::env::temp_dir(), &checkout)?;
        let selection = staging.select(&checkout, choice.include_untracked)?;
        Ok((checkout, selection))
    };
    match looked() {
        Ok((_, selection)) if choice.null => print_null(&selection),
        Ok((checkout, selection)) => plumbing::emit(&describe(&checkout, &selection, files)),
        Err(failure) => plumbing::fail(failure, TOOL, verb),
    }
}

fn describe(checkout: &Checkout, selection: &Selection, files: bool) -> Value {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    plumbing::value(&CheckoutReply {
        schema: CHECKOUT_SCHEMA.to_owned(),
        root: text(&checkout.root),
        head_commit: selection.head.commit.clone(),
        branch: selection.head.branch.as_ref().map(|branch| branch.to_string_lossy().into_owned()),
        file_count: selection.entries.len(),
        size_bytes: selection.size_bytes(),
        dirty: !selection.status.changed.is_empty(),
        changed_count: selection.status.changed.len(),
        untracked_count: selection.status.untracked.len(),
        submodule_count: selection.submodules.len(),
        left_behind_count: selection.left_behind,
        files: files.then(|| selection.entries.iter().map(|entry| text(&entry.path)).collect()),
    })
}

fn print_null(selection: &Selection) -> ExitCode {
    let mut bytes = Vec::new();
    for entry in &selection.entries {
        bytes.extend_from_slice(entry.path.as_os_str().as_bytes());
        bytes.push(0);
    }
    let printed = io::Write::write_all(&mut io::stdout(), &bytes);
    printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

#[derive(Debug, Error)]
enum GcError {
    #[error("no state directory is given")]
    NoState,
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} of banger-ws's directories could not be removed: {}", .0.len(), .0.join("; "))]
    Left(Vec<String>),
}

impl Coded for GcError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoState => ErrorCode::Usage,
            Self::Read { .. } | Self::Left(_) => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoState).then(|| "give --state-dir DIR".into())
    }
}

/// `gc`: transfers leave nothing on the host but, when they are killed, their staging directory in the VM's own. Whoever holds
/// the workspace lock still uses it.
pub(super) fn gc(args: &GcArgs) -> ExitCode {
    plumbing::value_verb(TOOL, "gc", || {
        let state = StateDir::at(args.state_dir.clone().ok_or(GcError::NoState)?);
        let (mut removed, mut errors) = (Vec::new(), Vec::new());
        for vm in children(&state.vms())? {
            let id = vm.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<VmId>().ok());
            let Some(id) = id else { continue };
            let Ok(_lock) = WorkspaceLock::acquire(&state, &id, "banger-ws gc") else { continue };
            for dir in children(&vm)? {
                if !dir.file_name().is_some_and(|n| n.as_bytes().starts_with(b"ws-")) {
                    continue;
                }
                match fs::remove_dir_all(&dir) {
                    Ok(()) => removed.push(dir.to_string_lossy().into_owned()),
                    Err(error) => errors.push(format!("{}: {error}", dir.display())),
                }
            }
        }
        if !errors.is_empty() {
            return Err(GcError::Left(errors).into());
        }
        Ok(plumbing::value(&Collected::new(TOOL, removed, Vec::new())))
    })
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, GcError> {
    let error = |source| GcError::Read { path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(error)).collect(),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(other) => Err(error(other)),
    }
}
