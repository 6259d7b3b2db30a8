//! `export`, `status` and `check`: what changed.

use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::TOOL;
use super::args::{Comparison, ExportArgs, Products};
use super::changes;
use super::job::{places, report};
use super::patch_dir;
use super::prepare::agreed_with;
use crate::checkout::Checkout;
use crate::cli::report::{RecordTo, directory_of, write_all};
use crate::error::WorkspaceError;
use crate::export::{Differences, Wanted};
use crate::guest::Guest;
use crate::index::Index;
use crate::maker::Maker;
use crate::note::{Notes, Stage};
use crate::sent::Memory;
use crate::staging::PREPARED_REF;
use crate::{export, transfer};
use banger_cli::Failure;
use banger_cli::plumbing::Input;
use banger_contract::error::escape_controls;
use banger_contract::record::{Outcome, Workspace, WorkspaceMode};
use banger_host::clock::Timeline;
use banger_host::fs::atomic;
use banger_host::process::signal::Interrupts;
use banger_protocol::changes::{Request, SentTree};
use banger_state::dir::VmDir;

/// `export`.
pub(super) fn export(args: &ExportArgs) -> ExitCode {
    let to = match &args.record {
        Some(file) => RecordTo::File(file.clone()),
        None if args.output == Path::new("-") && args.patch_dir.is_none() => RecordTo::Nowhere,
        None => RecordTo::Stdout,
    };
    report("export", &to, false, &args.input, |job| {
        let _lock = job.lock("export")?;
        let workspace = job.document.required_workspace()?;
        let mut base = if args.all {
            let beginning = Memory::of(&job.dir()).beginning().ok_or(WorkspaceError::Forgotten)?;
            Base::of(&args.comparison, &workspace, &job.dir(), beginning)?
        } else {
            Base::new(&args.comparison, &workspace, &job.dir())?
        };
        if let Some(submodule) = &args.submodule {
            base.of_submodule(submodule)?;
        }
        let guest_path = workspace.guest_path.clone();
        let target = match &args.patch_dir {
            Some(dir) => Target::Dir(patch_dir::make(dir)?),
            None => Target::File(args.output.clone()),
        };
        let files = [target.places()?, places(&[args.record.as_ref()])?].concat();
        job.confine(&[], &files)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let as_what = match args {
            ExportArgs { stat: true, .. } => As::Stat,
            ExportArgs { name_only: true, .. } => As::Names,
            _ => As::Patch,
        };
        let mut outcome = Outcome::default();
        let into = Destination { target: &target, dir: job.dir(), interrupts: &job.interrupts };
        let wanted = Product { base, only: &args.paths, as_what };
        take(&guest, &guest_path, wanted, &into, &mut job.timeline, &mut outcome)?;
        outcome.changed = outcome.change_count != Some(0) || outcome.lost.is_some();
        Ok(outcome)
    })
}

