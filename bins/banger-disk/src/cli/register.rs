//! `banger-disk image register`, `promote` and `prune`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::import::parse_bytes;
use crate::cli::{NameArgs, StateArgs, to_value, users_of};
use crate::flatten::Limits;
use crate::image::{self, ImageError};
use crate::import::{self, ImportRequest, KernelFrom, Source};
use crate::oci::{Platform, Select};
use crate::register::{self, Pruned};
use banger_cli::Failure;
use banger_contract::types::{ImageName, KernelName};

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// The root filesystem: an ext4 that was unmounted cleanly and that nobody changes any more
    rootfs: PathBuf,
    /// What to call the image
    name: ImageName,
    /// The image whose kernel, modules and initrd it gets [default: the newest]
    #[arg(long, value_name = "IMAGE")]
    kernel_from: Option<ImageName>,
    /// The kernel it gets, one that is not part of an image [default: the newest]
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel_from")]
    kernel: Option<KernelName>,
    /// How large a VM's root and work disk are by default, such as 20G; a bare number is bytes
    #[arg(long = "size", value_name = "SIZE", value_parser = parse_bytes, default_value = "8G")]
    size_bytes: u64,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove whole images as well
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn register(args: &RegisterArgs) -> Result<Value, Failure> {
    let (state, lock) = args.state.lock_images("banger-disk image register")?;
    let users = users_of(&state, &args.name)?;
    let request = ImportRequest {
        name: args.name.clone(),
        origin: args.rootfs.to_string_lossy().into_owned(),
        select: Select { reference: None, platform: Platform::host() },
        kernel_from: KernelFrom::choice(args.kernel_from.clone(), args.kernel.clone()),
        labels: BTreeMap::new(),
        size_bytes: args.size_bytes,
        limits: Limits::default(),
    };
    let source = Source::Registered(args.rootfs.clone());
    let image = import::import(&state, &lock, source, &request, &users, &|| None, &mut |_, _| {})?;
    Ok(to_value(&image.record()))
}

pub(super) fn promote(args: &NameArgs) -> Result<Value, Failure> {
    let (state, lock) = args.state.lock_images("banger-disk image promote")?;
    register::promote(&state, &lock, &args.name)?;
    let image = image::load(&state, &args.name)?.ok_or_else(|| ImageError::Unknown(args.name.clone()))?;
    Ok(to_value(&image.record()))
}

pub(super) fn prune(args: &PruneArgs) -> Result<Value, Failure> {
    let (state, lock) = args.state.lock_images("banger-disk image prune")?;
    // A database that cannot be read must not make every image look unused, and before an image that cannot be read nothing is
    // removed.
    let mut users = BTreeMap::new();
    for (name, image) in image::list(&state)? {
        image?;
        let of = users_of(&state, &name)?;
        users.insert(name, of);
    }
    let of = |name: &ImageName| users.get(name).cloned().unwrap_or_default();
    let Pruned { removed, in_use } = register::prune(&state, &lock, args.all, &of)?;
    Ok(json!({ "schema": "banger.image-prune/1", "removed": removed, "in_use": in_use }))
}
