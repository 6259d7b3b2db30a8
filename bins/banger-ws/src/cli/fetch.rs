//! `fetch`: the guest's commits come home, as a branch or as mails.
//!
//! Who talks to the guest is a process of its own (`receive`), which can write nothing but what is in the VM's directory: the answer. This
//! one never hears the guest: it reads that file, and may write to the host's repository.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{FetchArgs, FetchFormat, ReceiveArgs};
use super::export::copy_to_stdout;
use super::job::{Job, SESSION_FD_VARIABLE, places, report};
use super::{TOOL, apply};
use crate::cli::report::{RecordTo, directory_of};
use crate::error::WorkspaceError;
use crate::fetch::answer::{Answer, Spool, own_branches};
use crate::fetch::home::Home;
use crate::fetch::quarantine::Quarantine;
use crate::fetch::{FetchError, receive as from_guest};
use crate::guest::Guest;
use crate::transfer;
use banger_cli::plumbing::UsageError;
use banger_cli::{Failure, plumbing};
use banger_contract::record::{Outcome, Workspace, WorkspaceMode};
use banger_contract::{Document, ErrorRecord};
use banger_host::clock::Timeline;
use banger_host::fs::atomic;
use banger_host::process::exec::{Exec, ExecError, Held};
use banger_host::process::signal::Interrupts;

/// How long a guest may take to send its commits, however little it says at a time.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// Of how many commits the guest is told that the host has them: the one that was sent, and those that were fetched before.
const MAX_HAVE: usize = 32;

/// `fetch`.
pub(super) fn fetch(args: &FetchArgs) -> ExitCode {
    let to = match &args.record {
        Some(file) => RecordTo::File(file.clone()),
        None if args.spec.format == FetchFormat::Mbox && args.output == Path::new("-") => RecordTo::Nowhere,
        None => RecordTo::Stdout,
    };
    report("fetch", &to, false, &args.input, |job| {
        let _lock = job.lock("fetch")?;
        let workspace = workspace_of(job)?;
        let dir = job.dir();
        let Job { document, timeline, interrupts, vm, state, .. } = job;
        check(args)?;
        let mails = Some(&args.output).filter(|_| args.spec.format == FetchFormat::Mbox);
        places(&[mails, args.record.as_ref()])?;
        let checkout = apply::checkout(None, document)?;
        let home = timeline.step("refs", || Home::look(&checkout))?;
        if let Some(branch) = args.spec.branch.as_deref().filter(|_| mails.is_none()) {
            home.admit(branch)?;
        }
        let sent = workspace.head_commit.as_deref();
        let place = (&*state.fetches(), vm.id.as_str());
        let quarantine = Quarantine::make(place, &checkout, &home.ids(), sent, interrupts)?;
        let spool = Spool::make(dir.path())?;
        let have = have(&home, &quarantine, args.spec.branch.as_deref(), vm.name.as_str());
        timeline.step("receive", || receive_apart(document, &spool, interrupts, args.spec.limit(), &have))?;
        let answer = spool.read(checkout.object_format == "sha256")?;
        let tip = answer.as_ref().map(|answer| answer.tip.clone());
        let answer = answer.filter(|answer| Some(answer.tip.as_str()) != sent);
        if let Some(answer) = &answer {
            timeline.step("verify", || quarantine.take_in(answer, args.spec.limit()))?;
        }
        let vm = vm.name.as_str();
        // A guest may take its time: what has been checked out meanwhile counts.
        let home = Home::look(&checkout)?;
        let fetched = Fetched { args, vm, home: &home, quarantine: &quarantine, interrupts };
        match (answer, mails) {
            (Some(answer), Some(file)) => fetched.write_mails(&answer, file),
            (Some(answer), None) => fetched.make_branch(&answer, timeline),
            (None, Some(file)) => {
                hand_over(&mut io::empty(), file, interrupts)?;
                Ok(nothing(tip.as_deref()))
            }
            (None, None) => Ok(nothing(tip.as_deref())),
        }
    })
}

