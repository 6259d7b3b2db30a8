//! `banger-disk`: its verbs.

pub mod build;
pub mod catalog;
mod dm;
pub mod import;
pub mod kernel;
pub mod pull;
mod register;
pub mod trust;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use thiserror::Error;

use crate::attach::{self, Attach};
use crate::guest_files::GitIdentity;
use crate::image::{self, ImageError};
use crate::sys::git_identity;
use crate::{DiskError, check, delete, detach, gc, update};
use banger_cli::plumbing::{self, Input};
use banger_cli::{Failure, collect};
use banger_contract::file_sync::FileSync;
use banger_contract::image::{Damaged, IMAGE_SCHEMA, IMAGES_SCHEMA, ImageList};
use banger_contract::kernel::{KERNEL_SCHEMA, KERNELS_SCHEMA};
use banger_contract::record::{VMS_SCHEMA, Vm};
use banger_contract::types::{ImageName, VmName};
use banger_contract::{Coded, Document, ErrorCode, Fault};
use banger_host::clock::Timeline;
use banger_state::db::{self, Store};
use banger_state::dir::{StateDir, VmDir};
use banger_state::handles::Handles;
use banger_state::lock::{self, ImagesLock};
use build::BuildArgs;
use dm::{ByPrivilege, DmVerb};
use import::ImportArgs;
use kernel::KernelVerb;
use pull::PullArgs;
use register::{PruneArgs, RegisterArgs};
use trust::TrustSpec;

/// This program.
const TOOL: &str = "banger-disk";

/// Images, and the disks of VMs
#[derive(Debug, Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build, list and remove images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Import, list and remove kernels that are not part of an image
    #[command(subcommand)]
    Kernel(KernelVerb),
    /// Make the VM's disks and initrd, or find that they are there
    Attach(AttachArgs),
    /// Remove the VM's initrd; the disks, which hold the guest's changes, stay
    Detach(Input),
    /// Make the VM's disks as large as its record says, also while it runs; they never shrink
    Update(Input),
    /// Roots as device-mapper snapshots: the part of attach, detach and gc that needs root
    #[command(subcommand)]
    Dm(DmVerb),
    /// Compare the record's section "disk" with the host
    Check(Input),
    /// Remove unfinished images and kernels, and the directories of VMs that are not on the list
    Gc(GcArgs),
    /// Print the program's version and the schemas it speaks
    Version,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Build an image from a distribution's packages
    Build(Box<BuildArgs>),
    /// Make an image out of a container image, a root filesystem's tar, or an ext4
    Import(Box<ImportArgs>),
    /// Make an image out of one in a registry or a catalog
    Pull(Box<PullArgs>),
    /// List the images
    Ls(StateArgs),
    /// Show one image
    Show(NameArgs),
    /// Make an image of an ext4 that stays where it is
    Register(RegisterArgs),
    /// Let a registered image own its root filesystem
    Promote(NameArgs),
    /// Remove images that lack files, or all that no VM uses
    Prune(PruneArgs),
    /// Remove an image that no VM uses
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// Where banger keeps its state [default: $XDG_STATE_HOME/banger, for root /var/lib/banger]
    #[arg(long, env = "BANGER_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The image
    pub(super) name: ImageName,
    #[command(flatten)]
    pub(super) state: StateArgs,
}

#[derive(Debug, Args)]
struct AttachArgs {
    #[command(flatten)]
    input: Input,
    /// Take a file or directory of the host along, as in {"host":"/home/me/.vimrc","guest":"~/.vimrc","mode":"0600"}; may be given
    /// several times
    #[arg(long, value_name = "JSON", value_parser = parse_file_sync)]
    file_sync: Vec<FileSync>,
    #[command(flatten)]
    trust: TrustSpec,
}

fn parse_file_sync(json: &str) -> Result<FileSync, serde_json::Error> {
    serde_json::from_str(json)
}

#[derive(Debug, Args)]
struct GcArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    state: StateArgs,
}

/// There is no place for state.
#[derive(Debug, Error)]
enum StateDirError {
    #[error("there is no state directory: neither XDG_STATE_HOME nor HOME is an absolute path")]
    None,
    #[error("cannot make the state directory {0:?}")]
    Make(PathBuf, #[source] std::io::Error),
}

impl Coded for StateDirError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None => ErrorCode::Usage,
            Self::Make(..) => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::None).then(|| "give --state-dir DIR".into())
    }
}

