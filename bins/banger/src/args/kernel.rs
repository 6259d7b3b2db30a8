//! The arguments of `banger kernel`.

use banger_contract::types::KernelName;
use banger_disk::cli::catalog::CatalogSpec;
use banger_disk::cli::kernel::SourceArgs;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Kernel {
    #[command(subcommand)]
    pub command: KernelCommand,
}

#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Import a kernel: from Debian packages, from a vmlinuz and its modules, or from an image
    Import(KernelImport),
    /// Get a kernel from a catalog
    Pull(KernelPull),
    /// List kernels
    #[command(visible_alias = "list")]
    Ls,
    /// Show one kernel
    Show(KernelOne),
    /// Delete a kernel
    #[command(visible_alias = "rm")]
    Delete(KernelOne),
}

#[derive(Debug, Args)]
pub struct KernelImport {
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, Args)]
pub struct KernelPull {
    /// The kernel's short name
    #[arg(value_name = "KERNEL")]
    pub name: KernelName,
    #[command(flatten)]
    pub catalog: CatalogSpec,
}

#[derive(Debug, Args)]
pub struct KernelOne {
    /// The kernel's name
    #[arg(value_name = "KERNEL")]
    pub name: KernelName,
}
