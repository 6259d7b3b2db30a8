//! The verbs that need no guest: `inspect`, `--dry-run`, `gc`.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use banger_cli::plumbing;
use banger_contract::reply::{CHECKOUT_SCHEMA, CheckoutReply, Collected, SubmoduleReply};
use banger_contract::types::VmId;
use banger_contract::{Coded, ErrorCode};
use banger_host::process::signal::Interrupts;
use banger_state::dir::StateDir;
use banger_state::lock::WorkspaceLock;
use thiserror::Error;

use crate::checkout::Checkout;
use crate::cli::args::{Choice, GcArgs, InspectArgs};
use crate::cli::{TOOL, summary};
use crate::error::WorkspaceError;
use crate::staging::Selection;
use crate::survey::{Part, Survey};

/// `inspect`.
pub(super) fn inspect(args: &InspectArgs) -> ExitCode {
    list("inspect", &args.dir, &args.choice, args.files)
}

/// Prints what of the checkout at `dir` would travel.
pub(super) fn list(verb: &str, dir: &Path, choice: &Choice, files: bool) -> ExitCode {
    let listed = survey(dir, choice, |survey| match choice.null {
        true => Listed::Names(names(survey)),
        false => Listed::Reply(reply(survey, files)),
    });
    match listed {
        Ok(Listed::Names(names)) => plumbing::print_bytes(&names),
        Ok(Listed::Reply(reply)) => {
            if verb != "inspect" {
                // stdout is for machines; nobody may read stderr.
                drop(io::Write::write_all(&mut io::stderr(), summary::text(&reply).as_bytes()));
            }
            plumbing::emit(&plumbing::value(&reply))
        }
        Err(error) => plumbing::fail(error.into(), TOOL, verb),
    }
}

/// What is printed of a survey.
enum Listed {
    Names(Vec<u8>),
    Reply(CheckoutReply),
}

/// What `look` finds in a survey, whose directory is gone by then. A signal does not end it before; git, which does most of the work,
/// gets that as well.
fn survey<T>(dir: &Path, choice: &Choice, look: impl FnOnce(&Survey) -> T) -> Result<T, WorkspaceError> {
    let interrupts = Interrupts::catch().map_err(WorkspaceError::io("catch signals in", "this process"))?;
    let survey = Checkout::open(dir)
        .and_then(|checkout| Survey::new(&std::env::temp_dir(), checkout, choice.of(), &BTreeSet::new()));
    let found = survey.map(|survey| look(&survey));
    if let Some(signal) = interrupts.pending() {
        return Err(WorkspaceError::Interrupted(signal));
    }
    interrupts.release();
    found
}

/// What the survey found; with `files`, by name.
pub(super) fn reply(survey: &Survey, files: bool) -> CheckoutReply {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let Part { checkout, selection, .. } = survey.root();
    let changed = |selection: &Selection| selection.status.changed.len();
    let changed_count = survey.sum(changed);
    let submodules = submodules(survey);
    CheckoutReply {
        schema: CHECKOUT_SCHEMA.to_owned(),
        root: text(&checkout.root),
        head_commit: selection.head.commit.clone(),
        branch: selection.head.branch.as_ref().map(|branch| branch.to_string_lossy().into_owned()),
        mode: survey.choice.mode,
        file_count: survey.sum(|selection| selection.entries.len()),
        size_bytes: survey.size_bytes(),
        dirty: changed_count > 0,
        changed_count,
        untracked_count: survey.sum(|selection| selection.status.untracked.len()),
        submodule_count: submodules.len(),
        left_behind_count: survey.sum(|selection| selection.left_behind),
        submodules,
        lfs_pointer_count: survey.sum(|selection| selection.lfs_pointers),
        sparse_count: survey.sum(|selection| selection.skipped),
        shallow: checkout.shallow.exists(),
        partial: survey.parts.iter().any(|part| part.checkout.is_partial()),
        files: files.then(|| survey.paths().map(|path| text(&path)).collect()),
    }
}

fn submodules(survey: &Survey) -> Vec<SubmoduleReply> {
    let links = survey.parts.iter().flat_map(|part| {
        let links = part.selection.links.keys().chain(&part.selection.gone_links);
        links.map(|path| part.prefix.join(path))
    });
    let mut replies: Vec<SubmoduleReply> = links
        .map(|path| {
            let inside = survey.parts.iter().find(|part| part.prefix == path).map(|part| &part.selection);
            SubmoduleReply {
                path: path.to_string_lossy().into_owned(),
                head_commit: inside.and_then(|selection| selection.head.commit.clone()),
                changed_count: inside.map_or(0, |selection| selection.status.changed.len()),
            }
        })
        .collect();
    replies.sort_by(|a, b| a.path.cmp(&b.path));
    replies
}

fn names(survey: &Survey) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in survey.paths() {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
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

/// `gc`: transfers leave nothing on the host but, when they are killed, their staging directory in the VM's own or beside. Whoever holds
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
                remove(dir, &mut removed, &mut errors);
            }
        }
        for dir in children(&state.fetches())? {
            let id = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('-').next()?.parse().ok());
            let Some(id) = id else { continue };
            let Ok(_lock) = WorkspaceLock::acquire(&state, &id, "banger-ws gc") else { continue };
            remove(dir, &mut removed, &mut errors);
        }
        if !errors.is_empty() {
            return Err(GcError::Left(errors).into());
        }
        Ok(plumbing::value(&Collected::new(TOOL, removed, Vec::new())))
    })
}

fn remove(dir: PathBuf, removed: &mut Vec<String>, errors: &mut Vec<String>) {
    match fs::remove_dir_all(&dir) {
        Ok(()) => removed.push(dir.to_string_lossy().into_owned()),
        Err(error) => errors.push(format!("{}: {error}", dir.display())),
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, GcError> {
    let error = |source| GcError::Read { path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path()).map_err(error)).collect(),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(other) => Err(error(other)),
    }
}