/// Signals cannot be caught.
#[derive(Debug, Error)]
#[error("cannot catch signals")]
pub(super) struct SignalsError(#[source] pub(super) std::io::Error);

impl Coded for SignalsError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Failed
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // What goes into every initrd.
    let guest = banger_guest_program::BYTES;
    let arguments = match plumbing::parse::<Arguments>(TOOL) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let value = |verb: &'static str, work: &dyn Fn() -> Result<Value, Failure>| {
        plumbing::value_verb(TOOL, verb, work)
    };
    match arguments.verb {
        Verb::Image(ImageVerb::Build(args)) => value("image build", &|| build::build(&args, guest)),
        Verb::Image(ImageVerb::Import(args)) => value("image import", &|| import::import(&args)),
        Verb::Image(ImageVerb::Pull(args)) => value("image pull", &|| pull::pull(&args, guest)),
        Verb::Image(ImageVerb::Register(args)) => value("image register", &|| register::register(&args)),
        Verb::Image(ImageVerb::Promote(args)) => value("image promote", &|| register::promote(&args)),
        Verb::Image(ImageVerb::Prune(args)) => value("image prune", &|| register::prune(&args)),
        Verb::Image(ImageVerb::Ls(args)) => value("image ls", &|| image_ls(&args)),
        Verb::Image(ImageVerb::Show(args)) => value("image show", &|| image_show(&args)),
        Verb::Image(ImageVerb::Delete(args)) => value("image delete", &|| image_delete(&args)),
        Verb::Kernel(KernelVerb::Import(args)) => value("kernel import", &|| kernel::import(&args, guest)),
        Verb::Kernel(KernelVerb::Pull(args)) => value("kernel pull", &|| catalog::kernel_pull(&args, guest)),
        Verb::Kernel(KernelVerb::Ls(args)) => value("kernel ls", &|| kernel::ls(&args)),
        Verb::Kernel(KernelVerb::Show(args)) => value("kernel show", &|| kernel::show(&args)),
        Verb::Kernel(KernelVerb::Delete(args)) => value("kernel delete", &|| kernel::delete(&args)),
        Verb::Attach(args) => plumbing::record_verb(TOOL, "attach", &args.input, |document, timeline| {
            attach(document, timeline, &args, guest)
        }),
        Verb::Detach(input) => plumbing::record_verb(TOOL, "detach", &input, detach),
        Verb::Update(input) => plumbing::record_verb(TOOL, "update", &input, update),
        Verb::Dm(verb) => dm::main(&verb),
        Verb::Check(input) => plumbing::record_verb(TOOL, "check", &input, check),
        Verb::Gc(args) => value("gc", &|| gc(&args)),
        Verb::Version => plumbing::emit(&version()),
    }
}

/// The schemas of this program's own besides those of every stage.
fn version() -> Value {
    let mut version = plumbing::version(TOOL);
    version
        .schemas
        .extend([IMAGE_SCHEMA, IMAGES_SCHEMA, KERNEL_SCHEMA, KERNELS_SCHEMA, VMS_SCHEMA].map(str::to_owned));
    plumbing::value(&version)
}

impl StateArgs {
    pub(super) fn dir(&self) -> Result<StateDir, Failure> {
        let usual = || StateDir::default_root(rustix::process::geteuid().is_root(), plumbing::directory_of);
        let root = self.state_dir.clone().or_else(usual).ok_or(StateDirError::None)?;
        let absolute = std::path::absolute(&root).map_err(|source| StateDirError::Make(root, source))?;
        Ok(StateDir::at(absolute))
    }

    /// The state directory, made where it is not there.
    pub(super) fn made(&self) -> Result<StateDir, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let state = self.dir()?;
        for dir in [state.images(), state.kernels(), state.locks()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| StateDirError::Make(dir, source))?;
        }
        Ok(state)
    }

    /// The same, and the lock on its images and kernels.
    pub(super) fn lock_images(&self, operation: &str) -> Result<(StateDir, ImagesLock), Failure> {
        let state = self.made()?;
        let lock = ImagesLock::acquire(&state, operation)?;
        Ok((state, lock))
    }
}

fn image_ls(args: &StateArgs) -> Result<Value, Failure> {
    let (images, damaged) = sorted("image ls", image::list(&args.dir()?)?);
    let items = images.iter().map(image::Image::record).collect();
    Ok(to_value(&ImageList { schema: IMAGES_SCHEMA.to_owned(), items, damaged }))
}

