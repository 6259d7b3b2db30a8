//! What the verbs that talk to a guest have in common.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value};

use super::TOOL;
use crate::cli::report::{RecordTo, directory_of};
use crate::error::WorkspaceError;
use crate::guest::{Endpoint, quote};
use banger_cli::Failure;
use banger_cli::plumbing::{Input, UsageError};
use banger_contract::error::OWN_FAILURE_STATUS;
use banger_contract::record::{Outcome, Vm};
use banger_contract::{Coded, Document, ErrorCode};
use banger_host::clock::Timeline;
use banger_host::fs::{atomic, fd};
use banger_host::process::landlock;
use banger_host::process::signal::Interrupts;
use banger_state::dir::{StateDir, VmDir};
use banger_state::lock::WorkspaceLock;
use banger_state::lock::state_of;

/// The descriptor of the session lock that `banger` hands down: held as long as this program runs.
pub(super) const SESSION_FD_VARIABLE: &str = "BANGER_SESSION_FD";
/// Over what guests are reached: `auto`, `agent` or `ssh`.
const TRANSPORT_VARIABLE: &str = "BANGER_GUEST_TRANSPORT";

/// Everything that a verb works with.
pub(super) struct Job {
    pub(super) document: Document,
    pub(super) timeline: Timeline,
    pub(super) vm: Vm,
    pub(super) state: StateDir,
    pub(super) interrupts: Interrupts,
    pub(super) endpoint: Endpoint,
    /// Whether the user's command may have run.
    pub(super) started: bool,
    _session: Option<std::os::fd::OwnedFd>,
}

impl Job {
    fn new(verb: &'static str, input: &Input) -> Result<Self, Failure> {
        let session =
            std::env::var(SESSION_FD_VARIABLE).ok().and_then(|n| n.parse().ok()).and_then(fd::inherit);
        let document = input.document()?;
        let (vm, net) = (document.vm()?, document.required_net()?);
        let interrupts =
            Interrupts::catch().map_err(WorkspaceError::io("catch signals in", "this process"))?;
        let state = state_of(&vm)?;
        let transport = std::env::var(TRANSPORT_VARIABLE).unwrap_or_default();
        let transport =
            transport.parse().map_err(|why| UsageError(format!("{TRANSPORT_VARIABLE}: {why}")))?;
        // For a guest that has none, or an older one.
        let helper = banger_guest_program::BYTES;
        let endpoint = Endpoint::of(&state, &vm, &net, document.vmm()?.as_ref(), transport, helper)?;
        let timeline = Timeline::new(TOOL, verb);
        Ok(Self { document, timeline, vm, state, interrupts, endpoint, started: false, _session: session })
    }

    pub(super) fn dir(&self) -> VmDir {
        VmDir::at(&self.vm.paths.dir)
    }

    pub(super) fn lock(&self, verb: &str) -> Result<WorkspaceLock, Failure> {
        Ok(WorkspaceLock::acquire(&self.state, &self.vm.id, &format!("{TOOL} {verb}"))?)
    }

    /// Gives up what the rest of the work does not need: a guest that takes over this process finds a process that can read
    /// the checkout and the state, and write the products and the VM's own files.
    pub(super) fn confine(&mut self, read: &[&Path], products: &[PathBuf]) -> Result<(), Failure> {
        let (dir, locks) = (PathBuf::from(&self.vm.paths.dir), self.state.locks());
        let mut write = vec![dir.as_path(), locks.as_path(), Path::new("/dev/null")];
        write.extend(products.iter().map(|p| if atomic::is_special(p) { p } else { directory_of(p) }));
        let port = self.endpoint.port();
        self.timeline.step("confine", || landlock::confine(read, &write, &[port]))?;
        Ok(())
    }

    /// The record after the work.
    fn finish(mut self, outcome: Outcome) -> Document {
        self.document.set_outcome(&outcome);
        self.document.push_timings(self.timeline.into_timings());
        self.document
    }
}

/// An error of a verb that works on one VM: what to do about it names that.
#[derive(Debug)]
struct OfVm {
    error: Box<dyn Coded>,
    name: String,
    /// Where the copy is in the guest, quoted for a shell.
    copy: String,
}

impl OfVm {
    fn name(failure: Failure, (name, copy): (String, String)) -> Failure {
        match failure {
            Failure::Own(error) => Self { error, name, copy }.into(),
            passed @ Failure::Passed(_) => passed,
        }
    }
}

impl fmt::Display for OfVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for OfVm {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Coded for OfVm {
    fn code(&self) -> ErrorCode {
        self.error.code()
    }
    fn details(&self) -> Map<String, Value> {
        self.error.details()
    }
    fn hint(&self) -> Option<String> {
        self.error.hint().map(|hint| hint.replace("NAME", &self.name).replace("COPY", &self.copy))
    }
}

/// Runs a verb that is reported to `to`; `own` where the exit status is a guest command's.
pub(super) fn report(
    verb: &'static str,
    to: &RecordTo,
    own: bool,
    input: &Input,
    work: impl FnOnce(&mut Job) -> Result<Outcome, Failure>,
) -> ExitCode {
    let mut job = match Job::new(verb, input) {
        Ok(job) => job,
        Err(failure) => return to.fail(failure, TOOL, verb, own, false),
    };
    let copy =
        job.document.workspace().ok().flatten().map(|workspace| quote([workspace.guest_path.as_str()]));
    let names = (job.vm.name.to_string(), copy.unwrap_or_else(|| "COPY".to_owned()));
    let worked = work(&mut job).map_err(|failure| OfVm::name(failure, names));
    let started = job.started;
    let delivered = worked.and_then(|outcome| {
        let status = match outcome.exit_code.filter(|_| own) {
            // A patch that lacks something is a failure of ours, whoever asks for it.
            _ if outcome.is_lossy() => OWN_FAILURE_STATUS,
            code => code.unwrap_or(0),
        };
        to.deliver(&job.finish(outcome).to_value()).map(|()| status)
    });
    match delivered {
        Ok(status) => ExitCode::from(status),
        Err(failure) => to.fail(failure, TOOL, verb, own, started),
    }
}

/// The files that a verb is to write, links followed, once it is known that they can be written.
pub(super) fn places(files: &[Option<&PathBuf>]) -> Result<Vec<PathBuf>, Failure> {
    let files = files.iter().flatten().filter(|path| path.as_path() != Path::new("-"));
    files
        .map(|path| atomic::place_of(path))
        .map(|path| Ok(atomic::check_writable(&path).map(|()| path)?))
        .collect()
}
