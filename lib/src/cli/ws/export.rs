//! `export`, `status` and `check`: what changed.

use std::fs::{File, Permissions};
use std::io::{self, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::args::ExportArgs;
use super::job::{places, report};
use crate::cli::Failure;
use crate::cli::plumbing::Input;
use crate::cli::report::{RecordTo, directory_of, write_all};
use crate::contract::record::{Outcome, Workspace, WorkspaceMode};
use crate::state::dir::VmDir;
use crate::sys::atomic;
use crate::sys::clock::Timeline;
use crate::sys::signal::Interrupts;
use crate::workspace::error::WorkspaceError;
use crate::workspace::export::Patch;
use crate::workspace::guest::Guest;
use crate::workspace::{export, transfer};

/// How many bytes of paths a record lists.
const MAX_LISTED: usize = 1 << 20;

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
        let changed = export::changed(&guest, &workspace.guest_path, &base)?;
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
pub(super) fn base_commit(given: Option<&str>, workspace: &Workspace) -> Result<String, WorkspaceError> {
    transfer::check_guest_path(&workspace.guest_path)?;
    if workspace.mode == WorkspaceMode::Files {
        return Err(WorkspaceError::NoGit { guest_path: workspace.guest_path.clone() });
    }
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
pub(super) struct Destination<'a> {
    pub(super) path: &'a Path,
    pub(super) dir: VmDir,
    pub(super) interrupts: &'a Interrupts,
}

/// Takes the patch into a file beside its place, and puts it there once it is whole, allowed and on disk.
pub(super) fn take_patch(
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
        timeline.step("export", || export::export(guest, guest_path, base, &mut out, into.path))?;
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