/// `status`.
pub(super) fn status(input: &Input) -> ExitCode {
    report("status", &RecordTo::Stdout, false, input, |job| {
        let _lock = job.lock("status")?;
        let workspace = job.document.required_workspace()?;
        transfer::check_guest_path(&workspace.guest_path)?;
        let sent = sent_of(&workspace, &job.dir())?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let changed = export::changed(&guest, &workspace.guest_path, &sent)?;
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

/// What was sent to `workspace`, whose VM's directory is `dir`.
pub(super) fn sent_of(workspace: &Workspace, dir: &VmDir) -> Result<Request, WorkspaceError> {
    transfer::check_guest_path(&workspace.guest_path)?;
    let format = if workspace.base_commit.len() == 64 { "sha256" } else { "sha1" };
    agreed_with(&Memory::of(dir), &Notes::of(dir), &workspace.base_commit, format)
}

/// What a patch is made against, how large it may be, and what makes it.
pub(super) struct Base {
    commit: Option<String>,
    prepared: String,
    /// Where the checkout is.
    home: String,
    max_bytes: u64,
    sent: Request,
    /// What git had of what was sent.
    tree: Index,
    maker: Maker,
}

impl Base {
    /// As the options say, else what was sent. What makes the patch is started here, before this process is confined.
    pub(super) fn new(
        comparison: &Comparison,
        workspace: &Workspace,
        dir: &VmDir,
    ) -> Result<Self, WorkspaceError> {
        Self::of(comparison, workspace, dir, sent_of(workspace, dir)?)
    }

    /// The same, where it is known what was `sent`, or is about to be.
    pub(super) fn of(
        comparison: &Comparison,
        workspace: &Workspace,
        dir: &VmDir,
        sent: Request,
    ) -> Result<Self, WorkspaceError> {
        let commit = comparison.base_commit.clone();
        if let Some(commit) = &commit {
            transfer::check_commit(commit)?;
            if workspace.mode == WorkspaceMode::Files {
                return Err(WorkspaceError::NoGit { guest_path: workspace.guest_path.clone() });
            }
        }
        let format = if sent.sha256 { "sha256" } else { "sha1" };
        let tree = match &commit {
            Some(_) => Index::read(&Notes::of(dir).tree(Stage::Sent), format)?,
            None => Index::default(),
        };
        let maker = Maker::start(dir.path(), &objects_of(workspace, dir), sent.sha256)?;
        let (prepared, home) = (workspace.base_commit.clone(), workspace.host_path.clone());
        Ok(Self { commit, prepared, home, max_bytes: comparison.max_patch_size, sent, tree, maker })
    }

    /// Where the checkout is on this host.
    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// The commit that was prepared of it.
    pub(super) fn prepared(&self) -> &str {
        &self.prepared
    }

    /// Has the guest say what differs; `of_each` where each repository has a patch.
    pub(super) fn compare(
        self,
        guest: &Guest<'_>,
        guest_path: &str,
        only: &[String],
        of_each: bool,
    ) -> Result<Differences, WorkspaceError> {
        let wanted = Wanted { sent: self.sent, only: only.to_vec(), max_bytes: self.max_bytes, of_each };
        export::compare(guest, guest_path, wanted, self.maker)
    }

    /// Of the submodule at `path` alone.
    fn of_submodule(&mut self, path: &str) -> Result<(), WorkspaceError> {
        let path = path.trim_end_matches('/').as_bytes();
        let is_own = |tree: &SentTree| {
            tree.prefix == path || tree.prefix.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.sent.trees.retain(is_own);
        if self.sent.trees.first().is_none_or(|tree| tree.prefix != path) {
            return Err(WorkspaceError::NoSubmodule(String::from_utf8_lossy(path).into_owned()));
        }
        Ok(())
    }
}

/// Where the objects are of what was sent: kept in the VM's directory, which names the checkout's. A copy that an older banger made has
/// only those of the checkout.
pub(super) fn objects_of(workspace: &Workspace, dir: &VmDir) -> Vec<PathBuf> {
    let kept = Memory::of(dir).objects();
    if kept.is_dir() {
        return vec![kept];
    }
    Checkout::open(Path::new(&workspace.host_path)).map(|checkout| checkout.objects).into_iter().collect()
}

/// Where patches go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// That of the checkout itself: to a file, or `-`.
    File(PathBuf),
    /// One for each repository: to this directory.
    Dir(PathBuf),
}

impl Target {
    /// What `products` ask for, if they do; a directory is made.
    pub(super) fn of(products: &Products) -> Result<Option<Self>, Failure> {
        match (&products.patch, &products.patch_dir) {
            (Some(file), _) => Ok(Some(Self::File(file.clone()))),
            (None, Some(dir)) => Ok(Some(Self::Dir(patch_dir::make(dir)?))),
            (None, None) => Ok(None),
        }
    }

    /// The files that are to be written.
    pub(super) fn places(&self) -> Result<Vec<PathBuf>, Failure> {
        match self {
            Self::File(file) => places(&[Some(file)]),
            Self::Dir(dir) => places(&[Some(&dir.join(patch_dir::README))]),
        }
    }
}

/// Where patches go, and what it takes to bring them there.
pub(super) struct Destination<'a> {
    pub(super) target: &'a Target,
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
    base: Base,
    only: &'a [String],
    as_what: As,
}

/// Takes the patch of everything that changed.
pub(super) fn take_patch(
    guest: &Guest<'_>,
    guest_path: &str,
    base: Base,
    into: &Destination<'_>,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let wanted = Product { base, only: &[], as_what: As::Patch };
    take(guest, guest_path, wanted, into, timeline, outcome)
}

/// Takes the changes to where they go, and says what is not among them.
fn take(
    guest: &Guest<'_>,
    guest_path: &str,
    product: Product<'_>,
    into: &Destination<'_>,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    match into.target {
        Target::File(file) => take_file(guest, guest_path, product, (file, into), timeline, outcome)?,
        Target::Dir(dir) => patch_dir::take(guest, guest_path, product.base, dir, timeline, outcome)?,
    }
    tell(outcome);
    Ok(())
}

/// Takes the changes into a file beside their place, and puts it there once it is whole, allowed and on disk.
fn take_file(
    guest: &Guest<'_>,
    guest_path: &str,
    product: Product<'_>,
    (path, into): (&Path, &Destination<'_>),
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let to_stdout = path == Path::new("-");
    let place = atomic::place_of(path);
    let beside = !to_stdout && !atomic::is_special(&place);
    let dir = if beside { directory_of(&place) } else { into.dir.path() };
    let error = |what: &'static str| WorkspaceError::io(what, path);
    // The mode that open(2) of a new file has: the umask takes its share.
    let mode = Permissions::from_mode(if beside { 0o666 } else { 0o600 });
    let temp = tempfile::Builder::new().prefix(".banger-").permissions(mode).tempfile_in(dir);
    let mut temp = temp.map_err(error("write"))?;
    let Product { mut base, only, as_what } = product;
    if let Some(commit) = &base.commit {
        timeline.step("base", || export::rebase(guest, guest_path, commit, &base.tree, &mut base.sent))?;
    }
    let (commit, prepared) = (base.commit.take(), base.prepared.clone());
    let taken = timeline.step("export", || {
        let mut differences = base.compare(guest, guest_path, only, false)?;
        differences.write_patch(0, guest, guest_path, temp.as_file_mut(), path)
    })?;
    let instead = match as_what {
        As::Patch => None,
        As::Names => Some(changes::names(&taken.scanned)),
        As::Stat => Some(changes::stat(&taken.scanned)),
    };
    if let Some(text) = instead {
        let file = temp.as_file_mut();
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(error("write"))?;
    }
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
    if as_what == As::Patch {
        outcome.patch_file = Some(path.to_string_lossy().into_owned());
    }
    outcome.base_ref = commit.is_none().then(|| PREPARED_REF.to_owned());
    outcome.base_commit = Some(commit.unwrap_or(prepared));
    changes::describe(&taken.scanned, outcome);
    changes::describe_rest(&taken, outcome);
    Ok(())
}

/// How much of what is lost, or left out, is named to people.
const MAX_TOLD: usize = 20;

/// Says what is not in the patch, and why.
fn tell(outcome: &Outcome) {
    let lists = [
        ("LOST, not in the patch", &outcome.lost, outcome.lost_count),
        ("not in the patch, which cannot hold it", &outcome.left_out, outcome.left_out_count),
    ];
    for (what, list, count) in lists {
        let Some(list) = list else { continue };
        for one in list.iter().take(MAX_TOLD) {
            let line = format!("{TOOL}: {what}: {}: {}", one.path, one.reason);
            drop(writeln!(io::stderr(), "{}", escape_controls(&line)));
        }
        let more = count.unwrap_or(0).saturating_sub(list.len().min(MAX_TOLD) as u64);
        if more > 0 {
            drop(writeln!(io::stderr(), "{TOOL}: {what}: {more} more"));
        }
    }
}

pub(super) fn copy_to_stdout(file: &mut dyn io::Read, interrupts: &Interrupts) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => write_all(rustix::stdio::stdout(), &buffer[..count], interrupts)?,
        }
    }
}
