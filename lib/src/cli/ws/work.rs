//! The verbs that talk to a guest.

use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::TOOL;
use super::args::{ExecArgs, ExportArgs, PrepareArgs, Products, RunArgs, Source};
use super::inspect;
use crate::cli::Failure;
use crate::cli::lock::state_of;
use crate::cli::plumbing::{Input, UsageError};
use crate::cli::report::{Live, RecordTo, directory_of, write_all};
use crate::contract::Document;
use crate::contract::record::{Outcome, Vm, Workspace, WorkspaceMode};
use crate::state::dir::{StateDir, VmDir};
use crate::state::handles::Handles;
use crate::state::lock::WorkspaceLock;
use crate::sys::clock::{Timeline, now_rfc3339};
use crate::sys::signal::Interrupts;
use crate::sys::ssh::Exit;
use crate::sys::{atomic, fd, landlock};
use crate::workspace::checkout::Checkout;
use crate::workspace::error::WorkspaceError;
use crate::workspace::guest::{Endpoint, Guest};
use crate::workspace::staging::{Selection, Staging};
use crate::workspace::transfer::{self, Patch, Shipment};

/// The descriptor of the session lock that `banger` hands down: held as long as this program runs.
const SESSION_FD_VARIABLE: &str = "BANGER_SESSION_FD";
/// How many bytes of paths a record lists.
const MAX_LISTED: usize = 1 << 20;

/// Everything that a verb works with.
struct Job {
    document: Document,
    timeline: Timeline,
    vm: Vm,
    state: StateDir,
    interrupts: Interrupts,
    endpoint: Endpoint,
    /// Whether the user's command may have run.
    started: bool,
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
        let endpoint = Endpoint::of(&state, &vm, &net)?;
        let timeline = Timeline::new(TOOL, verb);
        Ok(Self { document, timeline, vm, state, interrupts, endpoint, started: false, _session: session })
    }

    fn dir(&self) -> VmDir {
        VmDir::at(&self.vm.paths.dir)
    }

    fn lock(&self, verb: &str) -> Result<WorkspaceLock, Failure> {
        Ok(WorkspaceLock::acquire(&self.state, &self.vm.id, &format!("{TOOL} {verb}"))?)
    }

    /// Gives up what the rest of the work does not need: a guest that takes over this process finds a process that can read
    /// the checkout and the state, and write the products and the VM's own files.
    fn confine(&mut self, read: &[&Path], products: &[PathBuf]) -> Result<(), Failure> {
        let (dir, locks) = (PathBuf::from(&self.vm.paths.dir), self.state.locks());
        let mut write = vec![dir.as_path(), locks.as_path(), Path::new("/dev/null")];
        write.extend(products.iter().map(|p| if atomic::is_special(p) { p } else { directory_of(p) }));
        let port = self.endpoint.port();
        self.timeline.step("confine", || landlock::confine(read, &write, port))?;
        Ok(())
    }

    /// The record after the work.
    fn finish(mut self, outcome: Outcome) -> Document {
        self.document.set_outcome(&outcome);
        self.document.push_timings(self.timeline.into_timings());
        self.document
    }
}

impl crate::contract::Coded for landlock::ConfineError {
    fn code(&self) -> crate::contract::ErrorCode {
        crate::contract::ErrorCode::Failed
    }
}

/// Runs a verb that is reported to `to`; `own` where the exit status is a guest command's.
fn report(
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
    let worked = work(&mut job);
    let started = job.started;
    let delivered = worked.and_then(|outcome| {
        let status = outcome.exit_code.filter(|_| own).unwrap_or(0);
        to.deliver(&job.finish(outcome).to_value()).map(|()| status)
    });
    match delivered {
        Ok(status) => ExitCode::from(status),
        Err(failure) => to.fail(failure, TOOL, verb, own, started),
    }
}

/// A checkout that is about to be sent.
struct Staged {
    checkout: Checkout,
    selection: Selection,
    git_files: Vec<(PathBuf, PathBuf)>,
    base_commit: String,
    guest_path: String,
    _staging: Staging,
}

impl Staged {
    fn new(job: &mut Job, source: &Source) -> Result<Self, Failure> {
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

    fn shipment(&self) -> Shipment<'_> {
        Shipment {
            checkout: &self.checkout,
            selection: &self.selection,
            git_files: &self.git_files,
            base_commit: &self.base_commit,
        }
    }

