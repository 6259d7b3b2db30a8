//! `export`, `status` and `check`: what changed.

use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::TOOL;
use super::args::{Comparison, ExportArgs};
use super::changes;
use super::job::{places, report};
use crate::cli::Failure;
use crate::cli::plumbing::Input;
use crate::cli::report::{RecordTo, directory_of, write_all};
use crate::contract::error::escape_controls;
use crate::contract::record::{Outcome, Workspace, WorkspaceMode};
use crate::state::dir::VmDir;
use crate::sys::atomic;
use crate::sys::clock::Timeline;
use crate::sys::signal::Interrupts;
use crate::workspace::error::WorkspaceError;
use crate::workspace::export::Wanted;
use crate::workspace::guest::Guest;
use crate::workspace::staging::PREPARED_REF;
use crate::workspace::{export, transfer};

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
        let mut base = Base::new(&args.comparison, &workspace)?;
        let mut guest_path = workspace.guest_path.clone();
        if let Some(submodule) = &args.submodule {
            guest_path = format!("{guest_path}/{}", submodule.trim_end_matches('/'));
            transfer::check_guest_path(&guest_path)?;
            base.of_submodule();
        }
        let files = places(&[Some(&args.output), args.record.as_ref()])?;
        job.confine(&[], &files)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let as_what = match args {
            ExportArgs { stat: true, .. } => As::Stat,
            ExportArgs { name_only: true, .. } => As::Names,
            _ => As::Patch,
        };
        let into = Destination { path: &args.output, dir: job.dir(), interrupts: &job.interrupts };
        let wanted = Product { base: &base, only: &args.paths, as_what };
        let mut outcome = Outcome::default();
        take(&guest, &guest_path, &wanted, &into, &mut job.timeline, &mut outcome)?;
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
        let base = checked_base(None, &workspace)?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let changed = export::changed(&guest, &workspace.guest_path, &base)?;
        Ok(Outcome {
            changed: !changed.is_empty(),
            files: Some(changes::listed(changed.iter())),
            ..Outcome::default()
        })
    })
}

/// `check`.
pub(super) fn check(input: &Input) -> ExitCode {
    report("check", &RecordTo::Stdout, false, input, |job| {
        let workspace = job.document.required_workspace()?;
        let base = checked_base(None, &workspace)?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        transfer::verify(&guest, &workspace.guest_path, &base)?;
        Ok(Outcome::default())
    })
}

/// The commit to compare with; the record's paths and ids are checked before they reach a shell.
fn checked_base(given: Option<&str>, workspace: &Workspace) -> Result<String, WorkspaceError> {
    transfer::check_guest_path(&workspace.guest_path)?;
    if workspace.mode == WorkspaceMode::Files {
        return Err(WorkspaceError::NoGit { guest_path: workspace.guest_path.clone() });
    }
    let base = given.unwrap_or(&workspace.base_commit);
    transfer::check_commit(base)?;
    Ok(base.to_owned())
}

/// What a patch is made against, and how large it may be.
pub(super) struct Base {
    commit: String,
    is_prepared: bool,
    max_bytes: u64,
}

impl Base {
    /// As the options say, else what was sent.
    pub(super) fn new(comparison: &Comparison, workspace: &Workspace) -> Result<Self, WorkspaceError> {
        Ok(Self {
            commit: checked_base(comparison.base_commit.as_deref(), workspace)?,
            is_prepared: comparison.base_commit.is_none(),
            max_bytes: comparison.max_patch_size,
        })
    }

    /// What was sent of a submodule only its own ref says.
    fn of_submodule(&mut self) {
        if self.is_prepared {
            self.commit = PREPARED_REF.to_owned();
        }
    }
}

/// Where a patch goes.
pub(super) struct Destination<'a> {
    pub(super) path: &'a Path,
    pub(super) dir: VmDir,
    pub(super) interrupts: &'a Interrupts,
}

/// In which form the changes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Patch,
    Names,
    Stat,
}

/// What is wanted of the changes.
struct Product<'a> {
    base: &'a Base,
    only: &'a [String],
    as_what: As,
}

/// Takes the patch of everything that changed.
pub(super) fn take_patch(
    guest: &Guest<'_>,
    guest_path: &str,
    base: &Base,
    into: &Destination<'_>,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let wanted = Product { base, only: &[], as_what: As::Patch };
    take(guest, guest_path, &wanted, into, timeline, outcome)
}

/// Takes the changes into a file beside their place, and puts it there once it is whole, allowed and on disk.
fn take(
    guest: &Guest<'_>,
    guest_path: &str,
    product: &Product<'_>,
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
    let base = product.base;
    let wanted = Wanted { base_commit: &base.commit, only: product.only, max_bytes: base.max_bytes };
    let taken = timeline.step("export", || match product.as_what {
        As::Patch => export::export(guest, guest_path, wanted, &mut out, into.path),
        _ => export::export(guest, guest_path, wanted, &mut io::sink(), into.path),
    })?;
    match product.as_what {
        As::Patch => {}
        As::Names => out.write_all(changes::names(&taken.scanned).as_bytes()).map_err(error("write"))?,
        As::Stat => out.write_all(changes::stat(&taken.scanned).as_bytes()).map_err(error("write"))?,
    }
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
    if product.as_what == As::Patch {
        outcome.patch_file = Some(into.path.to_string_lossy().into_owned());
    }
    outcome.base_ref = base.is_prepared.then(|| PREPARED_REF.to_owned());
    outcome.base_commit = Some(base.commit.clone()).filter(|commit| commit != PREPARED_REF);
    changes::describe(&taken.scanned, outcome);
    changes::describe_submodules(&taken, outcome);
    for left in outcome.left_out.iter().flatten() {
        let line = format!(
            "{TOOL}: not in the patch: {}: {} (--submodule takes its own patch)",
            left.path, left.reason
        );
        drop(writeln!(io::stderr(), "{}", escape_controls(&line)));
    }
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
