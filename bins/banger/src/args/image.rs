//! The arguments of `banger image`.

use std::path::PathBuf;

use banger_contract::types::{ImageName, KernelName};
use banger_disk::cli::build::BuildSpec;
use banger_disk::cli::import::ImportSpec;
use banger_disk::cli::pull::PullSpec;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image
    Build(Box<ImageBuild>),
    /// Make an image out of a container image, a root filesystem's tar, or an ext4
    Import(Box<ImportSpec>),
    /// Make an image out of one in a registry
    Pull(Box<PullSpec>),
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Make an image of an ext4 that stays where it is
    Register(ImageRegister),
    /// Let a registered image own its root filesystem
    Promote(ImageOne),
    /// Delete images that lack files, or all that no VM uses
    Prune(ImagePrune),
    /// Show one image
    Show(ImageOne),
    /// Delete an image
    #[command(visible_alias = "rm")]
    Delete(ImageOne),
}

#[derive(Debug, Args)]
pub struct ImageBuild {
    #[command(flatten)]
    pub spec: BuildSpec,
    /// Install what this host lacks for it first, without asking
    #[arg(long)]
    pub setup: bool,
}

#[derive(Debug, Args)]
pub struct ImageRegister {
    /// The root filesystem: an ext4 that was unmounted cleanly and that nobody changes any more
    #[arg(value_name = "FILE")]
    pub rootfs: PathBuf,
    /// What to call the image
    #[arg(value_name = "IMAGE")]
    pub name: ImageName,
    /// The image whose kernel it gets [default: the newest]
    #[arg(long, value_name = "IMAGE")]
    pub kernel_from: Option<ImageName>,
    /// The kernel it gets, one that is no part of an image [default: the newest]
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel_from")]
    pub kernel: Option<KernelName>,
}

#[derive(Debug, Args)]
pub struct ImagePrune {
    /// Delete whole images as well
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct ImageOne {
    /// The image's name
    #[arg(value_name = "IMAGE")]
    pub name: ImageName,
}
