//! Images and kernels, and a VM's disks: a copy-on-write root, a work disk, the initrd. The domain of `banger-disk`.

pub mod arch;
pub mod attach;
pub mod boot_set;
pub mod build;
pub mod catalog;
pub mod check;
#[allow(clippy::disallowed_methods, reason = "here the caller's world is read")]
pub mod cli;
pub mod delete;
pub mod detach;
pub mod distribution;
pub mod dm;
pub mod dockerfile;
pub mod flatten;
pub mod gc;
pub mod guest_files;
pub mod image;
pub mod import;
pub mod initrd;
pub mod kernel;
pub mod kernel_import;
pub mod modules;
pub mod oci;
pub mod recipe;
pub mod register;
pub mod registry;
pub mod seed;
#[allow(unsafe_code, reason = "interfaces of the kernel")]
pub mod sys;
pub mod update;

mod build_error;
mod cow;
mod disk_error;
mod dm_error;
mod file_sync;
mod given;
mod guest_override;
mod import_error;
mod kernel_import_error;
mod kernel_options;
mod module_index;
mod rootfs;
mod sniff;
mod spool;
mod volumes;

pub use disk_error::DiskError;
pub use dm_error::{DmVerbError, MapperError};
pub use volumes::Mapper;