    fn workspace(&self) -> Workspace {
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
    fn notice(&self) {
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

/// The files that a verb is to write, links followed, once it is known that they can be written.
fn places(files: &[Option<&PathBuf>]) -> Result<Vec<PathBuf>, Failure> {
    let files = files.iter().flatten().filter(|path| path.as_path() != Path::new("-"));
    files
        .map(|path| atomic::place_of(path))
        .map(|path| Ok(atomic::check_writable(&path).map(|()| path)?))
        .collect()
}

/// Where stdout and the record go, by the options of `exec` and `run`.
fn destinations(products: &Products) -> Result<(RecordTo, bool), UsageError> {
    let patch_to_stdout = products.patch.as_deref() == Some(Path::new("-"));
    match &products.record {
        Some(file) if file == Path::new("-") => {
            Err(UsageError("--record - would mix the record with the command's output".into()))
        }
        Some(file) => Ok((RecordTo::File(file.clone()), patch_to_stdout)),
        None if patch_to_stdout => Err(UsageError("--patch - needs --record FILE for the record".into())),
        None => Ok((RecordTo::Stdout, true)),
    }
}

fn outcome_of(exit: &Exit) -> Outcome {
    let signal = match exit {
        Exit::Signal(name) => Some(name.clone()),
        Exit::Status(_) => None,
    };
    Outcome { changed: true, exit_code: Some(exit.shell_status()), signal, ..Outcome::default() }
}

/// `exec`.
pub(super) fn exec(args: &ExecArgs) -> ExitCode {
    let products = &args.products;
    let (to, all_to_stderr) = match destinations(products) {
        Ok(destinations) => destinations,
        Err(error) => return RecordTo::Stdout.fail(error.into(), TOOL, "exec", true, false),
    };
    report("exec", &to, true, &args.input, |job| {
        let workspace = job.document.required_workspace()?;
        let base = base_commit(products.base_commit.as_deref(), &workspace)?;
        let files = places(&[products.patch.as_ref(), products.record.as_ref()])?;
        job.confine(&[], &files)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let mut live = Live::new(&job.interrupts, all_to_stderr, || {});
        let path = &workspace.guest_path;
        let ran = transfer::run(&guest, path, &args.command, &mut live, &mut job.timeline);
        job.started = guest.has_started();
        let mut outcome = outcome_of(&ran?);
        if let Some(patch) = &products.patch {
            let _lock = job.lock("exec")?;
            let into = Destination { path: patch, dir: job.dir(), interrupts: &job.interrupts };
            take_patch(&guest, path, &base, &into, &mut job.timeline, &mut outcome)?;
        }
        Ok(outcome)
    })
}

/// `run`.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let (source, products) = (&args.source, &args.products);
    if source.dry_run {
        return inspect::list("run", &source.repo, &source.choice, true);
    }
    let (to, all_to_stderr) = match destinations(products) {
        Ok(destinations) => destinations,
        Err(error) => return RecordTo::Stdout.fail(error.into(), TOOL, "run", true, false),
    };
    report("run", &to, true, &args.input, |job| {
        let lock = job.lock("run")?;
        if let Some(base) = &products.base_commit {
            transfer::check_commit(base)?;
        }
        let staged = Staged::new(job, source)?;
        staged.notice();
        let files = places(&[products.patch.as_ref(), products.record.as_ref()])?;
        job.confine(&[&staged.checkout.root], &files)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let (workspace, dir) = (staged.workspace(), job.dir());
        let mut noted = Ok(());
        // The lock lasts while bytes move, never while the command runs. By then exec and export find the workspace, also
        // when the connection breaks under the command.
        let mut live = Live::new(&job.interrupts, all_to_stderr, || {
            noted = Handles { workspace: Some(workspace.clone()), ..Handles::load(&dir) }.save(&dir);
            drop(lock);
        });
        let (shipment, path) = (staged.shipment(), &staged.guest_path);
        let command = Some(args.command.as_slice());
        let ran = transfer::send_and_run(&guest, &shipment, path, command, &mut live, &mut job.timeline);
        job.started = guest.has_started();
        drop(live);
        let mut outcome = outcome_of(&ran?.exit);
        noted?;
        job.document.set_workspace(Some(&workspace));
        if let Some(patch) = &products.patch {
            let _lock = job.lock("run")?;
            let base = products.base_commit.as_ref().unwrap_or(&staged.base_commit);
            let into = Destination { path: patch, dir, interrupts: &job.interrupts };
            take_patch(&guest, path, base, &into, &mut job.timeline, &mut outcome)?;
        }
        Ok(outcome)
    })
}

/// `export`.
pub(super) fn export(args: &ExportArgs) -> ExitCode {
    let to = match &args.record {
        Some(file) => RecordTo::File(file.clone()),
        None if args.output == Path::new("-") => RecordTo::Nowhere,
        None => RecordTo::Stdout,
    };
    report("export", &to, false, &args.input, |job| {
        let _lock = job.lock("export")?;
        let workspace = job.document.required_workspace()?;
        let base = base_commit(args.base_commit.as_deref(), &workspace)?;
        let files = places(&[Some(&args.output), args.record.as_ref()])?;
        job.confine(&[], &files)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let into = Destination { path: &args.output, dir: job.dir(), interrupts: &job.interrupts };
        let mut outcome = Outcome::default();
        take_patch(&guest, &workspace.guest_path, &base, &into, &mut job.timeline, &mut outcome)?;
        outcome.changed = outcome.patch_bytes != Some(0);
        Ok(outcome)
    })
}

/// `status`.
pub(super) fn status(input: &Input) -> ExitCode {
    report("status", &RecordTo::Stdout, false, input, |job| {
        let _lock = job.lock("status")?;
        let workspace = job.document.required_workspace()?;
        transfer::check_guest_path(&workspace.guest_path)?;
        let base = base_commit(None, &workspace)?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let changed = transfer::changed(&guest, &workspace.guest_path, &base)?;
        Ok(Outcome { changed: !changed.is_empty(), files: Some(listed(&changed)), ..Outcome::default() })
    })
}

/// `check`.
pub(super) fn check(input: &Input) -> ExitCode {
    report("check", &RecordTo::Stdout, false, input, |job| {
        let workspace = job.document.required_workspace()?;
        let base = base_commit(None, &workspace)?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        transfer::verify(&guest, &workspace.guest_path, &base)?;
        Ok(Outcome::default())
    })
}

/// The commit to compare with; the record's paths and ids are checked before they reach a shell.
fn base_commit(given: Option<&str>, workspace: &Workspace) -> Result<String, WorkspaceError> {
    transfer::check_guest_path(&workspace.guest_path)?;
    let base = given.unwrap_or(&workspace.base_commit);
    transfer::check_commit(base)?;
    Ok(base.to_owned())
}

fn listed(paths: &[Vec<u8>]) -> Vec<String> {
    let mut room = MAX_LISTED;
    let fits = |path: &&Vec<u8>| {
        room = room.saturating_sub(path.len() + 3);
        room > 0
    };
    paths.iter().take_while(fits).map(|p| String::from_utf8_lossy(p).into_owned()).collect()
}

/// Where a patch goes.
struct Destination<'a> {
    path: &'a Path,
    dir: VmDir,
    interrupts: &'a Interrupts,
}

/// Takes the patch into a file beside its place, and puts it there once it is whole, allowed and on disk.
fn take_patch(
    guest: &Guest<'_>,
    guest_path: &str,
    base: &str,
    into: &Destination<'_>,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let to_stdout = into.path == Path::new("-");
    let place = atomic::place_of(into.path);
    let beside = !to_stdout && !atomic::is_special(&place);
    let dir = if beside { directory_of(&place) } else { into.dir.path() };
    let error = |what: &'static str| WorkspaceError::io(what, into.path);
    // The mode that open(2) of a new file has: the umask takes its share.
    let mode = Permissions::from_mode(if beside { 0o666 } else { 0o600 });
    let temp = tempfile::Builder::new().prefix(".banger-").permissions(mode).tempfile_in(dir);
    let mut temp = temp.map_err(error("write"))?;
    let mut out = io::BufWriter::with_capacity(64 << 10, temp.as_file_mut());
    let Patch { bytes, files } =
        timeline.step("export", || transfer::export(guest, guest_path, base, &mut out, into.path))?;
    out.into_inner().map_err(|e| error("write")(e.into_error()))?;
    if to_stdout {
        temp.as_file_mut().rewind().map_err(error("read"))?;
        copy_to_stdout(temp.as_file_mut(), into.interrupts).map_err(error("write"))?;
    } else if !beside {
        temp.as_file_mut().rewind().map_err(error("read"))?;
        atomic::write_through(&place, temp.as_file_mut())?;
    } else {
        temp.as_file().sync_all().map_err(error("write"))?;
        temp.persist(&place).map_err(|e| error("write")(e.error))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(error("write"))?;
    }
    outcome.patch_file = Some(into.path.to_string_lossy().into_owned());
    outcome.patch_bytes = Some(bytes);
    outcome.files = Some(listed(&files));
    Ok(())
}

fn copy_to_stdout(file: &mut File, interrupts: &Interrupts) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match io::Read::read(file, &mut buffer)? {
            0 => return Ok(()),
            count => write_all(rustix::stdio::stdout(), &buffer[..count], interrupts)?,
        }
    }
}
