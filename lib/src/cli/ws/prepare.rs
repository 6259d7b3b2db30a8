//! `prepare`: the checkout goes in.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::TOOL;
use super::args::{PrepareArgs, Source};
use super::inspect;
use super::job::{Job, SESSION_FD_VARIABLE, report};
use crate::cli::Failure;
use crate::cli::report::{Live, RecordTo};
use crate::contract::record::{Outcome, Workspace, WorkspaceMode};
use crate::state::handles::Handles;
use crate::sys::clock::now_rfc3339;
use crate::workspace::checkout::Checkout;
use crate::workspace::error::WorkspaceError;
use crate::workspace::guest::Guest;
use crate::workspace::staging::{Selection, Staging};
use crate::workspace::transfer::{self, Shipment};

/// A checkout that is about to be sent.
pub(super) struct Staged {
    pub(super) checkout: Checkout,
    selection: Selection,
    git_files: Vec<(PathBuf, PathBuf)>,
    pub(super) base_commit: String,
    pub(super) guest_path: String,
    _staging: Staging,
}

impl Staged {
    pub(super) fn new(job: &mut Job, source: &Source) -> Result<Self, Failure> {
        if let Some(path) = &source.guest_path {
            transfer::check_guest_path(path)?;
        }
        let parent = job.dir().path().to_owned();
        let (checkout, staging, selection) =
            job.timeline.step("inspect", || -> Result<_, WorkspaceError> {
                let checkout = Checkout::open(&source.repo)?;
                let staging = Staging::new(&parent, &checkout)?;
                let selection = staging.select(&checkout, source.choice.include_untracked)?;
                Ok((checkout, staging, selection))
            })?;
        let guest_path = source.guest_path.clone().unwrap_or_else(|| format!("/root/{}", checkout.name()));
        transfer::check_guest_path(&guest_path)?;
        let (base_commit, git_files) = job.timeline.step("pack", || staging.build(&checkout, &selection))?;
        Ok(Self { checkout, selection, git_files, base_commit, guest_path, _staging: staging })
    }

    pub(super) fn shipment(&self) -> Shipment<'_> {
        Shipment {
            checkout: &self.checkout,
            selection: &self.selection,
            git_files: &self.git_files,
            base_commit: &self.base_commit,
        }
    }

    pub(super) fn workspace(&self) -> Workspace {
        Workspace {
            host_path: self.checkout.root.to_string_lossy().into_owned(),
            guest_path: self.guest_path.clone(),
            head_commit: self.selection.head.commit.clone(),
            base_commit: self.base_commit.clone(),
            mode: WorkspaceMode::Full,
            prepared_at: now_rfc3339(),
            file_count: self.selection.entries.len() as u64,
            size_bytes: self.selection.size_bytes(),
        }
    }

    /// One line about what stays behind. `banger`, which hands down its session lock, says it itself.
    pub(super) fn notice(&self) {
        let count = self.selection.left_behind;
        if count > 0 && std::env::var_os(SESSION_FD_VARIABLE).is_none() {
            let files = if count == 1 { "file stays" } else { "files stay" };
            let how = "--include-untracked takes them along, but for repositories in the checkout";
            drop(writeln!(io::stderr(), "{TOOL}: {count} untracked {files} behind ({how})"));
        }
    }
}

fn record_workspace(job: &mut Job, workspace: &Workspace) -> Result<(), Failure> {
    job.document.set_workspace(Some(workspace));
    let dir = job.dir();
    let handles = Handles { workspace: Some(workspace.clone()), ..Handles::load(&dir) };
    Ok(handles.save(&dir)?)
}

/// `prepare`.
pub(super) fn prepare(args: &PrepareArgs) -> ExitCode {
    let source = &args.source;
    if source.dry_run {
        return inspect::list("prepare", &source.repo, &source.choice, true);
    }
    report("prepare", &RecordTo::Stdout, false, &args.input, |job| {
        let _lock = job.lock("prepare")?;
        let staged = Staged::new(job, source)?;
        staged.notice();
        job.confine(&[&staged.checkout.root], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let mut quiet = Live::new(&job.interrupts, true, || {});
        let shipment = staged.shipment();
        let sent = transfer::send_and_run(
            &guest,
            &shipment,
            &staged.guest_path,
            None,
            &mut quiet,
            &mut job.timeline,
        )?;
        drop((guest, quiet));
        let before = job.document.workspace()?;
        let workspace = before.filter(|w| !sent.changed && w.base_commit == staged.base_commit);
        record_workspace(job, &workspace.unwrap_or_else(|| staged.workspace()))?;
        Ok(Outcome { changed: sent.changed, ..Outcome::default() })
    })
}