/// What the list of `verb` holds, without those that cannot be read, and what it says of these.
pub(super) fn sorted<N: Display, T, E: Coded>(
    verb: &str,
    named: Vec<(N, Result<T, E>)>,
) -> (Vec<T>, Vec<Damaged>) {
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    for (name, item) in named {
        match item {
            Ok(item) => whole.push(item),
            Err(error) => {
                damaged.push(Damaged { name: name.to_string(), error: Fault::new(&error, TOOL, verb) });
            }
        }
    }
    (whole, damaged)
}

fn image_show(args: &NameArgs) -> Result<Value, Failure> {
    let image = image::load_manifest(&args.state.dir()?, &args.name)?;
    let image = image.ok_or_else(|| ImageError::Unknown(args.name.clone()))?;
    Ok(to_value(&image.record()))
}

fn image_delete(args: &NameArgs) -> Result<Value, Failure> {
    let (state, lock) = args.state.lock_images("banger-disk image delete")?;
    let users = users_of(&state, &args.name)?;
    let changed = delete::delete(&state, &lock, &args.name, &users)?;
    Ok(json!({ "schema": "banger.image-delete/1", "name": args.name, "result": { "changed": changed } }))
}

/// The VMs made from the image.
pub(super) fn users_of(state: &StateDir, name: &ImageName) -> Result<Vec<VmName>, Failure> {
    let Some(store) = Store::open_existing(state)? else { return Ok(Vec::new()) };
    let rows = store.vms()?;
    Ok(rows.into_iter().filter(|row| row.vm.image == *name).map(|row| row.vm.name).collect())
}

fn attach(
    document: &mut Document,
    timeline: &mut Timeline,
    args: &AttachArgs,
    guest: &[u8],
) -> Result<bool, Failure> {
    let (vm, net, before) = (document.vm()?, document.required_net()?, document.disk()?);
    let state = lock::state_of(&vm)?;
    let held = lock::vm_lock(&vm, "banger-disk attach")?;
    let (name, email) = timeline.step("git identity", git_identity::global);
    let identity = GitIdentity { name, email };
    let proxy = trust::guest_proxy()?;
    let trust = timeline.step("authorities", || args.trust.find(TOOL));
    let request = Attach {
        state: &state,
        guest,
        identity: &identity,
        file_sync: &args.file_sync,
        trust: &trust,
        proxy: proxy.as_ref(),
        mapper: &ByPrivilege,
        attached: before.is_some(),
    };
    let attached = attach::attach(&vm, &net, &request, &held, timeline)?;
    for line in &attached.left_out {
        plumbing::warn(TOOL, line);
    }
    document.set_disk(Some(&attached.disk));
    save(document, &vm)?;
    Ok(attached.changed)
}

fn detach(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, before) = (document.vm()?, document.disk()?);
    lock::state_of(&vm)?;
    document.set_disk(None);
    if !Path::new(&vm.paths.dir).exists() {
        return Ok(before.is_some());
    }
    let held = lock::vm_lock(&vm, "banger-disk detach")?;
    let removed = timeline.step("initrd", || detach::detach(&vm, &ByPrivilege, &held))?;
    Handles::of(document)?.save_less(&VmDir::at(&vm.paths.dir)).map_err(DiskError::from)?;
    Ok(removed || before.is_some())
}

fn update(document: &mut Document, _: &mut Timeline) -> Result<bool, Failure> {
    let (vm, disk) = (document.vm()?, document.required_disk()?);
    lock::state_of(&vm)?;
    let held = lock::vm_lock(&vm, "banger-disk update")?;
    Ok(update::update(&vm, &disk, &held)?)
}

fn check(document: &mut Document, _: &mut Timeline) -> Result<bool, Failure> {
    let (vm, disk) = (document.vm()?, document.required_disk()?);
    lock::state_of(&vm)?;
    check::check(&vm, &disk)?;
    Ok(false)
}

/// Notes the present in the VM's directory.
fn save(document: &Document, vm: &Vm) -> Result<(), Failure> {
    Handles::of(document)?.save(&VmDir::at(&vm.paths.dir)).map_err(DiskError::from)?;
    Ok(())
}

fn gc(args: &GcArgs) -> Result<Value, Failure> {
    let (_, keep) = collect::listed(&args.input)?;
    let state = args.state.dir()?;
    let is_recorded = db::recorded(&state)?;
    let gc::Collected { removed, errors } = gc::collect(&state, &keep, &is_recorded);
    let errors = errors.iter().map(|error| Fault::new(&**error, TOOL, "gc")).collect();
    collect::account(TOOL, removed, errors)
}

pub(super) fn to_value(record: &impl serde::Serialize) -> Value {
    serde_json::to_value(record).expect("records have string keys only")
}
