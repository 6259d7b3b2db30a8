//! `banger-disk`: its verbs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use thiserror::Error;

use super::Failure;
use super::plumbing;
use super::progress::ProgressArgs;
use crate::contract::image::{IMAGES_SCHEMA, ImageList};
use crate::contract::{Coded, ErrorCode};
use crate::disk::build::{self, BuildRequest, Builder};
use crate::disk::image::{self, ImageError};
use crate::disk::{debian, delete};
use crate::state::db::Store;
use crate::state::dir::StateDir;
use crate::state::lock::ImagesLock;
use crate::types::{ImageName, VmName};

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
    /// Print the program's version and the schemas it speaks
    Version,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Build an image from a distribution's packages
    Build(BuildArgs),
    /// List the images
    Ls(StateArgs),
    /// Show one image
    Show(NameArgs),
    /// Remove an image that no VM uses
    Delete(NameArgs),
}

#[derive(Debug, Args)]
struct StateArgs {
    /// Where banger keeps its state [default: $XDG_STATE_HOME/banger, for root /var/lib/banger]
    #[arg(long, env = "BANGER_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The image
    name: ImageName,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// What to call the image
    #[arg(default_value = "debian")]
    name: ImageName,
    /// The distribution to install
    #[arg(long, value_enum, default_value = "debian")]
    distribution: Distribution,
    /// Its release
    #[arg(long, default_value = debian::DEFAULT_SUITE)]
    suite: String,
    /// The package archive [default: the one of the host's apt if it has the release, else Debian's]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Install one more package (may be given more than once)
    #[arg(long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    /// How large a VM's root and work disk are by default
    #[arg(long = "size", value_name = "BYTES", default_value_t = build::DEFAULT_SIZE_BYTES)]
    size_bytes: u64,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Distribution {
    Debian,
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

/// The arguments, for man page and completions.
pub fn arguments() -> clap::Command {
    Arguments::command()
}

/// Runs the program. `guest` is banger-guest, the static executable that goes into every initrd.
pub fn main(guest: &'static [u8]) -> ExitCode {
    let arguments = match plumbing::parse::<Arguments>(TOOL) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let value = |verb: &'static str, work: &dyn Fn() -> Result<Value, Failure>| {
        plumbing::value_verb(TOOL, verb, work)
    };
    match arguments.verb {
        Verb::Image(ImageVerb::Build(args)) => value("image build", &|| image_build(&args, guest)),
        Verb::Image(ImageVerb::Ls(args)) => value("image ls", &|| image_ls(&args)),
        Verb::Image(ImageVerb::Show(args)) => value("image show", &|| image_show(&args)),
        Verb::Image(ImageVerb::Delete(args)) => value("image delete", &|| image_delete(&args)),
        Verb::Version => plumbing::emit(&plumbing::version(TOOL)),
    }
}

impl StateArgs {
    fn dir(&self) -> Result<StateDir, Failure> {
        let root = self.state_dir.clone().or_else(default_state_dir).ok_or(StateDirError::None)?;
        let absolute = std::path::absolute(&root).map_err(|source| StateDirError::Make(root, source))?;
        Ok(StateDir::at(absolute))
    }

    /// The state directory, made where it is not there, and the lock on its images.
    fn lock_images(&self, operation: &str) -> Result<(StateDir, ImagesLock), Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let state = self.dir()?;
        for dir in [state.images(), state.locks()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| StateDirError::Make(dir, source))?;
        }
        let lock = ImagesLock::acquire(&state, operation)?;
        Ok((state, lock))
    }
}

/// `$XDG_STATE_HOME/banger`; root's is the system's.
fn default_state_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/banger"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("banger"))
}

fn image_build(args: &BuildArgs, guest: &[u8]) -> Result<Value, Failure> {
    let Distribution::Debian = args.distribution;
    let mut progress = args.progress.open()?;
    let (state, lock) = args.state.lock_images("banger-disk image build")?;
    let request = BuildRequest {
        name: args.name.clone(),
        suite: args.suite.clone(),
        mirror: args.mirror.clone(),
        packages: args.packages.clone(),
        size_bytes: args.size_bytes,
    };
    let users = users_of(&state, &args.name)?;
    let builder = Builder {
        guest,
        uid: rustix::process::geteuid().as_raw(),
        user: &std::env::var("USER").unwrap_or_default(),
        temp_dir: &std::env::temp_dir(),
        etc_apt: Path::new("/etc/apt"),
    };
    let image = build::build(&state, &lock, &request, &builder, &users, &mut |step, message| {
        progress.tell(step, message);
    })?;
    Ok(to_value(&image.record()))
}

fn image_ls(args: &StateArgs) -> Result<Value, Failure> {
    let images = image::list(&args.dir()?)?;
    let items = images.iter().map(image::Image::record).collect();
    Ok(to_value(&ImageList { schema: IMAGES_SCHEMA.to_owned(), items }))
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
fn users_of(state: &StateDir, name: &ImageName) -> Result<Vec<VmName>, Failure> {
    let Some(store) = Store::open_existing(state)? else { return Ok(Vec::new()) };
    let rows = store.vms()?;
    Ok(rows.into_iter().filter(|row| row.vm.image == *name).map(|row| row.vm.name).collect())
}

fn to_value(record: &impl serde::Serialize) -> Value {
    serde_json::to_value(record).expect("records have string keys only")
}
