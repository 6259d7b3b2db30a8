//! `apply`: a patch onto a checkout of the host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banger_cli::{Failure, plumbing};
use banger_contract::record::{self, Outcome};
use banger_contract::{Coded, Document, ErrorCode};
use banger_host::clock::Timeline;
use banger_host::process::signal::Interrupts;
use thiserror::Error;

use crate::apply::{self, Applied, Job};
use crate::checkout::Checkout;
use crate::cli::args::ApplyArgs;
use crate::cli::origin::PatchOrigin;
use crate::cli::{TOOL, changes};
use crate::error::WorkspaceError;
use crate::patch::{self, Scanned};

#[derive(Debug, Error)]
enum InputError {
    #[error("there is no checkout at {0:?} any more, which is where the workspace was copied from")]
    Gone(PathBuf),
    #[error("there is no patch at {0:?}")]
    NoPatch(PathBuf),
    #[error("{0:?} is not an ordinary file: the patch is read twice")]
    NoFile(PathBuf),
}

impl Coded for InputError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Gone(_) | Self::NoPatch(_) => ErrorCode::NotFound,
            Self::NoFile(_) => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Gone(_) => "say with --to DIR which checkout it is to go to".into(),
            Self::NoFile(_) | Self::NoPatch(_) => {
                "write it to a file first: banger-ws export --output FILE".into()
            }
        })
    }
}

/// `apply`.
pub(super) fn apply(args: &ApplyArgs) -> ExitCode {
    plumbing::value_verb(TOOL, "apply", || {
        let mut document = args.input.document()?;
        let mut timeline = Timeline::new(TOOL, "apply");
        let outcome = work(args, &document, &mut timeline)?;
        document.set_outcome(&outcome);
        document.push_timings(timeline.into_timings());
        Ok(document.to_value())
    })
}

fn work(args: &ApplyArgs, document: &Document, timeline: &mut Timeline) -> Result<Outcome, Failure> {
    let interrupts = Interrupts::catch().map_err(WorkspaceError::io("catch signals in", "this process"))?;
    let checkout = checkout(args.to.as_deref(), document)?;
    let patch = args.patch.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::from(InputError::NoPatch(args.patch.clone())),
        _ => WorkspaceError::io("read", &args.patch)(error).into(),
    })?;
    let scanned = timeline.step("scan", || scan(&patch, args.max_patch_size))?;
    apply::recover(&checkout)?;
    let home = PatchOrigin::of(document, &checkout)?;
    let step = match &home {
        Some(home) if !scanned.entries.is_empty() => {
            timeline.step("agree", || home.step(&patch, &scanned))?
        }
        _ => None,
    };
    let new = match (&home, &step) {
        (Some(home), Some(step)) => home.what_is_new(step, &checkout, &patch, &scanned)?,
        _ => None,
    };
    let job = match &new {
        Some((file, rest)) => Job { checkout: &checkout, patch: file.path(), scanned: rest },
        None => Job { checkout: &checkout, patch: &patch, scanned: &scanned },
    };
    let came_of = timeline
        .step("apply", || if args.check { job.check() } else { job.apply(&|| interrupts.pending()) })?;
    let came_of = if new.is_some() && came_of == Applied::Nothing { Applied::Already } else { came_of };
    if let (Some(home), Some(step), false) = (home, step, args.check) {
        timeline.step("agree", || home.agree(step))?;
    }
    let mut outcome = Outcome {
        changed: came_of == Applied::Yes && !args.check,
        patch_file: Some(args.patch.to_string_lossy().into_owned()),
        applied: Some(match came_of {
            Applied::Yes if args.check => record::Applied::Applies,
            Applied::Yes => record::Applied::Applied,
            Applied::Already => record::Applied::Already,
            Applied::Nothing => record::Applied::Nothing,
        }),
        ..Outcome::default()
    };
    changes::describe(&scanned, &mut outcome);
    Ok(outcome)
}

/// The checkout that was named, else the one that the workspace was copied from.
pub(super) fn checkout(to: Option<&Path>, document: &Document) -> Result<Checkout, Failure> {
    if let Some(dir) = to {
        return Ok(Checkout::open(dir)?);
    }
    let home = PathBuf::from(document.required_workspace()?.host_path);
    if !home.join(".git").exists() {
        return Err(InputError::Gone(home).into());
    }
    Ok(Checkout::open(&home)?)
}

fn scan(place: &Path, limit: u64) -> Result<Scanned, Failure> {
    let error = |e: io::Error| WorkspaceError::io("read", place)(e);
    if !fs::metadata(place).map_err(error)?.is_file() {
        return Err(InputError::NoFile(place.to_owned()).into());
    }
    let mut file = File::open(place).map_err(error)?;
    Ok(patch::scan(&mut file, limit).map_err(error)?.map_err(WorkspaceError::Patch)?)
}