/// Whether the options are of one format.
fn check(args: &FetchArgs) -> Result<(), UsageError> {
    let is_branch = args.spec.format == FetchFormat::Branch;
    if is_branch && args.output != Path::new("-") {
        return Err(UsageError("--output is where mails go: it needs --format mbox".to_owned()));
    }
    if !is_branch && (args.spec.branch.is_some() || args.spec.force) {
        return Err(UsageError("--as and --force are of a branch: --format mbox makes none".to_owned()));
    }
    Ok(())
}

/// What came of a guest without commits of its own, whose HEAD is at `commit`.
fn nothing(commit: Option<&str>) -> Outcome {
    Outcome { commit: commit.map(str::to_owned), commits: Some(0), ..Outcome::default() }
}

/// The record's workspace, which has git.
fn workspace_of(job: &Job) -> Result<Workspace, Failure> {
    let workspace = job.document.required_workspace()?;
    transfer::check_guest_path(&workspace.guest_path)?;
    if workspace.mode == WorkspaceMode::Files {
        return Err(WorkspaceError::NoGit { guest_path: workspace.guest_path }.into());
    }
    if let Some(commit) = &workspace.head_commit {
        transfer::check_commit(commit)?;
    }
    Ok(workspace)
}

/// Commits that the host has and the guest most likely knows.
fn have(home: &Home<'_>, quarantine: &Quarantine<'_>, branch: Option<&str>, vm: &str) -> Vec<String> {
    let own = own_branches(vm);
    let fetched = home.below(&own).chain(branch.into_iter().flat_map(|branch| home.below(branch)));
    quarantine.sent().into_iter().chain(fetched).take(MAX_HAVE).map(str::to_owned).collect()
}

/// Commits that were fetched and are complete.
struct Fetched<'a> {
    args: &'a FetchArgs,
    vm: &'a str,
    home: &'a Home<'a>,
    quarantine: &'a Quarantine<'a>,
    interrupts: &'a Interrupts,
}

impl Fetched<'_> {
    fn write_mails(&self, answer: &Answer, file: &Path) -> Result<Outcome, Failure> {
        let count = self.quarantine.count(&answer.tip, None)?;
        let path = self.quarantine.write_mails(&answer.tip, self.args.spec.limit())?;
        let mut mails = File::open(&path).map_err(WorkspaceError::io("read", &path))?;
        hand_over(&mut mails, file, self.interrupts)?;
        let patch_file = Some(file.to_string_lossy().into_owned());
        Ok(Outcome { patch_file, commits: Some(count), ..nothing(Some(&answer.tip)) })
    }

    /// The branch that is made or moved, and where it is.
    fn branch_for(&self, answer: &Answer) -> Result<(String, Option<String>), FetchError> {
        if let Some(branch) = &self.args.spec.branch {
            return Ok((branch.clone(), self.home.admit(branch)?));
        }
        let branch = answer.own_branch(self.vm)?;
        let old = self.home.admit(&branch).map_err(|error| match error {
            // It is the guest who named it so.
            FetchError::BranchName(_) => FetchError::GuestBranch(answer.branch.clone().unwrap_or_default()),
            error => error,
        })?;
        Ok((branch, old))
    }

    fn make_branch(&self, answer: &Answer, timeline: &mut Timeline) -> Result<Outcome, Failure> {
        let tip = answer.tip.as_str();
        if self.quarantine.count(tip, None)? == 0 {
            return Ok(nothing(Some(tip)));
        }
        let (branch, old) = self.branch_for(answer)?;
        let outcome = Outcome { branch: Some(branch.clone()), ..nothing(Some(tip)) };
        if old.as_deref() == Some(tip) {
            return Ok(outcome);
        }
        if let Some(old) = old.clone().filter(|_| !self.args.spec.force)
            && !self.quarantine.is_ancestor(&old, tip)?
        {
            return Err(FetchError::Diverged { branch, old, new: tip.to_owned() }.into());
        }
        let commits = self.quarantine.count(tip, old.as_deref())?;
        let pack = timeline.step("pack", || self.quarantine.pack(tip))?;
        if let Some(signal) = self.interrupts.pending() {
            return Err(FetchError::Interrupted(signal).into());
        }
        // From here on it is done, whatever signal comes: that takes milliseconds, and half of it would be of no use.
        let why = format!("banger vm fetch {}", self.vm);
        timeline.step("place", || {
            let placed = self.home.place(&pack)?;
            self.home.set(&branch, old.as_deref(), tip, &why)?;
            placed.keep();
            Ok::<_, FetchError>(())
        })?;
        Ok(Outcome { changed: true, commits: Some(commits), ..outcome })
    }
}

