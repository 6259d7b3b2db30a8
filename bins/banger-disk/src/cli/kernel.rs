//! `banger-disk kernel`: its verbs.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use thiserror::Error;

use super::catalog::KernelPullArgs;
use crate::cli::{SignalsError, StateArgs, sorted, to_value};
use crate::image::{self, ImageError};
use crate::kernel::{self, KernelError};
use crate::kernel_import::{self, Import, Source};
use banger_cli::Failure;
use banger_cli::progress::ProgressArgs;
use banger_contract::kernel::{KERNELS_SCHEMA, KernelList};
use banger_contract::types::{ImageName, KernelName, VmName};
use banger_contract::{Coded, ErrorCode};
use banger_formats::deb;
use banger_host::process::signal::Interrupts;
use banger_state::db::{Store, StoreError};
use banger_state::dir::StateDir;

#[derive(Debug, Subcommand)]
pub(super) enum KernelVerb {
    /// Import a kernel: from Debian packages, from a vmlinuz and its modules, or from an image
    Import(ImportArgs),
    /// Get a kernel from a catalog
    Pull(KernelPullArgs),
    /// List the kernels
    Ls(StateArgs),
    /// Show one kernel
    Show(NameArgs),
    /// Remove a kernel that no VM uses
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The kernel
    name: KernelName,
    #[command(flatten)]
    state: StateArgs,
}

/// What a kernel is imported from, as `banger` and `banger-disk` take it.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// The kernel (vmlinuz), or Debian packages that hold it and its modules
    #[arg(value_name = "FILE", required_unless_present = "image")]
    pub files: Vec<PathBuf>,
    /// The directory of the kernel's modules, such as /lib/modules/6.12.0, or a root directory with lib/modules
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    pub modules: Option<PathBuf>,
    /// The kernel's configuration [default: config-VERSION beside it, config among its modules, or what it carries in itself]
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub kconfig: Option<PathBuf>,
    /// Take an image's own kernel
    #[arg(long, value_name = "IMAGE", conflicts_with = "files")]
    pub image: Option<ImageName>,
    /// What to call it [default: its version]
    #[arg(long, value_name = "NAME")]
    pub name: Option<KernelName>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Files that do not go together.
#[derive(Debug, Error)]
enum FilesError {
    #[error("{0:?} is not a Debian package, and of other files the kernel alone can be given")]
    Mixed(PathBuf),
    #[error("--modules and --kconfig are for a vmlinuz: a package brings its own")]
    PackageAlone,
    #[error("cannot read {0:?}")]
    Read(PathBuf, #[source] std::io::Error),
}

impl Coded for FilesError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read(_, source) if source.kind() == std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Read(..) => ErrorCode::Failed,
            _ => ErrorCode::Usage,
        }
    }
}

pub(super) fn import(args: &ImportArgs, guest: &[u8]) -> Result<Value, Failure> {
    let mut progress = args.progress.open()?;
    let wanted = &args.source;
    let (state, lock) = args.state.lock_images("banger-disk kernel import")?;
    let image = match &wanted.image {
        Some(name) => Some(image::load(&state, name)?.ok_or_else(|| ImageError::Unknown(name.clone()))?),
        None => None,
    };
    let source = match &image {
        Some(image) => Source::Image(image),
        None => source_of(wanted)?,
    };
    let booted = booted(&state)?;
    let users_of = |name: &KernelName| -> Vec<VmName> {
        booted.iter().filter(|(_, kernel)| kernel == name).map(|(vm, _)| vm.clone()).collect()
    };
    // An import that is interrupted removes what it has made.
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let request = Import {
        name: wanted.name.clone(),
        source,
        guest,
        users_of: &users_of,
        interrupted: &|| interrupts.pending(),
    };
    let kernel = kernel_import::import(&state, &lock, &request, &mut |step, message| {
        progress.tell(step, message);
    })?;
    Ok(to_value(&kernel.record()))
}

/// Packages, or a vmlinuz.
fn source_of(args: &SourceArgs) -> Result<Source<'_>, FilesError> {
    let is_package = |path: &Path| {
        let read = File::open(path).and_then(|mut file| deb::is_deb(&mut file));
        read.map_err(|source| FilesError::Read(path.to_owned(), source))
    };
    let mut other = None;
    for path in &args.files {
        if !is_package(path)? {
            other = Some(path);
        }
    }
    match (other, args.files.len()) {
        (None, _) if args.modules.is_some() || args.kconfig.is_some() => Err(FilesError::PackageAlone),
        (None, _) => Ok(Source::Packages(&args.files)),
        (Some(vmlinuz), 1) => {
            Ok(Source::Files { vmlinuz, modules: args.modules.as_deref(), config: args.kconfig.as_deref() })
        }
        (Some(other), _) => Err(FilesError::Mixed(other.clone())),
    }
}

/// The VMs that boot from a kernel that is not part of their image, each with that.
pub(super) fn booted(state: &StateDir) -> Result<Vec<(VmName, KernelName)>, StoreError> {
    let Some(store) = Store::open_existing(state)? else { return Ok(Vec::new()) };
    let rows = store.vms()?;
    Ok(rows.into_iter().filter_map(|row| Some((row.vm.name, row.vm.kernel?))).collect())
}

pub(super) fn ls(args: &StateArgs) -> Result<Value, Failure> {
    let (kernels, damaged) = sorted("kernel ls", kernel::list(&args.dir()?)?);
    let items = kernels.iter().map(kernel::Kernel::record).collect();
    Ok(to_value(&KernelList { schema: KERNELS_SCHEMA.to_owned(), items, damaged }))
}

pub(super) fn show(args: &NameArgs) -> Result<Value, Failure> {
    let kernel = kernel::load_manifest(&args.state.dir()?, &args.name)?;
    let kernel = kernel.ok_or_else(|| KernelError::Unknown(args.name.clone()))?;
    Ok(to_value(&kernel.record()))
}

pub(super) fn delete(args: &NameArgs) -> Result<Value, Failure> {
    let (state, lock) = args.state.lock_images("banger-disk kernel delete")?;
    let users = booted(&state)?.into_iter().filter(|(_, kernel)| *kernel == args.name);
    let users: Vec<VmName> = users.map(|(vm, _)| vm).collect();
    let changed = kernel::delete(&state, &lock, &args.name, &users)?;
    Ok(json!({ "schema": "banger.kernel-delete/1", "name": args.name, "result": { "changed": changed } }))
}
