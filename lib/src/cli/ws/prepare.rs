//! `prepare`: the checkout goes in.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::TOOL;
use super::args::{PrepareArgs, Source};
use super::job::{Job, SESSION_FD_VARIABLE, report};
use super::{inspect, summary};
use crate::cli::Failure;
use crate::cli::report::{Live, RecordTo};
use crate::contract::record::{Outcome, Workspace};
use crate::state::handles::Handles;
use crate::sys::clock::now_rfc3339;
use crate::workspace::guest::Guest;
use crate::workspace::shipment::{Shipment, Survey};
use crate::workspace::transfer;

/// A checkout that is about to be sent.
pub(super) struct Staged {
    pub(super) shipment: Shipment,
    pub(super) guest_path: String,
}

impl Staged {
    pub(super) fn new(job: &mut Job, source: &Source) -> Result<Self, Failure> {
        if let Some(path) = &source.guest_path {
            transfer::check_guest_path(path)?;
        }
        let parent = job.dir().path().to_owned();
        let survey =
            job.timeline.step("inspect", || Survey::new(&parent, &source.repo, source.choice.of()))?;
        let checkout = &survey.root().checkout;
        let guest_path = source.guest_path.clone().unwrap_or_else(|| format!("/root/{}", checkout.name()));
        transfer::check_guest_path(&guest_path)?;
        let shipment = job.timeline.step("commit", || Shipment::new(survey))?;
        Ok(Self { shipment, guest_path })
    }

    pub(super) fn root(&self) -> &Path {
        &self.shipment.survey.root().checkout.root
    }

    pub(super) fn workspace(&self) -> Workspace {
        let survey = &self.shipment.survey;
        Workspace {
            host_path: self.root().to_string_lossy().into_owned(),
            guest_path: self.guest_path.clone(),
            head_commit: survey.root().selection.head.commit.clone(),
            base_commit: self.shipment.base_commit.clone(),
            mode: survey.choice.mode,
            prepared_at: now_rfc3339(),
            file_count: survey.sum(|selection| selection.entries.len()) as u64,
            size_bytes: survey.size_bytes(),
        }
    }

    /// A line about everything that a caller may not expect. `banger`, which hands down its session lock, says it itself.
    pub(super) fn notice(&self) {
        if std::env::var_os(SESSION_FD_VARIABLE).is_none() {
            for line in summary::notices(&inspect::reply(&self.shipment.survey, false)) {
                drop(writeln!(io::stderr(), "{TOOL}: {line}"));
            }
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
        job.confine(&[staged.root()], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let mut quiet = Live::new(&job.interrupts, true, || {});
        let sent = transfer::send_and_run(
            &guest,
            &staged.shipment,
            &staged.guest_path,
            None,
            &mut quiet,
            &mut job.timeline,
        )?;
        drop((guest, quiet));
        let before = job.document.workspace()?;
        let workspace = before.filter(|w| !sent.changed && w.base_commit == staged.shipment.base_commit);
        record_workspace(job, &workspace.unwrap_or_else(|| staged.workspace()))?;
        Ok(Outcome { changed: sent.changed, ..Outcome::default() })
    })
}