/// Brings mails to where they go, whole or not at all.
fn hand_over(mails: &mut dyn io::Read, file: &Path, interrupts: &Interrupts) -> Result<(), Failure> {
    let error = || WorkspaceError::io("write", file);
    let place = atomic::place_of(file);
    if file == Path::new("-") {
        copy_to_stdout(mails, interrupts).map_err(error())?;
    } else if atomic::is_special(&place) {
        atomic::write_through(&place, mails)?;
    } else {
        let mode = Permissions::from_mode(0o666);
        let dir = directory_of(&place);
        let temp = tempfile::Builder::new().prefix(".banger-").permissions(mode).tempfile_in(dir);
        let mut temp = temp.map_err(error())?;
        io::copy(mails, temp.as_file_mut()).map_err(error())?;
        temp.as_file().sync_all().map_err(error())?;
        temp.persist(&place).map_err(|e| error()(e.error))?;
    }
    Ok(())
}

/// Has another process of this program talk to the guest.
fn receive_apart(
    document: &Document,
    spool: &Spool,
    interrupts: &Interrupts,
    max_bytes: u64,
    have: &[String],
) -> Result<(), Failure> {
    let own = std::env::current_exe().map_err(WorkspaceError::io("find", TOOL))?;
    let exec = Exec::new(own).arg("receive").arg("--output").arg(spool.path());
    let exec = exec.arg("--max-size").arg(max_bytes.to_string()).arg("--").args(have);
    let exec = exec.env(plumbing::DISPATCHED_VARIABLE, "1").env_remove(SESSION_FD_VARIABLE).deadline(LIMIT);
    let exec = exec.stdin(document.to_value().to_string());
    let output = exec.run_held(Held::default(), interrupts).map_err(|source| match source {
        ExecError::Interrupted { signal, .. } => FetchError::Interrupted(signal),
        ExecError::Deadline { limit, .. } => FetchError::Slow(limit.as_secs()),
        source => FetchError::Receiver(source),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let told: Result<ErrorRecord, _> = serde_json::from_slice(&output.stdout);
    let fault = told.map_err(|_| FetchError::Answer("the process that was to receive it has died"))?.error;
    plumbing::tell(TOOL, &fault);
    Err(Failure::Passed(Box::new(fault)))
}

/// `receive`: what [`receive_apart`] starts. The record that it prints is only an error's of interest.
pub(super) fn receive(args: &ReceiveArgs) -> ExitCode {
    report("fetch", &RecordTo::Stdout, false, &args.input, |job| {
        let workspace = workspace_of(job)?;
        args.have.iter().try_for_each(|commit| transfer::check_commit(commit))?;
        let error = || WorkspaceError::io("write", &args.output);
        let mut file = File::options().write(true).open(&args.output).map_err(error())?;
        job.confine(&[], &[])?;
        let guest = Guest::connect(&job.endpoint, &job.interrupts)?;
        from_guest::receive(
            &guest,
            &workspace.guest_path,
            &args.have,
            args.max_size,
            &mut file,
            &args.output,
        )?;
        Ok(Outcome::default())
    })
}
