//! `apply`: a patch onto a checkout of the host.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tempfile::NamedTempFile;
use thiserror::Error;

use super::args::ApplyArgs;
use super::{TOOL, changes};
use crate::agreed::Step;
use crate::apply::{self, Applied, ApplyError, Job};
use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use crate::patch::{Scanned, Scanner, Status};
use crate::sent::Memory;
use banger_cli::{Failure, plumbing};
use banger_contract::record::{self, Outcome};
use banger_contract::{Coded, Document, ErrorCode};
use banger_host::clock::Timeline;
use banger_host::process::signal::Interrupts;
use banger_protocol::changes::Request;
use banger_state::dir::VmDir;
use banger_state::lock::WorkspaceLock;
use banger_state::vm_lock::state_of;

#[derive(Debug, Error)]
enum InputError {
    #[error("there is no checkout at {0:?} any more, which is where the workspace was copied from")]
    Gone(PathBuf),
    #[error("there is no patch at {0:?}")]
    NoPatch(PathBuf),
    #[error("{0:?} is no ordinary file: the patch is read twice")]
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
    let home = Home::of(document, &checkout)?;
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

/// The workspace that a patch comes from, where it goes to the checkout which that was copied from.
struct Home {
    dir: VmDir,
    memory: Memory,
    base_commit: String,
    request: Request,
    /// Which of its trees the checkout is.
    tree: usize,
    _lock: WorkspaceLock,
}

impl Home {
    /// `None` where the VM is gone, or the checkout is another one.
    fn of(document: &Document, checkout: &Checkout) -> Result<Option<Self>, Failure> {
        let (Ok(vm), Ok(Some(workspace))) = (document.vm(), document.workspace()) else { return Ok(None) };
        let dir = VmDir::at(&vm.paths.dir);
        let Ok(below) = checkout.root.strip_prefix(&workspace.host_path) else { return Ok(None) };
        if !dir.path().is_dir() {
            return Ok(None);
        }
        let lock = WorkspaceLock::acquire(&state_of(&vm)?, &vm.id, &format!("{TOOL} apply"))?;
        let memory = Memory::of(&dir);
        let Some(request) = memory.agreed(&workspace.base_commit) else { return Ok(None) };
        let tree = request.trees.iter().position(|tree| tree.prefix == below.as_os_str().as_bytes());
        let base_commit = workspace.base_commit;
        Ok(tree.map(|tree| Self { dir, memory, base_commit, request, tree, _lock: lock }))
    }

    /// What the patch makes of what both sides agree on.
    fn step(&self, patch: &Path, scanned: &Scanned) -> Result<Option<Step>, WorkspaceError> {
        Step::of(self.dir.path(), &self.memory.objects(), (&self.request, self.tree), (patch, scanned))
    }

    /// The part of the patch that the checkout does not have yet, in a file of ours; `None` where that is all of it.
    fn what_is_new(
        &self,
        step: &Step,
        checkout: &Checkout,
        patch: &Path,
        scanned: &Scanned,
    ) -> Result<Option<(NamedTempFile, Scanned)>, Failure> {
        let (mut kept, mut halves) = (BTreeSet::new(), BTreeSet::new());
        let mut conflicts = Vec::new();
        for (number, entry) in scanned.entries.iter().enumerate() {
            if entry.status == Status::Deleted && step.has_other_mode(checkout, &entry.path)? {
                conflicts.push(String::from_utf8_lossy(&entry.path).into_owned());
            }
            let mut new = Vec::new();
            for path in entry.paths() {
                if !step.is_home(checkout, path)? {
                    new.push(path.clone());
                }
            }
            if new.len() == entry.paths().count() {
                kept.insert(number);
            } else {
                halves.extend(new);
            }
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflict { root: checkout.root.clone(), paths: conflicts }.into());
        }
        if kept.len() == scanned.entries.len() {
            return Ok(None);
        }
        let temp = tempfile::Builder::new().prefix(".patch-").tempfile_in(self.dir.path());
        let temp = temp.map_err(WorkspaceError::io("make a file in", self.dir.path()))?;
        let mut from = File::open(patch).map_err(WorkspaceError::io("read", patch))?;
        let mut copied = scanned.copy(&mut from, &mut temp.as_file(), |number| kept.contains(&number));
        if !halves.is_empty() {
            let other = step.patch_of(self.dir.path(), &self.memory.objects(), &halves)?;
            copied = copied.and_then(|()| temp.as_file().write_all(&other));
        }
        copied.map_err(WorkspaceError::io("write", temp.path()))?;
        let rest = scan(temp.path(), u64::MAX)?;
        Ok(Some((temp, rest)))
    }

    /// What the patch has brought is on both sides now.
    fn agree(self, step: Step) -> Result<(), WorkspaceError> {
        let mut request = self.request;
        step.take(&mut request, self.tree);
        self.memory.agree(&self.base_commit, &request)
    }
}

fn scan(patch: &Path, limit: u64) -> Result<Scanned, Failure> {
    let error = |e: io::Error| WorkspaceError::io("read", patch)(e);
    if !fs::metadata(patch).map_err(error)?.is_file() {
        return Err(InputError::NoFile(patch.to_owned()).into());
    }
    let mut file = File::open(patch).map_err(error)?;
    let mut scanner = Scanner::new(limit);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(error)? {
            0 => return Ok(scanner.finish().map_err(WorkspaceError::Patch)?),
            count => scanner.feed(&buffer[..count]).map_err(WorkspaceError::Patch)?,
        }
    }
}
